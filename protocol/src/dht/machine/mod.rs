//! A node of the DHT: told of datagrams and time, says what to send and what it found (BEP 5, 32, 33, 42, 43, 44, 45).
//!
//! One [`Dht`] holds an id and a table for each address family, and one server for both. Its owner passes on what the
//! sockets receive ([`Dht::received`]), calls [`Dht::timeout`] at [`Dht::deadline`], and takes what comes out of
//! [`Dht::poll`] until it is `None`, after each call. Here is the public face; `asking` keeps the questions under way,
//! `looking` the look-ups, `upkeep` joins the network and keeps the tables fresh, `hearing` takes datagrams apart.

mod asking;
mod hearing;
mod looking;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use castanet_core::{Moment, addr::canonical, addr::is_dialable};
use fastrand::Rng;

use self::{
    asking::Asking,
    looking::{Job, Running, Waiting},
    upkeep::{Side, TICK},
};
use super::{
    Counts, Item, Node, NodeId, Server, ServerConfig,
    saved::{MOST_SAVED, Saved},
};

/// Settings of a node.
#[derive(Debug, Clone, Default)]
pub struct DhtConfig {
    /// For ids, tokens and transactions: nobody outside may be able to guess it.
    pub seed: u64,
    /// The sockets there are.
    pub families: Families,
    /// Nobody can reach us: we ask, but do not answer, and say so (BEP 43).
    pub read_only: bool,
    /// What [`Dht::save`] returned last time.
    pub saved: Option<Saved>,
    /// How much is answered.
    pub server: ServerConfig,
}

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Self { v4: true, v6: false }
    }
}

/// A search for the peers of a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookUp {
    /// The swarm.
    pub info_hash: [u8; 20],
    /// Also tell the nodes nearest to it that we are a peer.
    pub announce: Option<AnnounceAs>,
    /// We have everything: we are announced as a seed, and ask for no seeds (BEP 33).
    pub seed: bool,
    /// Also ask how large the swarm is (BEP 33).
    pub scrape: bool,
}

/// How we are announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceAs {
    /// Where we take connections; `None`: the port of the DHT's socket, as others see it.
    pub port: Option<u16>,
    /// The port that a router has opened for it, for the nodes that see us by that router's IPv4 address.
    pub mapped: Option<u16>,
}

/// The name of a look-up. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookUpId(pub u64);

/// The size of a swarm, estimated from what several nodes know (BEP 33).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmSize {
    /// Peers that have everything.
    pub seeds: u32,
    /// All others.
    pub downloaders: u32,
}

/// What a node wants done, or has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DhtOutput {
    /// Send this.
    Send {
        /// To whom: through the socket of its family.
        to: SocketAddr,
        /// What, at most 1400 bytes.
        datagram: Vec<u8>,
    },
    /// A node knows peers of a swarm.
    Peers {
        /// Of which search.
        look_up: LookUpId,
        /// The node that says so; 0.0.0.0:0 if they were announced to us.
        from: SocketAddr,
        /// Peers, dialable and without repetition; other nodes may name them again.
        peers: Vec<SocketAddr>,
    },
    /// A valid item was found, newer than those of the same look-up before it (BEP 44).
    Item {
        /// Of which look-up.
        look_up: LookUpId,
        /// The node that stores it.
        from: SocketAddr,
        /// The item.
        item: Item,
    },
    /// A look-up is over; nothing more comes of it.
    Finished {
        /// Which.
        look_up: LookUpId,
        /// Nodes that took our announcement, or item.
        announced: usize,
        /// Questions that were asked in its course. 0: no node is known.
        asked: usize,
        /// How large the swarm is, if this was asked for and any node told.
        swarm: Option<SwarmSize>,
    },
    /// The first look-up for our own neighbourhood came home: we are part of the network.
    Bootstrapped {
        /// Nodes in the tables.
        nodes: usize,
    },
    /// This is how others see us. The port may be another one for each of them.
    ExternalAddress(SocketAddr),
}

/// A node of the DHT.
#[derive(Debug)]
pub struct Dht {
    rng: Rng,
    families: Families,
    read_only: bool,
    server: Server,
    /// IPv4 and IPv6.
    sides: [Side; 2],
    asking: Asking,
    /// Look-ups of the owner that are not over, by name.
    jobs: BTreeMap<LookUpId, Job>,
    /// Searches under way, by a number that only grows.
    running: BTreeMap<u64, Running>,
    /// Searches for which there is no place yet, or no node to begin with.
    waiting: [VecDeque<Waiting>; 2],
    /// Grows with each look-up and search.
    names: u64,
    /// The search that asked last.
    last_asked: u64,
    /// When to look after tables and waiting searches again.
    tick: Moment,
    /// When the next question may be asked, if one waits for it.
    starved: Option<Moment>,
    bootstrapped: bool,
    outputs: VecDeque<DhtOutput>,
}

