//! Look-ups: a [`Job`] of the owner is one search in each family, which ends by storing what is to be stored.
//!
//! At most [`MOST_RUNNING`] searches of the owner run at a time, the others wait in line. They take turns in asking.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use castanet_core::{
    Moment,
    addr::{is_dialable, is_local},
};

use super::{Dht, DhtOutput, LookUp, LookUpId, SwarmSize, asking::Purpose};
use crate::dht::{
    Ask, Bloom, Item, Node, NodeId, Response, Want,
    external::is_public,
    search::{SLOTS, Search},
};

/// Searches of the owner that run at a time.
pub(super) const MOST_RUNNING: usize = 16;
/// Look-ups of the owner that are not over. Further ones are over at once.
pub(super) const MOST_JOBS: usize = 20_000;
/// Peers of one answer that are passed on.
pub(super) const MOST_PEERS: usize = 100;
/// How long a look-up waits for any node to be known.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// What the owner wants of a look-up.
#[derive(Debug)]
pub(super) enum Goal {
    Peers(LookUp),
    Get { salt: Box<[u8]> },
    Put { item: Item, cas: Option<i64> },
}

impl Goal {
    fn question(&self, target: NodeId) -> Ask {
        match self {
            Self::Peers(look_up) => Ask::GetPeers { info_hash: target, noseed: look_up.seed, scrape: look_up.scrape },
            Self::Get { .. } | Self::Put { .. } => Ask::Get { target, seq: None },
        }
    }

    fn store(&self, target: NodeId, to: SocketAddr, token: Box<[u8]>) -> Option<Ask> {
        match self {
            Self::Peers(look_up) => {
                let us = look_up.announce?;
                let is_beyond = to.is_ipv4() && !is_local(to.ip());
                let port = us.mapped.filter(|_| is_beyond).or(us.port);
                Some(Ask::AnnouncePeer { info_hash: target, port, token, seed: look_up.seed })
            }
            Self::Get { .. } => None,
            Self::Put { item, cas } => Some(Ask::Put { token, item: item.clone(), cas: *cas }),
        }
    }
}

/// A look-up of the owner.
#[derive(Debug)]
pub(super) struct Job {
    target: NodeId,
    goal: Goal,
    /// Searches that are not over, waiting ones included.
    left: usize,
    announced: usize,
    asked: usize,
    /// Of seeds and of the others (BEP 33).
    swarm: Option<(Bloom, Bloom)>,
    /// The newest version of the item; immutable ones count as 0.
    newest: Option<i64>,
}

/// For what a search runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Join,
    Refresh,
    Job(LookUpId),
}

/// A search under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) search: Search,
    side: usize,
    owner: Owner,
    /// Once all was asked: the nodes that have not yet said that they stored what we gave them.
    storing: Option<Vec<(Node, Box<[u8]>)>>,
}

/// A search that has not begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    id: LookUpId,
    since: Moment,
}

impl Dht {
    pub(super) fn begin(&mut self, target: NodeId, goal: Goal, now: Moment) -> LookUpId {
        let id = LookUpId(self.name());
        let mut job = Job { target, goal, left: 0, announced: 0, asked: 0, swarm: None, newest: None };
        if self.jobs.len() < MOST_JOBS {
            for side in [0, 1] {
                if self.has_side(side) {
                    self.waiting[side].push_back(Waiting { id, since: now });
                    job.left += 1;
                }
            }
        }
        if let Goal::Peers(look_up) = job.goal {
            self.found_here(id, target, look_up.seed);
        }
        self.jobs.insert(id, job);
        self.finish_if_over(id);
        self.pump(now);
        id
    }

    /// We are a node as well: peers may have been announced to us, and in a tiny network to nobody else.
    fn found_here(&mut self, look_up: LookUpId, info_hash: NodeId, noseed: bool) {
        let mut peers = self.server.peers(info_hash, noseed);
        peers.truncate(MOST_PEERS);
        if !peers.is_empty() {
            let from = (Ipv4Addr::UNSPECIFIED, 0).into();
            self.outputs.push_back(DhtOutput::Peers { look_up, from, peers });
        }
    }

    pub(super) fn run(&mut self, search: Search, side: usize, owner: Owner) -> u64 {
        let key = self.name();
        self.running.insert(key, Running { search, side, owner, storing: None });
        key
    }

