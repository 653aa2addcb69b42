//! One open connection, after the handshakes (BEP 3, BEP 6, BEP 10).
//!
//! [`PeerMachine`] turns bytes into events and wishes into bytes. It decides how many blocks to ask for
//! (`requests`), when to read for the remote and when to refuse it (`uploads`), when to speak, when to wait and when
//! to give up. It does not decide which blocks, nor whom to choke: the picker and the unchoker do.
//!
//! A connection may open before the torrent's metadata are known (BEP 9). Until [`Input::Metadata`] what the remote
//! has is kept as it said it (`early`), nothing is asked for and nothing served; then all is judged and the
//! connection goes on as any other.
//!
//! The connection ends when `handle` answers a [`CloseReason`]; what was put out before is still valid.

mod allowed_fast;
mod chatter;
mod early;
mod machine;
mod requests;
#[cfg(test)]
mod tests;
mod uploads;

use std::{net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use castanet_core::{Bitfield, BlockRef, Geometry, PieceIndex};

use crate::{
    extension::{ExtendedHandshake, Extension},
    wire::WireError,
};

pub use allowed_fast::allowed_fast;
pub use chatter::{CHATTER_RATE, MOST_CHATTER};
pub use early::{MOST_EARLY_HAVES, MOST_EARLY_SUGGESTIONS};
pub use machine::{MOST_UNASKED, MOST_UNSENT_CONTROL, PeerMachine};
pub use requests::{FIRST_CREDIT, LEAST_CREDIT, MOST_REQUESTS, first_credit};
pub use uploads::{LARGEST_READ, LEAST_UNSENT, MOST_REMOTE_REQUESTS, UNSENT_TARGET};

/// What a connection needs to know from its start.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The torrent's shape; `None` until the metadata are known.
    pub geometry: Option<Geometry>,
    /// The pieces that we have; empty until the metadata are known.
    pub have: Bitfield,
    /// Bytes of the metadata if we have them to give (BEP 9).
    pub metadata_size: Option<u32>,
    /// Both sides set the fast bit (BEP 6).
    pub fast: bool,
    /// Both sides set the extension bit (BEP 10).
    pub extended: bool,
    /// The remote's address, which decides the allowed-fast set and is told to it as `yourip`.
    pub remote: IpAddr,
    /// The torrent on the wire, for the allowed-fast set.
    pub info_hash: [u8; 20],
    /// Our listening port, told in the extended handshake; 0 if we do not listen.
    pub listen_port: u16,
    /// Our DHT's UDP port, if both sides set the DHT bit (BEP 5): it is told to the remote.
    pub dht_port: Option<u16>,
    /// The extensions that we offer (BEP 10).
    pub extensions: Vec<Extension>,
    /// How long the machine waits for what.
    pub timing: PeerTiming,
    /// Whether it may have a few pieces while we choke it (BEP 6).
    pub gifts: bool,
    /// How many blocks are asked for before it is known how fast they come: [`first_credit`].
    pub first_credit: usize,
}

/// How long the machine waits for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTiming {
    /// Our silence before a keep-alive. BEP 3 names two minutes as what others expect at least.
    pub keep_alive: Duration,
    /// Their silence before the connection is closed: a keep-alive interval and a half.
    pub silence: Duration,
    /// Without any block for so long while some were asked for, the peer is snubbed.
    pub request: Duration,
}

impl Default for PeerTiming {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(110),
            silence: Duration::from_secs(190),
            request: Duration::from_secs(60),
        }
    }
}

