//! NATs before hosts of the network in memory.
//!
//! The model: a host keeps its one address, which stands for the outside of its NAT. Ports are kept (outside as inside),
//! except by [`Nat::Symmetric`]. A datagram that goes out opens a mapping, or lets it last anew; which of those that come
//! in are let in by it is what tells NATs apart, and is decided as they arrive: two hosts that send at once both have
//! their hole by then. What is not let in vanishes. A host's datagrams to itself, those among hosts of a LAN and those to
//! a group do not meet a NAT.
//!
//! Streams are dialled through a NAT from inside, their ports kept, and never from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

/// Time that a mapping lasts after the last datagram that went out by it (RFC 4787, REQ-5).
const LASTS: Duration = Duration::from_secs(120);

/// Mappings of one host; for another the oldest goes.
pub(super) const MOST_MAPPINGS: usize = 4096;

/// The first port outside that a symmetric NAT gives: not one of those that hosts are given, so that they differ.
const FIRST_OUTSIDE: u16 = 1024;

/// Whom a NAT lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nat {
    /// Anybody, at a port that sent anything.
    FullCone,
    /// Those whose IP the port sent to.
    Restricted,
    /// Those whose IP and port the port sent to.
    PortRestricted,
    /// Those whose IP and port the port sent to, and each of them at a port outside of its own.
    Symmetric,
}

impl Nat {
    /// Of a peer, what the NAT looks at.
    fn seen(self, peer: SocketAddr) -> SocketAddr {
        match self {
            Self::FullCone => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            Self::Restricted => SocketAddr::new(peer.ip(), 0),
            Self::PortRestricted | Self::Symmetric => peer,
        }
    }
}

/// A port inside, and the peer as far as the NAT looks at it.
type Key = (u16, SocketAddr);

#[derive(Debug)]
struct Mapping {
    opened: Instant,
    until: Instant,
    /// The port outside.
    outside: u16,
}

/// The NATs, by the hosts behind them.
#[derive(Debug, Default)]
pub(super) struct Nats(BTreeMap<IpAddr, Translator>);

impl Nats {
    pub(super) fn set(&mut self, host: IpAddr, nat: Option<Nat>) {
        match nat {
            Some(nat) => self.0.insert(host, Translator::new(nat)),
            None => self.0.remove(&host),
        };
    }

    /// Drops a host's mappings.
    pub(super) fn forget(&mut self, host: IpAddr) {
        if let Some(translator) = self.0.get_mut(&host) {
            *translator = Translator::new(translator.nat);
        }
    }

    /// Is the host behind one?
    pub(super) fn guard(&self, host: IpAddr) -> bool {
        self.0.contains_key(&host)
    }

    /// A datagram goes out: the address from which it comes for those outside.
    pub(super) fn outside(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        match self.0.get_mut(&from.ip()) {
            Some(translator) => SocketAddr::new(from.ip(), translator.open(from.port(), to)),
            None => from,
        }
    }

    /// The socket that is meant by an address outside. Whether it may be reached by it is asked as the datagram arrives.
    pub(super) fn inside(&self, to: SocketAddr) -> SocketAddr {
        let key = self.0.get(&to.ip()).and_then(|translator| translator.outsides.get(&to.port()));
        key.map_or(to, |(inside, _)| SocketAddr::new(to.ip(), *inside))
    }

    /// Is a datagram let in that came `at` this time to a port outside, for the socket `local`?
    pub(super) fn let_in(&self, from: SocketAddr, outside: u16, local: SocketAddr, at: Instant) -> bool {
        let Some(Translator { nat, mappings, .. }) = self.0.get(&local.ip()) else { return true };
        mappings
            .get(&(local.port(), nat.seen(from)))
            .is_some_and(|mapping| mapping.outside == outside && mapping.opened <= at && at <= mapping.until)
    }

    #[cfg(test)]
    pub(super) fn mappings(&self, host: IpAddr) -> usize {
        self.0.get(&host).map_or(0, |translator| translator.mappings.len())
    }
}

/// One host's NAT.
#[derive(Debug)]
struct Translator {
    nat: Nat,
    mappings: BTreeMap<Key, Mapping>,
    /// The mappings by their end.
    ends: BTreeSet<(Instant, Key)>,
    /// Those that have a port outside of their own, by it.
    outsides: BTreeMap<u16, Key>,
    next_outside: u16,
}

impl Translator {
    fn new(nat: Nat) -> Self {
        Self {
            nat,
            mappings: BTreeMap::new(),
            ends: BTreeSet::new(),
            outsides: BTreeMap::new(),
            next_outside: FIRST_OUTSIDE,
        }
    }

    /// Opens a mapping, or lets it last anew: its port outside.
    fn open(&mut self, inside: u16, to: SocketAddr) -> u16 {
        let now = Instant::now();
        self.sweep(now);
        let (key, until) = ((inside, self.nat.seen(to)), now + LASTS);
        if let Some(mapping) = self.mappings.get_mut(&key) {
            if mapping.until != until {
                self.ends.remove(&(mapping.until, key));
                self.ends.insert((until, key));
                mapping.until = until;
            }
            return mapping.outside;
        }
        if self.mappings.len() >= MOST_MAPPINGS {
            self.close_first();
        }
        let outside = if self.nat == Nat::Symmetric { self.free_outside() } else { inside };
        if self.nat == Nat::Symmetric {
            self.outsides.insert(outside, key);
        }
        self.ends.insert((until, key));
        self.mappings.insert(key, Mapping { opened: now, until, outside });
        outside
    }

    /// A port outside without a mapping: there are more ports than mappings.
    fn free_outside(&mut self) -> u16 {
        loop {
            let port = self.next_outside;
            self.next_outside = port.checked_add(1).unwrap_or(FIRST_OUTSIDE);
            if !self.outsides.contains_key(&port) {
                return port;
            }
        }
    }

    /// Closes what has ended.
    fn sweep(&mut self, now: Instant) {
        while self.ends.first().is_some_and(|(until, _)| *until < now) {
            self.close_first();
        }
    }

    fn close_first(&mut self) {
        if let Some(mapping) = self.ends.pop_first().and_then(|(_, key)| self.mappings.remove(&key)) {
            self.outsides.remove(&mapping.outside);
        }
    }
}
