//! The peers of one torrent: whom we know, whom to dial next, who may stay connected and who is banned.
//!
//! Discovery plugins feed [`Swarm::found`]; the torrent asks [`Swarm::next_dial`] until it is `None` and again at
//! [`Swarm::deadline`], and reports what became of each dial and connection. What the plugins should know about their
//! peers queues up in [`Swarm::poll_feedback`]; what each of them was worth is in [`Swarm::worth`]. Priorities follow BEP 40.
//!
//! The life of an address: found → dialled → [`Swarm::connected`] → [`Swarm::handshaken`] → [`Swarm::closed`] → rests
//! → dialled again. Every connection that was accepted by `connected` ends with exactly one `closed`.

mod bans;
mod candidates;
mod connections;
mod dials;
mod failure;
pub mod priority;
#[cfg(test)]
mod tests;
mod worth;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet_core::{
    Moment, PeerId, PeerKey, PluginName,
    addr::{canonical, is_dialable},
    seams::discovery::{PeerCandidate, PeerFate, PeerOutcome},
};

use self::{
    bans::Bans,
    candidates::{Candidates, State},
    connections::Connected,
    dials::InVain,
    worth::Ledger,
};
pub use self::{
    bans::{MOST_BANS, MOST_SUSPECTS, STRIKES},
    candidates::{MOST_PORTS, MOST_PROVENANCE, Provenance},
    connections::{INCOMING, MOST_TWINS},
    dials::{
        Dial, FIRST_PAUSE, FIRST_RETRY, FREE_DIALS, LONGEST_PAUSE, LONGEST_RETRY, NO_PLACE_RETRY, USELESS_RETRY,
        WORKED_RETRY,
    },
    failure::DialFailure,
    worth::{MOST_MET, MOST_PLUGINS, MOST_SAMPLED, Worth},
};

/// A connection that lasted so long was no failure, even if it carried nothing.
pub const LASTING: Duration = Duration::from_secs(60);
/// A connection that carried no block for so long may be dropped for a new peer.
pub const IDLE: Duration = Duration::from_secs(120);
/// Outcomes kept for plugins that do not fetch them; beyond, the oldest are lost.
pub const MOST_FEEDBACK: usize = 4096;
/// Addresses remembered as our own.
pub const MOST_OWN: usize = 64;
/// Closed connections whose addresses are remembered, so that one cannot escape a ban by hanging up.
pub const MOST_PAST: usize = 256;

/// The limits of a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmConfig {
    /// Open connections, in both directions. 200: a download rarely gains from more.
    pub most_connections: usize,
    /// Dials under way. 50: fills the swarm within seconds, and home routers bear it.
    pub most_half_open: usize,
    /// Peers known. 10,000: more than can be dialled in hours, in some 300 bytes each by estimate.
    pub most_candidates: usize,
    /// Connections and dials to one address of the public Internet. 8: some households and offices share one.
    /// Loopback and private addresses have no such limit.
    pub most_per_ip: usize,
    /// Connections with which a download is content: plugins rest. 80: enough to find every piece.
    pub enough_leeching: usize,
    /// The same for a seed, whom the others find. 20: who cannot be reached must dial.
    pub enough_seeding: usize,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            most_connections: 200,
            most_half_open: 50,
            most_candidates: 10_000,
            most_per_ip: 8,
            enough_leeching: 80,
            enough_seeding: 20,
        }
    }
}

/// A connection that has just been opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The other end.
    pub addr: SocketAddr,
    /// Its name; names must grow, as [`PeerKey`]s given out by a counter do.
    pub key: PeerKey,
    /// They dialled us.
    pub inbound: bool,
}

/// May a connection stay?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Accept,
    /// Yes, and these others are to be closed, which lead to the same peer.
    Replace(Vec<PeerKey>),
    /// No: close it.
    Refuse(Reason),
}

/// Why a connection may not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// [`SwarmConfig::most_connections`] are open.
    #[error("there are enough connections")]
    Full,
    /// [`SwarmConfig::most_per_ip`] are open to this address.
    #[error("there are enough connections to this address")]
    TooManyPerIp,
    /// It is banned.
    #[error("the peer is banned")]
    Banned,
    /// The other end is ourselves.
    #[error("the peer is ourselves")]
    Oneself,
    /// There is another connection to the same peer.
    #[error("the peer is connected already")]
    Duplicate,
    /// Both ends have everything.
    #[error("both have all pieces")]
    BothSeeds,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseKind {
    /// One end hung up in good order; also for a connection refused by [`Swarm::handshaken`].
    Clean,
    /// Chosen by [`Swarm::whom_to_drop`].
    Idle,
    /// Both ends have everything.
    BothSeeds,
    /// It broke the protocol: its address and port are not dialled again; who does it often is banned.
    Violation,
    /// It sent bad data: banned.
    BadData,
    /// Timeout, reset, or end of stream without a handshake.
    Lost,
    /// Our own network is gone, which is not their fault: they may be dialled again at once.
    NetworkGone,
}

