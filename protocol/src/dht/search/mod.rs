//! One iterative look-up in one family: whom to ask next, and when the nearest nodes have answered (BEP 5).
//!
//! A few nodes are asked at a time, nearest first. Who is slow frees its slot, is asked once more if it is among the
//! nearest (a datagram may have been lost), and is still heard if it answers late. What strangers name is believed
//! little: a few nodes a reply, one of a host, few of a network; who names nodes that do not answer is not followed;
//! nodes whose ids do not fit their addresses (BEP 42) are asked, but do not count among the nearest.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use castanet_core::addr::is_dialable;

use super::{
    Distance, Node, NodeId,
    external::{fits, is_public, network},
    table::K,
};

/// Nodes asked at a time that may still answer quickly.
pub(super) const SLOTS: usize = 4;
/// Candidates that are remembered; the farthest is forgotten first.
pub(super) const MOST_CANDIDATES: usize = 200;
/// Questions of one search, repeated ones included.
pub(super) const MOST_ASKED: usize = 128;
/// Nodes of one reply that become candidates: those nearest to the target.
pub(super) const MOST_NAMED: usize = K;
/// Candidates of one public network (/24, or /64 of IPv6).
pub(super) const MOST_OF_A_NETWORK: usize = 3;
/// Nodes asked whose ids do not fit their addresses.
pub(super) const MOST_UNFIT: usize = 24;
/// Addresses of unknown nodes that are asked first, all at once.
pub(super) const MOST_CONTACTS: usize = 16;
/// Nodes named by one node that do not answer, after which its others are not asked, unless most do.
pub(super) const MOST_DUDS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Not asked yet.
    Fresh,
    /// Asked so often, and still in time.
    Asked(u8),
    /// Asked so often, and late.
    Late(u8),
    /// It answered, with the token that allows to store something there.
    Answered(Option<Box<[u8]>>),
}

#[derive(Debug, Clone)]
struct Candidate {
    node: Node,
    distance: Distance,
    fits: bool,
    stage: Stage,
    /// Who named it; `None`: our table.
    by: Option<SocketAddr>,
}

/// What became of the nodes that a node named.
#[derive(Debug, Clone, Copy, Default)]
struct Credit {
    alive: usize,
    duds: usize,
}

/// A look-up.
#[derive(Debug)]
pub(super) struct Search {
    target: NodeId,
    /// By distance. Each address is there once.
    candidates: Vec<Candidate>,
    /// Nodes of which only the address is known.
    contacts: VecDeque<SocketAddr>,
    /// Those of them that were asked and are still in time.
    contacted: Vec<SocketAddr>,
    credit: BTreeMap<SocketAddr, Credit>,
    slots: usize,
    asked: usize,
    unfit_asked: usize,
}

impl Search {
    /// A search that begins with these nodes of our table.
    pub(super) fn new(target: NodeId, known: &[Node], slots: usize) -> Self {
        let mut search = Self {
            target,
            candidates: Vec::new(),
            contacts: VecDeque::new(),
            contacted: Vec::new(),
            credit: BTreeMap::new(),
            slots,
            asked: 0,
            unfit_asked: 0,
        };
        known.iter().for_each(|node| search.add(*node, None));
        search
    }

    /// The id that is looked for.
    pub(super) fn target(&self) -> NodeId {
        self.target
    }

    /// Questions so far.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// A node may listen there: it is asked soon, whatever its id.
    pub(super) fn contact(&mut self, addr: SocketAddr) {
        let known = self.candidates.iter().any(|candidate| candidate.node.addr == addr);
        if !known
            && self.contacts.len() + self.contacted.len() < MOST_CONTACTS
            && !self.contacts.contains(&addr)
            && !self.contacted.contains(&addr)
        {
            self.contacts.push_back(addr);
        }
    }

    fn add(&mut self, node: Node, by: Option<SocketAddr>) {
        let ip = node.addr.ip();
        let public = is_public(ip);
        let mut of_network = 0;
        for other in &self.candidates {
            let other = &other.node;
            if other.addr == node.addr || other.id == node.id || public && other.addr.ip() == ip {
                return;
            }
            of_network +=
                usize::from(public && other.addr.is_ipv4() == ip.is_ipv4() && network(other.addr.ip()) == network(ip));
        }
        if of_network >= MOST_OF_A_NETWORK || !is_dialable(node.addr) {
            return;
        }
        let distance = node.id.distance(&self.target);
        let fits = fits(&node.id, ip);
        self.insert(Candidate { node, distance, fits, stage: Stage::Fresh, by });
    }

    fn insert(&mut self, candidate: Candidate) {
        let at = self.candidates.partition_point(|other| other.distance < candidate.distance);
        self.candidates.insert(at, candidate);
        if self.candidates.len() > MOST_CANDIDATES
            && let Some(farthest) = self.candidates.iter().rposition(|candidate| candidate.stage == Stage::Fresh)
        {
            self.candidates.remove(farthest);
        }
    }

    fn position(&self, addr: SocketAddr) -> Option<usize> {
        self.candidates.iter().position(|candidate| candidate.node.addr == addr)
    }

    fn is_distrusted(&self, by: Option<SocketAddr>) -> bool {
        let credit = by.and_then(|by| self.credit.get(&by).copied()).unwrap_or_default();
        credit.duds >= MOST_DUDS && credit.duds > credit.alive
    }

