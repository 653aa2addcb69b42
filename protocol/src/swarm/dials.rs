//! Whom to dial next, whom not now, and how long they rest who could not be reached.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet_core::{Moment, addr::canonical, seams::discovery::PeerFate};

use super::{
    DialFailure, Swarm,
    candidates::{State, is_public},
};

/// Least rest after the first failure; jitter adds up to half, each further failure doubles it.
pub const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The same for a peer that once was of use.
pub const WORKED_RETRY: Duration = Duration::from_secs(3);
/// Rest at most, before jitter.
pub const LONGEST_RETRY: Duration = Duration::from_secs(10 * 60);
/// Rest of a peer that was no failure, but for which there is no place now.
pub const NO_PLACE_RETRY: Duration = Duration::from_secs(60);
/// Rest of a peer that is no use to us as things are.
pub const USELESS_RETRY: Duration = Duration::from_secs(30 * 60);

/// Dials of a seed that may turn out useless in a row before it slows down.
pub const FREE_DIALS: u32 = 8;
/// Pause of a seed after the next one; each further doubles it.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Pause of a seed at most: among seeds alone there is nothing to hurry for, and who wants something comes by itself.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A seed's dials that nobody took a block after. In a swarm of seeds alone each would try every other.
#[derive(Debug, Default)]
pub(super) struct InVain {
    in_a_row: u32,
    until: Moment,
}

impl InVain {
    /// Another one.
    pub(super) fn add(&mut self, now: Moment) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if let Some(beyond) = self.in_a_row.checked_sub(FREE_DIALS + 1) {
            self.until = now + FIRST_PAUSE.saturating_mul(1 << beyond.min(16)).min(LONGEST_PAUSE);
        }
    }
}

/// A peer to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// Where.
    pub addr: SocketAddr,
    /// The how-manieth attempt at this address, from 1.
    pub attempt: u32,
}

impl Swarm {
    /// The network is another one, or back: who could not be reached, or was lost with it, may be reached now. Those who
    /// have another torrent, or no use for us, rest on. O(n log n).
    pub fn network_changed(&mut self, now: Moment) {
        for addr in self.candidates.addresses() {
            let is_hope = self.candidates.get(addr).is_some_and(|candidate| {
                let is_strange = candidate.failed == Some(DialFailure::Handshake);
                let is_useless = self.seeding && candidate.seed;
                matches!(candidate.state, State::Resting(_)) && !is_strange && !is_useless
            });
            if is_hope {
                self.candidates.change(addr, |candidate| {
                    (candidate.state, candidate.failures) = (State::Resting(now), 0);
                });
            }
        }
    }

    /// The next peer to dial, if there is one and the limits allow it. It is half-open until [`Self::dial_failed`] or
    /// [`Self::connected`].
    pub fn next_dial(&mut self, now: Moment) -> Option<Dial> {
        while self.has_room_to_dial() && now >= self.pause() {
            let addr = self.candidates.pop(now)?;
            if let Some(rest) = self.not_now(addr) {
                self.rest_until(addr, now + rest);
                continue;
            }
            return Some(self.begin_dial(addr));
        }
        None
    }

    /// Dials a known peer out of turn and without its rest, since it dials us in this moment (BEP 55). `None` if the
    /// limits do not allow it, or the peer is under way, connected, banned or of no use.
    pub fn dial_now(&mut self, addr: SocketAddr) -> Option<Dial> {
        let addr = canonical(addr);
        let idle = self.candidates.get(addr).is_some_and(|c| matches!(c.state, State::Ready | State::Resting(_)));
        let may = idle && self.has_room_to_dial() && !self.bans.holds(addr) && self.not_now(addr).is_none();
        may.then(|| self.begin_dial(addr))
    }

    fn begin_dial(&mut self, addr: SocketAddr) -> Dial {
        let mut attempt = 0;
        self.candidates.change(addr, |candidate| {
            candidate.state = State::HalfOpen;
            candidate.attempts = candidate.attempts.saturating_add(1);
            attempt = candidate.attempts;
        });
        self.half_open += 1;
        *self.per_ip.entry(addr.ip()).or_default() += 1;
        Dial { addr, attempt }
    }

