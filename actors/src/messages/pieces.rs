//! What the piece manager of a torrent is told and asked.

use actix::prelude::*;
use castanet_core::{Bitfield, BlockRef, PeerKey, PieceIndex, Sha1Digest};
use castanet_protocol::{peer::Haves, picker::Survey};

use super::{peer, storage::Block};

/// A connection is open; its commands go to these.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerJoined {
    /// Who.
    pub peer: PeerKey,
    /// Takes blocks to ask for.
    pub request: Recipient<peer::Request>,
    /// Takes blocks no longer wanted.
    pub cancel: Recipient<peer::Cancel>,
    /// Takes whether we want anything of it.
    pub interest: Recipient<peer::SetInterest>,
    /// Takes pieces to suggest to it.
    pub suggest: Recipient<peer::Suggest>,
}

/// What a peer has.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerHas {
    /// Who.
    pub peer: PeerKey,
    /// All, none, a bitfield, or some more pieces.
    pub haves: Haves,
}

/// A peer suggests that we ask it for this piece (BEP 6).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerSuggested {
    /// Who.
    pub peer: PeerKey,
    /// What.
    pub piece: PieceIndex,
}

/// A connection is gone; what was asked of it is free again.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerLeft(pub PeerKey);

/// A peer could be asked for more. Answered by `Request`, at once or when there is something.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct WantWork {
    /// Who.
    pub peer: PeerKey,
    /// How many blocks.
    pub room: usize,
    /// What it gives, in bytes per second.
    pub rate: u64,
    /// While it chokes us: the only pieces it would give (BEP 6).
    pub only: Option<Vec<PieceIndex>>,
}

/// Blocks that a peer was asked for have come.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct BlocksReceived {
    /// Who gave them.
    pub peer: PeerKey,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// Requests that a peer will not answer.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct BlocksLost {
    /// Who.
    pub peer: PeerKey,
    /// The blocks.
    pub blocks: Vec<BlockRef>,
}

/// A piece is whole on disk.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PieceHashed {
    /// The piece.
    pub piece: PieceIndex,
    /// Its SHA-1.
    pub digest: Sha1Digest,
}

/// Ask for the state of the pieces.
#[derive(Message, Debug)]
#[rtype(result = "PiecesSnapshot")]
pub struct GetPieces;

/// The state of the pieces.
#[derive(Debug, Clone, MessageResponse)]
pub struct PiecesSnapshot {
    /// Verified pieces.
    pub have: Bitfield,
    /// Wanted bytes that are missing.
    pub left: u64,
}

/// Ask what the connected peers could still give.
#[derive(Message, Debug)]
#[rtype(result = "PiecesSurvey")]
pub struct GetSurvey;

/// What the connected peers could still give.
#[derive(Debug, Clone, Default, MessageResponse)]
pub struct PiecesSurvey(pub Survey);

/// Stop.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ClosePieces;
