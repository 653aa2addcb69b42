//! What a program is still to be told: a machine without I/O, so that it can wait for a slow reader at no cost.
//!
//! It keeps the latest of everything, not a queue: numbers overtake older numbers, at most [`MOST_OUTCOMES`] outcomes
//! wait for a torrent, and a program that reads slowly hears less often. When a program has died, [`Outbox::restart`]
//! makes the next one hear of every torrent again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use castanet_core::{
    Moment,
    seams::discovery::{Me, PeerOutcome, Progress, SwarmEvent, SwarmInfo},
};

use super::lines::{Outcome, Told, Watch};
use crate::driven::Finds;

/// A torrent's numbers and outcomes are told so often at most, unless demand comes or goes.
const EVERY: Duration = Duration::from_secs(1);
/// Outcomes that wait for a torrent; beyond it the newest are lost.
const MOST_OUTCOMES: usize = 256;
/// Trackers that a torrent can get later.
const MOST_LATER: usize = 100;

/// The torrents of a session and what of them is untold.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    torrents: BTreeMap<u64, Torrent>,
    /// When to speak of which torrent; each is in it once at most.
    due: BTreeSet<(Moment, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Torrent {
    info: SwarmInfo,
    me: Me,
    finds: Finds,
    progress: Progress,
    later: Vec<String>,
    outcomes: Vec<PeerOutcome>,
    completed: bool,
    network_changed: bool,
    gone: bool,
    told: Option<Report>,
    due: Option<Moment>,
}

/// What a program knows of a torrent.
#[derive(Debug, Clone, PartialEq)]
struct Report {
    at: Moment,
    progress: Progress,
    later: usize,
}

impl Outbox {
    /// A torrent to find peers for; they go to `finds`. Returns its number, which is never used again.
    pub(super) fn watch(&mut self, info: SwarmInfo, me: Me, progress: Progress, finds: Finds, now: Moment) -> u64 {
        let id = self.next;
        self.next += 1;
        let (later, outcomes) = (Vec::new(), Vec::new());
        let (completed, network_changed, gone) = (false, false, false);
        let (told, due) = (None, None);
        let torrent =
            Torrent { info, me, finds, progress, later, outcomes, completed, network_changed, gone, told, due };
        self.torrents.insert(id, torrent);
        self.hurry(id, now);
        id
    }
    /// The torrent is gone.
    pub(super) fn unwatch(&mut self, id: u64, now: Moment) {
        let Some(torrent) = self.torrents.get_mut(&id) else { return };
        torrent.gone = true;
        if torrent.told.is_none() {
            self.forget(id);
        } else {
            self.hurry(id, now);
        }
    }
    /// Its numbers are these.
    pub(super) fn progress(&mut self, id: u64, progress: Progress, now: Moment) {
        let Some(torrent) = self.torrents.get_mut(&id) else { return };
        let turned = |told: &Report| (told.progress.wanted == 0) != (progress.wanted == 0);
        let urgent = torrent.told.as_ref().is_some_and(turned);
        torrent.progress = progress;
        if urgent { self.hurry(id, now) } else { self.in_time(id, now) }
    }
    /// Something happened in it.
    pub(super) fn event(&mut self, id: u64, event: SwarmEvent, now: Moment) {
        let Some(torrent) = self.torrents.get_mut(&id) else { return };
        match event {
            SwarmEvent::Completed => torrent.completed = true,
            SwarmEvent::NetworkChanged => torrent.network_changed = true,
            SwarmEvent::TrackersAdded(urls) => {
                let room = MOST_LATER - torrent.later.len();
                torrent.later.extend(urls.into_iter().take(room));
            }
            SwarmEvent::Outcome(outcome) => {
                if torrent.told.is_some() && torrent.outcomes.len() < MOST_OUTCOMES {
                    torrent.outcomes.push(outcome);
                }
                return self.in_time(id, now);
            }
            _ => return,
        }
        self.hurry(id, now);
    }
    /// The program is gone; the next one knows nothing.
    pub(super) fn restart(&mut self, now: Moment) {
        self.torrents.retain(|_, torrent| !torrent.gone);
        self.due.clear();
        for (id, torrent) in &mut self.torrents {
            torrent.told = None;
            torrent.outcomes.clear();
            torrent.due = Some(now);
            self.due.insert((now, *id));
        }
    }
    /// Forgets all torrents: their streams end.
    pub(super) fn clear(&mut self) {
        self.torrents.clear();
        self.due.clear();
    }
    /// The lines that are due for one torrent.
    pub(super) fn poll(&mut self, now: Moment) -> Option<String> {
        while let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            self.due.remove(&(due, id));
            let torrent = self.torrents.get_mut(&id)?;
            torrent.due = None;
            let text = torrent.tell(id, now);
            if torrent.gone {
                self.forget(id);
            }
            if !text.is_empty() {
                return Some(text);
            }
        }
        None
    }
    /// When to poll again if nothing happens.
    pub(super) fn deadline(&self) -> Moment {
        self.due.first().map_or(Moment::NEVER, |(due, _)| *due)
    }
    /// Where finds for a torrent go.
    pub(super) fn finds(&self, id: u64) -> Option<Finds> {
        self.torrents.get(&id).map(|torrent| torrent.finds.clone())
    }
    /// Where finds for all torrents go.
    pub(super) fn all(&self) -> Vec<Finds> {
        self.torrents.values().map(|torrent| torrent.finds.clone()).collect()
    }

    fn forget(&mut self, id: u64) {
        if let Some(due) = self.torrents.remove(&id).and_then(|torrent| torrent.due) {
            self.due.remove(&(due, id));
        }
    }
    /// It is spoken of at once.
    fn hurry(&mut self, id: u64, now: Moment) {
        self.schedule(id, now);
    }
    /// It is spoken of when it is its turn.
    fn in_time(&mut self, id: u64, now: Moment) {
        let at = self.torrents.get(&id).and_then(|torrent| torrent.told.as_ref()).map_or(now, |told| told.at + EVERY);
        self.schedule(id, at.max(now));
    }
    fn schedule(&mut self, id: u64, at: Moment) {
        let Some(torrent) = self.torrents.get_mut(&id) else { return };
        if torrent.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(later) = torrent.due.replace(at) {
            self.due.remove(&(later, id));
        }
        self.due.insert((at, id));
    }
}