    fn has_room_to_dial(&self) -> bool {
        self.half_open < self.config.most_half_open.min(self.hopes())
            && self.connections.len() + self.half_open < self.config.most_connections
    }

    /// How many dials may be under way at once, as things look.
    fn hopes(&self) -> usize {
        if self.seeding { FREE_DIALS.saturating_sub(self.in_vain.in_a_row).max(1) as usize } else { usize::MAX }
    }

    /// Until when a seed should not dial anybody.
    fn pause(&self) -> Moment {
        if self.seeding { self.in_vain.until } else { Moment::ZERO }
    }

    /// For how long a candidate should not be dialled, if there is a reason that only now comes to light.
    fn not_now(&self, addr: SocketAddr) -> Option<Duration> {
        let candidate = self.candidates.get(addr)?;
        if self.seeding && candidate.seed {
            return Some(USELESS_RETRY);
        }
        let here_already = candidate.peer_id.is_some_and(|id| self.is_here(id, addr.ip()));
        (here_already || self.is_crowded(addr.ip())).then_some(NO_PLACE_RETRY)
    }

    pub(super) fn is_crowded(&self, ip: IpAddr) -> bool {
        is_public(ip) && self.per_ip.get(&ip).is_some_and(|open| *open >= self.config.most_per_ip)
    }

    /// The dial came to nothing. The peer rests, twice as long each time.
    pub fn dial_failed(&mut self, addr: SocketAddr, why: DialFailure, now: Moment) {
        let addr = canonical(addr);
        if self.end_dial(addr) {
            self.candidates.change(addr, |candidate| candidate.failed = Some(why));
            self.report(addr, PeerFate::Refused);
            self.rest_after_failure(addr, now);
        }
    }

    /// Ends the half-open state; false if the address was not half-open. The caller says what it is now.
    pub(super) fn end_dial(&mut self, addr: SocketAddr) -> bool {
        let dialled = self.candidates.get(addr).is_some_and(|candidate| candidate.state == State::HalfOpen);
        if dialled {
            self.half_open -= 1;
            self.leave_ip(addr.ip());
        }
        dialled
    }

    pub(super) fn rest_after_failure(&mut self, addr: SocketAddr, now: Moment) {
        self.candidates.change(addr, |candidate| candidate.failures = candidate.failures.saturating_add(1));
        self.rest(addr, now);
    }

    /// Lets a candidate rest as its failures demand.
    pub(super) fn rest(&mut self, addr: SocketAddr, now: Moment) {
        let Some(candidate) = self.candidates.get(addr) else { return };
        let first = if candidate.worked { WORKED_RETRY } else { FIRST_RETRY };
        let doubled = first.saturating_mul(1 << candidate.failures.saturating_sub(1).min(16)).min(LONGEST_RETRY);
        let jitter = doubled.mul_f64(self.random.f64() / 2.0);
        self.rest_until(addr, now + doubled + jitter);
    }

    /// Lets a candidate rest, or forgets it if it is banned or ourselves.
    pub(super) fn rest_until(&mut self, addr: SocketAddr, due: Moment) {
        if self.bans.holds(addr) {
            self.report(addr, PeerFate::Banned);
            self.candidates.forget(addr);
        } else if self.own.contains(&addr) {
            self.candidates.forget(addr);
        } else {
            self.candidates.change(addr, |candidate| candidate.state = State::Resting(due));
        }
    }

    /// When a dial will be due, if nothing else happens before: `now` if one is; `None` if there is nobody to dial or
    /// no room.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let due = self.candidates.due().filter(|_| self.has_room_to_dial())?;
        Some(due.max(now).max(self.pause()))
    }

    /// How many more peers would be useful. Plugins rest at 0. Of the peers that are known and were never tried one in
    /// three is counted on.
    pub fn wanted(&self) -> usize {
        let enough = if self.seeding { self.config.enough_seeding } else { self.config.enough_leeching };
        let have = self.connections.len() + (self.half_open + self.candidates.fresh()) / 3;
        enough.min(self.config.most_connections).saturating_sub(have)
    }
}
