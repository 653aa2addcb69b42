//! Suggestions (BEP 6): how one seed spreads a torrent over many peers without sending the same piece twice.
//!
//! Peers that ask at the same time do not know what the others are being sent, and draw the same pieces. So a seed
//! suggests every piece that nobody else has to one peer, and only as many at a time as that peer gets done: one more for
//! each that it completes. A suggestion binds nobody: it decides among pieces that are equally rare.

use std::collections::{BTreeSet, VecDeque};

use castanet_core::{PeerKey, PieceIndex};

use super::{Held, Picker, priority::LEVELS};

/// Suggestions of a peer that we remember; beyond, the oldest are forgotten.
pub const MOST_SUGGESTED: usize = 64;
/// Pieces suggested to a peer that has not shown yet how fast it is.
const FIRST_AHEAD: usize = 8;

/// The suggestions between us and one peer.
#[derive(Debug)]
pub(super) struct Suggestions {
    /// What it suggests, oldest first.
    theirs: VecDeque<PieceIndex>,
    /// What we suggest and it does not have yet.
    ours: BTreeSet<PieceIndex>,
    /// How many these may be.
    ahead: usize,
}

impl Default for Suggestions {
    fn default() -> Self {
        Self { theirs: VecDeque::new(), ours: BTreeSet::new(), ahead: FIRST_AHEAD }
    }
}

impl Picker {
    /// A peer would like to be asked for this piece.
    pub fn suggested(&mut self, peer: PeerKey, piece: PieceIndex) {
        let Some(state) = self.peers.get_mut(&peer).filter(|_| self.missing.has(piece)) else { return };
        if state.suggestions.theirs.len() == MOST_SUGGESTED {
            state.suggestions.theirs.pop_front();
        }
        state.suggestions.theirs.push_back(piece);
    }

    /// What to suggest to a peer now, after something was heard of what it has: nothing unless we are a seed.
    pub fn suggest(&mut self, peer: PeerKey, out: &mut Vec<PieceIndex>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !self.have.is_full() || state.held == Held::All {
            return;
        }
        let Suggestions { ours, ahead, .. } = &mut state.suggestions;
        let open = ours.len();
        ours.retain(|piece| !state.held.has(*piece));
        *ahead = (*ahead + open - ours.len()).min(MOST_SUGGESTED);
        let unspread = self.unspread.get_or_insert_with(|| {
            let mut pieces: Vec<_> = self.geometry.all_pieces().collect();
            self.random.shuffle(&mut pieces);
            pieces
        });
        while ours.len() < *ahead
            && let Some(piece) = unspread.pop()
        {
            if self.rarity.copies(piece) == 0 {
                ours.insert(piece);
                out.push(piece);
            }
        }
    }

    /// A peer left: what was suggested to it may be suggested to others.
    pub(super) fn unsuggest(&mut self, left: &Suggestions) {
        if let Some(unspread) = &mut self.unspread {
            unspread.extend(&left.ours);
        }
    }

    /// Of what a peer suggests, the first piece that is open on this level.
    pub(super) fn open_suggestion(&self, peer: PeerKey, level: usize) -> Option<PieceIndex> {
        debug_assert!(level < LEVELS);
        let state = self.peers.get(&peer)?;
        let is_open = |piece: &PieceIndex| {
            self.rarity.is_open(*piece) && self.priority(*piece).level() == Some(level) && state.held.has(*piece)
        };
        state.suggestions.theirs.iter().copied().find(is_open)
    }
}

#[cfg(test)]
mod tests {
    use castanet_core::{Bitfield, Geometry};

    use super::*;
    use crate::peer::Haves;

    const PIECES: u32 = 40;
    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    fn picker(have: Bitfield) -> Picker {
        let geometry = Geometry::new(u64::from(PIECES) * 16_384, 16_384).unwrap();
        let mut picker = Picker::new(geometry, have, 1);
        for peer in [A, B] {
            picker.peer_joined(peer);
        }
        picker
    }

    fn suggest(picker: &mut Picker, to: PeerKey) -> Vec<PieceIndex> {
        let mut out = Vec::new();
        picker.suggest(to, &mut out);
        out
    }

    #[test]
    fn a_seed_suggests_each_piece_once_and_more_to_the_fast() {
        let mut seed = picker(Bitfield::full(PIECES));
        let (to_a, to_b) = (suggest(&mut seed, A), suggest(&mut seed, B));
        assert_eq!((to_a.len(), to_b.len()), (FIRST_AHEAD, FIRST_AHEAD));
        assert!(to_a.iter().all(|piece| !to_b.contains(piece)));
        assert_eq!(suggest(&mut seed, A), [], "it has enough to do");
        seed.peer_has(A, &Haves::Pieces(to_a[..3].to_vec()));
        let more = suggest(&mut seed, A);
        assert_eq!(more.len(), 6, "for each that it completes one in its place and one more");
        seed.peer_left(A);
        let rest: BTreeSet<_> = std::iter::repeat_with(|| {
            let to_b: Vec<_> = seed.peers[&B].suggestions.ours.iter().copied().collect();
            seed.peer_has(B, &Haves::Pieces(to_b));
            suggest(&mut seed, B)
        })
        .take_while(|more| !more.is_empty())
        .flatten()
        .collect();
        assert_eq!(rest.len(), PIECES as usize - to_b.len() - 3, "what A left undone, too");
        assert!(rest.is_superset(&more.into_iter().collect()));
    }

    #[test]
    fn who_is_no_seed_suggests_nothing_and_seeds_need_nothing() {
        assert_eq!(suggest(&mut picker(Bitfield::new(PIECES)), A), []);
        let mut seed = picker(Bitfield::full(PIECES));
        seed.peer_has(A, &Haves::All);
        assert_eq!(suggest(&mut seed, A), []);
        assert_eq!(suggest(&mut seed, PeerKey(9)), []);
    }

    #[test]
    fn a_suggestion_decides_among_equals_only() {
        let mut leech = picker(Bitfield::new(PIECES));
        leech.peer_has(A, &Haves::All);
        leech.peer_has(B, &Haves::Pieces(vec![PieceIndex(7)]));
        (0..4).for_each(|piece| drop(leech.piece_passed(PieceIndex(piece))));
        for piece in [999, 2, 7, 9, 8] {
            leech.suggested(A, PieceIndex(piece));
        }
        let mut blocks = Vec::new();
        leech.pick(A, 2, Some(1 << 20), &mut blocks);
        leech.check_invariants();
        let picked: Vec<_> = blocks.iter().map(|block| block.piece.0).collect();
        assert_eq!(picked.len(), 2);
        assert!(!picked.contains(&2) && !picked.contains(&7), "one is here, the other is not rare: {picked:?}");
        assert!(leech.open_suggestion(A, 1).is_some());
    }

    #[test]
    fn suggestions_are_bounded() {
        let mut leech = picker(Bitfield::new(PIECES));
        (0..1000).for_each(|n| leech.suggested(A, PieceIndex(n % PIECES)));
        assert_eq!(leech.peers[&A].suggestions.theirs.len(), MOST_SUGGESTED);
        leech.suggested(PeerKey(9), PieceIndex(1));
    }
}
