//! Which blocks are written and hashed together: turns single blocks into long runs.
//!
//! Blocks of a piece wait until the run that continues the piece's hash is [`RUN`] bytes long or reaches the piece's end.
//! Under memory pressure everything that waits is written at once, and what the hash could not follow is read back later.
//! At most one order of a piece is under way, so its hash has one owner.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use castanet_core::{BlockRef, Geometry, PieceIndex, Sha1Digest, seams::hasher::RunningSha1};

/// A run of this many bytes is worth a write of its own.
pub const RUN: u32 = 256 * 1024;

/// Blocks of one piece that lie next to each other. `P` is whatever travels with a block (a memory permit).
#[derive(Debug)]
pub struct OrderRun<P> {
    /// Offset of the first byte within the piece.
    pub begin: u32,
    /// The blocks, in order.
    pub blocks: Vec<Bytes>,
    /// What travelled with them.
    pub permits: Vec<P>,
}

/// Something to write and hash; answered by [`Assembly::done`].
#[derive(Debug)]
pub struct Order<P> {
    /// The piece.
    pub piece: PieceIndex,
    /// What to write, sorted, not touching each other.
    pub runs: Vec<OrderRun<P>>,
    /// The hash of the piece's beginning.
    pub hash: RunningSha1,
    /// How far to carry it, over these runs and what was written before.
    pub hash_to: u32,
}

impl<P> Order<P> {
    /// How many bytes are to be written.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().flat_map(|run| &run.blocks).map(|block| block.len() as u64).sum()
    }
}

#[derive(Debug)]
struct Partial<P> {
    waiting: BTreeMap<u32, (Bytes, P)>,
    /// What is on disk or on its way beyond the hash: begin → end, merged.
    written: BTreeMap<u32, u32>,
    /// `None` while an order is under way.
    hash: Option<RunningSha1>,
    hashed: u32,
    /// The end of what could be hashed: `hashed` and all that follows without a gap.
    ready: u32,
}

/// The pieces that are being put together.
#[derive(Debug)]
pub struct Assembly<P> {
    geometry: Geometry,
    partials: BTreeMap<PieceIndex, Partial<P>>,
    due: BTreeSet<PieceIndex>,
    waiting_bytes: u64,
}

impl<P> Assembly<P> {
    /// Nothing yet.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, partials: BTreeMap::new(), due: BTreeSet::new(), waiting_bytes: 0 }
    }
    /// Bytes that wait for their run to grow.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }
    /// Takes a block in. The piece manager vouches that it was asked for and is the first copy.
    pub fn add(&mut self, block: BlockRef, data: Bytes, permit: P) {
        let partial = self.partials.entry(block.piece).or_insert_with(|| Partial {
            waiting: BTreeMap::new(),
            written: BTreeMap::new(),
            hash: Some(RunningSha1::default()),
            hashed: 0,
            ready: 0,
        });
        self.waiting_bytes += data.len() as u64;
        if let Some((old, _)) = partial.waiting.insert(block.begin, (data, permit)) {
            self.waiting_bytes -= old.len() as u64;
        }
        partial.advance();
        if partial.is_due(self.geometry.length_of(block.piece)) {
            self.due.insert(block.piece);
        }
    }
    /// The next order, if one is due; with `flush`, whatever waits is due.
    pub fn next(&mut self, flush: bool) -> Option<Order<P>> {
        let piece = match self.due.pop_first() {
            Some(piece) => piece,
            None if flush && self.waiting_bytes > 0 => {
                let mut idle = self.partials.iter().filter(|(_, p)| p.hash.is_some() && !p.waiting.is_empty());
                *idle.next()?.0
            }
            None => return None,
        };
        let partial = self.partials.get_mut(&piece)?;
        let hash = partial.hash.take()?;
        let beyond = if flush { BTreeMap::new() } else { partial.waiting.split_off(&partial.ready) };
        let mut runs: Vec<OrderRun<P>> = Vec::new();
        let mut end = None;
        for (begin, (data, permit)) in std::mem::replace(&mut partial.waiting, beyond) {
            self.waiting_bytes -= data.len() as u64;
            let after = begin + data.len() as u32;
            partial.mark_written(begin, after);
            match runs.last_mut() {
                Some(run) if end == Some(begin) => {
                    run.blocks.push(data);
                    run.permits.push(permit);
                }
                _ => runs.push(OrderRun { begin, blocks: vec![data], permits: vec![permit] }),
            }
            end = Some(after);
        }
        Some(Order { piece, runs, hash, hash_to: partial.ready })
    }
    /// An order is carried out and its hash carried on. With the piece's last byte, its digest.
    pub fn done(&mut self, piece: PieceIndex, hash: RunningSha1) -> Option<Sha1Digest> {
        let length = self.geometry.length_of(piece);
        let partial = self.partials.get_mut(&piece)?;
        partial.hashed = hash.length() as u32;
        if partial.hashed == length {
            self.partials.remove(&piece);
            return Some(hash.finish());
        }
        partial.hash = Some(hash);
        partial.written = partial.written.split_off(&partial.hashed);
        if partial.is_due(length) {
            self.due.insert(piece);
        }
        None
    }
    /// Drops all that is known of a piece (its order failed, or the torrent lost interest).
    pub fn forget(&mut self, piece: PieceIndex) {
        if let Some(partial) = self.partials.remove(&piece) {
            self.waiting_bytes -= partial.waiting.values().map(|(data, _)| data.len() as u64).sum::<u64>();
        }
        self.due.remove(&piece);
    }
}

