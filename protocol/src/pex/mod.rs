//! Peer exchange for one torrent (BEP 11): whom to tell of whom, and how much to believe.
//!
//! **Telling.** [`Pex::poll`] gives each neighbour that speaks `ut_pex` one message a minute: whom of our connections it
//! has not been told of, those first that it would prefer itself (BEP 40), and who of those it was told of is gone. So
//! only that difference is remembered, and nobody who came and went in between is mentioned.
//!
//! **Hearing.** [`Pex::heard`] takes a message about as often as an honest neighbour sends one and so many contacts an
//! hour, kept account of by address, so that coming back does not help. Who is further away does not get to name
//! addresses of our own network, and is not told of them.

mod message;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use castanet_core::{
    Moment,
    addr::{canonical, is_dialable, is_stand_in},
    seams::discovery::Neighbour,
};

pub use self::message::{Contact, Flags, LONGEST_MESSAGE, MOST_READ, PexError, PexMessage};
use crate::swarm::priority::priority;

/// Between two messages to one neighbour.
pub const PACE: Duration = Duration::from_secs(60);
/// Before the first news after a silence is told: others may come at the same time.
pub const SETTLE: Duration = Duration::from_secs(2);
/// The most contacts added in the first message to a neighbour, and in each later one.
pub const MOST_AT_FIRST: usize = 100;
/// The most contacts added or dropped in a later message.
pub const MOST_LATER: usize = 50;
/// The most contacts that a neighbour is told of and that are not dropped again; who wants more has others to ask.
pub const MOST_TOLD: usize = 200;
/// The most neighbours that are kept in mind.
pub const MOST_NEIGHBOURS: usize = 2000;
/// Between two messages from one neighbour, with some allowance for its clock and the network.
pub const TOLERATED_PACE: Duration = Duration::from_secs(45);
/// How many messages may come early.
pub const MOST_EARLY: u32 = 3;
/// The most contacts taken from one neighbour in [`ACCOUNT_LIFETIME`].
pub const MOST_TAKEN: usize = 1000;
/// How long what was taken counts.
pub const ACCOUNT_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// The most hosts of which is remembered what was taken from them.
pub const MOST_ACCOUNTS: usize = 2 * MOST_NEIGHBOURS;

/// Peer exchange of one torrent.
#[derive(Debug, Default)]
pub struct Pex {
    neighbours: BTreeMap<SocketAddr, Known>,
    accounts: BTreeMap<SocketAddr, Account>,
}

/// A neighbour, and how far it is with us.
#[derive(Debug)]
struct Known {
    who: Neighbour,
    /// What it believes us to be connected to: told and not dropped since.
    told: BTreeSet<SocketAddr>,
    /// It has had its first message.
    greeted: bool,
    /// There may be something to tell.
    news: bool,
    /// Not told anything before then.
    next: Moment,
    /// When a neighbour that keeps the pace would send the next message; early ones push it into the future.
    expected: Moment,
}

/// What one host has given us lately.
#[derive(Debug)]
struct Account {
    opened: Moment,
    taken: usize,
}

/// Why a message was not listened to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ignored {
    /// It is from nobody we are connected to.
    #[error("it is from a stranger")]
    Stranger,
    /// The neighbour sends too many.
    #[error("it comes too soon after the last ones")]
    TooSoon,
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] PexError),
}

impl Pex {
    /// Nobody is there yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many neighbours speak it.
    pub fn speakers(&self) -> usize {
        self.neighbours.values().filter(|known| known.who.speaks).count()
    }

    /// A peer is connected, or more is known of one that is.
    pub fn joined(&mut self, who: Neighbour, now: Moment) {
        let remote = who.remote;
        if let Some(known) = self.neighbours.get_mut(&remote) {
            known.who = who;
        } else if self.neighbours.len() < MOST_NEIGHBOURS {
            let (told, next) = (BTreeSet::new(), now + SETTLE);
            let known = Known { who, told, greeted: false, news: true, next, expected: now };
            self.neighbours.insert(remote, known);
        }
        self.changed(now);
    }

    /// A connection is closed.
    pub fn left(&mut self, remote: SocketAddr, now: Moment) {
        if self.neighbours.remove(&remote).is_some() {
            self.changed(now);
        }
    }

    fn changed(&mut self, now: Moment) {
        for known in self.neighbours.values_mut().filter(|known| !known.news) {
            known.news = true;
            known.next = known.next.max(now + SETTLE);
        }
    }

    /// The next message to be sent now, and to whom. Ask until there is none.
    pub fn poll(&mut self, now: Moment) -> Option<(SocketAddr, PexMessage)> {
        loop {
            let due = |known: &Known| known.who.speaks && known.news && known.next <= now;
            let remote = *self.neighbours.iter().find(|(_, known)| due(known))?.0;
            let message = self.news_for(&remote)?;
            let known = self.neighbours.get_mut(&remote)?;
            if message.is_empty() {
                known.news = false;
                continue;
            }
            known.told.extend(message.added.iter().map(|contact| contact.addr));
            message.dropped.iter().for_each(|addr| _ = known.told.remove(addr));
            (known.greeted, known.next) = (true, now + PACE);
            return Some((remote, message));
        }
    }

    /// When [`Pex::poll`] may have something; [`Moment::NEVER`] if somebody must come or go first.
    pub fn deadline(&self) -> Moment {
        let waiting = self.neighbours.values().filter(|known| known.who.speaks && known.news);
        waiting.map(|known| known.next).min().unwrap_or(Moment::NEVER)
    }

