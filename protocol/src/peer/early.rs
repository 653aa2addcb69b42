//! What a remote says of its pieces before we know the torrent's metadata (BEP 9), kept as it said it.
//!
//! Whether a bitfield has the right length and whether a piece exists can only be judged later. A frame's own bounds
//! ([`crate::wire::Limits::general`]) hold meanwhile, and nothing here is larger than what was received.

use castanet_core::{Bitfield, Geometry, PieceIndex};

use super::{CloseReason, Haves};
use crate::wire::Message;

/// Pieces of "have" messages that are kept, repetitions included; what comes after them is forgotten, and not asked for.
pub const MOST_EARLY_HAVES: usize = 64 * 1024;
/// Suggestions that are kept.
pub const MOST_EARLY_SUGGESTIONS: usize = 16;

/// The remote's words.
#[derive(Debug, Default)]
pub(super) struct Early {
    has_all: bool,
    has_none: bool,
    /// All its bitfields in one.
    bits: Option<Vec<u8>>,
    haves: Vec<PieceIndex>,
    suggestions: Vec<PieceIndex>,
}

impl Early {
    /// A bitfield, "have all" or "have none". Bitfields add up, and cannot differ in length.
    pub(super) fn told(&mut self, message: &Message) -> Result<(), CloseReason> {
        match (message, &mut self.bits) {
            (Message::Bitfield(bits), Some(known)) if known.len() != bits.len() => {
                return Err(CloseReason::BadBitfield);
            }
            (Message::Bitfield(bits), Some(known)) => known.iter_mut().zip(bits).for_each(|(known, new)| *known |= new),
            // A copy: a slice would keep the read buffer alive.
            (Message::Bitfield(bits), None) => self.bits = Some(bits.to_vec()),
            (Message::HaveAll, _) => self.has_all = true,
            _ => self.has_none = true,
        }
        Ok(())
    }

    pub(super) fn have(&mut self, piece: PieceIndex) {
        if self.haves.len() < MOST_EARLY_HAVES {
            self.haves.push(piece);
        }
    }

    pub(super) fn suggested(&mut self, piece: PieceIndex) {
        if self.suggestions.len() < MOST_EARLY_SUGGESTIONS {
            self.suggestions.push(piece);
        }
    }

    /// The remote's pieces, now that it is known which there are; and those of its suggestions that exist.
    pub(super) fn judge(self, geometry: &Geometry) -> Result<(Vec<Haves>, Vec<PieceIndex>), CloseReason> {
        let mut told = Vec::new();
        if self.has_none {
            told.push(Haves::None);
        }
        if let Some(bits) = self.bits {
            let pieces = Bitfield::from_bytes(&bits, geometry.pieces()).ok_or(CloseReason::BadBitfield)?;
            told.push(Haves::Bitfield(pieces));
        }
        if let Some(stray) = self.haves.iter().find(|piece| !geometry.contains(**piece)) {
            return Err(CloseReason::NoSuchPiece(*stray));
        }
        if !self.haves.is_empty() {
            told.push(Haves::Pieces(self.haves));
        }
        if self.has_all {
            told.push(Haves::All);
        }
        let suggestions = self.suggestions.into_iter().filter(|piece| geometry.contains(*piece)).collect();
        Ok((told, suggestions))
    }

    /// The bounds that hold at all times.
    pub(super) fn check_invariants(&self) {
        assert!(self.haves.len() <= MOST_EARLY_HAVES && self.suggestions.len() <= MOST_EARLY_SUGGESTIONS);
    }
}
