//! Pieces become wanted, pass, fail and are lost: what is missing, open and interesting follows here.

use std::ops::Range;

use castanet_core::{PeerKey, PieceIndex};

use super::{Held, Picker, Priority, in_flight::Partial};

impl Picker {
    /// Sets how much a range of pieces is wanted, one per `n..n + 1`; the part beyond the last piece is ignored.
    ///
    /// Blocks already asked for still come and count. Interest may change for any peer: ask
    /// [`Picker::is_interesting`] again. O(pieces in the range), and a word for every 64 pieces and peer that is no
    /// seed if it changes what is skipped.
    pub fn set_priority(&mut self, pieces: Range<u32>, priority: Priority) {
        let mut changed = false;
        for piece in (pieces.start..pieces.end.min(self.geometry.pieces())).map(PieceIndex) {
            let was = std::mem::replace(&mut self.priorities[piece.index()], priority);
            if was == priority || self.have.has(piece) {
                continue;
            }
            changed |= was == Priority::Skip || priority == Priority::Skip;
            self.unwant(piece);
            self.in_flight.change(piece, |partial| partial.level = priority.level());
            self.want(piece);
        }
        if changed {
            let peers = self.peers.values_mut().filter(|peer| matches!(peer.held, Held::Some(_)));
            peers.for_each(|peer| peer.useful = peer.held.count_in(&self.missing));
        }
    }

    /// A piece passed its check. Returns the peers that are no longer interesting because of it.
    #[must_use = "peers must be told that we lost interest"]
    pub fn piece_passed(&mut self, piece: PieceIndex) -> Vec<PeerKey> {
        if !self.geometry.contains(piece) || self.have.has(piece) {
            return Vec::new();
        }
        self.drop_partial(piece);
        self.failures.remove(&piece);
        self.have.set(piece);
        let was_missing = self.missing.has(piece);
        self.unwant(piece);
        if !was_missing {
            return Vec::new();
        }
        let mut bored = Vec::new();
        for (&key, peer) in &mut self.peers {
            let (held_it, useful) = match &peer.held {
                Held::None => continue,
                Held::All => (true, self.missing.count()),
                Held::Some(pieces) if pieces.has(piece) => {
                    peer.useful -= 1;
                    (true, peer.useful)
                }
                Held::Some(_) => (false, peer.useful),
            };
            if held_it && useful == 0 {
                bored.push(key);
            }
        }
        bored
    }

    /// A piece is on disk after all, as a check found: as if it had been downloaded. Returns the peers that are no
    /// longer interesting because of it.
    pub fn add_have(&mut self, piece: PieceIndex) -> Vec<PeerKey> {
        self.piece_passed(piece)
    }

    /// A piece failed its check: it is open again. Returns who gave how many of its blocks. A single one is guilty;
    /// of several we cannot know, so next time one peer gets the piece for itself.
    pub fn piece_failed(&mut self, piece: PieceIndex) -> Vec<(PeerKey, u32)> {
        let Some(partial) = self.drop_partial(piece) else { return Vec::new() };
        *self.failures.entry(piece).or_insert(0) += 1;
        self.want(piece);
        partial.contributors()
    }

    /// Who gave how many of the blocks of a begun piece.
    pub fn contributors(&self, piece: PieceIndex) -> Vec<(PeerKey, u32)> {
        self.in_flight.get(piece).map_or(Vec::new(), Partial::contributors)
    }

    /// How often this piece failed since it was last had.
    pub fn failures(&self, piece: PieceIndex) -> u32 {
        self.failures.get(&piece).copied().unwrap_or(0)
    }

    /// The storage lost a piece, whole or begun: it must be fetched again. Interest may change for any peer: ask
    /// [`Picker::is_interesting`] again.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.drop_partial(piece);
        let had = self.have.clear(piece);
        self.want(piece);
        if had && self.missing.has(piece) {
            for peer in self.peers.values_mut() {
                peer.useful += u32::from(matches!(&peer.held, Held::Some(pieces) if pieces.has(piece)));
            }
        }
    }

    /// Brings missing, left and open up to date for a piece that may be wanted, missing or not begun now.
    pub(super) fn want(&mut self, piece: PieceIndex) {
        if self.have.has(piece) {
            return;
        }
        let Some(level) = self.priority(piece).level() else { return };
        if self.missing.set(piece) {
            self.left += u64::from(self.geometry.length_of(piece));
        }
        if self.in_flight.get(piece).is_none() {
            self.rarity.open(piece, level);
            self.openings += 1;
        }
    }

    /// The reverse of `want`.
    fn unwant(&mut self, piece: PieceIndex) {
        if self.missing.clear(piece) {
            self.left -= u64::from(self.geometry.length_of(piece));
            self.rarity.close(piece);
        }
    }

    /// Ends a begun piece; answers that are still to come are forgiven.
    fn drop_partial(&mut self, piece: PieceIndex) -> Option<Partial> {
        let partial = self.in_flight.end(piece)?;
        for at in 0..partial.blocks.len() as u32 {
            for peer in partial.asked_for(at) {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.excuse((piece, at));
                }
            }
        }
        Some(partial)
    }
}
