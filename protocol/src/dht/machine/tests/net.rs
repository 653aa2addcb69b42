//! A simulated network: hosts that are nodes, dead, or strange; delays, losses and a priority queue of datagrams.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet_core::Moment;
use fastrand::Rng;

use crate::dht::{Dht, DhtConfig, DhtOutput, Families, LookUpId, Saved, external::id_for, external::is_public};

/// What a host that is no node of ours does with a datagram: from whom, what; it returns from whom, to whom, what.
pub(super) type Strange = Box<dyn FnMut(SocketAddr, &[u8]) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)>>;

pub(super) struct Host {
    pub(super) addr: SocketAddr,
    /// `None`: it died.
    pub(super) dht: Option<Dht>,
    /// What it had to tell.
    pub(super) told: Vec<(Moment, DhtOutput)>,
    /// The earliest timer that is queued.
    timer: Moment,
}

enum Event {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Timer(usize),
}

pub(super) struct Net {
    pub(super) now: Moment,
    pub(super) rng: Rng,
    pub(super) hosts: Vec<Host>,
    by_addr: BTreeMap<SocketAddr, usize>,
    strange: BTreeMap<SocketAddr, Strange>,
    queue: BinaryHeap<Reverse<(Moment, u64)>>,
    events: BTreeMap<u64, Event>,
    names: u64,
    /// Datagrams of a hundred that are lost.
    pub(super) loss: u32,
    /// The median round trip of a pair of hosts, and the deviation of its logarithm.
    pub(super) trip: (Duration, f64),
    /// Datagrams sent.
    pub(super) sent: u64,
}

