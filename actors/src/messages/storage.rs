//! What the storage actor of a torrent is told and asked.

use actix::prelude::*;
use bytes::Bytes;
use castanet_core::{
    BlockRef, PieceIndex, Sha1Digest,
    seams::{
        hasher::RunningSha1,
        storage::{FileStamp, StorageError},
    },
};

use crate::budget::Permit;

/// A block on its way from a peer to the disk.
#[derive(Debug)]
pub struct Block {
    /// Which block.
    pub block: BlockRef,
    /// Its bytes, exactly as many as `block.length` says.
    pub data: Bytes,
    /// The memory it takes.
    pub permit: Permit,
}

/// Tell this piece manager of whole pieces from now on; it starts after the files are checked.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ReportTo(pub Recipient<super::pieces::PieceHashed>);

/// Write these blocks, each the first copy of one that was asked for. Answered by `PieceHashed` when a piece is whole.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct WriteBlocks(pub Vec<Block>);

/// Read a contiguous range of one piece for a peer.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ReadRange {
    /// The range; at most 256 KiB.
    pub range: BlockRef,
    /// Who wants it.
    pub reply: Recipient<super::peer::RangeRead>,
}

/// Hash these pieces from disk, using every disk thread. Answered by `PiecesChecked` messages that cover all of them.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CheckPieces {
    /// Which pieces.
    pub pieces: castanet_core::Bitfield,
}

/// Make what is written survive a power cut, and say what the files look like now.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<FileStamp>, String>")]
pub struct Flush {
    /// First write all that is held; only for a torrent that receives nothing more.
    pub drain: bool,
}

/// Ask whether the disk is what everything waits for.
#[derive(Message, Debug)]
#[rtype(result = "DiskSnapshot")]
pub struct GetDisk;

/// How the disk fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, MessageResponse)]
pub struct DiskSnapshot {
    /// What has arrived waits to be written, and that is why no more can arrive, or has for long.
    pub is_busy: bool,
}

/// Finish what is under way and stop.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CloseStorage;

/// A disk thread has carried out a write.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct JobWritten {
    /// The piece.
    pub(crate) piece: PieceIndex,
    /// How many bytes it was to write.
    pub(crate) bytes: u64,
    /// Its hash so far, or why the disk refused.
    pub(crate) result: Result<RunningSha1, StorageError>,
}

/// A disk thread has hashed a stretch of pieces.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct StretchChecked {
    /// The first piece.
    pub(crate) first: u32,
    /// A digest for each piece, `None` where it cannot be read.
    pub(crate) digests: Vec<Option<Sha1Digest>>,
}
