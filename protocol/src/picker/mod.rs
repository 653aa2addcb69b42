//! Which blocks to ask of which peer (BEP 3; allowed fast of BEP 6).
//!
//! The picker of one torrent knows what every peer holds, which pieces are wanted, and which block was asked of whom.
//! It is told what happens and is asked for work; it sends nothing and knows no clock. In order of preference a peer
//! gets (`pick`):
//! 1. blocks of the piece that it has for itself (a fast peer gets whole pieces, in order: one run for disk and hash);
//! 2. per priority, blocks of a begun piece that nobody has for himself, then a new piece: at random for the first
//!    few, then the rarest (`rarity`), among equals what the peer suggests (`suggest`), or the first in sequential
//!    mode;
//! 3. the last blocks of a piece that another peer has for itself;
//! 4. in endgame, blocks that others were asked for and still owe (`endgame`).
//!
//! Costs: a Have, a seed that joins or leaves, and a block cost O(log n) in peers and begun pieces and nothing in
//! pieces; a bitfield costs O(its pieces); a new piece is O(1) for a seed and at worst a few hundred looks and a word
//! for every 64 pieces for others; a passed piece costs a look at each peer that is no seed, as announcing it does.

mod answer;
mod endgame;
mod in_flight;
mod peers;
mod pick;
mod priority;
mod rarity;
mod suggest;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeMap;

use castanet_core::{Bitfield, BlockRef, Geometry, PeerKey, PieceIndex};

use self::{
    in_flight::{Block, InFlight},
    peers::{Held, Peer},
    priority::LEVELS,
    rarity::Rarity,
};
pub use self::{priority::Priority, suggest::MOST_SUGGESTED};

/// What can be tuned in a [`Picker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickerConfig {
    /// Pieces taken at random before rarest first begins. 4: a newcomer needs something to trade at once, and the
    /// rarest pieces come slowly because few have them.
    pub random_first: u32,
    /// A peer that gives a piece within this many seconds gets it for itself. 20: short enough that nobody waits for
    /// the piece, long enough that common connections get whole 4 MiB pieces.
    pub whole_piece_seconds: u64,
    /// The rate taken for a peer whose rate is not known yet, in bytes a second. 64 KiB: slow connections are rarer
    /// than pieces under a MiB, which such a peer then gets for itself.
    pub assumed_rate: u64,
    /// Pieces with free blocks that may be begun, per level of priority: this many, and `partials_per_peer` more for
    /// each peer, up to [`MOST_PARTIALS`]. 8: a few peers that come and go need some slack.
    pub partials: usize,
    /// 2: one piece in the making for each peer, and one that its predecessor left behind.
    pub partials_per_peer: usize,
    /// How many peers may be asked for one block in endgame. 3: two peers in a row may fail us, and more than two
    /// superfluous blocks of 16 KiB are not worth the time won.
    pub endgame_copies: usize,
}

/// Pieces with free blocks that may be begun on one level of priority, however many the peers: it bounds the fragments
/// on disk and the walk over them.
pub const MOST_PARTIALS: usize = 2048;

impl Default for PickerConfig {
    fn default() -> Self {
        Self {
            random_first: 4,
            whole_piece_seconds: 20,
            assumed_rate: 64 * 1024,
            partials: 8,
            partials_per_peer: 2,
            endgame_copies: 3,
        }
    }
}

/// What a block that came in means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It was missing: keep it.
    Fresh {
        /// It was the last of its piece, which can be checked now.
        piece_complete: bool,
    },
    /// It was asked for, but is here already (endgame, or late): drop it, nobody is to blame.
    Duplicate,
    /// It was never asked of this peer: drop it.
    Unexpected,
}

/// How well the swarm holds the torrent, ourselves not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Availability {
    /// Peers that hold everything.
    pub seeds: u32,
    /// Copies of the rarest piece.
    pub min_copies: u32,
    /// `min_copies`, and the share of the pieces that have more than these: below 1, something is missing.
    pub distributed_copies: f64,
}

/// What the peers could still give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Wanted pieces that are missing and that nobody holds.
    pub unheld: u32,
    /// Peers that hold nothing of what is missing.
    pub useless: Vec<PeerKey>,
}

