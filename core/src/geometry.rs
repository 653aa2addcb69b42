//! The one place of piece, block and offset arithmetic (BEP 3).
//!
//! A torrent is one run of bytes (all files after one another), cut into pieces of equal length and those into
//! blocks of 16 KiB; the last of each may be shorter.

use std::ops::Range;

use crate::ids::PieceIndex;

/// The length of a block, the unit of requests (BEP 3; every client uses 16 KiB).
pub const BLOCK_LENGTH: u32 = 16 * 1024;

/// A block, or part of one: a range of bytes within one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    /// The piece.
    pub piece: PieceIndex,
    /// Offset of the first byte within the piece.
    pub begin: u32,
    /// Length in bytes.
    pub length: u32,
}

impl BlockRef {
    /// The offset after the last byte, within the piece.
    pub fn end(&self) -> u64 {
        u64::from(self.begin) + u64::from(self.length)
    }
}

/// How a torrent's bytes are cut into pieces and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    piece_length: u32,
    pieces: u32,
}

impl Geometry {
    /// `None` if the piece length is zero or there would be more than `u32::MAX` pieces.
    pub fn new(length: u64, piece_length: u32) -> Option<Self> {
        if piece_length == 0 {
            return None;
        }
        let pieces = u32::try_from(length.div_ceil(u64::from(piece_length))).ok()?;
        Some(Self { length, piece_length, pieces })
    }
    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.length
    }
    /// Bytes of every piece but the last.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }
    /// Number of pieces.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }
    /// Every piece index, in order.
    pub fn all_pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.pieces as usize).map(|index| PieceIndex(index as u32))
    }
    /// Is there such a piece?
    pub fn contains(&self, piece: PieceIndex) -> bool {
        piece.0 < self.pieces
    }
    /// Length of this piece; 0 if there is none such.
    pub fn length_of(&self, piece: PieceIndex) -> u32 {
        let start = u64::from(piece.0) * u64::from(self.piece_length);
        self.length.saturating_sub(start).min(u64::from(self.piece_length)) as u32
    }
    /// Offset of this piece's first byte in the torrent.
    pub fn offset_of(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }
    /// Offset of a block's first byte in the torrent.
    pub fn offset_of_block(&self, block: BlockRef) -> u64 {
        self.offset_of(block.piece) + u64::from(block.begin)
    }
    /// Number of blocks in this piece.
    pub fn blocks_in(&self, piece: PieceIndex) -> u32 {
        self.length_of(piece).div_ceil(BLOCK_LENGTH)
    }
    /// The n-th block of a piece; its length is 0 if there is none such.
    pub fn block(&self, piece: PieceIndex, index: u32) -> BlockRef {
        let begin = index.saturating_mul(BLOCK_LENGTH);
        let length = self.length_of(piece).saturating_sub(begin).min(BLOCK_LENGTH);
        BlockRef { piece, begin, length }
    }
    /// The index of a block within its piece if it is one that [`Geometry::block`] makes.
    pub fn index_of(&self, block: BlockRef) -> Option<u32> {
        let index = block.begin / BLOCK_LENGTH;
        (block.length > 0 && self.contains(block.piece) && self.block(block.piece, index) == block).then_some(index)
    }
    /// Does this range lie within its piece, and is it not empty?
    pub fn is_within(&self, block: BlockRef) -> bool {
        block.length > 0 && block.end() <= u64::from(self.length_of(block.piece))
    }
    /// The pieces that the bytes `range` of the torrent touch.
    pub fn pieces_of(&self, range: Range<u64>) -> Range<u32> {
        let end = range.end.min(self.length);
        if range.start >= end {
            return 0..0;
        }
        let first = range.start / u64::from(self.piece_length);
        let after = end.div_ceil(u64::from(self.piece_length));
        first as u32..after as u32
    }
    /// The bytes of the torrent that make up this piece.
    pub fn range_of(&self, piece: PieceIndex) -> Range<u64> {
        let start = self.offset_of(piece).min(self.length);
        start..start + u64::from(self.length_of(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_are_shorter() {
        let g = Geometry::new(100_000, 32_768).unwrap();
        assert_eq!(g.pieces(), 4);
        assert_eq!(g.length_of(PieceIndex(3)), 100_000 - 3 * 32_768);
        assert_eq!(g.blocks_in(PieceIndex(0)), 2);
        assert_eq!(g.blocks_in(PieceIndex(3)), 1);
        assert_eq!(g.length_of(PieceIndex(4)), 0);
        let last = g.block(PieceIndex(3), 0);
        assert_eq!(last.length, 1696);
        assert_eq!(g.index_of(last), Some(0));
        assert_eq!(g.index_of(BlockRef { length: 1697, ..last }), None);
        assert!(!g.is_within(BlockRef { length: 1697, ..last }));
        assert!(!g.is_within(BlockRef { piece: PieceIndex(9), begin: 0, length: 1 }));
        assert_eq!(g.pieces_of(32_767..32_769), 0..2);
        assert_eq!(g.pieces_of(5..5), 0..0);
        assert_eq!(g.range_of(PieceIndex(3)), 98_304..100_000);
    }

    #[test]
    fn every_byte_belongs_to_exactly_one_block() {
        for (length, piece_length) in [(0, 16), (1, 1), (70_000, 16_384), (70_000, 20_000), (50_000, 50_000)] {
            let g = Geometry::new(length, piece_length).unwrap();
            let mut next = 0;
            for piece in g.all_pieces() {
                for index in 0..g.blocks_in(piece) {
                    let block = g.block(piece, index);
                    assert_eq!(g.offset_of_block(block), next);
                    assert_eq!(g.index_of(block), Some(index));
                    next += u64::from(block.length);
                }
            }
            assert_eq!(next, length);
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert_eq!(Geometry::new(1, 0), None);
        assert_eq!(Geometry::new(u64::MAX, 1), None);
    }
}
