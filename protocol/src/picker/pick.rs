//! What to ask of a peer that has room.

use castanet_core::{BlockRef, PeerKey, PieceIndex};

use super::{MOST_PARTIALS, Picker, priority::LEVELS};

/// Where the next blocks for a peer come from.
enum Choice {
    /// The first free blocks of this piece.
    First(PieceIndex),
    /// The last free blocks of this piece, whose owner is busy at the front.
    Last(PieceIndex),
}

impl Picker {
    /// Appends up to `room` blocks to ask of a peer now, and counts them as asked. `rate` is what the peer gives, in
    /// bytes a second, if known. Nothing for a peer that is not interesting.
    pub fn pick(&mut self, peer: PeerKey, room: usize, rate: Option<u64>, out: &mut Vec<BlockRef>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.is_rate_known = rate.is_some();
        let rate = rate.unwrap_or(self.config.assumed_rate);
        state.rate = rate;
        if !self.is_interesting(peer) {
            return;
        }
        let fast = self.is_fast(rate);
        let full = out.len().saturating_add(room);
        while out.len() < full {
            let room = full - out.len();
            match self.choose(peer, fast) {
                Some(Choice::First(piece)) => self.take(peer, piece, room, out),
                Some(Choice::Last(piece)) => {
                    let Some((free, owner)) = self.in_flight.get(piece).map(|it| (it.free as usize, it.owner)) else {
                        return;
                    };
                    // Half of what is free is left to the owner, unless it is much slower.
                    let owner = owner.and_then(|owner| self.peers.get(&owner));
                    if !owner.is_some_and(|owner| self.peers[&peer].is_much_faster(owner)) {
                        return self.take_last(peer, piece, room.min(free.div_ceil(2)), out);
                    }
                    self.take_last(peer, piece, room, out);
                }
                None => return self.pick_copies(peer, full - out.len(), out),
            }
        }
    }

    /// As [`Picker::pick`], but of these pieces only, in their order: those that a peer which chokes us lets us ask
    /// for (allowed fast, BEP 6). Nothing once there is something to trade: that is what they are for.
    pub fn pick_from(&mut self, peer: PeerKey, pieces: &[PieceIndex], room: usize, out: &mut Vec<BlockRef>) {
        let Some(state) = self.peers.get(&peer).filter(|_| self.have.count() < self.config.random_first) else {
            return;
        };
        let held: Vec<PieceIndex> = pieces.iter().copied().filter(|&piece| state.held.has(piece)).collect();
        let full = out.len().saturating_add(room);
        for piece in held {
            let level = self.priority(piece).level();
            if self.rarity.is_open(piece) && out.len() < full && level.is_some_and(|level| self.may_begin(level)) {
                self.begin(peer, piece, false);
            }
            if self.missing.has(piece) && self.is_open_to(peer, piece) && out.len() < full {
                self.take(peer, piece, full - out.len(), out);
            }
        }
    }

    /// Does a peer of this rate get pieces for itself?
    pub(super) fn is_fast(&self, rate: u64) -> bool {
        rate.saturating_mul(self.config.whole_piece_seconds) >= u64::from(self.geometry.piece_length())
    }

    /// May one more piece of this level be begun?
    fn may_begin(&self, level: usize) -> bool {
        let most = self.config.partials.saturating_add(self.config.partials_per_peer.saturating_mul(self.peers.len()));
        self.in_flight.shared(level).len() + self.in_flight.owned(level).len() < most.clamp(1, MOST_PARTIALS)
    }