/// A piece that is begun, for show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialPiece {
    /// Which.
    pub piece: PieceIndex,
    /// Blocks in it.
    pub blocks: u32,
    /// Blocks that are here.
    pub received: u32,
    /// Blocks that somebody was asked for.
    pub asked: u32,
}

/// The picker of one torrent.
#[derive(Debug)]
pub struct Picker {
    geometry: Geometry,
    config: PickerConfig,
    random: fastrand::Rng,
    sequential: bool,
    have: Bitfield,
    /// Wanted and not had.
    missing: Bitfield,
    /// The bytes of `missing`.
    left: u64,
    priorities: Vec<Priority>,
    rarity: Rarity,
    in_flight: InFlight,
    /// How often a piece failed that has not passed since.
    failures: BTreeMap<PieceIndex, u32>,
    peers: BTreeMap<PeerKey, Peer>,
    seeds: u32,
    /// Grows whenever a piece becomes open, so that a peer for which none was found need not be searched again.
    openings: u64,
    /// As a seed: the pieces that were not suggested to anyone yet, in random order. Made when it is first needed.
    unspread: Option<Vec<PieceIndex>>,
}

impl Picker {
    /// A picker that has these pieces and wants the rest. A `have` of the wrong length counts as nothing. The same
    /// seed and the same calls give the same picks.
    pub fn new(geometry: Geometry, have: Bitfield, seed: u64) -> Self {
        Self::with_config(geometry, have, seed, PickerConfig::default())
    }

    /// As [`Picker::new`], tuned.
    pub fn with_config(geometry: Geometry, have: Bitfield, seed: u64, config: PickerConfig) -> Self {
        let pieces = geometry.pieces();
        let have = if have.len() == pieces { have } else { Bitfield::new(pieces) };
        let mut picker = Self {
            geometry,
            config,
            random: fastrand::Rng::with_seed(seed),
            sequential: false,
            missing: Bitfield::new(pieces),
            left: 0,
            priorities: vec![Priority::Normal; pieces as usize],
            rarity: Rarity::new(pieces),
            in_flight: InFlight::default(),
            failures: BTreeMap::new(),
            peers: BTreeMap::new(),
            seeds: 0,
            openings: 0,
            unspread: None,
            have,
        };
        geometry.all_pieces().for_each(|piece| picker.want(piece));
        picker
    }

    /// The pieces that passed their check.
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Bytes of the wanted pieces that have not passed. Blocks that are here do not count before their piece passed.
    pub fn left_bytes(&self) -> u64 {
        self.left
    }

    /// Did all wanted pieces pass?
    pub fn is_complete(&self) -> bool {
        self.missing.is_none()
    }

    /// Has this peer something that is wanted and missing? O(log peers).
    pub fn is_interesting(&self, peer: PeerKey) -> bool {
        self.peers.get(&peer).is_some_and(|peer| match peer.held {
            Held::None => false,
            Held::All => !self.missing.is_none(),
            Held::Some(_) => peer.useful > 0,
        })
    }

    /// How much a piece is wanted; [`Priority::Skip`] if there is none such.
    pub fn priority(&self, piece: PieceIndex) -> Priority {
        self.priorities.get(piece.index()).copied().unwrap_or(Priority::Skip)
    }

    /// Are pieces taken in order?
    pub fn is_sequential(&self) -> bool {
        self.sequential
    }

    /// Takes new pieces in order (for watching while it loads) instead of rarest first; priorities still go first.
    pub fn set_sequential(&mut self, sequential: bool) {
        self.sequential = sequential;
    }

    /// Requests that this peer has not answered.
    pub fn outstanding(&self, peer: PeerKey) -> usize {
        self.peers.get(&peer).map_or(0, |peer| peer.asked.len())
    }

    /// Blocks of this piece that are here: all if it passed.
    pub fn blocks_received(&self, piece: PieceIndex) -> u32 {
        if self.have.has(piece) {
            return self.geometry.blocks_in(piece);
        }
        self.in_flight.get(piece).map_or(0, |partial| partial.received)
    }

    /// Is this very block here, or its whole piece? `false` for a range that is no block.
    pub fn has_block(&self, block: BlockRef) -> bool {
        let Some(index) = self.geometry.index_of(block) else { return false };
        let received = |block: &Block| matches!(block, Block::Received(_));
        self.have.has(block.piece)
            || self.in_flight.get(block.piece).is_some_and(|partial| received(&partial.blocks[index as usize]))
    }

