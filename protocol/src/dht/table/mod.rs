//! The routing table of one address family (BEP 5): nodes that answered us, many near our own id and few far away.
//!
//! A bucket holds the nodes that share exactly so many leading bits with our id. The first are larger than BEP 5's
//! eight, so that a look-up starts nearer to its target. A node is good while it answers, questionable after a
//! quarter of an hour of silence, and bad after two unanswered questions; whoever waits in the bucket's cache then
//! takes its place. On public addresses, one host has one place, one network has few, and nodes whose ids do not fit
//! their addresses (BEP 42) give way to those that do.

mod bucket;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

use castanet_core::Moment;
use fastrand::Rng;

use self::bucket::Bucket;
use super::{
    Node, NodeId,
    external::{fits, is_public, network, random_id},
};

/// Nodes of a bucket, and nodes near a target that count: BEP 5's K.
pub(super) const K: usize = 8;
/// So many times [`K`] nodes fit into the buckets of the far half, quarter, eighth and sixteenth of all ids.
pub(super) const FAR_BUCKETS: [usize; 4] = [16, 8, 4, 2];
/// Nodes that wait for a place in a bucket.
pub(super) const MOST_WAITING: usize = 8;
/// A node that was silent for so long may be gone.
pub(super) const SILENCE: Duration = Duration::from_secs(15 * 60);
/// Questions without an answer, in a row, that make a node bad.
pub(super) const BAD: u8 = 2;
/// The same for a node to be dropped even if no other waits for its place.
pub(super) const HOPELESS: u8 = 4;
/// Least time between two questions to a node by which the table learns whether it is alive.
pub(super) const DOUBT_PAUSE: Duration = Duration::from_secs(15);
/// Places for public addresses of one network (/24, or /64 of IPv6) in a bucket.
pub(super) const MOST_OF_A_NETWORK_IN_A_BUCKET: usize = 2;
/// The same in the whole table.
pub(super) const MOST_OF_A_NETWORK: usize = 8;

const BUCKETS: usize = 160;

/// A node in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    node: Node,
    /// Its id belongs to its address, or need not (BEP 42).
    fits: bool,
    /// `None`: it was known last time and has not answered yet.
    answered: Option<Moment>,
    /// When it last answered or asked.
    seen: Moment,
    /// When the table last wanted to know whether it is alive.
    doubted: Option<Moment>,
    /// Questions in a row that it left unanswered.
    failures: u8,
}

