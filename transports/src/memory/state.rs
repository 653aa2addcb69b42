//! What the network knows: hosts, links, and everything that is under way. One lock, held for moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io, mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
    time::Duration,
};

use castanet_core::{Moment, seams::transport::Connection};
use tokio::{sync::mpsc, time::Instant};

use super::{
    ByAddr, Link,
    datagrams::Mailbox,
    downlinks::Downlinks,
    nat::Nats,
    places::Places,
    stream::{SEGMENT, Wire},
};
use crate::{
    link::{Fate, Gate, Line},
    time::Epoch,
};

/// The first port that is given to those who do not care (RFC 6335).
const FIRST_FREE_PORT: u16 = 49_152;

/// For how long one stream of a host may have its uplink, so that none waits long behind the others: each then has its fair
/// share, and a short message is not held up by the blocks that other connections have ready.
pub(super) const TURN: Duration = Duration::from_millis(30);
/// The least a stream sends at a time.
const LEAST_TURN: usize = 1024;

/// The network's state behind its lock.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) epoch: Epoch,
    random: fastrand::Rng,
    pub(super) hosts: BTreeSet<IpAddr>,
    pub(super) places: Places,
    pub(super) nats: Nats,
    pub(super) default_link: Link,
    pub(super) links: BTreeMap<(IpAddr, IpAddr), Link>,
    /// Bytes a second a host can send in all.
    pub(super) uplinks: BTreeMap<IpAddr, u64>,
    pub(super) downlinks: Downlinks,
    /// The links and the uplinks that were used, at work.
    lines: BTreeMap<(IpAddr, IpAddr), Line>,
    gates: BTreeMap<IpAddr, Gate>,
    next_ports: BTreeMap<IpAddr, u16>,
    pub(super) listeners: ByAddr<mpsc::Sender<Connection>>,
    pub(super) mailboxes: ByAddr<Mailbox>,
    pub(super) wires: BTreeMap<u64, Wire>,
    next_number: u64,
    /// Tasks to wake once the lock is released.
    pub(super) wakes: Vec<Waker>,
    /// Listeners to drop once the lock is released: connections that wait in them take the lock as they go.
    pub(super) ended: Vec<mpsc::Sender<Connection>>,
}

impl Shared {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            epoch: Epoch::begin(),
            random: fastrand::Rng::with_seed(seed),
            hosts: BTreeSet::new(),
            places: Places::default(),
            nats: Nats::default(),
            default_link: Link::default(),
            links: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            downlinks: Downlinks::default(),
            lines: BTreeMap::new(),
            gates: BTreeMap::new(),
            next_ports: BTreeMap::new(),
            listeners: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            wires: BTreeMap::new(),
            next_number: 0,
            wakes: Vec::new(),
            ended: Vec::new(),
        })))
    }

    /// Does something with the state; wakes and drops what it left behind after the lock is released.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut state);
        let (wakes, ended) = (mem::take(&mut state.wakes), mem::take(&mut state.ended));
        drop(state);
        wakes.into_iter().for_each(Waker::wake);
        drop(ended);
        result
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryNet")
    }
}