    /// The pieces that are begun and have not passed, in order.
    pub fn partials(&self) -> impl Iterator<Item = PartialPiece> + '_ {
        self.in_flight.iter().map(|(piece, partial)| PartialPiece {
            piece,
            blocks: partial.blocks.len() as u32,
            received: partial.received,
            asked: partial.asked,
        })
    }

    /// How well the peers hold the torrent. O(largest number of copies).
    pub fn availability(&self) -> Availability {
        let pieces = self.geometry.pieces();
        let pieces_with = self.rarity.pieces_with();
        let rarest = pieces_with.iter().position(|&count| count > 0).unwrap_or(0);
        let more = pieces - pieces_with.get(rarest).copied().unwrap_or(0).min(pieces);
        let min_copies = self.seeds + rarest as u32;
        let share = if pieces == 0 { 0.0 } else { f64::from(more) / f64::from(pieces) };
        Availability { seeds: self.seeds, min_copies, distributed_copies: f64::from(min_copies) + share }
    }

    /// Copies of a piece among the peers; 0 if there is none such.
    pub fn copies(&self, piece: PieceIndex) -> u32 {
        if self.geometry.contains(piece) { self.seeds + self.rarity.copies(piece) } else { 0 }
    }

    /// What the peers could still give. O(missing pieces).
    pub fn survey(&self) -> Survey {
        let nobody_has = |piece: &PieceIndex| self.copies(*piece) == 0;
        let unheld = self.missing.iter().filter(nobody_has).count() as u32;
        let useless = self.peers.keys().copied().filter(|peer| !self.is_interesting(*peer)).collect();
        Survey { unheld, useless }
    }

    /// Panics if anything kept incrementally differs from what follows from the rest. For tests: it looks at
    /// everything.
    pub fn check_invariants(&self) {
        self.rarity.check_invariants();
        self.in_flight.check_invariants();
        let missing = || self.missing.iter();
        assert_eq!(self.left, missing().map(|piece| u64::from(self.geometry.length_of(piece))).sum::<u64>());
        for piece in self.geometry.all_pieces() {
            let wanted = self.priority(piece) != Priority::Skip && !self.have.has(piece);
            assert_eq!(self.missing.has(piece), wanted, "piece {piece} is missing");
            let begun = self.in_flight.get(piece);
            assert_eq!(self.rarity.is_open(piece), wanted && begun.is_none(), "piece {piece} is open");
            assert!(begun.is_none_or(|partial| !self.have.has(piece) && partial.asked + partial.received > 0));
            assert!(begun.is_none_or(|partial| partial.level == self.priority(piece).level()));
            if let Some(owner) = begun.filter(|partial| partial.free > 0).and_then(|partial| partial.owner) {
                assert_eq!(self.peers.get(&owner).and_then(|peer| peer.own), Some(piece), "{owner:?} owns {piece}");
            }
            let holders = self.peers.values().filter(|peer| peer.held.has(piece)).count();
            assert_eq!(self.copies(piece) as usize, holders, "copies of piece {piece}");
        }
        for (key, peer) in &self.peers {
            if let Held::Some(_) = peer.held {
                assert_eq!(peer.useful, peer.held.count_in(&self.missing), "useful pieces of {key:?}");
            }
            let is_dry = peer.dry_at == Some(self.openings);
            let nothing = || (0..LEVELS).all(|level| self.rarity.first(level, &peer.held).is_none());
            assert!(!is_dry || nothing(), "{key:?} counts as dry but is not");
            for &(piece, at) in &peer.asked {
                let partial = self.in_flight.get(piece).expect("only begun pieces are asked for");
                assert!(partial.asked_for(at).any(|asked| asked == *key), "request of {key:?}");
            }
        }
        let asked = self
            .in_flight
            .iter()
            .flat_map(|(_, partial)| (0..partial.blocks.len() as u32).map(|at| partial.asked_for(at).count()));
        assert_eq!(asked.sum::<usize>(), self.peers.values().map(|peer| peer.asked.len()).sum::<usize>());
    }
}