/// What happened, or what is wanted of the connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes came: all whole frames are taken out of the buffer, an unfinished one stays.
    /// [`PeerMachine::missing`] then says how many bytes it lacks.
    Received(&'a mut BytesMut),
    /// So many bytes of what was put out left for the socket, in any order.
    Written(usize),
    /// Ask for these blocks. An answer to [`Output::Room`], or unasked; an empty one is fine.
    Assign(&'a [BlockRef]),
    /// These are no longer wanted. They may come all the same.
    Cancel(&'a [BlockRef]),
    /// Choke the remote, or unchoke it.
    Choke(bool),
    /// We want pieces that the remote has, or none.
    Interest(bool),
    /// We have these pieces now.
    Announce(&'a [PieceIndex]),
    /// We would like to be asked for these pieces (BEP 6). Nothing is said to a remote without the fast extension.
    Suggest(&'a [PieceIndex]),
    /// The answer to an [`Output::Read`]: exactly `range.length` bytes.
    Data {
        /// The range as it was asked for.
        range: BlockRef,
        /// Its bytes.
        data: Bytes,
    },
    /// An [`Output::Read`] could not be answered.
    ReadFailed(BlockRef),
    /// Send a message of an extension (BEP 10). Nothing is sent if the remote does not offer it.
    Extended {
        /// Which.
        extension: Extension,
        /// What to say.
        payload: &'a [u8],
    },
    /// The metadata are known now. Nothing happens if they were before.
    Metadata {
        /// The torrent's shape.
        geometry: Geometry,
        /// The pieces that we have.
        have: Bitfield,
        /// Bytes of the metadata.
        size: u32,
    },
    /// [`PeerMachine::deadline`] has come.
    Timeout,
    /// Instead of that: so long since the last one nothing was read, by our own will. The remote is not blamed for it.
    Excuse(Duration),
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// Send this: one or more control frames.
    Send(Bytes),
    /// Send a block: `header`, then `data`.
    SendBlock {
        /// Everything before the data.
        header: Bytes,
        /// A slice of what [`Input::Data`] brought.
        data: Bytes,
    },
    /// A block came that had been asked for, perhaps cancelled or given up since.
    Block {
        /// Where it belongs.
        block: BlockRef,
        /// A slice of the read buffer, `block.length` bytes.
        data: Bytes,
    },
    /// These requests will not be answered: choked, rejected, timed out, or assigned when none could be sent.
    Lost(Vec<BlockRef>),
    /// So many more blocks may be assigned now. It comes again when many more are free, or after a second in which
    /// nothing was assigned; [`PeerMachine::room`] tells it at any time.
    Room(usize),
    /// The same while the remote chokes us, but for these pieces only: it allowed them (BEP 6). May be ignored.
    FastRoom {
        /// So many blocks.
        blocks: usize,
        /// Of these pieces.
        pieces: Vec<PieceIndex>,
    },
    /// The remote's pieces, or more of them.
    Has(Haves),
    /// The remote chokes us now, or no longer does.
    Choked(bool),
    /// The remote wants our pieces now, or no longer does.
    Interested(bool),
    /// The remote has not sent a block for long while some were asked for, or has sent one at last.
    Snubbed(bool),
    /// Read this range of one piece for the remote and answer with [`Input::Data`] or [`Input::ReadFailed`].
    Read(BlockRef),
    /// The remote would like to be asked for this piece (BEP 6).
    Suggested(PieceIndex),
    /// The remote said what it can do, or said it again (BEP 10). [`PeerMachine::offers`] tells the extensions.
    ExtendedHandshake(Box<ExtendedHandshake>),
    /// A message of an extension that we offer (BEP 10).
    Extended {
        /// Which.
        extension: Extension,
        /// What the remote says.
        payload: Bytes,
    },
    /// The remote's DHT node listens on this UDP port (BEP 5).
    DhtPort(u16),
}

/// Pieces of a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Haves {
    /// Every piece.
    All,
    /// No piece.
    None,
    /// These pieces and no others.
    Bitfield(Bitfield),
    /// These besides those it had; all within the torrent, perhaps known already.
    Pieces(Vec<PieceIndex>),
}

/// Why the machine gives the connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The bytes are no messages.
    #[error("the peer sent {0}")]
    Wire(#[from] WireError),
    /// The bitfield is not one of this torrent.
    #[error("the peer sent a bitfield that does not fit the torrent")]
    BadBitfield,
    /// "Have none" came after the peer had told its pieces. (More pieces may be told at any time: aria2 sends a
    /// bitfield in place of many haves.)
    #[error("the peer took back the pieces it had told")]
    TookBack,
    /// A message names a piece that the torrent does not have.
    #[error("the peer named piece {0}, which the torrent does not have")]
    NoSuchPiece(PieceIndex),
    /// A request reaches beyond its piece, is empty or longer than 128 KiB.
    #[error("the peer asked for {} bytes at {} of piece {}, which cannot be", .0.length, .0.begin, .0.piece)]
    BadRequest(BlockRef),
    /// A block is not as long as the one that was asked for.
    #[error("the peer sent {} bytes at {} of piece {} where another length was asked for", .0.length, .0.begin, .0.piece)]
    WrongBlockLength(BlockRef),
    /// Too much data came that nobody had asked for.
    #[error("the peer sent {0} bytes that were not asked for")]
    Unasked(u64),
    /// Too many extended messages, or DHT ports, came in a short time.
    #[error("the peer floods us with messages of extensions")]
    Flood,
    /// A message of the fast extension came without that extension (BEP 6).
    #[error("the peer used the fast extension without agreeing to it")]
    NotFast,
    /// The peer does not read what we send.
    #[error("the peer does not read what it is sent")]
    DoesNotRead,
    /// Nothing came for [`PeerTiming::silence`].
    #[error("the peer was silent for too long")]
    Silent,
}
