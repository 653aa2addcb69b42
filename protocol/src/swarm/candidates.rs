//! The peers known in a swarm, connected or not, in the order in which they should be dialled.
//!
//! The plugins that found them take turns, so that one that floods us with junk delays the others by no more than its
//! turn; within a plugin's share it is fewest failures first, then BEP 40. When memory is full the largest share pays.
//! Every operation costs O(log n).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use castanet_core::{Moment, PeerId, PeerKey, PluginName, addr::is_local, seams::discovery::PeerCandidate};

use super::DialFailure;

/// Who found a peer, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The plugin.
    pub plugin: PluginName,
    /// Its instance: the tracker's URL, the PEX neighbour, ...
    pub instance: Arc<str>,
    /// When it first said so.
    pub when: Moment,
}

/// Sources remembered of one candidate.
pub const MOST_PROVENANCE: usize = 8;
/// Candidates remembered at one address of the public Internet: nobody runs more peers of one swarm, but someone may
/// want us to knock at all ports of a victim.
pub const MOST_PORTS: usize = 16;

/// Where a candidate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// May be dialled.
    Ready,
    /// May be dialled from then on.
    Resting(Moment),
    /// Is being dialled.
    HalfOpen,
    /// Is this connection's other end.
    Connected(PeerKey),
}

/// A peer known.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) provenance: Vec<Provenance>,
    /// Its peer id, learnt from the source or by handshake.
    pub(super) peer_id: Option<PeerId>,
    /// Attempts so far.
    pub(super) attempts: u32,
    /// Attempts in a row that came to nothing.
    pub(super) failures: u32,
    /// Why the last dial came to nothing, if it did.
    pub(super) failed: Option<DialFailure>,
    /// It once was of use.
    pub(super) worked: bool,
    /// It had all pieces when we last saw it.
    pub(super) seed: bool,
    pub(super) priority: u32,
    pub(super) state: State,
    /// Index of the plugin in whose share it is counted.
    home: usize,
}

/// The best is the least.
type Rank = (u32, Reverse<u32>, SocketAddr);

impl Candidate {
    fn rank(&self, addr: SocketAddr) -> Rank {
        (self.failures, Reverse(self.priority), addr)
    }
}

/// One plugin's candidates.
#[derive(Debug)]
struct Share {
    plugin: PluginName,
    count: usize,
    ready: BTreeSet<Rank>,
    resting: BTreeSet<Rank>,
}

#[derive(Debug)]
pub(super) struct Candidates {
    most: usize,
    known: BTreeMap<SocketAddr, Candidate>,
    shares: Vec<Share>,
    /// The share whose turn it is.
    turn: usize,
    due: BTreeSet<(Moment, SocketAddr)>,
    /// How many candidates each instance of a plugin was the first to name.
    instances: BTreeMap<(PluginName, Arc<str>), usize>,
    /// How many are ready and have never failed.
    fresh: usize,
    /// How many have failed at last, by reason.
    failed: [usize; DialFailure::ALL.len()],
}