impl<P> Partial<P> {
    fn advance(&mut self) {
        loop {
            if let Some((data, _)) = self.waiting.get(&self.ready) {
                self.ready += data.len() as u32;
            } else if let Some(end) = self.written.get(&self.ready) {
                self.ready = *end;
            } else {
                return;
            }
        }
    }
    fn is_due(&self, length: u32) -> bool {
        self.hash.is_some() && self.ready > self.hashed && (self.ready - self.hashed >= RUN || self.ready == length)
    }
    fn mark_written(&mut self, begin: u32, end: u32) {
        if let Some((_, last)) = self.written.range_mut(..begin).next_back()
            && *last == begin
        {
            *last = end;
        } else {
            self.written.insert(begin, end);
        }
        // A run that ends where another begins becomes one with it.
        if let Some(after) = self.written.remove(&end)
            && let Some((_, last)) = self.written.range_mut(..end).next_back()
        {
            *last = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use castanet_core::digest::sha1;

    use super::*;

    /// A disk that does what an order says.
    fn carry_out(order: Order<()>, disk: &mut [u8]) -> (PieceIndex, RunningSha1) {
        let mut hash = order.hash;
        for run in &order.runs {
            let mut at = run.begin as usize;
            for block in &run.blocks {
                disk[at..at + block.len()].copy_from_slice(block);
                at += block.len();
            }
        }
        let from = hash.length() as usize;
        hash.update(&disk[from..order.hash_to as usize]);
        (order.piece, hash)
    }

    #[test]
    fn in_order_blocks_make_long_runs() {
        let geometry = Geometry::new(1 << 20, 1 << 20).unwrap();
        let mut assembly = Assembly::new(geometry);
        let data: Vec<u8> = (0..1 << 20).map(|n| (n * 7) as u8).collect();
        let (mut disk, mut lengths, mut digest) = (vec![0; 1 << 20], vec![], None);
        for n in 0..64 {
            let block = geometry.block(PieceIndex(0), n);
            let at = block.begin as usize;
            assembly.add(block, Bytes::copy_from_slice(&data[at..at + block.length as usize]), ());
            while let Some(order) = assembly.next(false) {
                lengths.push(order.runs.iter().map(|run| run.blocks.len()).collect::<Vec<_>>());
                let (piece, hash) = carry_out(order, &mut disk);
                digest = assembly.done(piece, hash);
            }
        }
        assert_eq!(lengths, vec![vec![16]; 4]);
        assert_eq!(digest, Some(sha1(&data)));
    }

    #[test]
    fn any_order_with_any_pressure_gives_the_digest() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let length = random.u32(1..1_500_000);
            let geometry = Geometry::new(u64::from(length), length).unwrap();
            let data: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            let mut disk = vec![0; length as usize];
            let mut assembly = Assembly::new(geometry);
            let mut blocks: Vec<u32> = (0..geometry.blocks_in(PieceIndex(0))).collect();
            if random.bool() {
                random.shuffle(&mut blocks);
            }
            let (mut under_way, mut digest) = (Vec::new(), None);
            for n in blocks {
                let block = geometry.block(PieceIndex(0), n);
                let at = block.begin as usize;
                assembly.add(block, Bytes::copy_from_slice(&data[at..at + block.length as usize]), ());
                under_way.extend(assembly.next(random.u8(..) < 20));
                assert!(under_way.len() <= 1, "seed {seed}: two orders of one piece");
                if random.bool()
                    && let Some(order) = under_way.pop()
                {
                    let (piece, hash) = carry_out(order, &mut disk);
                    digest = assembly.done(piece, hash);
                }
            }
            while let Some(order) = under_way.pop().or_else(|| assembly.next(false)) {
                let (piece, hash) = carry_out(order, &mut disk);
                digest = assembly.done(piece, hash);
            }
            assert_eq!(digest, Some(sha1(&data)), "seed {seed}");
            assert_eq!(assembly.waiting_bytes(), 0, "seed {seed}");
        }
    }

    #[test]
    fn forgetting_gives_everything_back() {
        let geometry = Geometry::new(1 << 20, 1 << 20).unwrap();
        let mut assembly = Assembly::new(geometry);
        assembly.add(geometry.block(PieceIndex(0), 3), Bytes::from_static(&[0; 16384]), ());
        assert!(assembly.next(false).is_none());
        assembly.forget(PieceIndex(0));
        assert_eq!(assembly.waiting_bytes(), 0);
        assert!(assembly.next(true).is_none());
    }
}
