//! Endgame (BEP 3): when everything missing is asked for, idle peers are asked for what others still owe, so that one
//! slow peer does not hold up the end. The first answer wins; the others get a cancel. Peers of about the same speed
//! copy each other's blocks one at a time, and only when they owe nothing themselves: a small torrent is all endgame, and would
//! come twice.

use castanet_core::{BlockRef, PeerKey, PieceIndex};

use super::{Picker, priority::LEVELS};

/// A peer so many times as slow as another does not keep it waiting.
const MUCH_SLOWER: u64 = 2;

impl Picker {
    /// Is every block that is wanted, missing and held by some peer asked for?
    pub fn is_endgame(&self) -> bool {
        let held = |piece: &PieceIndex| self.copies(*piece) > 0;
        let mut free =
            (0..LEVELS).flat_map(|level| self.in_flight.shared(level).iter().chain(self.in_flight.owned(level)));
        !self.is_complete() && !self.rarity.has_available(self.seeds) && !free.any(held)
    }

    /// Appends blocks that others owe, if it is endgame: those of the slowest peer first, its oldest first. As many as there is
    /// room for of peers that are much slower, of others one, and only of who owes nothing itself.
    /// O(peers log peers + requests).
    pub(super) fn pick_copies(&mut self, peer: PeerKey, room: usize, out: &mut Vec<BlockRef>) {
        if !self.is_endgame() {
            return;
        }
        let Some(state) = self.peers.get(&peer) else { return };
        let others = self.peers.iter().filter(|&(&other, state)| other != peer && !state.asked.is_empty());
        let mut others: Vec<_> = others.map(|(&other, state)| (state.rate, other)).collect();
        others.sort_unstable();
        let (from, is_idle) = (out.len(), state.asked.is_empty());
        for &(rate, other) in &others {
            let is_slow = rate.saturating_mul(MUCH_SLOWER) <= state.rate;
            let most = if is_slow { room } else { room.min(usize::from(is_idle)) };
            for &(piece, at) in &self.peers[&other].asked {
                if out.len() - from >= most {
                    break;
                }
                if state.held.has(piece) && self.missing.has(piece) && !self.is_reserved(piece) {
                    let most = self.config.endgame_copies;
                    if self.in_flight.change(piece, |partial| partial.copy(at, peer, most)) == Some(true) {
                        out.push(self.geometry.block(piece, at));
                    }
                }
            }
        }
        self.note_asked(peer, &out[from..]);
    }
}
