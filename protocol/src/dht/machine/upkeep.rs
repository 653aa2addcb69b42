//! Joining the network, and staying in it: one [`Side`] for each address family.
//!
//! All sources are asked at once for our own neighbourhood: nodes of last time and contacts. While that brings nobody,
//! or hardly anybody, it is tried again, after pauses that double. Later, nodes that were silent for long are asked whether they live,
//! buckets that saw no change are refreshed, and strangers who asked us something are pinged.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use castanet_core::{Moment, addr::is_dialable};
use fastrand::Rng;

use super::{Dht, DhtOutput, asking::Purpose, looking::Owner, side_of};
use crate::dht::{
    Ask, Node, NodeId, Want,
    external::{Votes, fits, id_for, is_public, random_id},
    search::{MOST_CONTACTS, SLOTS, Search},
    table::{K, Table},
};

/// How often tables are looked after.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// The same when the last time there was nothing to do.
pub(super) const IDLE_TICK: Duration = Duration::from_secs(5);
/// Nodes asked at a time when joining.
pub(super) const JOIN_SLOTS: usize = 8;
/// Known nodes that joining begins with, half of them the nearest.
pub(super) const JOIN_NODES: usize = 16;
/// The pause after the first attempt to join that failed; it doubles.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause, before jitter.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Strangers that wait to be pinged, and those remembered who were.
pub(super) const MOST_STRANGERS: usize = 64;
/// Pings of strangers in a tick.
pub(super) const MOST_PINGS: usize = 8;
/// Silent nodes that are asked in a tick whether they live.
pub(super) const MOST_DOUBTS: usize = 4;
/// How often the nodes are noted down with which to begin again if all are lost.
pub(super) const NOTE_EVERY: Duration = Duration::from_secs(300);

/// Where we stand with the network of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joining {
    /// To be tried as soon as somebody is known.
    Due,
    /// By this search.
    Under(u64),
    Joined,
    /// Fewer than K nodes are known; again then.
    Pausing(Moment),
}

/// All that belongs to one address family.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) table: Table,
    votes: Votes,
    external: Option<SocketAddr>,
    /// Where the last answer says that we are. Good enough for not asking ourselves.
    claimed: Option<SocketAddr>,
    /// Nodes of last time, later of some minutes ago.
    noted: Vec<Node>,
    noted_at: Moment,
    /// Addresses that we were told of from outside.
    contacts: VecDeque<SocketAddr>,
    /// Who asked us something and may belong into the table.
    strangers: VecDeque<SocketAddr>,
    /// The latest of them who were pinged.
    pinged: VecDeque<SocketAddr>,
    joining: Joining,
    failures: u32,
    refreshing: Option<u64>,
}

impl Side {
    pub(super) fn new(id: Option<NodeId>, nodes: Vec<Node>, rng: &mut Rng, now: Moment) -> Self {
        let mut table = Table::new(id.unwrap_or_else(|| random_id(rng)));
        nodes.iter().for_each(|node| table.remember(*node, now));
        Self {
            table,
            votes: Votes::default(),
            external: None,
            claimed: None,
            noted: nodes,
            noted_at: now,
            contacts: VecDeque::new(),
            strangers: VecDeque::new(),
            pinged: VecDeque::new(),
            joining: Joining::Due,
            failures: 0,
            refreshing: None,
        }
    }

    /// Is there anybody to begin a look-up with?
    pub(super) fn knows_somebody(&self) -> bool {
        !self.contacts.is_empty() || !self.table.nearest(&self.table.own(), 1).is_empty()
    }

    /// A search that begins with the nodes nearest to a target, and with all contacts while those are few.
    pub(super) fn search(&self, target: NodeId, slots: usize) -> Search {
        let known = self.table.nearest(&target, JOIN_NODES);
        let mut search = Search::new(target, &known, slots);
        if self.table.len() < K {
            self.contacts.iter().for_each(|addr| search.contact(*addr));
        }
        search
    }

    /// The nodes to remember: of last time, if there are hardly any of today.
    pub(super) fn worth_saving(&self, most: usize) -> Vec<Node> {
        let nodes = self.table.worth_saving(most);
        if nodes.len() < K && self.noted.len() > nodes.len() { self.noted.clone() } else { nodes }
    }