impl Candidates {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: BTreeMap::new(),
            shares: Vec::new(),
            turn: 0,
            due: BTreeSet::new(),
            instances: BTreeMap::new(),
            fresh: 0,
            failed: Default::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
    pub(super) fn fresh(&self) -> usize {
        self.fresh
    }
    pub(super) fn failed(&self, why: DialFailure) -> usize {
        self.failed[why as usize]
    }
    pub(super) fn resting(&self) -> usize {
        self.due.len()
    }
    /// Who found the candidate at `addr`; empty if there is none.
    pub(super) fn sources(&self, addr: SocketAddr) -> &[Provenance] {
        self.get(addr).map_or(&[], |candidate| &candidate.provenance)
    }
    pub(super) fn get(&self, addr: SocketAddr) -> Option<&Candidate> {
        self.known.get(&addr)
    }
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.known.keys().copied().collect()
    }
    /// The addresses known at one IP address.
    pub(super) fn at(&self, ip: IpAddr) -> Vec<SocketAddr> {
        let all = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
        self.known.range(all).map(|(addr, _)| *addr).collect()
    }

    /// When the next resting candidate becomes ready; the past if one is.
    pub(super) fn due(&self) -> Option<Moment> {
        if self.shares.iter().any(|share| !share.ready.is_empty()) {
            return Some(Moment::ZERO);
        }
        self.due.first().map(|(due, _)| *due)
    }

    /// Learns of a candidate, or of one more source of it. True if it was unknown and there is room for it.
    pub(super) fn learn(&mut self, plugin: &PluginName, found: &PeerCandidate, priority: u32, now: Moment) -> bool {
        let share = self.share_of(plugin);
        let source = Provenance { plugin: plugin.clone(), instance: found.instance.clone(), when: now };
        if self.known.contains_key(&found.addr) {
            self.corroborate(found, source, share);
            return false;
        }
        let named = self.instances.get(&(plugin.clone(), found.instance.clone())).copied().unwrap_or(0);
        let crowded = is_public(found.addr.ip()) && self.at(found.addr.ip()).len() >= MOST_PORTS;
        if crowded || named >= (self.most / 4).max(1) || !self.make_room(share) {
            return false;
        }
        *self.instances.entry((plugin.clone(), found.instance.clone())).or_default() += 1;
        let candidate = Candidate {
            provenance: vec![source],
            peer_id: found.peer_id,
            attempts: 0,
            failures: 0,
            failed: None,
            worked: false,
            seed: false,
            priority,
            state: State::Ready,
            home: share,
        };
        self.enlist(found.addr, candidate);
        true
    }

    fn share_of(&mut self, plugin: &PluginName) -> usize {
        self.shares.iter().position(|share| share.plugin == *plugin).unwrap_or_else(|| {
            let (ready, resting) = (BTreeSet::new(), BTreeSet::new());
            self.shares.push(Share { plugin: plugin.clone(), count: 0, ready, resting });
            self.shares.len() - 1
        })
    }

    /// Adds a source to a known candidate, which moves to the smaller share.
    fn corroborate(&mut self, found: &PeerCandidate, source: Provenance, share: usize) {
        let counts: Vec<usize> = self.shares.iter().map(|share| share.count).collect();
        self.change(found.addr, |candidate| {
            let sources = &mut candidate.provenance;
            let same_plugin = sources.iter().any(|s| s.plugin == source.plugin);
            if sources.iter().any(|s| s.plugin == source.plugin && s.instance == source.instance) {
                return;
            }
            if sources.len() < MOST_PROVENANCE {
                sources.push(source);
            } else if !same_plugin && let Some(last) = sources.last_mut() {
                *last = source;
            }
            candidate.peer_id = candidate.peer_id.or(found.peer_id);
            if counts[share] + 1 < counts[candidate.home] {
                candidate.home = share;
            }
        });
    }

    /// Makes room for one more in a share: at the cost of the largest share if that is another one, else of a peer
    /// that has failed more than once.
    fn make_room(&mut self, share: usize) -> bool {
        if self.known.len() < self.most {
            return true;
        }
        let Some(largest) = (0..self.shares.len()).max_by_key(|i| self.shares[*i].count) else { return false };
        let pays = if self.shares[share].count + 1 < self.shares[largest].count { largest } else { share };
        let worst = |set: &BTreeSet<Rank>| set.last().copied();
        let victim = worst(&self.shares[pays].resting)
            .filter(|(failures, ..)| *failures > 1)
            .or_else(|| worst(&self.shares[pays].ready).filter(|(failures, ..)| *failures > 1 || pays != share));
        victim.is_some_and(|(.., addr)| self.forget(addr).is_some())
    }

    /// The next to dial, which becomes half-open.
    pub(super) fn pop(&mut self, now: Moment) -> Option<SocketAddr> {
        while let Some((_, addr)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.change(addr, |candidate| candidate.state = State::Ready);
        }
        let plugins = self.shares.len();
        let next = (0..plugins).map(|i| (self.turn + i) % plugins).find(|i| !self.shares[*i].ready.is_empty())?;
        self.turn = (next + 1) % plugins;
        let (.., addr) = *self.shares[next].ready.first()?;
        self.change(addr, |candidate| candidate.state = State::HalfOpen);
        Some(addr)
    }

    /// Changes a candidate and keeps every index in step. Returns false if there is none at `addr`.
    pub(super) fn change(&mut self, addr: SocketAddr, change: impl FnOnce(&mut Candidate)) -> bool {
        let Some(mut candidate) = self.delist(addr) else { return false };
        change(&mut candidate);
        self.enlist(addr, candidate);
        true
    }

    /// Forgets a candidate.
    pub(super) fn forget(&mut self, addr: SocketAddr) -> Option<Candidate> {
        let candidate = self.delist(addr)?;
        if let Some(first) = candidate.provenance.first() {
            let named = (first.plugin.clone(), first.instance.clone());
            if let Some(count) = self.instances.get_mut(&named) {
                *count -= 1;
                if *count == 0 {
                    self.instances.remove(&named);
                }
            }
        }
        Some(candidate)
    }

    fn enlist(&mut self, addr: SocketAddr, candidate: Candidate) {
        let share = &mut self.shares[candidate.home];
        share.count += 1;
        if let Some(why) = candidate.failed {
            self.failed[why as usize] += 1;
        }
        match candidate.state {
            State::Ready => {
                share.ready.insert(candidate.rank(addr));
                self.fresh += usize::from(candidate.failures == 0);
            }
            State::Resting(due) => {
                share.resting.insert(candidate.rank(addr));
                self.due.insert((due, addr));
            }
            State::HalfOpen | State::Connected(_) => {}
        }
        self.known.insert(addr, candidate);
    }

    fn delist(&mut self, addr: SocketAddr) -> Option<Candidate> {
        let candidate = self.known.remove(&addr)?;
        let share = &mut self.shares[candidate.home];
        share.count -= 1;
        if let Some(why) = candidate.failed {
            self.failed[why as usize] -= 1;
        }
        match candidate.state {
            State::Ready => {
                share.ready.remove(&candidate.rank(addr));
                self.fresh -= usize::from(candidate.failures == 0);
            }
            State::Resting(due) => {
                share.resting.remove(&candidate.rank(addr));
                self.due.remove(&(due, addr));
            }
            State::HalfOpen | State::Connected(_) => {}
        }
        Some(candidate)
    }

    pub(super) fn check_invariants(&self) {
        let count = |wanted: fn(&Candidate) -> bool| self.known.values().filter(|c| wanted(c)).count();
        assert!(self.known.len() <= self.most);
        assert_eq!(self.fresh, count(|c| c.state == State::Ready && c.failures == 0));
        for why in DialFailure::ALL {
            assert_eq!(self.failed(why), self.known.values().filter(|c| c.failed == Some(why)).count());
        }
        assert_eq!(self.due.len(), count(|c| matches!(c.state, State::Resting(_))));
        assert_eq!(self.due.len(), self.shares.iter().map(|share| share.resting.len()).sum());
        assert_eq!(count(|c| c.state == State::Ready), self.shares.iter().map(|share| share.ready.len()).sum());
        assert_eq!(self.known.len(), self.shares.iter().map(|share| share.count).sum());
        assert_eq!(self.known.len(), self.instances.values().sum());
        for (addr, candidate) in &self.known {
            assert!((1..=MOST_PROVENANCE).contains(&candidate.provenance.len()));
            let share = &self.shares[candidate.home];
            match candidate.state {
                State::Ready => assert!(share.ready.contains(&candidate.rank(*addr))),
                State::Resting(due) => assert!(self.due.contains(&(due, *addr))),
                State::HalfOpen | State::Connected(_) => {}
            }
        }
    }
}

/// Is this an address of the public Internet, where one person cannot have many peers?
pub(super) fn is_public(ip: IpAddr) -> bool {
    !is_local(ip)
}