impl State {
    /// A number that was not given out before.
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn link(&self, from: IpAddr, to: IpAddr) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.default_link)
    }

    /// Does anything get from one to the other?
    pub(super) fn is_connected(&self, from: IpAddr, to: IpAddr) -> bool {
        self.hosts.contains(&from) && self.hosts.contains(&to) && self.places.are_together(from, to)
    }

    /// May one dial the other? A NAT lets in no dial.
    pub(super) fn is_open(&self, from: IpAddr, to: IpAddr) -> bool {
        self.is_connected(from, to) && (!self.nats.guard(to) || self.places.are_neighbours(from, to))
    }

    /// When the datagram of `size` bytes that is sent now arrives: never, once or twice.
    pub(super) fn carry(&mut self, from: IpAddr, to: IpAddr, size: usize) -> [Option<Instant>; 2] {
        let left = self.leave(from, size);
        match self.line(from, to).carry(left, size) {
            Fate::Arrives { at, again } => [Some(at), again].map(|at| Some(self.epoch.instant(at?))),
            Fate::Lost(_) => [None; 2],
        }
    }

    /// When `size` bytes of a stream that are sent now have left the host, and when they arrive: after all that was sent
    /// before them.
    pub(super) fn pour(&mut self, from: IpAddr, to: IpAddr, size: usize) -> [Instant; 2] {
        let left = self.leave(from, size);
        let at = self.line(from, to).pour(left, size);
        [left, at].map(|at| self.epoch.instant(at))
    }

    /// How many bytes of one stream leave a host with an uplink at a time, before it is another's turn.
    pub(super) fn turn(&self, from: IpAddr) -> Option<usize> {
        let bandwidth = *self.uplinks.get(&from)?;
        let bytes = bandwidth.saturating_mul(TURN.as_millis() as u64) / 1000;
        Some(usize::try_from(bytes).unwrap_or(SEGMENT).clamp(LEAST_TURN, SEGMENT))
    }

    /// When what a host sends now has passed its uplink.
    fn leave(&mut self, from: IpAddr, size: usize) -> Moment {
        let now = self.epoch.now();
        match self.uplinks.get(&from) {
            Some(&bandwidth) => self.gates.entry(from).or_default().pass(now, size, bandwidth),
            None => now,
        }
    }

    /// The link from one host to another, at work as it is now.
    fn line(&mut self, from: IpAddr, to: IpAddr) -> &mut Line {
        let (link, random) = (self.link(from, to), &mut self.random);
        let line = self.lines.entry((from, to)).or_insert_with(|| Line::new(link, random.fork()));
        line.set(link);
        line
    }

    /// An address with a port that nothing is bound to.
    pub(super) fn free_port(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        for _ in FIRST_FREE_PORT..=u16::MAX {
            let next = self.next_ports.entry(ip).or_insert(FIRST_FREE_PORT);
            let addr = SocketAddr::new(ip, *next);
            *next = next.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            if !self.listeners.contains_key(&addr) && !self.mailboxes.contains_key(&addr) {
                return Ok(addr);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Binds `value` to an address of a table, unless something is bound there.
    pub(super) fn claim<T>(
        &mut self,
        addr: SocketAddr,
        table: impl FnOnce(&mut Self) -> &mut ByAddr<T>,
        value: T,
    ) -> io::Result<()> {
        let table = table(self);
        if table.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        table.insert(addr, value);
        Ok(())
    }

    /// Resets the wires whose ends satisfy `which`.
    pub(super) fn reset(&mut self, which: impl Fn(IpAddr, IpAddr) -> bool) {
        for wire in self.wires.values_mut() {
            if which(wire.ends[0].ip(), wire.ends[1].ip()) {
                wire.is_reset = true;
                wire.wake_all(&mut self.wakes);
            }
        }
    }

    /// Ends a host's listeners, and forgets its datagram sockets and what its NAT knows of them.
    pub(super) fn silence(&mut self, host: IpAddr) {
        let listeners = self.listeners.extract_if(.., |addr, _| addr.ip() == host);
        self.ended.extend(listeners.map(|(_, sender)| sender));
        self.mailboxes.retain(|addr, _| addr.ip() != host);
        self.nats.forget(host);
    }

    /// Connects a host again, and lets everyone look at what had been held up.
    pub(super) fn plug(&mut self, host: IpAddr) {
        self.places.unplugged.remove(&host);
        for wire in self.wires.values_mut().filter(|wire| wire.ends.iter().any(|end| end.ip() == host)) {
            wire.wake_all(&mut self.wakes);
        }
    }

    /// Moves hosts to islands, and lets those look at what had been held up who come together by that.
    pub(super) fn set_islands(&mut self, moves: Vec<(IpAddr, u32)>) {
        let mut before = BTreeMap::new();
        for (host, island) in moves {
            before.entry(host).or_insert_with(|| self.places.island(host));
            self.places.set_island(host, island);
        }
        for wire in self.wires.values_mut() {
            let [one, other] = wire.ends.map(|end| {
                let now = self.places.island(end.ip());
                (before.get(&end.ip()).copied().unwrap_or(now), now)
            });
            if one.0 != other.0 && one.1 == other.1 {
                wire.wake_all(&mut self.wakes);
            }
        }
    }
}