    /// A piece of which the peer can be asked for at least one block.
    fn choose(&mut self, peer: PeerKey, fast: bool) -> Option<Choice> {
        if let Some(piece) = self.peers.get(&peer)?.own {
            let own = self.in_flight.get(piece).filter(|partial| partial.owner == Some(peer) && partial.free > 0);
            match own {
                Some(partial) if partial.level.is_some() && (fast || partial.sole) => {
                    return Some(Choice::First(piece));
                }
                _ => self.disown(peer),
            }
        }
        let state = self.peers.get(&peer)?;
        let mut is_dry = state.dry_at == Some(self.openings);
        let mut new = None;
        let mut may_be_dry = true;
        for level in 0..LEVELS {
            if let Some(&piece) = self.in_flight.shared(level).iter().find(|&&piece| state.held.has(piece)) {
                self.adopt(peer, piece, fast);
                return Some(Choice::First(piece));
            }
            if is_dry {
                continue;
            }
            if !self.may_begin(level) {
                may_be_dry = false;
                continue;
            }
            new = if self.sequential {
                self.rarity.first(level, &state.held)
            } else if self.have.count() < self.config.random_first {
                self.rarity.any(level, &state.held, &mut self.random)
            } else {
                self.rarity.rarest(level, &state.held, &mut self.random)
            };
            if let (Some(drawn), Some(piece)) = (new, self.open_suggestion(peer, level))
                && !self.sequential
                && self.rarity.copies(piece) <= self.rarity.copies(drawn)
            {
                new = Some(piece);
            }
            if new.is_some() {
                break;
            }
        }
        if let Some(piece) = new {
            self.begin(peer, piece, fast);
            return Some(Choice::First(piece));
        }
        is_dry |= may_be_dry;
        let helped = (0..LEVELS).find_map(|level| {
            let mut owned = self.in_flight.owned(level).iter().copied();
            owned.find(|&piece| state.held.has(piece) && !self.is_reserved(piece))
        });
        let openings = self.openings;
        if let (true, Some(state)) = (is_dry, self.peers.get_mut(&peer)) {
            state.dry_at = Some(openings);
        }
        helped.map(Choice::Last)
    }

    /// Is this piece kept for one fast peer, to find out who lied?
    pub(super) fn is_reserved(&self, piece: PieceIndex) -> bool {
        let sole = self.in_flight.get(piece).filter(|partial| partial.sole);
        sole.and_then(|partial| self.peers.get(&partial.owner?)).is_some_and(|owner| self.is_fast(owner.rate))
    }

    /// May this peer give blocks of a begun piece, or is it another one's alone?
    pub(super) fn is_open_to(&self, peer: PeerKey, piece: PieceIndex) -> bool {
        self.in_flight.get(piece).is_some_and(|partial| !partial.sole || partial.owner == Some(peer))
    }

    /// Begins an open piece for a peer.
    pub(super) fn begin(&mut self, peer: PeerKey, piece: PieceIndex, fast: bool) {
        self.rarity.close(piece);
        self.in_flight.begin(piece, self.geometry.blocks_in(piece), self.priority(piece).level());
        let sole = self.failures.contains_key(&piece);
        if sole {
            self.in_flight.change(piece, |partial| partial.sole = true);
        }
        self.adopt(peer, piece, fast || sole);
    }

    /// Gives a piece to a fast peer if nobody else is at it.
    fn adopt(&mut self, peer: PeerKey, piece: PieceIndex, fast: bool) {
        let Some(partial) = self.in_flight.get(piece).filter(|partial| fast && partial.asked == 0) else { return };
        debug_assert!(partial.owner.is_none());
        self.disown(peer);
        self.in_flight.change(piece, |partial| partial.owner = Some(peer));
        if let Some(state) = self.peers.get_mut(&peer) {
            state.own = Some(piece);
        }
    }

    /// The peer has no piece for itself any more.
    pub(super) fn disown(&mut self, peer: PeerKey) {
        let Some(piece) = self.peers.get_mut(&peer).and_then(|state| state.own.take()) else { return };
        self.in_flight.change(piece, |partial| {
            if partial.owner == Some(peer) && partial.free > 0 {
                partial.share();
            }
        });
    }

    fn take(&mut self, peer: PeerKey, piece: PieceIndex, most: usize, out: &mut Vec<BlockRef>) {
        let from = out.len();
        let geometry = self.geometry;
        self.in_flight.change(piece, |partial| {
            partial.take_first(peer, most, |at| out.push(geometry.block(piece, at)));
        });
        self.note_asked(peer, &out[from..]);
    }

    fn take_last(&mut self, peer: PeerKey, piece: PieceIndex, most: usize, out: &mut Vec<BlockRef>) {
        let from = out.len();
        let geometry = self.geometry;
        self.in_flight.change(piece, |partial| {
            partial.take_last(peer, most, |at| out.push(geometry.block(piece, at)));
        });
        self.note_asked(peer, &out[from..]);
    }

    pub(super) fn note_asked(&mut self, peer: PeerKey, blocks: &[BlockRef]) {
        if let Some(state) = self.peers.get_mut(&peer) {
            let slots = blocks.iter().filter_map(|&block| Some((block.piece, self.geometry.index_of(block)?)));
            state.asked.extend(slots);
            if !blocks.is_empty() {
                state.in_vain = 0;
            }
        }
    }
}
