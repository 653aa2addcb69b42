//! Which tracker of a torrent is asked for numbers alone, and when (BEP 48).
//!
//! An announce usually brings them along. A scrape is made of a tracker whose announces do not, or whose last numbers are
//! old while the torrent rests; only of one that has answered before, and never more often than [`PAUSE`].

use std::{collections::BTreeMap, time::Duration};

use castanet_core::Moment;

use super::schedule::TrackerIndex;

/// The shortest time between two scrapes of a tracker, and between an announce that brought numbers and a scrape. Longer
/// than the usual interval, so that an announce that is about to bring them comes first.
pub const PAUSE: Duration = Duration::from_secs(31 * 60);

/// When to scrape the trackers of one torrent.
#[derive(Debug, Default)]
pub struct Scrapes(BTreeMap<TrackerIndex, Tracker>);

#[derive(Debug)]
struct Tracker {
    /// Its announces bring no numbers.
    silent: bool,
    next: Moment,
}

impl Tracker {
    fn is_of_interest(&self, resting: bool) -> bool {
        resting || self.silent
    }
}

impl Scrapes {
    /// No tracker has answered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tracker has answered an announce, with or without numbers.
    pub fn announced(&mut self, tracker: TrackerIndex, with_numbers: bool, now: Moment) {
        let tracker = self.0.entry(tracker).or_insert(Tracker { silent: false, next: now });
        tracker.silent = !with_numbers;
        if with_numbers {
            tracker.next = now + PAUSE;
        }
    }

    /// The next tracker to be scraped now, if any. However that ends, it is left alone for [`PAUSE`]. A torrent rests
    /// when it wants no peers.
    pub fn poll(&mut self, resting: bool, now: Moment) -> Option<TrackerIndex> {
        let due = |tracker: &Tracker| tracker.is_of_interest(resting) && tracker.next <= now;
        let (index, tracker) = self.0.iter_mut().find(|(_, tracker)| due(tracker))?;
        tracker.next = now + PAUSE;
        Some(*index)
    }

    /// When [`Scrapes::poll`] may have something; [`Moment::NEVER`] if a tracker must answer first.
    pub fn deadline(&self, resting: bool) -> Moment {
        let waiting = self.0.values().filter(|tracker| tracker.is_of_interest(resting));
        waiting.map(|tracker| tracker.next).min().unwrap_or(Moment::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::schedule::{HUNGRY, Schedule},
        *,
    };

    #[test]
    fn numbers_are_asked_for_where_they_are_missing_or_old() {
        let mut schedule = Schedule::new(&[vec!["a".into()], vec!["b".into()]], |_| true, false, 1);
        let [one, other] = [(); 2].map(|()| schedule.poll(HUNGRY, Moment::ZERO).unwrap().tracker);
        let at = Moment::from_secs;
        let mut scrapes = Scrapes::new();
        assert_eq!((scrapes.poll(true, at(9)), scrapes.deadline(true)), (None, Moment::NEVER));
        scrapes.announced(one, true, at(10));
        assert_eq!((scrapes.poll(false, at(9999)), scrapes.deadline(false)), (None, Moment::NEVER), "they come anyway");
        assert_eq!((scrapes.poll(true, at(1869)), scrapes.deadline(true)), (None, at(1870)));
        scrapes.announced(other, false, at(20));
        assert_eq!((scrapes.deadline(false), scrapes.poll(false, at(20))), (at(20), Some(other)));
        scrapes.announced(other, false, at(30));
        assert_eq!((scrapes.poll(false, at(1879)), scrapes.deadline(false)), (None, at(1880)), "not more often");
        let both = [scrapes.poll(true, at(1880)), scrapes.poll(true, at(1880)), scrapes.poll(true, at(1880))];
        assert_eq!(both, [Some(one), Some(other), None]);
        [one, other].into_iter().for_each(|tracker| scrapes.announced(tracker, true, at(2000)));
        assert_eq!(scrapes.deadline(true), at(3860), "an announce will do");
    }
}