impl Torrent {
    /// All that is untold, as lines.
    fn tell(&mut self, torrent: u64, now: Moment) -> String {
        let mut text = String::new();
        let mut say = |told: Told<'_>| text.push_str(&told.line());
        let Progress { uploaded, downloaded, left, wanted } = self.progress;
        let later = self.later.len();
        match &self.told {
            None => say(Told::Watch(Watch::new(torrent, &self.info, &self.later, &self.me, &self.progress))),
            Some(told) => {
                if told.later < later {
                    say(Told::Trackers { torrent, trackers: &self.later[told.later..] });
                }
                if self.network_changed {
                    say(Told::NetworkChanged { torrent });
                }
                if !self.outcomes.is_empty() {
                    say(Told::Outcomes { torrent, peers: self.outcomes.iter().filter_map(Outcome::new).collect() });
                }
                if told.progress != self.progress {
                    say(Told::Progress { torrent, wanted, left, uploaded, downloaded, now: now.as_secs_f64() });
                }
                if self.completed {
                    say(Told::Completed { torrent });
                }
                if self.gone {
                    say(Told::Unwatch { torrent });
                }
            }
        }
        self.outcomes.clear();
        (self.completed, self.network_changed) = (false, false);
        self.told = Some(Report { at: now, progress: self.progress.clone(), later });
        text
    }
}

#[cfg(test)]
mod tests {
    use castanet_core::seams::discovery::PeerFate;
    use tokio::sync::mpsc;

    use super::*;
    use crate::testing;

    fn seconds(n: u64) -> Moment {
        Moment::from_secs(n)
    }
    fn watched(outbox: &mut Outbox, now: Moment) -> u64 {
        let torrent = testing::Torrent::new(&["udp://t.test:1"]);
        outbox.watch(torrent.info, torrent.me, torrent.progress, mpsc::channel(1).0, now)
    }
    fn progress(wanted: usize, uploaded: u64) -> Progress {
        Progress { uploaded, downloaded: 2, left: Some(3), wanted }
    }
    fn outcome(port: u16) -> SwarmEvent {
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        SwarmEvent::Outcome(PeerOutcome { addr, fate: PeerFate::Gave(9) })
    }
    /// The types of all lines that are due.
    fn types(outbox: &mut Outbox, now: Moment) -> Vec<String> {
        let mut types = Vec::new();
        while let Some(text) = outbox.poll(now) {
            for line in text.lines() {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                types.push(value["type"].as_str().unwrap().to_owned());
            }
        }
        types
    }

