//! The pieces that are begun: which block is free, asked of whom, or received from whom.
//!
//! A piece has an owner while a fast peer has it for itself; its blocks are then asked for in order and arrive as one
//! run. A piece without an owner is shared. Pieces with free blocks lie on one of two shelves per level, so that
//! finding one costs no walk over the rest.

use std::collections::{BTreeMap, BTreeSet};

use castanet_core::{PeerKey, PieceIndex};

use super::priority::LEVELS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Free,
    /// Asked of this peer first; further ones stand in [`Partial::copies`].
    Asked(PeerKey),
    Received(PeerKey),
}

/// A piece that is begun.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) blocks: Vec<Block>,
    /// Endgame: who else was asked for a block.
    copies: BTreeSet<(u32, PeerKey)>,
    pub(super) owner: Option<PeerKey>,
    /// It failed before, so one peer alone shall give it: if it fails again, we know who lied.
    pub(super) sole: bool,
    /// `None` once it is to be skipped.
    pub(super) level: Option<usize>,
    pub(super) free: u32,
    pub(super) asked: u32,
    pub(super) received: u32,
    /// No block before this one is free.
    next: u32,
    shelf: Option<(Shelf, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shelf {
    Shared,
    Owned,
}

impl Partial {
    fn new(blocks: u32, level: Option<usize>) -> Self {
        Self {
            blocks: vec![Block::Free; blocks as usize],
            copies: BTreeSet::new(),
            owner: None,
            sole: false,
            level,
            free: blocks,
            asked: 0,
            received: 0,
            next: 0,
            shelf: None,
        }
    }

    /// Is every block here?
    pub(super) fn is_complete(&self) -> bool {
        self.received as usize == self.blocks.len()
    }

    /// Asks `peer` for up to `most` free blocks, the first ones, in order.
    pub(super) fn take_first(&mut self, peer: PeerKey, most: usize, mut taken: impl FnMut(u32)) {
        let most = most.min(self.free as usize);
        for _ in 0..most {
            while self.blocks[self.next as usize] != Block::Free {
                self.next += 1;
            }
            self.ask(self.next, peer);
            taken(self.next);
        }
    }

    /// Asks `peer` for up to `most` free blocks, the last ones, in order: the owner goes on at the front.
    pub(super) fn take_last(&mut self, peer: PeerKey, most: usize, mut taken: impl FnMut(u32)) {
        let free = (0..self.blocks.len() as u32).filter(|&at| self.blocks[at as usize] == Block::Free);
        let last: Vec<u32> = free.skip((self.free as usize).saturating_sub(most)).collect();
        for at in last {
            self.ask(at, peer);
            taken(at);
        }
    }

    fn ask(&mut self, at: u32, peer: PeerKey) {
        self.blocks[at as usize] = Block::Asked(peer);
        self.free -= 1;
        self.asked += 1;
    }

    /// Endgame: asks `peer` too for a block, unless it was asked already or `most` peers were.
    pub(super) fn copy(&mut self, at: u32, peer: PeerKey, most: usize) -> bool {
        let first = self.blocks[at as usize];
        let others = self.copies.range((at, PeerKey(0))..=(at, PeerKey(u64::MAX))).count();
        matches!(first, Block::Asked(other) if other != peer) && 1 + others < most && self.copies.insert((at, peer))
    }

    /// Who has been asked for this block.
    pub(super) fn asked_for(&self, at: u32) -> impl Iterator<Item = PeerKey> + '_ {
        let first = match self.blocks[at as usize] {
            Block::Asked(peer) => Some(peer),
            Block::Free | Block::Received(_) => None,
        };
        first.into_iter().chain(self.copies.range((at, PeerKey(0))..=(at, PeerKey(u64::MAX))).map(|&(_, peer)| peer))
    }

    /// `peer` will not answer this request. A block that nobody else was asked for is free again, and then the piece
    /// is open to all.
    pub(super) fn give_back(&mut self, at: u32, peer: PeerKey) {
        if self.copies.remove(&(at, peer)) || self.blocks[at as usize] != Block::Asked(peer) {
            return;
        }
        if let Some(&next) = self.copies.range((at, PeerKey(0))..=(at, PeerKey(u64::MAX))).next() {
            self.copies.remove(&next);
            self.blocks[at as usize] = Block::Asked(next.1);
            return;
        }
        self.blocks[at as usize] = Block::Free;
        self.asked -= 1;
        self.free += 1;
        self.next = self.next.min(at);
        self.share();
    }

    /// From now on everybody may help.
    pub(super) fn share(&mut self) {
        self.owner = None;
        self.sole = false;
    }

    /// A block has come; `false` if it had come before. The requests for it are forgotten.
    pub(super) fn receive(&mut self, at: u32, peer: PeerKey) -> bool {
        match self.blocks[at as usize] {
            Block::Received(_) => return false,
            Block::Free => self.free -= 1,
            Block::Asked(_) => self.asked -= 1,
        }
        while let Some(&copy) = self.copies.range((at, PeerKey(0))..=(at, PeerKey(u64::MAX))).next() {
            self.copies.remove(&copy);
        }
        self.blocks[at as usize] = Block::Received(peer);
        self.received += 1;
        true
    }

    /// Who gave how many of the blocks that are here.
    pub(super) fn contributors(&self) -> Vec<(PeerKey, u32)> {
        let mut by_peer = BTreeMap::new();
        for block in &self.blocks {
            if let Block::Received(peer) = block {
                *by_peer.entry(*peer).or_insert(0) += 1;
            }
        }
        by_peer.into_iter().collect()
    }

    fn check_invariants(&self) {
        let count = |of: fn(&Block) -> bool| self.blocks.iter().filter(|block| of(block)).count() as u32;
        assert_eq!(self.free, count(|block| matches!(block, Block::Free)));
        assert_eq!(self.asked, count(|block| matches!(block, Block::Asked(_))));
        assert_eq!(self.received, count(|block| matches!(block, Block::Received(_))));
        assert!(self.blocks.iter().take(self.next as usize).all(|block| *block != Block::Free));
        for &(at, peer) in &self.copies {
            assert!(matches!(self.blocks[at as usize], Block::Asked(first) if first != peer), "copy of block {at}");
        }
    }
}

