//! The wire protocol between peers: handshake, messages and frames (BEP 3, BEP 6, BEP 10).
//!
//! Piece data is never copied here: a received block is a slice of the read buffer, a sent one is a 13-byte header
//! beside the caller's slice. Every length is checked against [`Limits`] before the frame is waited for.

mod codec;
mod handshake;
mod limits;
mod message;

pub use codec::{Decoded, WireError, decode};
pub use handshake::{HANDSHAKE_LENGTH, Handshake, HandshakeError, INFO_HASH_KNOWN, Reserved};
pub use limits::{LARGEST_EXTENDED, LONGEST_BLOCK, Limits};
pub use message::{Message, PIECE_HEADER, piece_header};