    #[test]
    fn numbers_are_paced_and_demand_is_not() {
        let mut outbox = Outbox::default();
        let id = watched(&mut outbox, seconds(0));
        assert_eq!(types(&mut outbox, seconds(0)), ["watch"]);
        assert_eq!(outbox.deadline(), Moment::NEVER);
        for n in 0..5 {
            outbox.progress(id, progress(1, 100 + n), seconds(0));
        }
        assert!(types(&mut outbox, seconds(0)).is_empty());
        assert_eq!(outbox.deadline(), seconds(1));
        assert_eq!(types(&mut outbox, seconds(1)), ["progress"], "five in one");
        outbox.progress(id, progress(0, 104), seconds(1));
        assert_eq!(types(&mut outbox, seconds(1)), ["progress"]);
        outbox.progress(id, progress(3, 104), seconds(1));
        assert_eq!(types(&mut outbox, seconds(1)), ["progress"]);
        outbox.progress(id, progress(0, 104), seconds(1));
        outbox.progress(id, progress(3, 104), seconds(1));
        assert!(types(&mut outbox, seconds(1)).is_empty(), "as it was");
    }

    #[test]
    fn a_flood_of_outcomes_is_bounded() {
        let mut outbox = Outbox::default();
        let id = watched(&mut outbox, seconds(0));
        outbox.event(id, outcome(1), seconds(0));
        let text = outbox.poll(seconds(0)).unwrap();
        assert!(!text.contains("outcomes"), "a peer of another program");
        for port in 0..10_000 {
            outbox.event(id, outcome(port), seconds(0));
        }
        assert_eq!(outbox.torrents[&id].outcomes.len(), MOST_OUTCOMES);
        assert!(outbox.poll(seconds(0)).is_none());
        let text = outbox.poll(seconds(1)).unwrap();
        assert!(text.len() <= super::super::lines::LONGEST_LINE, "{}", text.len());
        assert_eq!(text.matches("\"fate\":\"gave\",\"bytes\":9").count(), MOST_OUTCOMES);
        assert!(outbox.poll(seconds(9)).is_none());
    }

    #[test]
    fn events_are_told_once_and_in_order() {
        let mut outbox = Outbox::default();
        let (id, other) = (watched(&mut outbox, seconds(0)), watched(&mut outbox, seconds(0)));
        assert_eq!(types(&mut outbox, seconds(0)), ["watch", "watch"]);
        outbox.event(id, outcome(1), seconds(0));
        outbox.event(id, SwarmEvent::Completed, seconds(0));
        outbox.event(id, SwarmEvent::NetworkChanged, seconds(0));
        outbox.event(id, SwarmEvent::TrackersAdded(vec!["udp://x".into(); 1000]), seconds(0));
        outbox.progress(id, progress(0, 9), seconds(0));
        outbox.unwatch(id, seconds(0));
        let expected = ["trackers", "network_changed", "outcomes", "progress", "completed", "unwatch"];
        assert_eq!(types(&mut outbox, seconds(0)), expected);
        assert!(outbox.finds(id).is_none() && outbox.finds(other).is_some());
        assert_eq!(outbox.deadline(), Moment::NEVER);
    }

    #[test]
    fn the_next_program_hears_of_what_is_left() {
        let mut outbox = Outbox::default();
        let (id, gone) = (watched(&mut outbox, seconds(0)), watched(&mut outbox, seconds(0)));
        assert_eq!(types(&mut outbox, seconds(0)), ["watch", "watch"]);
        outbox.event(id, outcome(1), seconds(1));
        outbox.event(id, SwarmEvent::TrackersAdded(vec!["udp://later".into()]), seconds(1));
        outbox.unwatch(gone, seconds(1));
        outbox.restart(seconds(2));
        let text = outbox.poll(seconds(2)).unwrap();
        assert!(text.contains(r#""trackers":[["udp://t.test:1"],["udp://later"]]"#), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert!(outbox.poll(seconds(99)).is_none());
        // One that nobody was told of needs no good-bye.
        let unheard = watched(&mut outbox, seconds(99));
        outbox.unwatch(unheard, seconds(99));
        assert!(outbox.poll(seconds(99)).is_none());
        outbox.clear();
        assert!(outbox.finds(id).is_none());
    }
}
