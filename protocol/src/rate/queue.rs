//! Who of many is served next: always who has had the fewest bytes of those who want any (start-time fair queueing).
//!
//! Each has a clock of bytes. Who was away, or could not be served, comes back at the clock of the one served last: absence
//! earns nothing. Who is in the middle of something goes before all who are not.

use std::collections::{BTreeMap, BTreeSet};

use castanet_core::Moment;

/// Those who share something.
#[derive(Debug, Clone)]
pub(super) struct Queue<K> {
    entries: BTreeMap<K, Entry>,
    /// The clock of the one served last, before it was served.
    clock: u64,
    /// Those who could be served, the next one first: in the middle of something, clock, name.
    waiting: BTreeSet<(bool, u64, K)>,
    /// Those who want to be but cannot be before this moment.
    parked: BTreeSet<(Moment, K)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    clock: u64,
    begun: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Away,
    Waiting,
    Parked(Moment),
}

impl<K: Copy + Ord> Queue<K> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), clock: 0, waiting: BTreeSet::new(), parked: BTreeSet::new() }
    }

    /// One more, who wants nothing yet.
    pub(super) fn join(&mut self, key: K) {
        self.entries.insert(key, Entry { clock: self.clock, begun: false, place: Place::Away });
    }

    pub(super) fn leave(&mut self, key: K) {
        self.stay_away(key);
        self.entries.remove(&key);
    }

    /// How many want to be served.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.parked.len()
    }

    /// Wants to be served; with `begun`, before those who are not in the middle of something.
    pub(super) fn wait(&mut self, key: K, begun: bool) {
        self.stay_away(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            *entry = Entry { clock: entry.clock.max(self.clock), begun, place: Place::Waiting };
            self.waiting.insert((!begun, entry.clock, key));
        }
    }

    /// Wants nothing more.
    pub(super) fn stay_away(&mut self, key: K) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        match std::mem::replace(&mut entry.place, Place::Away) {
            Place::Away => {}
            Place::Waiting => _ = self.waiting.remove(&(!entry.begun, entry.clock, key)),
            Place::Parked(until) => _ = self.parked.remove(&(until, key)),
        }
    }

    /// Cannot be served before `until`.
    pub(super) fn park(&mut self, key: K, until: Moment) {
        self.stay_away(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::Parked(until);
            self.parked.insert((until, key));
        }
    }

    /// Lets those wait again whose moment has come.
    pub(super) fn unpark(&mut self, now: Moment) {
        while let Some(&(until, key)) = self.parked.first()
            && until <= now
        {
            let begun = self.entries.get(&key).is_some_and(|entry| entry.begun);
            self.wait(key, begun);
        }
    }

    /// The next one, and whether it is in the middle of something.
    pub(super) fn first(&self) -> Option<(K, bool)> {
        self.waiting.first().map(|&(not_begun, _, key)| (key, !not_begun))
    }

    /// When the next one who is parked could be served.
    pub(super) fn next_parked(&self) -> Option<Moment> {
        self.parked.first().map(|(until, _)| *until)
    }

    /// Anyone who wants to be served.
    pub(super) fn anyone(&self) -> Option<K> {
        self.first().map(|(key, _)| key).or_else(|| self.parked.first().map(|(_, key)| *key))
    }

    /// Has had so many bytes; in its turn, or without waiting for it.
    pub(super) fn count(&mut self, key: K, bytes: u64, in_turn: bool) {
        let Some(&Entry { clock, begun, place }) = self.entries.get(&key) else { return };
        if in_turn {
            self.clock = self.clock.max(clock);
        }
        self.stay_away(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.clock = clock.saturating_add(bytes);
        }
        match place {
            Place::Away => {}
            Place::Waiting => self.wait(key, begun),
            Place::Parked(until) => self.park(key, until),
        }
    }

    /// What holds at all times.
    pub(super) fn check_invariants(&self) {
        let places = |place: fn(&Place) -> bool| self.entries.values().filter(|entry| place(&entry.place)).count();
        assert_eq!(self.waiting.len(), places(|place| *place == Place::Waiting));
        assert_eq!(self.parked.len(), places(|place| matches!(place, Place::Parked(_))));
    }
}