    /// Somebody to ping, unless it was done lately: who names one host under many ports must not make us flood it.
    fn stranger(&mut self, addr: SocketAddr) {
        let same = |other: &SocketAddr| *other == addr || is_public(addr.ip()) && other.ip() == addr.ip();
        if self.strangers.len() < MOST_STRANGERS && !self.strangers.iter().chain(&self.pinged).any(same) {
            self.strangers.push_back(addr);
        }
    }

    /// Some of the strangers, to be pinged now.
    fn strangers_to_ping(&mut self) -> Vec<SocketAddr> {
        // Who did not answer may ask again, later.
        self.pinged.pop_front();
        let now: Vec<_> = self.strangers.drain(..self.strangers.len().min(MOST_PINGS)).collect();
        self.pinged.extend(&now);
        self.pinged.drain(..self.pinged.len().saturating_sub(MOST_STRANGERS));
        now
    }

    /// Is this us, as far as we know?
    pub(super) fn is_us(&self, node: &Node) -> bool {
        node.id == self.table.own() || [self.external, self.claimed].contains(&Some(node.addr))
    }

    pub(super) fn check_invariants(&self) {
        self.table.check_invariants();
        assert!(self.contacts.len() <= MOST_CONTACTS && self.noted.len() <= super::MOST_SAVED);
        assert!(self.strangers.len() <= MOST_STRANGERS && self.pinged.len() <= MOST_STRANGERS);
    }
}

impl Dht {
    pub(super) fn has_side(&self, side: usize) -> bool {
        [self.families.v4, self.families.v6][side]
    }

    /// Nodes of both families are asked for while joining (BEP 32).
    fn both(&self) -> Want {
        if self.families.v4 && self.families.v6 { Want { v4: true, v6: true } } else { Want::default() }
    }

    /// Somebody may listen there.
    pub(super) fn meet(&mut self, addr: SocketAddr) {
        if !is_dialable(addr) || !self.has_side(side_of(addr)) {
            return;
        }
        let side = &mut self.sides[side_of(addr)];
        if !side.contacts.contains(&addr) {
            if side.contacts.len() == MOST_CONTACTS {
                // The first are likely to be those that never change.
                side.contacts.remove(MOST_CONTACTS / 2);
            }
            side.contacts.push_back(addr);
        }
        match side.joining {
            Joining::Under(key) => {
                if let Some(running) = self.running.get_mut(&key) {
                    running.search.contact(addr);
                }
            }
            Joining::Pausing(_) if side.table.len() == 0 && side.failures < 2 => side.joining = Joining::Due,
            Joining::Due => {}
            Joining::Joined | Joining::Pausing(_) => side.stranger(addr),
        }
    }

    /// Begins to join where this is due.
    pub(super) fn join(&mut self, now: Moment) {
        let has_side = [0, 1].map(|at| self.has_side(at));
        for at in [0, 1] {
            let side = &mut self.sides[at];
            let due = match side.joining {
                Joining::Due => true,
                Joining::Pausing(until) => until <= now,
                Joining::Under(_) | Joining::Joined => false,
            };
            if !due || !has_side[at] || side.contacts.is_empty() && side.noted.is_empty() && !side.knows_somebody() {
                continue;
            }
            let own = side.table.own();
            self.rng.shuffle(&mut side.noted);
            side.noted.iter().for_each(|node| side.table.remember(*node, now));
            let mut known = side.table.nearest(&own, JOIN_NODES / 2);
            known.extend(side.noted.iter().take(JOIN_NODES / 2));
            let mut search = Search::new(own, &known, JOIN_SLOTS);
            side.contacts.iter().for_each(|addr| search.contact(*addr));
            let key = self.run(search, at, Owner::Join);
            self.sides[at].joining = Joining::Under(key);
        }
    }

    /// The search for our own neighbourhood is over.
    pub(super) fn joined(&mut self, at: usize, now: Moment) {
        let jitter = Duration::from_millis(self.rng.u64(0..FIRST_PAUSE.as_millis() as u64 / 2));
        let side = &mut self.sides[at];
        if side.table.len() < K {
            let doubled = (FIRST_PAUSE + jitter) * (1 << side.failures.min(16));
            let until = now + doubled.min(LONGEST_PAUSE + jitter);
            side.joining = Joining::Pausing(until);
            self.tick = self.tick.min(until);
            side.failures += 1;
        } else {
            (side.joining, side.failures) = (Joining::Joined, 0);
        }
        if side.table.len() > 0 && !self.bootstrapped {
            self.bootstrapped = true;
            self.outputs.push_back(DhtOutput::Bootstrapped { nodes: self.nodes() });
        }
    }