/// What became of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Who found the peer; nobody, if it came by itself.
    pub plugins: BTreeSet<PluginName>,
    /// What became of it.
    pub outcome: PeerOutcome,
}

/// The peers of one torrent.
#[derive(Debug)]
pub struct Swarm {
    config: SwarmConfig,
    me: PeerId,
    random: fastrand::Rng,
    seeding: bool,
    /// Ports on which we listen.
    ports: BTreeSet<u16>,
    /// Our own addresses, never dialled.
    own: BTreeSet<SocketAddr>,
    /// How others see us, for BEP 40; in IPv4 and in IPv6.
    external: [Option<SocketAddr>; 2],
    candidates: Candidates,
    bans: Bans,
    half_open: usize,
    in_vain: InVain,
    connections: BTreeMap<PeerKey, Connected>,
    /// Connections by the peer id of the other end, once known.
    ids: BTreeSet<(PeerId, PeerKey)>,
    /// Connections and dials by IP address.
    per_ip: BTreeMap<IpAddr, usize>,
    /// Addresses of the latest closed connections.
    past: BTreeMap<PeerKey, SocketAddr>,
    feedback: VecDeque<Feedback>,
    worth: Ledger,
}

impl Swarm {
    /// A swarm of strangers. `listening` are our own listening sockets, `me` our peer id.
    pub fn new(config: SwarmConfig, listening: &[SocketAddr], me: PeerId, seed: u64) -> Self {
        let mut swarm = Self {
            config,
            me,
            random: fastrand::Rng::with_seed(seed),
            seeding: false,
            ports: BTreeSet::new(),
            own: BTreeSet::new(),
            external: [None; 2],
            candidates: Candidates::new(config.most_candidates),
            bans: Bans::default(),
            half_open: 0,
            in_vain: InVain::default(),
            connections: BTreeMap::new(),
            ids: BTreeSet::new(),
            per_ip: BTreeMap::new(),
            past: BTreeMap::new(),
            feedback: VecDeque::new(),
            worth: Ledger::new(seed),
        };
        for addr in listening.iter().map(|addr| canonical(*addr)) {
            swarm.ports.insert(addr.port());
            if addr.ip().is_unspecified() {
                swarm.disown(SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), addr.port()));
                swarm.disown(SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), addr.port()));
            } else {
                swarm.disown(addr);
            }
        }
        swarm
    }

    /// Tells the address by which others see us. Candidates of its family are ranked anew by BEP 40: O(n log n).
    pub fn set_external(&mut self, ip: IpAddr) {
        let ours = canonical(SocketAddr::new(ip, self.ports.first().copied().unwrap_or(0)));
        if ip.is_unspecified() || self.external[usize::from(ours.is_ipv6())].replace(ours) == Some(ours) {
            return;
        }
        for port in self.ports.clone() {
            self.disown(SocketAddr::new(ours.ip(), port));
        }
        for addr in self.candidates.addresses() {
            if let Some(priority) = priority::priority(ours, addr) {
                self.candidates.change(addr, |candidate| candidate.priority = priority);
            }
        }
    }

    /// Do we have everything? Returns the connected seeds that have become useless, to be closed as
    /// [`CloseKind::BothSeeds`]. When we are no seed any more, known seeds may be dialled again: O(n log n).
    pub fn set_seeding(&mut self, seeding: bool, now: Moment) -> Vec<PeerKey> {
        let was = std::mem::replace(&mut self.seeding, seeding);
        if seeding {
            return self.connections.iter().filter(|(_, peer)| peer.seed).map(|(key, _)| *key).collect();
        }
        for addr in self.candidates.addresses() {
            let sleeps = self.candidates.get(addr).is_some_and(|c| c.seed && matches!(c.state, State::Resting(_)));
            if was && sleeps {
                self.candidates.change(addr, |candidate| candidate.state = State::Resting(now));
            }
        }
        Vec::new()
    }

    /// Learns what a plugin found; returns how many of them were unknown and worth keeping. The caller bounds the list.
    pub fn found(&mut self, plugin: &PluginName, peers: Vec<PeerCandidate>, now: Moment) -> usize {
        peers.into_iter().map(|peer| self.learn(plugin, peer, now)).filter(|new| *new).count()
    }

    fn learn(&mut self, plugin: &PluginName, mut peer: PeerCandidate, now: Moment) -> bool {
        peer.addr = canonical(peer.addr);
        let ours = self.own.contains(&peer.addr) || peer.peer_id == Some(self.me);
        if ours || !is_dialable(peer.addr) || self.bans.holds(peer.addr) {
            return false;
        }
        let ours = self.external[usize::from(peer.addr.is_ipv6())];
        // As long as our own address is unknown the order is random: drawn, not the plugin's.
        let drawn = self.random.u32(..);
        let priority = ours.and_then(|ours| priority::priority(ours, peer.addr)).unwrap_or(drawn);
        self.worth.named(plugin, peer.addr, now);
        self.candidates.learn(plugin, &peer, priority, now)
    }

    fn leave_ip(&mut self, ip: IpAddr) {
        if let Some(open) = self.per_ip.get_mut(&ip) {
            *open -= 1;
            if *open == 0 {
                self.per_ip.remove(&ip);
            }
        }
    }

    /// Who found this peer. Empty if it is not known.
    pub fn provenance(&self, addr: SocketAddr) -> &[Provenance] {
        self.candidates.sources(canonical(addr))
    }

    /// The next thing that a plugin should know.
    pub fn poll_feedback(&mut self) -> Option<Feedback> {
        self.feedback.pop_front()
    }

    /// What each plugin that has named someone was worth so far, and those who came unasked, sorted by name.
    pub fn worth(&self) -> Vec<Worth> {
        self.worth.worth()
    }

    /// Tells what became of the peer at `addr`.
    fn report(&mut self, addr: SocketAddr, fate: PeerFate) {
        self.worth.fared(addr, self.candidates.sources(addr), fate);
        let plugins = self.provenance(addr).iter().map(|source| source.plugin.clone()).collect();
        if self.feedback.len() == MOST_FEEDBACK {
            self.feedback.pop_front();
        }
        self.feedback.push_back(Feedback { plugins, outcome: PeerOutcome { addr, fate } });
    }

    /// Bans whoever is at `addr`: the IP address, but on loopback only this port. Open connections stay until they
    /// are closed.
    pub fn ban(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        self.bans.add(addr);
        self.forget_banned(addr);
    }

    /// Bans an IP address, even that of the loopback device.
    pub fn ban_ip(&mut self, ip: IpAddr) {
        self.bans.add_ip(ip.to_canonical());
        self.forget_banned(SocketAddr::new(ip.to_canonical(), 0));
    }

    /// Those under way are forgotten when they come to rest.
    fn forget_banned(&mut self, addr: SocketAddr) {
        for addr in self.candidates.at(addr.ip()) {
            let idle = self.candidates.get(addr).is_some_and(|c| matches!(c.state, State::Ready | State::Resting(_)));
            if idle && self.bans.holds(addr) {
                self.report(addr, PeerFate::Banned);
                self.candidates.forget(addr);
            }
        }
    }

    /// Is whoever is at `addr` banned? Known before a connection is accepted.
    pub fn is_banned(&self, addr: SocketAddr) -> bool {
        self.bans.holds(canonical(addr))
    }

    /// Never dials `addr` (again), because it is ourselves.
    fn disown(&mut self, addr: SocketAddr) {
        if self.own.len() < MOST_OWN {
            self.own.insert(addr);
        }
    }

    /// How many of the known peers could not be reached at the last attempt, for this reason.
    pub fn failed(&self, why: DialFailure) -> usize {
        self.candidates.failed(why)
    }

    /// How many of the known peers wait for their next attempt.
    pub fn resting(&self) -> usize {
        self.candidates.resting()
    }

    /// How many addresses are banned. Looks at every ban.
    pub fn banned(&self) -> usize {
        self.bans.addresses()
    }

    /// A summary.
    pub fn counts(&self) -> Counts {
        Counts { known: self.candidates.len(), half_open: self.half_open, connected: self.connections.len() }
    }
}

/// How many peers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Addresses known, connected ones included.
    pub known: usize,
    /// Dials under way.
    pub half_open: usize,
    /// Open connections.
    pub connected: usize,
}
