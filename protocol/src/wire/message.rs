//! The messages that peers exchange after their handshakes, and how they are written (BEP 3, BEP 6, BEP 10).

use bytes::{BufMut, Bytes, BytesMut};
use castanet_core::{BlockRef, PieceIndex};

/// Bytes before the data of a piece message: length prefix, id, piece, begin.
pub const PIECE_HEADER: usize = 13;

/// The ids of the messages on the wire.
pub(super) mod id {
    pub(crate) const CHOKE: u8 = 0;
    pub(crate) const UNCHOKE: u8 = 1;
    pub(crate) const INTERESTED: u8 = 2;
    pub(crate) const NOT_INTERESTED: u8 = 3;
    pub(crate) const HAVE: u8 = 4;
    pub(crate) const BITFIELD: u8 = 5;
    pub(crate) const REQUEST: u8 = 6;
    pub(crate) const PIECE: u8 = 7;
    pub(crate) const CANCEL: u8 = 8;
    pub(crate) const PORT: u8 = 9;
    pub(crate) const SUGGEST: u8 = 13;
    pub(crate) const HAVE_ALL: u8 = 14;
    pub(crate) const HAVE_NONE: u8 = 15;
    pub(crate) const REJECT: u8 = 16;
    pub(crate) const ALLOWED_FAST: u8 = 17;
    pub(crate) const EXTENDED: u8 = 20;
}

/// One message. Indices and offsets are as the sender claims them; whether they lie within the torrent is for the
/// peer machine to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing to say, still here.
    KeepAlive,
    /// Requests are not answered from now on.
    Choke,
    /// Requests are answered from now on.
    Unchoke,
    /// The sender wants pieces that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender completed a piece.
    Have(PieceIndex),
    /// The pieces that the sender has, in wire order.
    Bitfield(Bytes),
    /// Asks for a block.
    Request(BlockRef),
    /// A block.
    Piece {
        /// Where it belongs; its length is that of `data`.
        block: BlockRef,
        /// The bytes: a slice of the read buffer.
        data: Bytes,
    },
    /// Takes a request back.
    Cancel(BlockRef),
    /// The sender's DHT node listens on this UDP port (BEP 5).
    Port(u16),
    /// The sender would like to be asked for this piece (BEP 6).
    Suggest(PieceIndex),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// A request will not be answered (BEP 6).
    Reject(BlockRef),
    /// Requests for this piece are answered even while choked (BEP 6).
    AllowedFast(PieceIndex),
    /// A message of an extension (BEP 10).
    Extended {
        /// 0 is the extended handshake; others are as the receiver assigned them.
        id: u8,
        /// What the extension says.
        payload: Bytes,
    },
}

impl Message {
    /// Appends the message's frame. A piece message is copied here: senders use [`piece_header`] instead.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => frame(out, id::CHOKE, &[]),
            Self::Unchoke => frame(out, id::UNCHOKE, &[]),
            Self::Interested => frame(out, id::INTERESTED, &[]),
            Self::NotInterested => frame(out, id::NOT_INTERESTED, &[]),
            Self::Have(piece) => frame(out, id::HAVE, &piece.0.to_be_bytes()),
            Self::Bitfield(bits) => frame(out, id::BITFIELD, bits),
            Self::Request(block) => block_frame(out, id::REQUEST, *block),
            Self::Piece { block, data } => {
                out.put_slice(&piece_header(BlockRef { length: data.len() as u32, ..*block }));
                out.put_slice(data);
            }
            Self::Cancel(block) => block_frame(out, id::CANCEL, *block),
            Self::Port(port) => frame(out, id::PORT, &port.to_be_bytes()),
            Self::Suggest(piece) => frame(out, id::SUGGEST, &piece.0.to_be_bytes()),
            Self::HaveAll => frame(out, id::HAVE_ALL, &[]),
            Self::HaveNone => frame(out, id::HAVE_NONE, &[]),
            Self::Reject(block) => block_frame(out, id::REJECT, *block),
            Self::AllowedFast(piece) => frame(out, id::ALLOWED_FAST, &piece.0.to_be_bytes()),
            Self::Extended { id: extension, payload } => {
                out.put_u32(2 + payload.len() as u32);
                out.put_slice(&[id::EXTENDED, *extension]);
                out.put_slice(payload);
            }
        }
    }
}

/// The bytes of a piece message that stand before its data, which is `block.length` bytes long.
pub fn piece_header(block: BlockRef) -> [u8; PIECE_HEADER] {
    let mut header = [0; PIECE_HEADER];
    header[..4].copy_from_slice(&block.length.saturating_add(9).to_be_bytes());
    header[4] = id::PIECE;
    header[5..9].copy_from_slice(&block.piece.0.to_be_bytes());
    header[9..].copy_from_slice(&block.begin.to_be_bytes());
    header
}

fn frame(out: &mut BytesMut, id: u8, payload: &[u8]) {
    out.put_u32(1 + payload.len() as u32);
    out.put_u8(id);
    out.put_slice(payload);
}

fn block_frame(out: &mut BytesMut, id: u8, block: BlockRef) {
    out.reserve(17);
    out.put_u32(13);
    out.put_u8(id);
    out.put_u32(block.piece.0);
    out.put_u32(block.begin);
    out.put_u32(block.length);
}
