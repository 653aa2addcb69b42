//! How many peers hold each piece, and the open pieces sorted by it.
//!
//! A piece is *open* when it is wanted, missing and not begun. The open pieces of a level lie in one bucket per
//! number of copies, each piece knows its position in its bucket, and a move is a swap with the bucket's last one:
//! O(1) for a Have, whatever the size of the torrent. Peers that hold everything are not counted here at all, since
//! they change no order; the picker counts them apart.

use castanet_core::{Bitfield, PieceIndex};

use super::{peers::Held, priority::LEVELS};

/// Pieces looked at in the buckets, from the rarest on, before [`Rarity::rarest`] takes a sample instead.
const MOST_PROBES: usize = 512;
/// Pieces compared in such a sample.
const MOST_SAMPLES: usize = 512;
/// A bucket below this capacity is not worth giving memory back for.
const SMALL_BUCKET: usize = 64;

/// Copies of every piece among the peers that do not hold everything, and the queues of open pieces.
#[derive(Debug)]
pub(super) struct Rarity {
    copies: Vec<u32>,
    /// Number of pieces with 0, 1, 2... copies.
    pieces_with: Vec<u32>,
    /// Where an open piece lies in its bucket.
    position: Vec<u32>,
    queues: [Queue; LEVELS],
    /// Moves and looks so far: tests count these instead of time.
    #[cfg(test)]
    pub(super) steps: u64,
}

#[derive(Debug)]
struct Queue {
    open: Bitfield,
    /// The open pieces by number of copies.
    buckets: Vec<Vec<u32>>,
    /// No bucket before this one holds a piece.
    lowest: usize,
}

