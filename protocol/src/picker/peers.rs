//! What the picker knows of one peer: what it holds, what it was asked for and has not answered; peers come and go.

use std::collections::VecDeque;

use castanet_core::{Bitfield, PeerKey, PieceIndex};

use super::{Picker, suggest::Suggestions};
use crate::peer::Haves;

/// Blocks remembered per peer that were taken back or cancelled but may still arrive.
const MOST_LATE: usize = 512;

/// What a peer holds. The two common cases take no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing.
    None,
    /// Everything: a seed.
    All,
    /// Something, but not everything.
    Some(Bitfield),
}

impl Held {
    /// Does the peer hold this piece of the torrent?
    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(pieces) => pieces.has(piece),
        }
    }
    /// The first piece of `set` at or after `from` that the peer holds.
    pub(super) fn next(&self, set: &Bitfield, from: PieceIndex) -> Option<PieceIndex> {
        match self {
            Self::None => None,
            Self::All => set.next(from),
            Self::Some(pieces) => set.next_common(pieces, from),
        }
    }
    /// How many pieces of `set` the peer holds.
    pub(super) fn count_in(&self, set: &Bitfield) -> u32 {
        match self {
            Self::None => 0,
            Self::All => set.count(),
            Self::Some(pieces) => set.count_common(pieces),
        }
    }
}

/// A block by its piece and its index within the piece.
pub(super) type Slot = (PieceIndex, u32);

/// How a block relates to the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is expected.
    InTime,
    /// It was given up or cancelled.
    Late,
}

/// A peer that is so many times as slow as another is much slower.
const MUCH_SLOWER: u64 = 2;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) held: Held,
    /// How many pieces it holds that are wanted and missing; kept only for [`Held::Some`].
    pub(super) useful: u32,
    /// Its rate when it last picked, in bytes per second, known or assumed.
    pub(super) rate: u64,
    pub(super) is_rate_known: bool,
    /// How often in a row there was nothing for it in endgame.
    pub(super) in_vain: u8,
    /// The piece that it has for itself and that has blocks left to ask for.
    pub(super) own: Option<PieceIndex>,
    /// No open piece was found for it when the picker's `openings` were this many.
    pub(super) dry_at: Option<u64>,
    /// Blocks asked and not answered, oldest first.
    pub(super) asked: VecDeque<Slot>,
    /// Blocks that are no longer expected but are no offence, oldest first.
    late: VecDeque<Slot>,
    pub(super) suggestions: Suggestions,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            held: Held::None,
            useful: 0,
            rate: 0,
            is_rate_known: false,
            in_vain: 0,
            own: None,
            dry_at: None,
            asked: VecDeque::new(),
            late: VecDeque::new(),
            suggestions: Suggestions::default(),
        }
    }

    /// Is the other so much slower that it does not keep this one waiting? A rate that is only assumed is no proof.
    pub(super) fn is_much_faster(&self, other: &Self) -> bool {
        self.is_rate_known && other.rate.saturating_mul(MUCH_SLOWER) <= self.rate
    }

    /// Strikes a request off; `false` if there is none such. Cheap when blocks come in the order asked.
    pub(super) fn strike(&mut self, slot: Slot) -> bool {
        let at = self.asked.iter().position(|&asked| asked == slot);
        at.is_some_and(|at| self.asked.remove(at).is_some())
    }

    /// Strikes a request off, but forgives the answer if it comes after all.
    pub(super) fn excuse(&mut self, slot: Slot) -> bool {
        let was_asked = self.strike(slot);
        if was_asked {
            if self.late.len() == MOST_LATE {
                self.late.pop_front();
            }
            self.late.push_back(slot);
        }
        was_asked
    }

    /// A block came: was it asked for, now or earlier?
    pub(super) fn answers(&mut self, slot: Slot) -> Option<Answer> {
        if self.strike(slot) {
            return Some(Answer::InTime);
        }
        let at = self.late.iter().position(|&late| late == slot)?;
        self.late.remove(at).map(|_| Answer::Late)
    }
}

impl Picker {
    /// A peer came; what it holds is told by [`Picker::peer_has`].
    pub fn peer_joined(&mut self, peer: PeerKey) {
        self.peers.entry(peer).or_insert_with(Peer::new);
    }

    /// A peer holds these pieces besides those it is known to hold. Returns whether it is interesting now. Pieces
    /// that there are not, and peers that have not joined, are ignored.
    pub fn peer_has(&mut self, peer: PeerKey, haves: &Haves) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        let pieces = self.geometry.pieces();
        if state.held != Held::All {
            let mut held = match std::mem::replace(&mut state.held, Held::None) {
                Held::Some(held) => held,
                Held::None | Held::All => Bitfield::new(pieces),
            };
            let mut add = |piece: PieceIndex| {
                if held.set(piece) {
                    self.rarity.gain(piece);
                    state.useful += u32::from(self.missing.has(piece));
                }
            };
            let all = match haves {
                Haves::None => false,
                Haves::All => true,
                Haves::Bitfield(had) if had.is_full() && had.len() == pieces => true,
                Haves::Bitfield(had) => {
                    had.iter().for_each(&mut add);
                    false
                }
                Haves::Pieces(had) => {
                    had.iter().copied().for_each(&mut add);
                    false
                }
            };
            state.dry_at = None;
            if all || (held.is_full() && pieces > 0) {
                held.iter().for_each(|piece| self.rarity.lose(piece));
                self.seeds += 1;
                state.held = Held::All;
            } else if !held.is_none() {
                state.held = Held::Some(held);
            }
        }
        self.is_interesting(peer)
    }

    /// A peer left: what it was asked for goes back, what it gave stays.
    pub fn peer_left(&mut self, peer: PeerKey) {
        let asked: Vec<Slot> = self.peers.get(&peer).map_or(Vec::new(), |peer| peer.asked.iter().copied().collect());
        for slot in asked {
            self.take_back(peer, slot);
        }
        self.disown(peer);
        let left = self.peers.remove(&peer);
        if let Some(left) = &left {
            self.unsuggest(&left.suggestions);
        }
        match left.map(|peer| peer.held) {
            Some(Held::All) => self.seeds -= 1,
            Some(Held::Some(held)) => held.iter().for_each(|piece| self.rarity.lose(piece)),
            Some(Held::None) | None => {}
        }
    }
}
