//! Which tracker of a torrent is asked when, and with which event (BEP 3, 12, 31).
//!
//! **Tiers.** All tiers are announced to, each on its own clock, since trackers know different peers and users expect
//! what qBittorrent does. Within a tier one tracker is enough: the tier is shuffled once, its first tracker is asked,
//! the next one if that fails or is silent for [`PATIENCE`], and the one that answered moves to the front.
//!
//! **Events.** `started` until a tracker has answered one; then `completed` once, at once, if the download was finished
//! under our eyes. `stopped` belongs to whoever ends the work, not to this clock.
//!
//! **Time.** The tracker's interval holds; a hungry torrent comes back early if the tracker named a shorter minimum. A
//! failing tracker is left alone for [`FIRST_BACK_OFF`], doubling to [`LAST_BACK_OFF`], or as long as it says.

use std::{sync::Arc, time::Duration};

use castanet_core::Moment;

use super::{Answer, Event, Retry};

/// The most trackers of one torrent; the rest of a longer list is not used.
pub const MOST_TRACKERS: usize = 256;
/// The most announces of one torrent that are under way at once.
pub const MOST_AT_ONCE: usize = 64;
/// When to come back if the tracker does not say.
pub const USUAL_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// No tracker is asked more often than this, whatever it says. Short, since a tracker on the local network may want it.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(5);
/// A hungry torrent comes no earlier than this before its interval is over, even if the tracker would let it.
pub const SHORTEST_EARLY: Duration = Duration::from_secs(60);
/// A tracker that wants to be left alone for longer would have forgotten us.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// After the first failure in a row.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(15);
/// After many failures in a row.
pub const LAST_BACK_OFF: Duration = Duration::from_secs(30 * 60);
/// How long after a change of the network everyone is told: changes rarely come alone.
pub const SETTLE: Duration = Duration::from_secs(3);
/// How long the others of a tier wait for a tracker that is silent.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// From how many wanted peers on a torrent is hungry, and comes back as early as the tracker allows.
pub const HUNGRY: usize = 10;

/// One of the torrent's trackers: an index into this schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackerIndex(usize);

/// An announce to be made now. Answer with [`Schedule::answered`] or [`Schedule::failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// To whom.
    pub tracker: TrackerIndex,
    /// About what.
    pub event: Event,
}

/// When to announce to the trackers of one torrent.
#[derive(Debug)]
pub struct Schedule {
    trackers: Vec<Tracker>,
    tiers: Vec<Tier>,
    random: fastrand::Rng,
    finished: bool,
    complete_at_start: bool,
}

#[derive(Debug)]
struct Tracker {
    url: Arc<str>,
    tier: usize,
    /// What was asked and when, while no answer has come.
    asked: Option<(Event, Moment)>,
    started: bool,
    completed: bool,
    failures: u32,
    /// After a failure, not before then.
    not_before: Moment,
    /// It named that time itself.
    insists: bool,
}

#[derive(Debug)]
struct Tier {
    /// Who is asked first, second, ...
    order: Vec<usize>,
    /// When the tracker wants to hear from us.
    next: Moment,
    /// When it allows to hear from us.
    earliest: Moment,
    /// When one of it answered last.
    answered: Option<Moment>,
    /// What is being said to it is out of date already.
    stale: bool,
}

impl Schedule {
    /// The trackers among `tiers` that `serves` accepts, each URL once. A torrent that is complete at the start
    /// says no `completed` (BEP 3). `seed` shuffles the tiers.
    pub fn new(tiers: &[Vec<String>], serves: impl Fn(&str) -> bool, complete_at_start: bool, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let mut schedule = Self { trackers: Vec::new(), tiers: Vec::new(), random, finished: false, complete_at_start };
        tiers.iter().for_each(|urls| schedule.add(urls, &serves));
        schedule
    }

    /// A further tier, of those trackers among `urls` that `serves` accepts and that are new. The others do not hear of
    /// it.
    pub fn add(&mut self, urls: &[String], serves: impl Fn(&str) -> bool) {
        let mut order = Vec::new();
        for url in urls.iter().map(|url| url.trim()).filter(|url| serves(url)) {
            let index = self.trackers.len();
            if index < MOST_TRACKERS && self.trackers.iter().all(|tracker| *tracker.url != *url) {
                self.trackers.push(Tracker::new(url, self.tiers.len()));
                order.push(index);
            }
        }
        self.random.shuffle(&mut order);
        if !order.is_empty() {
            self.tiers.push(Tier { order, next: Moment::ZERO, earliest: Moment::ZERO, answered: None, stale: false });
        }
    }

