//! A set of pieces in the wire's bit order (BEP 3: the high bit of the first byte is piece 0).

use std::fmt;

use crate::ids::PieceIndex;

/// A set of pieces of a torrent with a known number of pieces. Spare bits are always zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl Bitfield {
    /// No piece set.
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; (len as usize).div_ceil(64)], len, count: 0 }
    }
    /// Every piece set.
    pub fn full(len: u32) -> Self {
        let mut words = vec![u64::MAX; (len as usize).div_ceil(64)];
        if let (Some(last), spare @ 1..) = (words.last_mut(), len % 64) {
            *last = u64::MAX << (64 - spare);
        }
        Self { words, len, count: len }
    }
    /// From the wire. `None` if the length is not exactly right or a spare bit is set.
    pub fn from_bytes(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.len() != (len as usize).div_ceil(8) {
            return None;
        }
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_be_bytes(word)
            })
            .collect();
        let spare_is_clean = match (words.last(), len % 64) {
            (Some(last), used @ 1..) => last << used == 0,
            _ => true,
        };
        let count = words.iter().map(|word| word.count_ones()).sum();
        spare_is_clean.then_some(Self { words, len, count })
    }
    /// As on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.truncate((self.len as usize).div_ceil(8));
        bytes
    }
    /// Number of pieces of the torrent.
    pub fn len(&self) -> u32 {
        self.len
    }
    /// Is it a set over no pieces at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Number of pieces set.
    pub fn count(&self) -> u32 {
        self.count
    }
    /// Is every piece set?
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }
    /// Is no piece set?
    pub fn is_none(&self) -> bool {
        self.count == 0
    }
    /// Is this piece set? `false` beyond the end.
    pub fn has(&self, piece: PieceIndex) -> bool {
        piece.0 < self.len && self.words[piece.index() / 64] & Self::mask(piece) != 0
    }
    /// Sets a piece; returns whether it was not set before. Nothing happens beyond the end.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let fresh = piece.0 < self.len && !self.has(piece);
        if fresh {
            self.words[piece.index() / 64] |= Self::mask(piece);
            self.count += 1;
        }
        fresh
    }
    /// Clears a piece; returns whether it was set before.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let was = self.has(piece);
        if was {
            self.words[piece.index() / 64] &= !Self::mask(piece);
            self.count -= 1;
        }
        was
    }
    /// The pieces that are set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.leading_zeros();
                rest &= !(1 << (63 - bit));
                Some(PieceIndex(at as u32 * 64 + bit))
            })
        })
    }
    /// Does `self` hold a piece that `other` lacks?
    pub fn has_any_not_in(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(mine, theirs)| mine & !theirs != 0)
    }
    /// How many pieces do both hold? Costs a word for every 64 pieces.
    pub fn count_common(&self, other: &Self) -> u32 {
        self.words.iter().zip(&other.words).map(|(mine, theirs)| (mine & theirs).count_ones()).sum()
    }
    /// The first piece at or after `from` that is set. Costs a word for every 64 pieces passed over.
    pub fn next(&self, from: PieceIndex) -> Option<PieceIndex> {
        self.next_common(self, from)
    }
    /// The first piece at or after `from` that both hold. Costs a word for every 64 pieces passed over.
    pub fn next_common(&self, other: &Self, from: PieceIndex) -> Option<PieceIndex> {
        let first = from.index() / 64;
        let mut kept = u64::MAX >> (from.0 % 64);
        for (at, (mine, theirs)) in self.words.iter().zip(&other.words).enumerate().skip(first) {
            let both = mine & theirs & kept;
            if both != 0 {
                return Some(PieceIndex(at as u32 * 64 + both.leading_zeros()));
            }
            kept = u64::MAX;
        }
        None
    }
    fn mask(piece: PieceIndex) -> u64 {
        1 << (63 - piece.0 % 64)
    }
}

impl fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bitfield({} of {})", self.count, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_order_and_spare_bits() {
        let mut b = Bitfield::new(10);
        assert!(b.set(PieceIndex(0)) && b.set(PieceIndex(9)) && !b.set(PieceIndex(9)) && !b.set(PieceIndex(10)));
        assert_eq!(b.to_bytes(), [0b1000_0000, 0b0100_0000]);
        assert_eq!(Bitfield::from_bytes(&b.to_bytes(), 10), Some(b.clone()));
        assert_eq!(Bitfield::from_bytes(&[0, 0b0010_0000], 10), None, "a spare bit is set");
        assert_eq!(Bitfield::from_bytes(&[0], 10), None);
        assert_eq!(b.iter().collect::<Vec<_>>(), [PieceIndex(0), PieceIndex(9)]);
        assert!(b.clear(PieceIndex(0)) && !b.clear(PieceIndex(0)));
        assert_eq!(b.count(), 1);
    }

    #[test]
    fn full_is_full_at_every_length() {
        for len in [0, 1, 8, 63, 64, 65, 128, 1000] {
            let full = Bitfield::full(len);
            assert!(full.is_full());
            assert_eq!(full.iter().count(), len as usize);
            assert_eq!(Bitfield::from_bytes(&full.to_bytes(), len), Some(full.clone()));
            assert_eq!(full.has_any_not_in(&Bitfield::new(len)), len > 0);
            assert!(!full.has_any_not_in(&full));
        }
    }

    #[test]
    fn common_pieces_are_found_across_words() {
        let (mut a, mut b) = (Bitfield::new(200), Bitfield::new(200));
        for piece in [3, 64, 130, 199] {
            a.set(PieceIndex(piece));
        }
        for piece in [4, 64, 199] {
            b.set(PieceIndex(piece));
        }
        assert_eq!(a.count_common(&b), 2);
        assert_eq!(a.next(PieceIndex(4)), Some(PieceIndex(64)));
        assert_eq!(a.next_common(&b, PieceIndex(0)), Some(PieceIndex(64)));
        assert_eq!(a.next_common(&b, PieceIndex(65)), Some(PieceIndex(199)));
        assert_eq!(a.next_common(&b, PieceIndex(200)), None);
    }
}