impl Net {
    /// Nobody yet, no losses, round trips of 100 ms.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Moment::from_secs(1),
            rng: Rng::with_seed(seed),
            hosts: Vec::new(),
            by_addr: BTreeMap::new(),
            strange: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            names: 0,
            loss: 0,
            trip: (Duration::from_millis(100), 0.0),
            sent: 0,
        }
    }

    /// An address of the public Internet that nobody has.
    pub(super) fn public_addr(&mut self) -> SocketAddr {
        loop {
            let ip = IpAddr::from(self.rng.u32(0x0100_0000..0xe000_0000).to_be_bytes());
            let addr = (ip, self.rng.u16(1024..)).into();
            if is_public(ip) && !self.by_addr.contains_key(&addr) {
                return addr;
            }
        }
    }

    /// A node at a public address, with an id that fits and these contacts.
    pub(super) fn join(&mut self, contacts: &[SocketAddr]) -> usize {
        let addr = self.public_addr();
        let id = id_for(addr.ip(), &mut self.rng);
        let saved = Saved { id4: Some(id), ..Saved::default() };
        let config = DhtConfig { saved: Some(saved), ..DhtConfig::default() };
        self.join_as(addr, config, contacts)
    }

    pub(super) fn join_as(&mut self, addr: SocketAddr, config: DhtConfig, contacts: &[SocketAddr]) -> usize {
        let at = self.hosts.len();
        let families = Families { v4: addr.is_ipv4(), v6: addr.is_ipv6() };
        let config = DhtConfig { seed: self.rng.u64(..), families, ..config };
        let mut dht = Dht::new(config, self.now);
        dht.contact(contacts, self.now);
        self.hosts.push(Host { addr, dht: Some(dht), told: Vec::new(), timer: Moment::NEVER });
        self.by_addr.insert(addr, at);
        self.settle(at);
        at
    }

    pub(super) fn add_strange(&mut self, addr: SocketAddr, strange: Strange) {
        self.strange.insert(addr, strange);
    }

    /// Does something with a node and what follows from it.
    pub(super) fn with<T>(&mut self, at: usize, act: impl FnOnce(&mut Dht, Moment) -> T) -> T {
        let dht = self.hosts[at].dht.as_mut().expect("a living node");
        let result = act(dht, self.now);
        self.settle(at);
        result
    }

    pub(super) fn dht(&self, at: usize) -> &Dht {
        self.hosts[at].dht.as_ref().expect("a living node")
    }

    /// Carries out what a node wants.
    fn settle(&mut self, at: usize) {
        let Some(mut dht) = self.hosts[at].dht.take() else { return };
        let from = self.hosts[at].addr;
        while let Some(output) = dht.poll() {
            match output {
                DhtOutput::Send { to, datagram } => {
                    assert!(datagram.len() <= crate::dht::LARGEST_DATAGRAM);
                    self.send(from, to, datagram);
                }
                told => self.hosts[at].told.push((self.now, told)),
            }
        }
        let deadline = dht.deadline();
        if deadline < self.hosts[at].timer {
            self.hosts[at].timer = deadline;
            self.at(deadline, Event::Timer(at));
        }
        self.hosts[at].dht = Some(dht);
    }

    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.sent += 1;
        if self.rng.u32(0..100) >= self.loss {
            let at = self.now + self.trip_of(from, to) / 2;
            self.at(at, Event::Datagram { from, to, bytes });
        }
    }

    /// The round trip of a pair of hosts, always the same: log-normal.
    fn trip_of(&self, one: SocketAddr, other: SocketAddr) -> Duration {
        let number = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()) << 16 | u64::from(addr.port()),
            IpAddr::V6(ip) => ip.to_bits() as u64 ^ u64::from(addr.port()),
        };
        let mut rng = Rng::with_seed(number(one).wrapping_add(number(other)));
        let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
        self.trip.0.mul_f64((self.trip.1 * normal).exp())
    }

    fn at(&mut self, when: Moment, event: Event) {
        self.names += 1;
        self.queue.push(Reverse((when, self.names)));
        self.events.insert(self.names, event);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| false);
    }

    /// Lets time pass until something is so, and says whether it came to be.
    pub(super) fn run_until(&mut self, end: Moment, is_so: impl Fn(&Self) -> bool) -> bool {
        while let Some(Reverse((when, name))) = self.queue.peek().copied().filter(|Reverse((when, _))| *when <= end) {
            self.queue.pop();
            self.now = when;
            match self.events.remove(&name).expect("queued once") {
                Event::Timer(at) => {
                    let host = &mut self.hosts[at];
                    host.timer = Moment::NEVER;
                    if let Some(dht) = host.dht.as_mut().filter(|dht| dht.deadline() <= when) {
                        dht.timeout(when);
                        assert!(dht.deadline() > when, "it was called when it wanted to be");
                    }
                    self.settle(at);
                }
                Event::Datagram { from, to, bytes } => {
                    if let Some(at) = self.by_addr.get(&to).copied() {
                        if let Some(dht) = &mut self.hosts[at].dht {
                            dht.received(from, &bytes, when);
                        }
                        self.settle(at);
                    } else if let Some(strange) = self.strange.get_mut(&to) {
                        for (from, to, bytes) in strange(from, &bytes) {
                            self.send(from, to, bytes);
                        }
                    }
                }
            }
            if is_so(self) {
                return true;
            }
        }
        self.now = self.now.max(end);
        false
    }

    /// When a look-up found its first peer and when it was over, and how it ended.
    pub(super) fn outcome(&self, at: usize, id: LookUpId) -> Outcome {
        let mut outcome = Outcome::default();
        for (when, told) in &self.hosts[at].told {
            match told {
                DhtOutput::Peers { look_up, peers, .. } if *look_up == id => {
                    outcome.first = outcome.first.or(Some(*when));
                    outcome.peers.extend(peers);
                }
                DhtOutput::Finished { look_up, announced, asked, .. } if *look_up == id => {
                    assert_eq!(outcome.end, None, "it ended twice");
                    (outcome.end, outcome.announced, outcome.asked) = (Some(*when), *announced, *asked);
                }
                _ => {}
            }
        }
        outcome
    }

    pub(super) fn is_over(&self, at: usize, id: LookUpId) -> bool {
        let ends = |told: &DhtOutput| matches!(told, DhtOutput::Finished { look_up, .. } if *look_up == id);
        self.hosts[at].told.iter().any(|(_, told)| ends(told))
    }

    pub(super) fn check(&self) {
        self.hosts.iter().filter_map(|host| host.dht.as_ref()).for_each(Dht::check_invariants);
    }
}

/// What a look-up brought.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) first: Option<Moment>,
    pub(super) end: Option<Moment>,
    pub(super) peers: Vec<SocketAddr>,
    pub(super) announced: usize,
    pub(super) asked: usize,
}
