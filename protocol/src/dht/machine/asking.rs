//! The questions under way: each has a random name and an address from which alone it can be answered.
//!
//! When most nodes would have answered, a question is late, which frees a slot of its search; after [`LONG`] it is given
//! up. The rate of questions is limited, whoever wants them asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use castanet_core::Moment;
use fastrand::Rng;

use super::{Dht, DhtOutput, side_of};
use crate::{
    dht::{Ask, Body, Message, Query, Want, krpc::VERSION},
    rate::TokenBucket,
};

/// When a question is late, as long as little is known of round trips, and at most.
pub(super) const LATE_AT_MOST: Duration = Duration::from_secs(1);
/// When a question is late, at least.
pub(super) const LATE_AT_LEAST: Duration = Duration::from_millis(250);
/// When a question is given up.
pub(super) const LONG: Duration = Duration::from_secs(5);
/// Questions under way.
pub(super) const MOST_PENDING: usize = 1024;
/// Questions a second: a tenth of a megabit with all answers.
pub(super) const RATE: u64 = 200;

/// What a question is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To learn whether the node is alive.
    Upkeep,
    /// For a search, by its number.
    Search(u64),
    /// To store what a search found a place for. The second says that it is the second try.
    Store(u64, bool),
}

/// A question under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    pub(super) sent: Moment,
    /// When it is late, or given up if it is late already.
    due: Moment,
    late: bool,
}

/// All questions under way.
#[derive(Debug)]
pub(super) struct Asking {
    pending: BTreeMap<[u8; 2], Pending>,
    /// The same by when they are late or given up.
    due: BTreeSet<(Moment, [u8; 2])>,
    rate: TokenBucket,
    /// Questions ever asked.
    count: u64,
    /// The round trip and its deviation, smoothed over all nodes.
    trip: (Duration, Duration),
}

impl Asking {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            // With savings, so that joining is not slowed down.
            rate: TokenBucket::full(Some(RATE), now),
            count: 0,
            trip: (LATE_AT_MOST, Duration::ZERO),
        }
    }

    /// Questions ever asked.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// May a question be asked now? If not, when to try again.
    pub(super) fn may_ask(&mut self, now: Moment) -> Result<(), Moment> {
        match self.deadline() {
            Some(due) if self.pending.len() >= MOST_PENDING => Err(due),
            _ => self.rate.take(0, now),
        }
    }

    fn remember(&mut self, pending: Pending, rng: &mut Rng) -> [u8; 2] {
        let mut name = rng.u16(..).to_be_bytes();
        while self.pending.contains_key(&name) {
            name = rng.u16(..).to_be_bytes();
        }
        self.due.insert((pending.due, name));
        self.pending.insert(name, pending);
        name
    }

    /// An answer came: to which question? Only who was asked can answer.
    pub(super) fn take(&mut self, transaction: &[u8], from: SocketAddr) -> Option<Pending> {
        let name = transaction.try_into().ok()?;
        let pending = *self.pending.get(&name).filter(|pending| pending.to == from)?;
        self.pending.remove(&name);
        self.due.remove(&(pending.due, name));
        Some(pending)
    }

    /// How long after it was asked a question is late: as TCP reckons, but over all nodes, so a few slow ones are.
    fn late_after(&self) -> Duration {
        (self.trip.0 + 4 * self.trip.1).clamp(LATE_AT_LEAST, LATE_AT_MOST)
    }

    /// A question was answered after so long.
    pub(super) fn learn(&mut self, trip: Duration) {
        let (mean, deviation) = self.trip;
        self.trip = ((7 * mean + trip) / 8, (3 * deviation + mean.abs_diff(trip)) / 4);
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next question that is late (for the first time), or given up.
    fn next_due(&mut self, now: Moment) -> Option<Pending> {
        let (_, name) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.pop_first();
        let pending = self.pending.get_mut(&name).expect("what is due is pending");
        let before = *pending;
        if before.late {
            self.pending.remove(&name);
        } else {
            (pending.late, pending.due) = (true, pending.sent + LONG);
            self.due.insert((pending.due, name));
        }
        Some(before)
    }

    pub(super) fn check_invariants(&self) {
        // Announcements go out at once, eight for each search that may run.
        assert!(self.pending.len() <= 2 * MOST_PENDING && self.due.len() == self.pending.len());
    }
}

impl Dht {
    /// Sends a question.
    pub(super) fn ask(&mut self, to: SocketAddr, ask: Ask, want: Want, purpose: Purpose, now: Moment) {
        let due = now + self.asking.late_after();
        let pending = Pending { to, purpose, sent: now, due, late: false };
        let transaction = self.asking.remember(pending, &mut self.rng);
        self.asking.rate.charge(1, now);
        self.asking.count += 1;
        let from = self.sides[side_of(to)].table.own();
        let query = Query { from, read_only: self.read_only, want, ask };
        let message = Message { version: Some(VERSION), ..Message::new(transaction, Body::Query(query)) };
        self.send(to, &message);
    }

    pub(super) fn send(&mut self, to: SocketAddr, message: &Message) {
        self.outputs.push_back(DhtOutput::Send { to, datagram: message.encode() });
    }

    /// Sees to questions that nobody answered in time.
    pub(super) fn expire(&mut self, now: Moment) {
        while let Some(pending) = self.asking.next_due(now) {
            if pending.late {
                self.sides[side_of(pending.to)].table.failed(pending.to, pending.sent);
                continue;
            }
            match pending.purpose {
                Purpose::Upkeep => {}
                Purpose::Search(key) => {
                    if let Some(running) = self.running.get_mut(&key) {
                        running.search.late(pending.to);
                    }
                }
                Purpose::Store(key, again) => self.store_is_late(key, pending.to, again, now),
            }
        }
    }
}
