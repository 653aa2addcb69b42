//! Endgame (BEP 3): when everything missing is asked for, idle peers are asked for what others still owe, so that one
//! slow peer does not hold up the end. The first answer wins; the others get a cancel.
//!
//! A small torrent is all endgame, and would come twice: so a copy is asked for only where it will come first. Of a much
//! slower peer that is all it owes; of others what waits behind their next block, one at a time and only for a peer that
//! owes nothing itself. Who has asked for work in vain a few times, a second apart, may have the next blocks, too.

use std::cmp::Reverse;

use castanet_core::{BlockRef, PeerKey, PieceIndex};

use super::{Picker, peers::Peer, priority::LEVELS};

/// So often a peer asks in vain before those are copied that may be on their way.
const PATIENCE: u8 = 3;

impl Picker {
    /// Is every block that is wanted, missing and held by some peer asked for?
    pub fn is_endgame(&self) -> bool {
        let held = |piece: &PieceIndex| self.copies(*piece) > 0;
        let mut free =
            (0..LEVELS).flat_map(|level| self.in_flight.shared(level).iter().chain(self.in_flight.owned(level)));
        !self.is_complete() && !self.rarity.has_available(self.seeds) && !free.any(held)
    }

    /// Appends blocks that others owe, if it is endgame: of whoever needs most time for what it owes first, its last first.
    /// O(peers log peers + requests).
    pub(super) fn pick_copies(&mut self, peer: PeerKey, room: usize, out: &mut Vec<BlockRef>) {
        if !self.is_endgame() {
            return;
        }
        let Some(state) = self.peers.get(&peer) else { return };
        let (is_idle, is_patient) = (state.asked.is_empty(), state.in_vain < PATIENCE);
        let others = self.peers.iter().filter(|&(&other, state)| other != peer && !state.asked.is_empty());
        let needs = |state: &Peer| Reverse((state.asked.len() as u64).saturating_mul(1 << 30) / state.rate.max(1));
        let mut others: Vec<_> = others.map(|(&other, state)| (needs(state), other)).collect();
        others.sort_unstable();
        let from = out.len();
        for (_, other) in others {
            let owes = &self.peers[&other];
            let is_slow = state.is_much_faster(owes);
            let most = if is_slow { room } else { room.min(usize::from(is_idle)) };
            let queued = owes.asked.len() - usize::from(!is_slow && is_patient);
            for &(piece, at) in owes.asked.iter().rev().take(queued) {
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
        if let (true, Some(state)) = (is_idle, self.peers.get_mut(&peer)) {
            state.in_vain = state.in_vain.saturating_add(1);
        }
        self.note_asked(peer, &out[from..]);
    }
}