impl Rarity {
    /// Nothing is open, nobody holds anything.
    pub(super) fn new(pieces: u32) -> Self {
        let queue = || Queue { open: Bitfield::new(pieces), buckets: Vec::new(), lowest: 0 };
        Self {
            copies: vec![0; pieces as usize],
            pieces_with: vec![pieces],
            position: vec![0; pieces as usize],
            queues: [queue(), queue(), queue()],
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Copies of this piece among the peers that do not hold everything.
    pub(super) fn copies(&self, piece: PieceIndex) -> u32 {
        self.copies[piece.index()]
    }

    /// How many pieces have 0, 1, 2... copies.
    pub(super) fn pieces_with(&self) -> &[u32] {
        &self.pieces_with
    }

    /// Is this piece waiting to be begun?
    pub(super) fn is_open(&self, piece: PieceIndex) -> bool {
        self.level_of(piece).is_some()
    }

    /// Is any piece open that somebody holds?
    pub(super) fn has_available(&self, seeds: u32) -> bool {
        self.queues.iter().any(|queue| {
            let alone = queue.buckets.first().map_or(0, Vec::len);
            queue.open.count() as usize > if seeds > 0 { 0 } else { alone }
        })
    }

    /// One more peer holds this piece. O(1).
    pub(super) fn gain(&mut self, piece: PieceIndex) {
        self.recount(piece, self.copies(piece) + 1);
    }

    /// One peer fewer holds this piece. O(1).
    pub(super) fn lose(&mut self, piece: PieceIndex) {
        self.recount(piece, self.copies(piece) - 1);
    }

    /// The piece waits to be begun. O(1).
    pub(super) fn open(&mut self, piece: PieceIndex, level: usize) {
        if self.queues[level].open.set(piece) {
            self.insert(piece, level);
        }
    }

    /// The piece waits no longer. O(1).
    pub(super) fn close(&mut self, piece: PieceIndex) {
        if let Some(level) = self.level_of(piece) {
            self.queues[level].open.clear(piece);
            self.remove(piece, level);
        }
    }

    /// The open piece of a level with the fewest copies that a peer holds, any one among equals.
    ///
    /// Exact for a peer that holds everything, and unless the first `MOST_PROBES` pieces are all ones that the peer
    /// lacks; then the rarest of `MOST_SAMPLES` pieces of the peer, which costs a word for every 64 pieces at worst.
    pub(super) fn rarest(&mut self, level: usize, held: &Held, random: &mut fastrand::Rng) -> Option<PieceIndex> {
        let queue = &mut self.queues[level];
        if queue.open.is_none() {
            return None;
        }
        while queue.buckets[queue.lowest].is_empty() {
            queue.lowest += 1;
        }
        let pieces = match held {
            Held::None => return None,
            Held::All => {
                let bucket = &queue.buckets[queue.lowest];
                return Some(PieceIndex(bucket[random.usize(..bucket.len())]));
            }
            Held::Some(pieces) => pieces,
        };
        let mut probes = MOST_PROBES;
        // The pieces without copies are none of this peer's.
        for bucket in queue.buckets[queue.lowest.max(1).min(queue.buckets.len())..].iter().filter(|b| !b.is_empty()) {
            let (before, from) = bucket.split_at(random.usize(..bucket.len()));
            for &piece in from.iter().chain(before).take(probes) {
                #[cfg(test)]
                {
                    self.steps += 1;
                }
                if pieces.has(PieceIndex(piece)) {
                    return Some(PieceIndex(piece));
                }
            }
            if bucket.len() >= probes {
                return self.rarest_of_a_sample(level, pieces, random);
            }
            probes -= bucket.len();
        }
        None
    }

    /// Any open piece of a level that a peer holds. Costs a word for every 64 pieces at worst.
    pub(super) fn any(&self, level: usize, held: &Held, random: &mut fastrand::Rng) -> Option<PieceIndex> {
        let open = &self.queues[level].open;
        if open.is_none() {
            return None;
        }
        let start = PieceIndex(random.u32(..open.len()));
        held.next(open, start).or_else(|| held.next(open, PieceIndex(0)))
    }

    /// The first open piece of a level that a peer holds. Costs a word for every 64 pieces at worst.
    pub(super) fn first(&self, level: usize, held: &Held) -> Option<PieceIndex> {
        let open = &self.queues[level].open;
        if open.is_none() { None } else { held.next(open, PieceIndex(0)) }
    }

    fn rarest_of_a_sample(&self, level: usize, pieces: &Bitfield, random: &mut fastrand::Rng) -> Option<PieceIndex> {
        let open = &self.queues[level].open;
        let start = random.u32(..open.len());
        let after = |piece: &PieceIndex| pieces.next_common(open, PieceIndex(piece.0 + 1));
        let forward = std::iter::successors(pieces.next_common(open, PieceIndex(start)), after);
        let around = std::iter::successors(pieces.next_common(open, PieceIndex(0)), after);
        let sample = forward.chain(around.take_while(|piece| piece.0 < start)).take(MOST_SAMPLES);
        sample.min_by_key(|&piece| self.copies(piece))
    }

    fn level_of(&self, piece: PieceIndex) -> Option<usize> {
        self.queues.iter().position(|queue| queue.open.has(piece))
    }

    fn recount(&mut self, piece: PieceIndex, copies: u32) {
        let level = self.level_of(piece);
        if let Some(level) = level {
            self.remove(piece, level);
        }
        let was = std::mem::replace(&mut self.copies[piece.index()], copies);
        self.pieces_with[was as usize] -= 1;
        if self.pieces_with.len() <= copies as usize {
            self.pieces_with.resize(copies as usize + 1, 0);
        }
        self.pieces_with[copies as usize] += 1;
        if let Some(level) = level {
            self.insert(piece, level);
        }
    }

    fn insert(&mut self, piece: PieceIndex, level: usize) {
        let copies = self.copies(piece) as usize;
        let queue = &mut self.queues[level];
        if queue.buckets.len() <= copies {
            queue.buckets.resize_with(copies + 1, Vec::new);
        }
        self.position[piece.index()] = queue.buckets[copies].len() as u32;
        queue.buckets[copies].push(piece.0);
        queue.lowest = queue.lowest.min(copies);
        #[cfg(test)]
        {
            self.steps += 1;
        }
    }

    fn remove(&mut self, piece: PieceIndex, level: usize) {
        let bucket = &mut self.queues[level].buckets[self.copies[piece.index()] as usize];
        let at = self.position[piece.index()];
        bucket.swap_remove(at as usize);
        if let Some(&moved) = bucket.get(at as usize) {
            self.position[moved as usize] = at;
        }
        // All pieces may pass through every bucket as peers come: empty ones must not keep the memory.
        if bucket.capacity() > SMALL_BUCKET && bucket.len() < bucket.capacity() / 4 {
            bucket.shrink_to(bucket.len() * 2);
        }
    }

    /// Pieces that the buckets have memory for.
    #[cfg(test)]
    pub(super) fn bucket_capacity(&self) -> usize {
        self.queues.iter().flat_map(|queue| &queue.buckets).map(Vec::capacity).sum()
    }

    /// Panics if the buckets, positions and counts disagree. For tests; looks at everything.
    pub(super) fn check_invariants(&self) {
        let mut counted = vec![0; self.pieces_with.len()];
        for &copies in &self.copies {
            counted[copies as usize] += 1;
        }
        assert_eq!(counted, self.pieces_with, "pieces by number of copies");
        for queue in &self.queues {
            assert_eq!(queue.open.count() as usize, queue.buckets.iter().map(Vec::len).sum::<usize>());
            assert!(queue.buckets.iter().take(queue.lowest).all(Vec::is_empty), "lowest bucket");
            for (copies, bucket) in queue.buckets.iter().enumerate() {
                for (at, &piece) in bucket.iter().enumerate() {
                    assert!(queue.open.has(PieceIndex(piece)), "piece {piece} is in a bucket but not open");
                    assert_eq!(self.position[piece as usize] as usize, at, "position of piece {piece}");
                    assert_eq!(self.copies[piece as usize] as usize, copies, "bucket of piece {piece}");
                }
            }
        }
        for piece in (0..self.copies.len()).map(|index| PieceIndex(index as u32)) {
            assert!(self.queues.iter().filter(|queue| queue.open.has(piece)).count() <= 1, "open on two levels");
        }
    }
}
