//! How large a frame may be, by what the torrent can need.

use castanet_core::Geometry;

/// The longest block that may be asked for or sent, in bytes. BEP 3 names 128 KiB as the most that clients tolerate.
pub const LONGEST_BLOCK: u32 = 128 * 1024;
/// The longest extended message (BEP 10) in bytes: metadata pieces are 16 KiB, peer exchange a few KiB.
pub const LARGEST_EXTENDED: usize = 1024 * 1024;
/// The longest bitfield in bytes while the number of pieces is unknown.
const LARGEST_BITFIELD: usize = 1024 * 1024;

/// The largest payloads of one connection, in bytes, without length prefix and message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of a bitfield.
    pub bitfield: usize,
    /// Of the data in a piece message, and of messages that are unknown and skipped.
    pub block: usize,
    /// Of an extended message, its own id included.
    pub extended: usize,
}

impl Limits {
    /// For a torrent whose number of pieces is unknown as yet (a magnet link).
    pub fn general() -> Self {
        Self { bitfield: LARGEST_BITFIELD, block: LONGEST_BLOCK as usize, extended: LARGEST_EXTENDED }
    }
    /// For a torrent of this geometry.
    pub fn of(geometry: &Geometry) -> Self {
        Self { bitfield: (geometry.pieces() as usize).div_ceil(8), ..Self::general() }
    }
    /// The largest frame of any kind, without its length prefix: an id, then at most 8 bytes before a block's data.
    pub fn frame(&self) -> usize {
        1 + (8 + self.block).max(self.bitfield).max(self.extended)
    }
}