    /// The difference between what a neighbour was told and what is. Only a live connection is ever told of.
    fn news_for(&self, remote: &SocketAddr) -> Option<PexMessage> {
        let to = self.neighbours.get(remote)?;
        let itself = canonical(to.who.listens.unwrap_or(*remote));
        let mut live = BTreeMap::new();
        for other in self.neighbours.values() {
            if let Some(addr) = other.who.listens.map(canonical)
                && ![itself, canonical(*remote)].contains(&addr)
            {
                live.insert(addr, flags(&other.who));
            }
        }
        let gone = to.told.iter().filter(|addr| !live.contains_key(addr));
        let dropped: Vec<_> = gone.copied().take(MOST_LATER).collect();
        // A zone means nothing to others, nor does an address that nobody has.
        let told = |addr: SocketAddr| SocketAddr::new(addr.ip(), addr.port());
        let may_hear = |addr: SocketAddr| {
            is_dialable(told(addr)) && !is_stand_in(addr.ip()) && reach(addr.ip()) >= reach(remote.ip())
        };
        let new = live.into_iter().filter(|(addr, _)| may_hear(*addr) && !to.told.contains(addr));
        let mut added: Vec<_> = new.map(|(addr, flags)| Contact { addr, flags }).collect();
        let room = if to.greeted { MOST_LATER } else { MOST_AT_FIRST }.min(MOST_TOLD.saturating_sub(to.told.len()));
        if added.len() > room {
            added.sort_by_cached_key(|contact| Reverse(priority(itself, contact.addr)));
            added.truncate(room);
        }
        Some(PexMessage { added, dropped })
    }

    /// A neighbour's message: the contacts in it that are worth dialling, and whom the neighbour itself has lost, which
    /// says nothing about what others know.
    ///
    /// # Errors
    /// If it is not listened to. That is no reason to close the connection.
    pub fn heard(&mut self, remote: SocketAddr, payload: &[u8], now: Moment) -> Result<PexMessage, Ignored> {
        let known = self.neighbours.get_mut(&remote).ok_or(Ignored::Stranger)?;
        if known.expected > now + TOLERATED_PACE * (MOST_EARLY - 1) {
            return Err(Ignored::TooSoon);
        }
        known.expected = known.expected.max(now) + TOLERATED_PACE;
        let itself = [Some(remote), known.who.listens].map(|addr| addr.map(canonical));
        let mut message = PexMessage::decode(payload)?;
        let believed =
            |addr: SocketAddr| reach(addr.ip()) >= reach(remote.ip()) && itself.iter().all(|own| *own != Some(addr));
        message.added.retain(|contact| believed(contact.addr));
        message.added.truncate(self.allowance(remote, now));
        if let Some(account) = self.accounts.get_mut(&account_of(remote)) {
            account.taken += message.added.len();
        }
        Ok(message)
    }

    /// How many more contacts are taken from this host now; opens its account.
    fn allowance(&mut self, remote: SocketAddr, now: Moment) -> usize {
        let host = account_of(remote);
        if self.accounts.len() >= MOST_ACCOUNTS && !self.accounts.contains_key(&host) {
            self.accounts.retain(|_, account| now.since(account.opened) < ACCOUNT_LIFETIME);
            if self.accounts.len() >= MOST_ACCOUNTS {
                return 0;
            }
        }
        let account = self.accounts.entry(host).or_insert(Account { opened: now, taken: 0 });
        if now.since(account.opened) >= ACCOUNT_LIFETIME {
            *account = Account { opened: now, taken: 0 };
        }
        MOST_TAKEN - account.taken
    }

    /// Panics if a bound or a promise is broken; for tests.
    pub fn check_invariants(&self) {
        assert!(self.neighbours.len() <= MOST_NEIGHBOURS && self.accounts.len() <= MOST_ACCOUNTS);
        assert!(self.accounts.values().all(|account| account.taken <= MOST_TAKEN));
        for (remote, known) in &self.neighbours {
            assert!(known.told.len() <= MOST_TOLD);
            assert_eq!(known.who.remote, *remote);
        }
    }
}

fn flags(who: &Neighbour) -> Flags {
    Flags::default()
        .with(Flags::ENCRYPTS, who.encrypts)
        .with(Flags::SEED, who.seed)
        .with(Flags::UTP, who.utp)
        .with(Flags::HOLEPUNCH, who.holepunch)
        .with(Flags::REACHABLE, who.reachable)
}

/// Under which name a host's account is kept: who has an IPv6 address has its whole /64, and on one machine ports tell
/// peers apart.
fn account_of(remote: SocketAddr) -> SocketAddr {
    match remote.ip().to_canonical() {
        ip if ip.is_loopback() => SocketAddr::new(ip, remote.port()),
        IpAddr::V6(ip) => SocketAddr::new(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(), 0),
        v4 => SocketAddr::new(v4, 0),
    }
}

/// From how far an address means the same: on one machine, in one network, everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Machine,
    Network,
    World,
}

pub(crate) fn reach(ip: IpAddr) -> Reach {
    let local = match ip.to_canonical() {
        // 100.64/10 is a provider's own (RFC 6598).
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_link_local() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match (ip.to_canonical().is_loopback(), local) {
        (true, _) => Reach::Machine,
        (false, true) => Reach::Network,
        (false, false) => Reach::World,
    }
}