    /// Whom to ask now; `None` while all slots are taken, and in the end. Counts as asked.
    pub(super) fn next(&mut self) -> Option<SocketAddr> {
        if self.asked >= MOST_ASKED {
            return None;
        }
        if let Some(addr) = self.contacts.pop_front() {
            self.contacted.push(addr);
            self.asked += 1;
            return Some(addr);
        }
        let Survey { next, busy, .. } = self.survey();
        let at = next.filter(|_| busy < self.slots)?;
        let candidate = &mut self.candidates[at];
        let tries = if let Stage::Late(tries) = candidate.stage { tries } else { 0 };
        candidate.stage = Stage::Asked(tries + 1);
        self.asked += 1;
        self.unfit_asked += usize::from(!candidate.fits && tries == 0);
        Some(candidate.node.addr)
    }

    /// Have the nearest answered, or everybody whom it makes sense to ask?
    pub(super) fn is_done(&self) -> bool {
        let Survey { next, busy, near } = self.survey();
        let may_ask = self.asked < MOST_ASKED && (next.is_some() || !self.contacts.is_empty());
        !may_ask && busy == 0 && (near >= K || self.contacted.is_empty())
    }

    /// Walks from the nearest outwards, until K have answered.
    fn survey(&self) -> Survey {
        let mut survey = Survey { next: None, busy: 0, near: 0 };
        let mut passed = 0;
        for (at, candidate) in self.candidates.iter().enumerate() {
            match &candidate.stage {
                Stage::Answered(_) => survey.near += usize::from(candidate.fits),
                Stage::Asked(_) => survey.busy += 1,
                Stage::Late(1) if passed < K && survey.next.is_none() && !self.is_distrusted(candidate.by) => {
                    survey.next = Some(at);
                }
                Stage::Late(_) => continue,
                Stage::Fresh => {
                    let may_ask = candidate.fits || self.unfit_asked < MOST_UNFIT;
                    if survey.next.is_none() && may_ask && !self.is_distrusted(candidate.by) {
                        survey.next = Some(at);
                    }
                }
            }
            passed += 1;
            if survey.near == K {
                break;
            }
        }
        survey
    }

    /// A node answered.
    pub(super) fn answered(&mut self, from: Node, token: Option<Box<[u8]>>, mut named: Vec<Node>) {
        self.contacted.retain(|addr| *addr != from.addr);
        let mut candidate = match self.position(from.addr) {
            Some(at) => self.candidates.remove(at),
            None => Candidate {
                node: from,
                distance: self.target.distance(&from.id),
                fits: true,
                stage: Stage::Fresh,
                by: None,
            },
        };
        if matches!(candidate.stage, Stage::Answered(_)) {
            // The answer to a repeated question adds nothing.
            return self.insert(candidate);
        }
        if let Some(credit) = candidate.by.and_then(|by| self.credit.get_mut(&by)) {
            credit.alive += 1;
            let was_dud = matches!(candidate.stage, Stage::Late(_) | Stage::Asked(2));
            credit.duds = credit.duds.saturating_sub(usize::from(was_dud));
        }
        // It is who it says now, however it was named. Two cannot be the same.
        if self.candidates.iter().any(|other| other.node.id == from.id && matches!(other.stage, Stage::Answered(_))) {
            return;
        }
        candidate.node = from;
        candidate.distance = from.id.distance(&self.target);
        candidate.fits = fits(&from.id, from.addr.ip());
        candidate.stage = Stage::Answered(token);
        self.insert(candidate);
        self.credit.entry(from.addr).or_default();
        named.sort_unstable_by_key(|node| node.id.distance(&self.target));
        named.truncate(MOST_NAMED);
        named.into_iter().for_each(|node| self.add(node, Some(from.addr)));
    }

    /// A node has not answered in time. Its slot is free; it may still answer.
    pub(super) fn late(&mut self, addr: SocketAddr) {
        self.contacted.retain(|contacted| *contacted != addr);
        let Some(at) = self.position(addr) else { return };
        let candidate = &mut self.candidates[at];
        let Stage::Asked(tries) = candidate.stage else { return };
        candidate.stage = Stage::Late(tries);
        if tries == 1
            && let Some(credit) = candidate.by.and_then(|by| self.credit.get_mut(&by))
        {
            credit.duds += 1;
        }
    }

    /// A node refused to answer, or is ourselves: it is not asked again.
    pub(super) fn refused(&mut self, addr: SocketAddr) {
        self.late(addr);
        if let Some(at) = self.position(addr).filter(|at| !matches!(self.candidates[*at].stage, Stage::Answered(_))) {
            self.candidates[at].stage = Stage::Late(u8::MAX);
        }
    }

    /// The nodes where something is to be stored, with their tokens: the nearest whose ids fit, and others only if
    /// there are too few of those (BEP 42).
    pub(super) fn stores(&self) -> Vec<(Node, Box<[u8]>)> {
        let with_token = |candidate: &Candidate| match &candidate.stage {
            Stage::Answered(Some(token)) => Some((!candidate.fits, candidate.node, token.clone())),
            _ => None,
        };
        let mut stores: Vec<_> = self.candidates.iter().filter_map(with_token).collect();
        stores.sort_by_key(|(unfit, ..)| *unfit);
        stores.into_iter().take(K).map(|(_, node, token)| (node, token)).collect()
    }

    /// Panics if a bound does not hold.
    pub(super) fn check_invariants(&self) {
        assert!(self.candidates.len() <= MOST_CANDIDATES + MOST_CONTACTS, "{}", self.candidates.len());
        assert!(self.candidates.is_sorted_by_key(|candidate| candidate.distance));
        assert!(self.contacts.len() + self.contacted.len() <= MOST_CONTACTS);
        assert!(self.asked <= MOST_ASKED && self.credit.len() <= MOST_ASKED && self.unfit_asked <= MOST_UNFIT);
    }
}

/// What a walk over the candidates finds.
struct Survey {
    /// The nearest that may be asked.
    next: Option<usize>,
    /// Those asked and in time.
    busy: usize,
    /// Those answered that count, at most K.
    near: usize,
}

#[cfg(test)]
mod tests;