    /// A search that kept a bucket fresh is over.
    pub(super) fn refreshed(&mut self, at: usize) {
        self.sides[at].refreshing = None;
    }

    /// Joins anew, with what is known.
    pub(super) fn rejoin(&mut self, now: Moment) {
        for at in [0, 1] {
            let side = &mut self.sides[at];
            side.votes.clear();
            side.external = None;
            side.failures = 0;
            if let Joining::Under(key) = std::mem::replace(&mut side.joining, Joining::Due) {
                self.running.remove(&key);
            }
        }
        self.join(now);
    }

    /// Looks after the tables, once a tick.
    pub(super) fn keep_up(&mut self, now: Moment) {
        let asked = self.asking.count();
        for at in [0, 1] {
            if self.has_side(at) {
                self.keep_up_side(at, now);
            }
        }
        self.join(now);
        let busy = self.asking.count() > asked || self.waiting.iter().any(|waiting| !waiting.is_empty());
        self.tick = now + if busy { TICK } else { IDLE_TICK };
    }

    fn keep_up_side(&mut self, at: usize, now: Moment) {
        let side = &mut self.sides[at];
        if side.joining == Joining::Joined && side.table.len() < K / 2 {
            side.joining = Joining::Due;
        }
        if side.table.len() >= K && now.since(side.noted_at) >= NOTE_EVERY {
            (side.noted, side.noted_at) = (side.table.worth_saving(super::MOST_SAVED), now);
        }
        let mut questions = Vec::new();
        for _ in 0..MOST_DOUBTS {
            let Some((node, target)) = side.table.doubtful(now, &mut self.rng) else { break };
            questions.push((node.addr, Ask::FindNode { target }));
        }
        questions.extend(side.strangers_to_ping().into_iter().map(|addr| (addr, Ask::Ping)));
        if side.joining == Joining::Joined
            && side.refreshing.is_none()
            && let Some(target) = side.table.stale(now, &mut self.rng)
        {
            let search = side.search(target, SLOTS);
            let key = self.run(search, at, Owner::Refresh);
            self.sides[at].refreshing = Some(key);
        }
        for (to, ask) in questions {
            if self.asking.may_ask(now).is_ok() {
                self.ask(to, ask, Want::default(), Purpose::Upkeep, now);
            }
        }
    }

    /// A node answered one of our questions.
    pub(super) fn is_alive(&mut self, node: Node, our_addr: Option<SocketAddr>, now: Moment) {
        let at = side_of(node.addr);
        let side = &mut self.sides[at];
        side.table.answered(node, now);
        let Some(our_addr) = our_addr else { return };
        side.claimed = Some(our_addr);
        side.votes.cast(node.addr, our_addr);
        let Some(winner) = side.votes.winner() else { return };
        let known = side.external.replace(winner);
        if known.is_some_and(|known| known.ip() == winner.ip()) {
            return;
        }
        self.outputs.push_back(DhtOutput::ExternalAddress(winner));
        if !fits(&side.table.own(), winner.ip()) {
            let own = id_for(winner.ip(), &mut self.rng);
            side.table = side.table.rebuilt(own, now);
            if let Joining::Under(key) = std::mem::replace(&mut side.joining, Joining::Due) {
                self.running.remove(&key);
            }
            self.join(now);
        }
    }

    /// A node asked us something, or was named to us: is it one for the table? Only an answer will tell.
    pub(super) fn maybe_ping(&mut self, node: Node, it_asked: bool, now: Moment) {
        let at = side_of(node.addr);
        if !self.has_side(at) || !is_dialable(node.addr) || self.sides[at].is_us(&node) {
            return;
        }
        let side = &mut self.sides[at];
        let wanted = if it_asked { side.table.asked(node, now) } else { side.table.has_room_for(&node, now) };
        if wanted {
            side.stranger(node.addr);
        }
    }

    /// What a question of this purpose asks for beside its own family.
    pub(super) fn want(&self, owner: Owner) -> Want {
        if owner == Owner::Join { self.both() } else { Want::default() }
    }

    /// Another family's node was named while joining: there it may be the first.
    pub(super) fn named_across(&mut self, nodes: &[Node]) {
        for node in nodes {
            if self.has_side(side_of(node.addr)) && self.sides[side_of(node.addr)].joining != Joining::Joined {
                self.meet(node.addr);
            }
        }
    }
}