    /// We are somewhere else, or back: every tier hears of it after [`SETTLE`], if its last answer is [`SHORTEST_EARLY`]
    /// old, and failures that may have been ours are forgiven. Who asked to be left alone is.
    pub fn network_changed(&mut self, now: Moment) {
        for tier in &mut self.tiers {
            let soon = (now + SETTLE).max(tier.answered.map_or(Moment::ZERO, |answered| answered + SHORTEST_EARLY));
            tier.next = tier.next.min(soon);
            tier.earliest = tier.earliest.min(soon);
            tier.stale = tier.order.iter().any(|index| self.trackers[*index].asked.is_some());
        }
        for tracker in self.trackers.iter_mut().filter(|tracker| !tracker.insists) {
            tracker.failures = 0;
            tracker.not_before = tracker.not_before.min(now + SETTLE);
        }
    }

    /// Has it no trackers at all?
    pub fn is_empty(&self) -> bool {
        self.trackers.is_empty()
    }

    /// A tracker's URL.
    pub fn url(&self, tracker: TrackerIndex) -> &Arc<str> {
        &self.trackers[tracker.0].url
    }

    /// The download is complete: says `completed` to those who heard of its start.
    pub fn completed(&mut self) {
        self.finished = true;
    }

    /// The next announce that is due, if any. `wanted` is the demand for peers.
    pub fn poll(&mut self, wanted: usize, now: Moment) -> Option<Due> {
        if self.under_way() >= MOST_AT_ONCE {
            return None;
        }
        let (index, event) = (0..self.tiers.len()).find_map(|tier| {
            let (index, event, at) = self.next_of(tier, wanted, now)?;
            (at <= now).then_some((index, event))
        })?;
        self.trackers[index].asked = Some((event, now));
        Some(Due { tracker: TrackerIndex(index), event })
    }

    /// When [`Schedule::poll`] may have something again; [`Moment::NEVER`] if an answer must come first.
    pub fn deadline(&self, wanted: usize, now: Moment) -> Moment {
        if self.under_way() >= MOST_AT_ONCE {
            return Moment::NEVER;
        }
        let next = (0..self.tiers.len()).filter_map(|tier| self.next_of(tier, wanted, now));
        next.map(|(_, _, at)| at).min().unwrap_or(Moment::NEVER)
    }

    /// How many announces are under way.
    pub fn under_way(&self) -> usize {
        self.trackers.iter().filter(|tracker| tracker.asked.is_some()).count()
    }

    /// The tracker answered. Returns when its tier comes again by itself.
    pub fn answered(&mut self, tracker: TrackerIndex, answer: &Answer, now: Moment) -> Moment {
        let state = &mut self.trackers[tracker.0];
        match state.asked.take() {
            Some((Event::Started, _)) => state.started = true,
            Some((Event::Completed, _)) => state.completed = true,
            _ => {}
        }
        state.failures = 0;
        (state.not_before, state.insists) = (now, false);
        // Nothing or less means that the tracker has no wish.
        let wish = |wish: Option<Duration>| wish.filter(|wish| !wish.is_zero());
        let interval = wish(answer.interval).unwrap_or(USUAL_INTERVAL).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        let earliest = wish(answer.min_interval).unwrap_or(interval).clamp(SHORTEST_EARLY.min(interval), interval);
        let tier = &mut self.tiers[state.tier];
        // A latecomer that answers after another one of its tier did is not preferred.
        if tier.next <= now
            && let Some(place) = tier.order.iter().position(|index| *index == tracker.0)
        {
            tier.order[..=place].rotate_right(1);
        }
        let again = if std::mem::take(&mut tier.stale) { SHORTEST_EARLY } else { LONGEST_INTERVAL };
        tier.next = now + interval.min(again);
        tier.earliest = now + earliest.min(again);
        tier.answered = Some(now);
        tier.next
    }

    /// The tracker failed or refused. Returns before when it is not asked again.
    pub fn failed(&mut self, tracker: TrackerIndex, retry: Retry, now: Moment) -> Moment {
        let state = &mut self.trackers[tracker.0];
        state.asked = None;
        let back_off = FIRST_BACK_OFF.saturating_mul(1 << state.failures.min(10)).min(LAST_BACK_OFF);
        state.failures = state.failures.saturating_add(1);
        state.insists = retry != Retry::Usual;
        state.not_before = match retry {
            Retry::Usual => now + back_off,
            Retry::After(pause) => now + pause.clamp(FIRST_BACK_OFF, LONGEST_INTERVAL),
            Retry::Never => Moment::NEVER,
        };
        state.not_before
    }

