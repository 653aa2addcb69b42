//! Everything at random, compared with a model that keeps plain sets and searches them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What must be true, kept the naive way.
#[derive(Default)]
struct Model {
    held: BTreeMap<PeerKey, BTreeSet<u32>>,
    asked: BTreeSet<(PeerKey, BlockRef)>,
    /// Given up or cancelled, so the answer may still come.
    late: BTreeSet<(PeerKey, BlockRef)>,
    received: BTreeMap<BlockRef, PeerKey>,
    have: BTreeSet<u32>,
    skipped: BTreeSet<u32>,
}

impl Model {
    fn is_interesting(&self, peer: PeerKey) -> bool {
        self.held[&peer].iter().any(|piece| !self.have.contains(piece) && !self.skipped.contains(piece))
    }
    fn excuse(&mut self, which: impl Fn(&(PeerKey, BlockRef)) -> bool) {
        self.late.extend(self.asked.extract_if(.., |asked| which(asked)));
    }
    fn forget_piece(&mut self, piece: u32) {
        self.excuse(|(_, block)| block.piece.0 == piece);
        self.received.retain(|block, _| block.piece.0 != piece);
    }
    fn contributors(&self, piece: PieceIndex) -> Vec<(PeerKey, u32)> {
        let mut by_peer = BTreeMap::new();
        for (_, peer) in self.received.iter().filter(|(block, _)| block.piece == piece) {
            *by_peer.entry(*peer).or_insert(0) += 1;
        }
        by_peer.into_iter().collect()
    }
}