/// All pieces that are begun.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    partials: BTreeMap<PieceIndex, Partial>,
    shared: [BTreeSet<PieceIndex>; LEVELS],
    owned: [BTreeSet<PieceIndex>; LEVELS],
}

impl InFlight {
    pub(super) fn get(&self, piece: PieceIndex) -> Option<&Partial> {
        self.partials.get(&piece)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PieceIndex, &Partial)> {
        self.partials.iter().map(|(&piece, partial)| (piece, partial))
    }

    /// Begins a piece.
    pub(super) fn begin(&mut self, piece: PieceIndex, blocks: u32, level: Option<usize>) {
        self.partials.insert(piece, Partial::new(blocks, level));
        self.shelve(piece);
    }

    /// Changes a piece, if it is begun, and puts it on the shelf where it then belongs.
    pub(super) fn change<T>(&mut self, piece: PieceIndex, change: impl FnOnce(&mut Partial) -> T) -> Option<T> {
        let result = self.partials.get_mut(&piece).map(change);
        self.shelve(piece);
        result
    }

    /// Ends a piece.
    pub(super) fn end(&mut self, piece: PieceIndex) -> Option<Partial> {
        let partial = self.partials.remove(&piece)?;
        self.unshelve(piece, partial.shelf);
        Some(partial)
    }

    /// Pieces of a level that have free blocks and no owner, in order.
    pub(super) fn shared(&self, level: usize) -> &BTreeSet<PieceIndex> {
        &self.shared[level]
    }

    /// Pieces of a level that have free blocks and an owner, in order.
    pub(super) fn owned(&self, level: usize) -> &BTreeSet<PieceIndex> {
        &self.owned[level]
    }

    fn shelve(&mut self, piece: PieceIndex) {
        let Some(partial) = self.partials.get_mut(&piece) else { return };
        let shelf = if partial.owner.is_some() { Shelf::Owned } else { Shelf::Shared };
        let now = partial.level.filter(|_| partial.free > 0).map(|level| (shelf, level));
        let was = std::mem::replace(&mut partial.shelf, now);
        if was != now {
            self.unshelve(piece, was);
            match now {
                Some((Shelf::Shared, level)) => self.shared[level].insert(piece),
                Some((Shelf::Owned, level)) => self.owned[level].insert(piece),
                None => false,
            };
        }
    }

    fn unshelve(&mut self, piece: PieceIndex, shelf: Option<(Shelf, usize)>) {
        match shelf {
            Some((Shelf::Shared, level)) => self.shared[level].remove(&piece),
            Some((Shelf::Owned, level)) => self.owned[level].remove(&piece),
            None => false,
        };
    }

    /// Panics if counts or shelves disagree with the blocks. For tests; looks at everything.
    pub(super) fn check_invariants(&self) {
        let mut shelved = 0;
        for (piece, partial) in &self.partials {
            partial.check_invariants();
            if let (Some(level), true) = (partial.level, partial.free > 0) {
                let shelf = if partial.owner.is_some() { &self.owned } else { &self.shared };
                assert!(shelf[level].contains(piece), "piece {piece} is on its shelf");
                shelved += 1;
            }
        }
        assert_eq!(shelved, self.shared.iter().chain(&self.owned).map(BTreeSet::len).sum::<usize>());
    }
}
