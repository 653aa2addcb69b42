//! What a peer actor is told.

use std::sync::Arc;

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use castanet_core::{Bitfield, BlockRef, Geometry, PieceIndex};
use castanet_protocol::extension::Extension;

use super::{
    pieces::{BlocksLost, BlocksReceived, PeerHas, PeerJoined, PeerLeft, PeerSuggested, WantWork},
    storage::ReadRange,
};
use crate::{budget::Permit, lifecycle::ExitReason};

/// Whom a peer tells once the metadata are known.
#[derive(Debug, Clone)]
pub struct PieceLinks {
    /// Piece manager: a connection is open.
    pub joined: Recipient<PeerJoined>,
    /// Piece manager: what the remote has.
    pub has: Recipient<PeerHas>,
    /// Piece manager: what the remote suggests.
    pub suggested: Recipient<PeerSuggested>,
    /// Piece manager: it is gone.
    pub left: Recipient<PeerLeft>,
    /// Piece manager: it could be asked for more.
    pub want: Recipient<WantWork>,
    /// Piece manager: blocks came.
    pub received: Recipient<BlocksReceived>,
    /// Piece manager: requests came to nothing.
    pub lost: Recipient<BlocksLost>,
    /// Storage: read for the remote.
    pub read: Recipient<ReadRange>,
}

/// The metadata are known: join the piece manager and go on as any other connection (BEP 9).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Adopt {
    /// The torrent's shape.
    pub geometry: Geometry,
    /// The pieces that we have.
    pub have: Bitfield,
    /// Bytes of the metadata.
    pub metadata_size: u32,
    /// Whom to tell from now on.
    pub links: PieceLinks,
}

/// Say this to the remote by an extension; it is dropped if the remote does not offer that one (BEP 10).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SayExtended {
    /// Which.
    pub extension: Extension,
    /// What.
    pub payload: Bytes,
}

/// Ask the remote for these blocks.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Request(pub Vec<BlockRef>);

/// These blocks are no longer wanted of it.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Cancel(pub Vec<BlockRef>);

/// Tell the remote whether we want anything.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SetInterest(pub bool);

/// Choke or unchoke the remote.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SetChoke(pub bool);

/// We have these pieces now.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Announce(pub Arc<[PieceIndex]>);

/// Suggest these pieces to the remote (BEP 6).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Suggest(pub Vec<PieceIndex>);

/// Close the connection.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Disconnect(pub ExitReason);

/// A range the remote asked for has been read, or cannot be.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct RangeRead {
    /// The range as it was asked for.
    pub range: BlockRef,
    /// Its bytes; `None` if the disk refused (the storage actor reports why).
    pub data: Option<Bytes>,
}

/// Bytes have come in. The reply is the buffer with what is left in it: the beginning of a frame.
#[derive(Message, Debug)]
#[rtype(result = "Refill")]
pub(crate) struct BytesRead {
    pub(crate) buffer: BytesMut,
    pub(crate) permit: Permit,
}

/// What the read loop does next.
#[derive(Debug, MessageResponse)]
pub(crate) struct Refill {
    /// The beginning of a frame that is not whole yet.
    pub(crate) buffer: BytesMut,
    /// What is left of the permit.
    pub(crate) permit: Permit,
    /// Bytes that were asked for and have not come.
    pub(crate) under_way: usize,
}

/// The read loop has ended: end of stream, or an error in words.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct ReadEnded(pub(crate) String);

/// So many bytes have left for the socket.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct BytesWritten(pub(crate) usize);