    /// Whom this tier asks next, about what, and when; `None` if that depends on an answer.
    fn next_of(&self, tier: usize, wanted: usize, now: Moment) -> Option<(usize, Event, Moment)> {
        let tier = &self.tiers[tier];
        let members = || tier.order.iter().map(|index| (*index, &self.trackers[*index]));
        // An event for a tracker that knows us does not wait for the interval.
        let event = members().find(|(_, tracker)| tracker.asked.is_none() && self.owes_completed(tracker));
        let event = event.map(|(index, tracker)| (index, Event::Completed, tracker.not_before));
        // Otherwise the tier comes when its time is up, and a second tracker only if the first one is silent.
        let due = if wanted >= HUNGRY { tier.earliest } else { tier.next };
        let patience = members().filter_map(|(_, tracker)| tracker.asked).map(|(_, since)| since + PATIENCE).max();
        let due = due.max(patience.unwrap_or(Moment::ZERO));
        let free = members().filter(|(_, tracker)| tracker.asked.is_none() && tracker.not_before != Moment::NEVER);
        // The first in order that may be asked at that time, or else the one that may be asked soonest.
        let regular = free
            .map(|(index, tracker)| (index, tracker.next_event(), tracker.not_before.max(due)))
            .min_by_key(|(_, _, at)| (*at).max(now));
        [event, regular].into_iter().flatten().min_by_key(|(_, _, at)| (*at).max(now))
    }

    fn owes_completed(&self, tracker: &Tracker) -> bool {
        self.finished
            && !self.complete_at_start
            && tracker.started
            && !tracker.completed
            && tracker.not_before != Moment::NEVER
    }
}

