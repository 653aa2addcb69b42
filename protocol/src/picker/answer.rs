//! What became of what was asked: blocks come in, or are given up.

use castanet_core::{BlockRef, PeerKey};

use super::{
    Picker, Received,
    peers::{Answer, Slot},
};

impl Picker {
    /// A block came from a peer. Appends to `cancels` who else was asked for it and need not send it any more.
    ///
    /// A block that was given up as lost is still welcome when it comes late, so a peer slower than our patience
    /// gets on. Only [`Received::Fresh`] blocks may be kept.
    pub fn received(&mut self, peer: PeerKey, block: BlockRef, cancels: &mut Vec<(PeerKey, BlockRef)>) -> Received {
        let Some(at) = self.geometry.index_of(block) else { return Received::Unexpected };
        let slot = (block.piece, at);
        let Some(answer) = self.peers.get_mut(&peer).and_then(|state| state.answers(slot)) else {
            return Received::Unexpected;
        };
        if self.have.has(block.piece) {
            return Received::Duplicate;
        }
        match self.in_flight.get(block.piece) {
            // Given up meanwhile.
            None => self.begin(peer, block.piece, false),
            Some(_) if answer == Answer::Late && !self.is_open_to(peer, block.piece) => return Received::Duplicate,
            Some(_) => {}
        }
        let mut others = Vec::new();
        let (fresh, piece_complete) = self
            .in_flight
            .change(block.piece, |partial| {
                others.extend(partial.asked_for(at).filter(|&other| other != peer));
                (partial.receive(at, peer), partial.is_complete())
            })
            .unwrap_or_default();
        for other in others {
            if self.peers.get_mut(&other).is_some_and(|state| state.excuse(slot)) {
                cancels.push((other, block));
            }
        }
        if fresh { Received::Fresh { piece_complete } } else { Received::Duplicate }
    }

    /// A peer will not answer these requests (it choked us, rejected them or was too slow): others may be asked.
    /// What was not asked of it is ignored.
    pub fn lost(&mut self, peer: PeerKey, blocks: &[BlockRef]) {
        for &block in blocks {
            if let Some(at) = self.geometry.index_of(block) {
                self.take_back(peer, (block.piece, at));
            }
        }
    }

    /// One request goes back; a piece of which nothing is here or asked any more is open again.
    pub(super) fn take_back(&mut self, peer: PeerKey, (piece, at): Slot) {
        if !self.peers.get_mut(&peer).is_some_and(|state| state.excuse((piece, at))) {
            return;
        }
        let is_empty = self.in_flight.change(piece, |partial| {
            partial.give_back(at, peer);
            partial.asked + partial.received == 0
        });
        if is_empty == Some(true) {
            self.in_flight.end(piece);
            self.want(piece);
        }
    }
}