struct Run {
    picker: Picker,
    model: Model,
    geometry: Geometry,
    random: fastrand::Rng,
    next_peer: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let piece_length = random.u32(1..5) * BLOCK_LENGTH - random.u32(0..2) * 77;
        let length = random.u64(1..40 * u64::from(piece_length));
        let geometry = Geometry::new(length, piece_length).unwrap();
        let picker = Picker::with_config(geometry, Bitfield::new(geometry.pieces()), seed, PickerConfig::default());
        Self { picker, model: Model::default(), geometry, random, next_peer: 1 }
    }

    fn any_peer(&mut self) -> Option<PeerKey> {
        let peers: Vec<PeerKey> = self.model.held.keys().copied().collect();
        self.random.choice(peers)
    }

    fn any_piece(&mut self) -> PieceIndex {
        PieceIndex(self.random.u32(..self.geometry.pieces()))
    }

    fn join(&mut self) {
        let peer = PeerKey(self.next_peer);
        self.next_peer += 1;
        let pieces = self.geometry.pieces();
        let mut some = Bitfield::new(pieces);
        (0..self.random.u32(0..2 * pieces)).for_each(|_| _ = some.set(PieceIndex(self.random.u32(..pieces))));
        let (haves, held) = match self.random.u32(..4) {
            0 => (Haves::All, (0..pieces).collect()),
            1 => (Haves::None, BTreeSet::new()),
            2 => (Haves::Pieces(some.iter().collect()), some.iter().map(|piece| piece.0).collect()),
            _ => (Haves::Bitfield(some.clone()), some.iter().map(|piece| piece.0).collect()),
        };
        join(&mut self.picker, peer, &haves);
        self.model.held.insert(peer, held);
    }

    fn leave(&mut self, peer: PeerKey) {
        self.picker.peer_left(peer);
        self.model.held.remove(&peer);
        self.model.asked.retain(|(asked, _)| *asked != peer);
        self.model.late.retain(|(late, _)| *late != peer);
    }

    fn pick(&mut self, peer: PeerKey) {
        let rate = *self.random.choice(&[None, Some(0), Some(5_000), Some(1 << 30)]).unwrap();
        let endgame_before = self.picker.is_endgame();
        let mut out = Vec::new();
        let room = self.random.usize(..9);
        if self.random.u32(..6) == 0 {
            let allowed: Vec<PieceIndex> = (0..3).map(|_| self.any_piece()).collect();
            self.picker.pick_from(peer, &allowed, room, &mut out);
            assert!(out.iter().all(|block| allowed.contains(&block.piece)));
        } else {
            self.picker.pick(peer, room, rate, &mut out);
        }
        assert!(out.len() <= room);
        for block in out {
            assert!(self.geometry.index_of(block).is_some());
            let piece = block.piece.0;
            assert!(self.model.held[&peer].contains(&piece), "it has the piece");
            assert!(!self.model.skipped.contains(&piece) && !self.model.have.contains(&piece), "it is missing");
            assert!(!self.model.received.contains_key(&block), "it is not here yet");
            let copies = self.model.asked.iter().filter(|(_, asked)| *asked == block).count();
            assert!(copies == 0 || endgame_before || self.picker.is_endgame(), "asked twice before the endgame");
            assert!(copies < PickerConfig::default().endgame_copies);
            assert!(self.model.asked.insert((peer, block)), "asked of the same peer twice");
        }
    }

    fn answer(&mut self) {
        let is_late = self.random.u32(..8) == 0;
        let from = if is_late { &self.model.late } else { &self.model.asked };
        let Some((peer, block)) = self.random.choice(from.iter().copied().collect::<Vec<_>>()) else { return };
        let mut cancels = Vec::new();
        let received = self.picker.received(peer, block, &mut cancels);
        if !self.model.asked.remove(&(peer, block)) {
            self.model.late.remove(&(peer, block));
            if received == Received::Duplicate {
                assert_eq!(cancels, []);
                let is_here = self.model.received.contains_key(&block) || self.model.have.contains(&block.piece.0);
                assert!(is_here || self.picker.failures(block.piece) > 0, "a late block was refused");
                return;
            }
        }
        assert!(!self.model.received.contains_key(&block));
        let others: BTreeSet<_> = self.model.asked.iter().copied().filter(|&(_, asked)| asked == block).collect();
        assert_eq!(cancels.iter().copied().collect::<BTreeSet<_>>(), others);
        self.model.excuse(|asked| others.contains(asked));
        self.model.received.insert(block, peer);
        let here = self.model.received.keys().filter(|other| other.piece == block.piece).count();
        let piece_complete = here == self.geometry.blocks_in(block.piece) as usize;
        assert_eq!(received, Received::Fresh { piece_complete });
        if piece_complete {
            assert_eq!(self.picker.contributors(block.piece), self.model.contributors(block.piece));
            if self.random.u32(..4) == 0 {
                assert_eq!(self.picker.piece_failed(block.piece), self.model.contributors(block.piece));
            } else {
                self.pass(block.piece);
            }
            self.model.forget_piece(block.piece.0);
        }
    }

    fn pass(&mut self, piece: PieceIndex) {
        let interesting = |model: &Model| -> BTreeSet<PeerKey> {
            model.held.keys().copied().filter(|&peer| model.is_interesting(peer)).collect()
        };
        let before = interesting(&self.model);
        let bored: BTreeSet<PeerKey> = self.picker.piece_passed(piece).into_iter().collect();
        self.model.have.insert(piece.0);
        self.model.forget_piece(piece.0);
        assert_eq!(bored, before.difference(&interesting(&self.model)).copied().collect());
    }

    fn step(&mut self) {
        let kind = self.random.u32(..100);
        let Some(peer) = self.any_peer().filter(|_| kind >= 4) else { return self.join() };
        match kind {
            4..7 => {
                self.leave(peer);
            }
            7..20 => {
                let piece = self.any_piece();
                self.model.held.get_mut(&peer).unwrap().insert(piece.0);
                let now = self.picker.peer_has(peer, &Haves::Pieces(vec![piece]));
                assert_eq!(now, self.model.is_interesting(peer));
            }
            20..25 => {
                let first = self.any_piece().0;
                let range = first..first + self.random.u32(..6);
                let priority = [Priority::Skip, Priority::Low, Priority::Normal, Priority::High];
                let priority = *self.random.choice(&priority).unwrap();
                self.picker.set_priority(range.clone(), priority);
                for piece in range.filter(|&piece| piece < self.geometry.pieces()) {
                    if priority == Priority::Skip {
                        self.model.skipped.insert(piece);
                    } else {
                        self.model.skipped.remove(&piece);
                    }
                }
            }
            25..30 => {
                let lost: Vec<_> = self.model.asked.iter().copied().filter(|(asked, _)| *asked == peer).collect();
                let lost = &lost[..self.random.usize(..=lost.len())];
                self.picker.lost(peer, &lost.iter().map(|&(_, block)| block).collect::<Vec<_>>());
                self.model.excuse(|asked| lost.contains(asked));
            }
            30 => {
                let piece = self.any_piece();
                self.picker.forget(piece);
                self.model.have.remove(&piece.0);
                self.model.forget_piece(piece.0);
            }
            31 => {
                let sequential = self.random.bool();
                self.picker.set_sequential(sequential);
            }
            32 => {
                let piece = self.any_piece();
                self.pass(piece);
            }
            33..60 => self.answer(),
            _ => self.pick(peer),
        }
    }

    fn check(&self) {
        let p = &self.picker;
        p.check_invariants();
        assert_eq!(p.have().iter().map(|piece| piece.0).collect::<BTreeSet<_>>(), self.model.have);
        let missing = self.geometry.all_pieces();
        let missing = missing.filter(|p| !self.model.have.contains(&p.0) && !self.model.skipped.contains(&p.0));
        let left: u64 = missing.map(|piece| u64::from(self.geometry.length_of(piece))).sum();
        assert_eq!((p.left_bytes(), p.is_complete()), (left, left == 0));
        for &peer in self.model.held.keys() {
            assert_eq!(p.is_interesting(peer), self.model.is_interesting(peer), "{peer:?}");
            let asked = self.model.asked.iter().filter(|(asked, _)| *asked == peer).count();
            assert_eq!(p.outstanding(peer), asked);
        }
    }

    /// With a seed and patience, everything gets done.
    fn finish(&mut self) {
        let seed = PeerKey(self.next_peer);
        join(&mut self.picker, seed, &Haves::All);
        self.model.held.insert(seed, (0..self.geometry.pieces()).collect());
        let others: Vec<PeerKey> = self.model.held.keys().copied().filter(|&peer| peer != seed).collect();
        for peer in others {
            self.leave(peer);
        }
        for _ in 0..4000 {
            self.pick(seed);
            self.answer();
        }
        assert!(self.picker.is_complete(), "left: {:?}", self.picker.partials().collect::<Vec<_>>());
        self.check();
    }
}

#[test]
fn the_picker_agrees_with_the_model() {
    for seed in 0..150 {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..300 {
                run.step();
                run.check();
            }
            run.finish();
        });
        assert!(run.is_ok(), "failed with seed {seed}");
    }
}