impl Dht {
    /// A node that remembers what `config` says. It says nothing before it knows whom to ask.
    pub fn new(config: DhtConfig, now: Moment) -> Self {
        let mut rng = Rng::with_seed(config.seed);
        let server = Server::new(rng.u64(..), config.server);
        let saved = config.saved.unwrap_or_default();
        let mut side = |id, of: fn(&SocketAddr) -> bool| {
            let nodes = saved.nodes.iter().filter(|node| of(&node.addr) && is_dialable(node.addr));
            Side::new(id, nodes.take(MOST_SAVED).copied().collect(), &mut rng, now)
        };
        let sides = [side(saved.id4, SocketAddr::is_ipv4), side(saved.id6, SocketAddr::is_ipv6)];
        let mut dht = Self {
            rng,
            families: config.families,
            read_only: config.read_only,
            server,
            sides,
            asking: Asking::new(now),
            jobs: BTreeMap::new(),
            running: BTreeMap::new(),
            waiting: Default::default(),
            names: 0,
            last_asked: 0,
            tick: now + TICK,
            starved: None,
            bootstrapped: false,
            outputs: VecDeque::new(),
        };
        dht.join(now);
        dht.pump(now);
        dht
    }

    /// A datagram came in. Any garbage is fine.
    pub fn received(&mut self, from: SocketAddr, datagram: &[u8], now: Moment) {
        self.hear(canonical(from), datagram, now);
        self.join(now);
        self.pump(now);
    }

    /// Time has passed. To be called at [`Dht::deadline`], but never does harm.
    pub fn timeout(&mut self, now: Moment) {
        self.expire(now);
        if self.tick <= now {
            self.keep_up(now);
        }
        self.pump(now);
    }

    /// When [`Dht::timeout`] is to be called, unless something else is called before: ask again after every call.
    pub fn deadline(&self) -> Moment {
        let asking = self.asking.deadline().unwrap_or(Moment::NEVER);
        self.tick.min(asking).min(self.starved.unwrap_or(Moment::NEVER))
    }

    /// What to do next; `None` when all is done.
    pub fn poll(&mut self) -> Option<DhtOutput> {
        self.outputs.pop_front()
    }

    /// Nodes may listen there: bootstrap nodes, a peer's PORT message, a torrent's `nodes`. At any time.
    pub fn contact(&mut self, nodes: &[SocketAddr], now: Moment) {
        nodes.iter().for_each(|addr| self.meet(canonical(*addr)));
        self.join(now);
        self.pump(now);
    }

    /// Looks for peers of a swarm, in all families. Ends with [`DhtOutput::Finished`].
    pub fn find_peers(&mut self, look_up: LookUp, now: Moment) -> LookUpId {
        self.begin(NodeId(look_up.info_hash), looking::Goal::Peers(look_up), now)
    }

    /// Looks for the item at a target, under a salt if it is a mutable one (BEP 44). Each newer version comes out as
    /// [`DhtOutput::Item`], and [`DhtOutput::Finished`] at the end.
    pub fn get(&mut self, target: NodeId, salt: &[u8], now: Moment) -> LookUpId {
        self.begin(target, looking::Goal::Get { salt: salt.into() }, now)
    }

    /// Stores an item at the nodes nearest to its target (BEP 44), with `cas` only where this version is stored.
    pub fn put(&mut self, item: Item, cas: Option<i64>, now: Moment) -> LookUpId {
        self.begin(item.target(), looking::Goal::Put { item, cas }, now)
    }

    /// The demand of a look-up is met: no further node is asked. If it is to announce, this is done at the nodes that
    /// are known to be nearest so far.
    pub fn enough(&mut self, id: LookUpId, now: Moment) {
        self.cut_short(id, now);
        self.pump(now);
    }

    /// A look-up is of no more interest: nothing more comes of it, and nothing is announced.
    pub fn cancel(&mut self, id: LookUpId) {
        self.forget(id);
    }

    /// The network is another one, or back: our address, and who can be reached, is to be learnt again.
    pub fn network_changed(&mut self, now: Moment) {
        self.rejoin(now);
        self.pump(now);
    }

    /// Nodes in the tables that have answered and are not bad.
    pub fn nodes(&self) -> usize {
        self.sides.iter().map(|side| side.table.len()).sum()
    }

    /// Our id in the DHT of a family.
    pub fn id(&self, of_ipv6: bool) -> NodeId {
        self.sides[usize::from(of_ipv6)].table.own()
    }

    /// What others have stored with us.
    pub fn counts(&self) -> Counts {
        self.server.counts()
    }

    /// What is to be remembered until next time.
    pub fn save(&self) -> Saved {
        let nodes = self.sides.iter().flat_map(|side| side.worth_saving(MOST_SAVED)).collect::<Vec<Node>>();
        let id = |at: usize, there: bool| there.then(|| self.sides[at].table.own());
        Saved { id4: id(0, self.families.v4), id6: id(1, self.families.v6), nodes }
    }

    /// Panics if a bound does not hold.
    pub fn check_invariants(&self) {
        self.server.check_invariants();
        self.sides.iter().for_each(Side::check_invariants);
        self.asking.check_invariants();
        self.check_searches();
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}

/// Which of the two sides an address belongs to.
fn side_of(addr: SocketAddr) -> usize {
    usize::from(addr.is_ipv6())
}