    /// Begins waiting searches, as many as there is place for; ends those that waited in vain.
    fn start_waiting(&mut self, now: Moment) {
        for side in [0, 1] {
            let knows_somebody = !self.waiting[side].is_empty() && self.sides[side].knows_somebody();
            while let Some(Waiting { id, since }) = self.waiting[side].front().copied() {
                let jobs = self.running.values().filter(|running| matches!(running.owner, Owner::Job(_))).count();
                if knows_somebody && jobs < MOST_RUNNING {
                    let search = self.sides[side].search(self.jobs[&id].target, SLOTS);
                    self.run(search, side, Owner::Job(id));
                } else if !knows_somebody && now.since(since) >= PATIENCE {
                    self.half_over(id, 0);
                } else {
                    break;
                }
                self.waiting[side].pop_front();
            }
        }
    }

    /// Asks whatever may be asked now, and ends what has come to its end.
    pub(super) fn pump(&mut self, now: Moment) {
        loop {
            self.start_waiting(now);
            self.starved = None;
            let mut moved = false;
            // Whoever follows the last one that asked, or else a search that needs much would starve the others.
            let (before, after): (Vec<u64>, Vec<u64>) = self.running.keys().partition(|key| **key <= self.last_asked);
            for key in after.into_iter().chain(before) {
                if let Err(later) = self.asking.may_ask(now) {
                    self.starved = Some(later);
                    return;
                }
                let Some(running) = self.running.get_mut(&key).filter(|running| running.storing.is_none()) else {
                    continue;
                };
                if let Some(to) = running.search.next() {
                    let (target, owner) = (running.search.target(), running.owner);
                    let ask = match owner {
                        Owner::Job(id) => self.jobs[&id].goal.question(target),
                        Owner::Join | Owner::Refresh => Ask::FindNode { target },
                    };
                    self.ask(to, ask, self.want(owner), Purpose::Search(key), now);
                    self.last_asked = key;
                    moved = true;
                } else if running.search.is_done() {
                    self.conclude(key, now);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// A search has asked all it will: stores what is to be stored, or ends.
    fn conclude(&mut self, key: u64, now: Moment) {
        let running = &self.running[&key];
        match running.owner {
            Owner::Join => {
                let side = running.side;
                self.running.remove(&key);
                self.joined(side, now);
            }
            Owner::Refresh => {
                let side = running.side;
                self.running.remove(&key);
                self.refreshed(side);
            }
            Owner::Job(id) => {
                let stores = running.search.stores();
                let job = &self.jobs[&id];
                let asks = stores.iter().filter_map(|(node, token)| {
                    Some((node.addr, job.goal.store(job.target, node.addr, token.clone())?))
                });
                let asks: Vec<_> = asks.collect();
                if asks.is_empty() {
                    return self.over(key);
                }
                self.running.get_mut(&key).expect("it is there").storing = Some(stores);
                for (to, ask) in asks {
                    self.ask(to, ask, Want::default(), Purpose::Store(key, false), now);
                }
            }
        }
    }

    /// A search of a job is over.
    fn over(&mut self, key: u64) {
        let Some(Running { search, owner: Owner::Job(id), .. }) = self.running.remove(&key) else { return };
        self.half_over(id, search.asked());
    }

    fn half_over(&mut self, id: LookUpId, asked: usize) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.asked += asked;
        job.left -= 1;
        self.finish_if_over(id);
    }

    fn finish_if_over(&mut self, look_up: LookUpId) {
        if self.jobs.get(&look_up).is_none_or(|job| job.left > 0) {
            return;
        }
        let Some(Job { announced, asked, swarm, .. }) = self.jobs.remove(&look_up) else { return };
        let count = |bloom: &Bloom| bloom.estimate().round() as u32;
        let swarm = swarm.map(|(seeds, others)| SwarmSize { seeds: count(&seeds), downloaders: count(&others) });
        self.outputs.push_back(DhtOutput::Finished { look_up, announced, asked, swarm });
    }

    /// The searches of a job that ask or store.
    fn searches_of(&self, id: LookUpId) -> Vec<u64> {
        self.running.iter().filter(|(_, running)| running.owner == Owner::Job(id)).map(|(key, _)| *key).collect()
    }

    pub(super) fn cut_short(&mut self, id: LookUpId, now: Moment) {
        for side in [0, 1] {
            let waiting = self.waiting[side].len();
            self.waiting[side].retain(|waiting| waiting.id != id);
            if self.waiting[side].len() < waiting {
                self.half_over(id, 0);
            }
        }
        for key in self.searches_of(id) {
            if self.running[&key].storing.is_none() {
                self.conclude(key, now);
            }
        }
    }

    pub(super) fn forget(&mut self, id: LookUpId) {
        self.waiting.iter_mut().for_each(|waiting| waiting.retain(|waiting| waiting.id != id));
        for key in self.searches_of(id) {
            self.running.remove(&key);
        }
        self.jobs.remove(&id);
    }

    /// A node answered a question of a search.
    pub(super) fn search_answered(&mut self, key: u64, from: Node, response: Response) {
        let Some(running) = self.running.get_mut(&key) else { return };
        let may_name = |addr: SocketAddr| is_dialable(addr) && (is_public(addr.ip()) || !is_public(from.addr.ip()));
        let (mut named, mut across) = (response.nodes, response.nodes6);
        if from.addr.is_ipv6() {
            std::mem::swap(&mut named, &mut across);
        }
        let side = &self.sides[running.side];
        named.retain(|node| may_name(node.addr) && !side.is_us(node));
        running.search.answered(from, response.token, named);
        match running.owner {
            Owner::Join => {
                across.retain(|node| may_name(node.addr));
                self.named_across(&across);
            }
            Owner::Refresh => {}
            Owner::Job(look_up) => {
                let Some(job) = self.jobs.get_mut(&look_up) else { return };
                if let Goal::Peers(_) = job.goal {
                    let mut peers = Vec::new();
                    for peer in response.values.into_iter().filter(|peer| may_name(*peer)) {
                        if peers.len() < MOST_PEERS && !peers.contains(&peer) {
                            peers.push(peer);
                        }
                    }
                    if !peers.is_empty() {
                        self.outputs.push_back(DhtOutput::Peers { look_up, from: from.addr, peers });
                    }
                }
                if response.seeds.is_some() || response.downloaders.is_some() {
                    let (seeds, downloaders) = job.swarm.get_or_insert_default();
                    response.seeds.iter().for_each(|bloom| seeds.unite(bloom));
                    response.downloaders.iter().for_each(|bloom| downloaders.unite(bloom));
                }
                if let Some(item) = response.item {
                    self.found_item(look_up, from.addr, item);
                }
            }
        }
    }

    /// Passes an item on if it is valid and newer than those before.
    fn found_item(&mut self, look_up: LookUpId, from: SocketAddr, item: Item) {
        let Some(job) = self.jobs.get_mut(&look_up) else { return };
        let Goal::Get { salt } = &job.goal else { return };
        let seq = item.seq().unwrap_or(0);
        if job.newest.is_some_and(|newest| newest >= seq) {
            return;
        }
        // Only now the costly part, the signature.
        if let Ok(item) = item.received(job.target, salt) {
            job.newest = Some(seq);
            self.outputs.push_back(DhtOutput::Item { look_up, from, item });
        }
    }

    /// A node stored what we gave it, or refused.
    pub(super) fn store_answered(&mut self, key: u64, from: SocketAddr, stored: bool) {
        let Some(Running { storing: Some(left), owner: Owner::Job(id), .. }) = self.running.get_mut(&key) else {
            return;
        };
        let before = left.len();
        left.retain(|(node, _)| node.addr != from);
        let (counts, over) = (stored && left.len() < before, left.is_empty());
        if let Some(job) = self.jobs.get_mut(id) {
            job.announced += usize::from(counts);
        }
        if over {
            self.over(key);
        }
    }

    /// A node has not yet said that it stored what we gave it: it is given it once more, then given up.
    pub(super) fn store_is_late(&mut self, key: u64, to: SocketAddr, again: bool, now: Moment) {
        let Some(Running { storing: Some(left), owner: Owner::Job(id), .. }) = self.running.get(&key) else { return };
        let job = &self.jobs[id];
        let token = left.iter().find(|(node, _)| node.addr == to).map(|(_, token)| token.clone());
        match token.and_then(|token| job.goal.store(job.target, to, token)) {
            Some(ask) if !again => self.ask(to, ask, Want::default(), Purpose::Store(key, true), now),
            _ => self.store_answered(key, to, false),
        }
    }

    pub(super) fn check_searches(&self) {
        self.running.values().for_each(|running| running.search.check_invariants());
        assert!(self.running.len() <= MOST_RUNNING + 4 && self.jobs.len() <= MOST_JOBS);
        let waiting = self.waiting.iter().flatten().map(|waiting| waiting.id);
        let running = self.running.values().filter_map(|running| match running.owner {
            Owner::Job(id) => Some(id),
            _ => None,
        });
        let mut left = std::collections::BTreeMap::<_, usize>::new();
        waiting.chain(running).for_each(|id| *left.entry(id).or_default() += 1);
        assert_eq!(left, self.jobs.iter().map(|(id, job)| (*id, job.left)).collect());
    }
}