impl Entry {
    fn is_good(&self, now: Moment) -> bool {
        self.failures == 0 && self.answered.is_some() && now.since(self.seen) < SILENCE
    }
    fn is_bad(&self) -> bool {
        self.failures >= BAD
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    own: NodeId,
    /// By the number of leading bits shared with `own`. As long as the deepest that was ever needed.
    buckets: Vec<Bucket>,
}

impl Table {
    /// An empty table around our id.
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, buckets: Vec::new() }
    }

    /// Our id.
    pub(super) fn own(&self) -> NodeId {
        self.own
    }

    /// Places of the bucket of nodes that share so many leading bits with us.
    fn places(bits: usize) -> usize {
        K * FAR_BUCKETS.get(bits).copied().unwrap_or(1)
    }

    fn index(&self, id: &NodeId) -> Option<usize> {
        let bits = self.own.distance(id).shared_bits() as usize;
        (bits < BUCKETS).then_some(bits)
    }

    fn bucket(&mut self, bits: usize) -> &mut Bucket {
        if self.buckets.len() <= bits {
            self.buckets.resize_with(bits + 1, Bucket::default);
        }
        &mut self.buckets[bits]
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|bucket| &bucket.entries)
    }

    fn find(&mut self, node: &Node) -> Option<&mut Entry> {
        let bits = self.index(&node.id)?;
        self.buckets.get_mut(bits)?.entries.iter_mut().find(|entry| entry.node == *node)
    }

    /// Nodes that have answered and are not bad.
    pub(super) fn len(&self) -> usize {
        self.entries().filter(|entry| entry.answered.is_some() && !entry.is_bad()).count()
    }

    /// A node answered: it gets a place, or waits for one.
    pub(super) fn answered(&mut self, node: Node, now: Moment) {
        if let Some(entry) = self.find(&node) {
            (entry.answered, entry.seen, entry.failures) = (Some(now), now, 0);
            let bits = self.index(&node.id).expect("it was found there");
            self.buckets[bits].changed = now;
            return;
        }
        self.admit(node, Some(now), now);
    }

    /// A node that was good last time: it gets a place if there is one, to be asked soon.
    pub(super) fn remember(&mut self, node: Node, now: Moment) {
        if self.find(&node).is_none() {
            self.admit(node, None, now);
        }
    }

    fn admit(&mut self, node: Node, answered: Option<Moment>, now: Moment) {
        let Some(bits) = self.index(&node.id) else { return };
        let entry =
            Entry { node, fits: fits(&node.id, node.addr.ip()), answered, seen: now, doubted: None, failures: 0 };
        if !self.make_way(&entry, now) || self.is_crowded(&entry, bits) {
            return;
        }
        self.bucket(bits).admit(entry, Self::places(bits), now);
    }

    /// One host, one place: may the newcomer have it? Then whoever had it is gone.
    fn make_way(&mut self, new: &Entry, now: Moment) -> bool {
        let public = is_public(new.node.addr.ip());
        let rival = |old: &Entry| {
            let same_host = public && old.node.addr.ip() == new.node.addr.ip();
            same_host || old.node.addr == new.node.addr || old.node.id == new.node.id
        };
        let stays = |old: &Entry| {
            // The same port under a new id is the same node, begun anew. Otherwise a living one keeps its place.
            rival(old) && old.node.addr != new.node.addr && (old.is_good(now) || new.answered.is_none())
        };
        if self.entries().any(stays) {
            return false;
        }
        for bucket in &mut self.buckets {
            bucket.entries.retain(|old| !rival(old));
            bucket.waiting.retain(|old| !rival(old));
        }
        true
    }

    /// Has its network all the places that it may have?
    fn is_crowded(&self, new: &Entry, bits: usize) -> bool {
        let ip = new.node.addr.ip();
        let same = |old: &&Entry| old.node.addr.is_ipv4() == ip.is_ipv4() && network(old.node.addr.ip()) == network(ip);
        let here = self.buckets.get(bits).map_or(0, |bucket| bucket.entries.iter().filter(same).count());
        is_public(ip)
            && (here >= MOST_OF_A_NETWORK_IN_A_BUCKET || self.entries().filter(same).count() >= MOST_OF_A_NETWORK)
    }

    /// A node asked us something: if it has ever answered, it is alive. Whether it is worth a ping to learn if it would
    /// get a place.
    pub(super) fn asked(&mut self, node: Node, now: Moment) -> bool {
        if let Some(entry) = self.find(&node) {
            if entry.answered.is_some() && entry.failures == 0 {
                entry.seen = now;
            }
            return false;
        }
        self.has_room_for(&node, now)
    }

    /// Would this node, which we do not know, get a place if it answered?
    pub(super) fn has_room_for(&self, node: &Node, now: Moment) -> bool {
        let Some(bits) = self.index(&node.id) else { return false };
        let fits = fits(&node.id, node.addr.ip());
        let taken = |entry: &Entry| {
            entry.node.addr == node.addr || is_public(node.addr.ip()) && entry.node.addr.ip() == node.addr.ip()
        };
        let Some(bucket) = self.buckets.get(bits) else { return !self.entries().any(taken) };
        bucket.would_take(fits, Self::places(bits), now) && !self.entries().any(taken)
    }

    /// A node left a question unanswered. It counts unless the node has answered another one since.
    pub(super) fn failed(&mut self, addr: SocketAddr, asked: Moment) {
        for bucket in &mut self.buckets {
            bucket.failed(addr, asked);
        }
    }

    /// Up to [`K`] nodes near a target, nearest first, as others are told of them: who answered and fits comes first.
    pub(super) fn nodes_for_others(&self, target: &NodeId, now: Moment) -> Vec<Node> {
        let known = self.entries().filter(|entry| entry.answered.is_some() && !entry.is_bad());
        let ranked =
            known.map(|entry| (!entry.fits || !entry.is_good(now), entry.node.id.distance(target), entry.node));
        first(ranked.collect(), K)
    }

    /// Up to `most` nodes near a target, nearest first, to begin a look-up with. Doubtful ones are among them, but those
    /// whose ids do not fit only if there are too few others: else Sybils could be all that a look-up begins with.
    pub(super) fn nearest(&self, target: &NodeId, most: usize) -> Vec<Node> {
        let known = self.entries().filter(|entry| !entry.is_bad());
        first(known.map(|entry| (!entry.fits, entry.node.id.distance(target), entry.node)).collect(), most)
    }

    /// The nodes that are worth keeping until next time, those that answered last first.
    pub(super) fn worth_saving(&self, most: usize) -> Vec<Node> {
        let mut kept: Vec<_> = self.entries().filter(|entry| !entry.is_bad()).collect();
        kept.sort_by_key(|entry| (std::cmp::Reverse(entry.answered), entry.node));
        kept.into_iter().take(most).map(|entry| entry.node).collect()
    }

    /// The node about which most doubt is due, with a target near it to ask it for.
    pub(super) fn doubtful(&mut self, now: Moment, rng: &mut Rng) -> Option<(Node, NodeId)> {
        let doubts = |entry: &Entry| {
            !entry.is_good(now) && entry.doubted.is_none_or(|doubted| now.since(doubted) >= DOUBT_PAUSE)
        };
        let due = self.buckets.iter_mut().enumerate().flat_map(|(bits, bucket)| {
            bucket.entries.iter_mut().filter(|entry| doubts(entry)).map(move |entry| (bits, entry))
        });
        let (bits, entry) = due.min_by_key(|(_, entry)| (entry.doubted, entry.seen, entry.node))?;
        entry.doubted = Some(now);
        let node = entry.node;
        Some((node, self.target_in(bits, rng)))
    }

    /// A target in a bucket that has not changed for a quarter of an hour and has room. It counts as changed from now.
    pub(super) fn stale(&mut self, now: Moment, rng: &mut Rng) -> Option<NodeId> {
        let old = |bits: usize, bucket: &Bucket| {
            bucket.entries.len() < Self::places(bits) && now.since(bucket.changed) >= SILENCE
        };
        let bits = self.buckets.iter().enumerate().position(|(bits, bucket)| old(bits, bucket))?;
        self.buckets[bits].changed = now;
        Some(self.target_in(bits, rng))
    }

    /// A random id that belongs into a bucket.
    fn target_in(&self, bits: usize, rng: &mut Rng) -> NodeId {
        let mut id = random_id(rng);
        for bit in 0..=bits {
            let mask = 0x80 >> (bit % 8);
            let ours = self.own.0[bit / 8] & mask;
            let wanted = if bit < bits { ours } else { ours ^ mask };
            id.0[bit / 8] = id.0[bit / 8] & !mask | wanted;
        }
        id
    }

    /// The same nodes around another id of ours.
    pub(super) fn rebuilt(&self, own: NodeId, now: Moment) -> Self {
        let mut table = Self::new(own);
        for entry in self.entries() {
            if let Some(bits) = table.index(&entry.node.id) {
                table.bucket(bits).admit(*entry, Self::places(bits), now);
            }
        }
        table
    }

    /// Panics if a bound does not hold.
    pub(super) fn check_invariants(&self) {
        assert!(self.buckets.len() <= BUCKETS);
        let mut seen = std::collections::BTreeSet::new();
        let mut networks = std::collections::BTreeMap::<_, usize>::new();
        for (bits, bucket) in self.buckets.iter().enumerate() {
            assert!(bucket.entries.len() <= Self::places(bits) && bucket.waiting.len() <= MOST_WAITING);
            for entry in &bucket.entries {
                let ip = entry.node.addr.ip();
                let host = (ip, if is_public(ip) { 0 } else { entry.node.addr.port() });
                assert!(seen.insert(host), "{} twice", entry.node.addr);
                assert_eq!(self.index(&entry.node.id), Some(bits));
                assert!(entry.failures < HOPELESS);
                if is_public(ip) {
                    *networks.entry((ip.is_ipv4(), network(ip))).or_default() += 1;
                }
            }
        }
        assert!(networks.values().all(|places| *places <= MOST_OF_A_NETWORK + MOST_WAITING));
    }
}

/// The first few by rank and distance.
fn first(mut ranked: Vec<(bool, super::Distance, Node)>, most: usize) -> Vec<Node> {
    if ranked.len() > most {
        ranked.select_nth_unstable(most);
        ranked.truncate(most);
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(.., node)| node).collect()
}