impl Tracker {
    fn new(url: &str, tier: usize) -> Self {
        let (started, completed, insists) = (false, false, false);
        Self { url: url.into(), tier, asked: None, started, completed, failures: 0, not_before: Moment::ZERO, insists }
    }
    fn next_event(&self) -> Event {
        if self.started { Event::Regular } else { Event::Started }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiers(tiers: &[&[&str]]) -> Vec<Vec<String>> {
        tiers.iter().map(|tier| tier.iter().map(|url| url.to_string()).collect()).collect()
    }
    fn secs(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }
    fn every(interval: u64, min: Option<u64>) -> Answer {
        let (interval, min_interval) = (Some(Duration::from_secs(interval)), min.map(Duration::from_secs));
        Answer { interval, min_interval, ..Answer::default() }
    }
    fn poll(schedule: &mut Schedule, wanted: usize, now: Moment) -> Option<(TrackerIndex, String, Event)> {
        let due = schedule.poll(wanted, now)?;
        Some((due.tracker, schedule.url(due.tracker).to_string(), due.event))
    }
    /// Polls, and says what is due as text.
    fn due(schedule: &mut Schedule, now: Moment) -> Option<(TrackerIndex, Event)> {
        poll(schedule, 0, now).map(|(tracker, _, event)| (tracker, event))
    }

    #[test]
    fn all_tiers_are_asked_but_one_tracker_of_each() {
        let tiers = tiers(&[&["http://a", "http://b"], &["udp://no"], &["http://c", "http://a"], &[]]);
        let mut schedule = Schedule::new(&tiers, |url| url.starts_with("http:"), false, 3);
        let mut asked: Vec<_> = std::iter::from_fn(|| poll(&mut schedule, 50, Moment::ZERO)).map(|due| due.1).collect();
        asked.sort();
        assert_eq!(asked.len(), 2);
        assert!(["http://a", "http://b"].contains(&&*asked[0]) && asked[1] == "http://c", "{asked:?}");
        assert!(Schedule::new(&tiers, |_| false, false, 3).is_empty());
    }

    #[test]
    fn the_seed_shuffles_a_tier() {
        let tiers = tiers(&[&["a", "b", "c", "d"]]);
        let first = |seed| poll(&mut Schedule::new(&tiers, |_| true, false, seed), 0, Moment::ZERO).unwrap().1;
        assert_eq!(first(1), first(1));
        let firsts: std::collections::BTreeSet<_> = (0..50).map(first).collect();
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn the_next_of_a_tier_takes_over_and_stays_in_front() {
        let mut schedule = Schedule::new(&tiers(&[&["a", "b", "c"]]), |_| true, false, 1);
        let (first, _) = due(&mut schedule, Moment::ZERO).unwrap();
        assert_eq!(due(&mut schedule, Moment::ZERO), None);
        schedule.failed(first, Retry::Usual, secs(1));
        let (second, event) = due(&mut schedule, secs(1)).unwrap();
        assert!(second != first && event == Event::Started);
        assert_eq!(schedule.answered(second, &every(600, None), secs(2)), secs(602));
        assert_eq!((due(&mut schedule, secs(601)), schedule.deadline(0, secs(601))), (None, secs(602)));
        assert_eq!(due(&mut schedule, secs(602)), Some((second, Event::Regular)));
        // When it fails too, the first one has long been forgiven.
        schedule.failed(second, Retry::Usual, secs(603));
        assert_eq!(due(&mut schedule, secs(603)), Some((first, Event::Started)));
    }

    #[test]
    fn a_silent_tracker_does_not_hold_up_its_tier() {
        let mut schedule = Schedule::new(&tiers(&[&["a", "b", "c"]]), |_| true, false, 1);
        let (silent, _) = due(&mut schedule, Moment::ZERO).unwrap();
        assert_eq!(schedule.deadline(0, secs(1)), Moment::ZERO + PATIENCE);
        let (second, _) = due(&mut schedule, Moment::ZERO + PATIENCE).unwrap();
        schedule.answered(second, &every(100, None), secs(9));
        assert_eq!(due(&mut schedule, secs(60)), None, "one is enough");
        schedule.answered(silent, &every(100, None), secs(61));
        assert_eq!(due(&mut schedule, secs(161)), Some((second, Event::Regular)), "the latecomer is not preferred");
    }

    #[test]
    fn back_off_doubles_and_is_forgotten() {
        let mut schedule = Schedule::new(&tiers(&[&["a"]]), |_| true, false, 1);
        let mut now = Moment::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let (tracker, _) = due(&mut schedule, now).unwrap();
            let until = schedule.failed(tracker, Retry::Usual, now);
            assert_eq!(due(&mut schedule, until - Duration::from_nanos(1)), None);
            pauses.push(until.since(now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
        let (tracker, _) = due(&mut schedule, now).unwrap();
        now = schedule.answered(tracker, &every(60, None), now);
        due(&mut schedule, now).unwrap();
        assert_eq!(schedule.failed(tracker, Retry::Usual, now), now + FIRST_BACK_OFF);
    }

    #[test]
    fn a_tracker_may_say_when_to_retry() {
        let mut schedule = Schedule::new(&tiers(&[&["a"]]), |_| true, false, 1);
        let (tracker, _) = due(&mut schedule, Moment::ZERO).unwrap();
        assert_eq!(schedule.failed(tracker, Retry::After(Duration::from_secs(300)), secs(1)), secs(301));
        assert_eq!(due(&mut schedule, secs(300)), None);
        due(&mut schedule, secs(301)).unwrap();
        schedule.failed(tracker, Retry::Never, secs(302));
        assert_eq!(schedule.deadline(99, secs(302)), Moment::NEVER);
        assert_eq!(due(&mut schedule, secs(1_000_000)), None);
    }

    #[test]
    fn completed_is_said_once_and_after_started() {
        let mut schedule = Schedule::new(&tiers(&[&["a"]]), |_| true, false, 1);
        let (tracker, _) = due(&mut schedule, Moment::ZERO).unwrap();
        schedule.completed();
        assert_eq!(due(&mut schedule, secs(1)), None, "not while started is under way");
        schedule.answered(tracker, &every(1000, None), secs(2));
        assert_eq!(due(&mut schedule, secs(2)), Some((tracker, Event::Completed)));
        let again = schedule.failed(tracker, Retry::Usual, secs(3));
        assert_eq!(due(&mut schedule, secs(3)), None);
        assert_eq!(due(&mut schedule, again), Some((tracker, Event::Completed)), "until it has been heard");
        let next = schedule.answered(tracker, &every(1000, None), again);
        assert_eq!(due(&mut schedule, next - Duration::from_secs(1)), None);
        assert_eq!(due(&mut schedule, next), Some((tracker, Event::Regular)));
    }

    #[test]
    fn a_seed_from_the_start_never_says_completed() {
        let mut schedule = Schedule::new(&tiers(&[&["a"]]), |_| true, true, 1);
        let (tracker, event) = due(&mut schedule, Moment::ZERO).unwrap();
        assert_eq!(event, Event::Started);
        schedule.answered(tracker, &every(1000, None), secs(0));
        schedule.completed();
        assert_eq!(due(&mut schedule, secs(999)), None);
        assert_eq!(due(&mut schedule, secs(1000)), Some((tracker, Event::Regular)));
    }

    #[test]
    fn hunger_comes_early_where_that_is_allowed() {
        let mut schedule = Schedule::new(&tiers(&[&["a"]]), |_| true, false, 1);
        let (tracker, _) = due(&mut schedule, Moment::ZERO).unwrap();
        schedule.answered(tracker, &every(1800, Some(600)), Moment::ZERO);
        assert_eq!((schedule.deadline(0, secs(1)), schedule.deadline(HUNGRY, secs(1))), (secs(1800), secs(600)));
        assert!(poll(&mut schedule, HUNGRY - 1, secs(600)).is_none());
        assert!(poll(&mut schedule, HUNGRY, secs(599)).is_none());
        assert!(poll(&mut schedule, HUNGRY, secs(600)).is_some());
        schedule.answered(tracker, &every(1800, Some(1)), secs(600));
        assert_eq!(schedule.deadline(HUNGRY, secs(600)), secs(600) + SHORTEST_EARLY);
        schedule.answered(tracker, &every(1800, None), secs(600));
        assert_eq!(schedule.deadline(HUNGRY, secs(600)), secs(2400));
    }

    #[test]
    fn trackers_that_come_later_are_asked_without_the_others() {
        let mut schedule = Schedule::new(&tiers(&[&["http://a"]]), |_| true, false, 1);
        let (tracker, _) = due(&mut schedule, Moment::ZERO).unwrap();
        schedule.answered(tracker, &every(1800, None), Moment::ZERO);
        schedule.add(&["http://a".into(), "udp://no".into(), "http://b".into()], |url| url.starts_with("http"));
        schedule.add(&["http://b".into()], |_| true);
        let (_, url, event) = poll(&mut schedule, HUNGRY, secs(5)).unwrap();
        assert_eq!((&*url, event), ("http://b", Event::Started));
        assert_eq!(poll(&mut schedule, HUNGRY, secs(100)), None);
        assert_eq!(schedule.deadline(HUNGRY, secs(100)), secs(1800));
    }

    #[test]
    fn a_new_network_is_told_to_everyone_soon() {
        let all = tiers(&[&["good"], &["failing"], &["insisting"]]);
        let mut schedule = Schedule::new(&all, |_| true, false, 1);
        let [good, failing, insisting] = [(); 3].map(|()| due(&mut schedule, Moment::ZERO).unwrap().0);
        schedule.answered(good, &every(1800, None), secs(1));
        for _ in 0..5 {
            schedule.failed(failing, Retry::Usual, secs(1));
        }
        schedule.failed(insisting, Retry::After(Duration::from_secs(900)), secs(1));
        schedule.network_changed(secs(100));
        assert_eq!(schedule.deadline(0, secs(100)), secs(100) + SETTLE);
        let again = [due(&mut schedule, secs(103)), due(&mut schedule, secs(103)), due(&mut schedule, secs(103))];
        assert_eq!(again, [Some((good, Event::Regular)), Some((failing, Event::Started)), None]);
        schedule.answered(good, &every(1800, None), secs(104));
        schedule.network_changed(secs(105));
        assert_eq!(due(&mut schedule, secs(163)), None, "not in a frenzy");
        assert_eq!(due(&mut schedule, secs(164)), Some((good, Event::Regular)));
        // What is under way may be out of date when it arrives.
        schedule.network_changed(secs(165));
        assert_eq!(schedule.answered(good, &every(1800, None), secs(166)), secs(166) + SHORTEST_EARLY);
    }

    #[test]
    fn absurd_intervals_are_clamped() {
        let mut schedule = Schedule::new(&tiers(&[&["a"]]), |_| true, false, 1);
        let (tracker, _) = due(&mut schedule, Moment::ZERO).unwrap();
        for (said, meant) in [(0, USUAL_INTERVAL), (1, SHORTEST_INTERVAL), (u64::MAX, LONGEST_INTERVAL)] {
            assert_eq!(schedule.answered(tracker, &every(said, Some(said)), Moment::ZERO), Moment::ZERO + meant);
        }
        let none = schedule.answered(tracker, &Answer::default(), Moment::ZERO);
        assert_eq!(none, Moment::ZERO + USUAL_INTERVAL);
    }

    #[test]
    fn lists_and_work_are_bounded() {
        let many = (0..5000).map(|n| vec![format!("http://t{n}")]).collect::<Vec<_>>();
        let mut schedule = Schedule::new(&many, |_| true, false, 1);
        assert_eq!(std::iter::from_fn(|| schedule.poll(1, Moment::ZERO)).count(), MOST_AT_ONCE);
        assert_eq!(schedule.deadline(1, Moment::ZERO), Moment::NEVER);
        assert_eq!(schedule.trackers.len(), MOST_TRACKERS);
    }
}
