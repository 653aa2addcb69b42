//! What a torrent is told and asked, and what it tells its observers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::{
    Bitfield, Metainfo, Moment, PeerKey, PieceIndex, PluginName, TorrentId,
    seams::{
        discovery::{Discovery, Milestone, SwarmSize},
        transport::Connection,
    },
};
use castanet_protocol::{
    diagnosis::Diagnosis,
    extension::Extension,
    swarm::{DialFailure, Worth},
    timeline::Timeline,
    wire::Handshake,
};

use super::discovery::{Hear, Leave, NeighbourHeard, PeersFared, TorrentCompleted, Unwatch, Watch};
use crate::metered::{Cost, Meter};

/// Go on after a pause.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Resume;

/// Close all connections, say good-bye, save; stay known to the session.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Pause;

/// Save, say good-bye, end; answered when done.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Stop {
    /// How long the good-byes may take; the session waits a while longer for saving.
    pub within: Duration,
}

/// A connection whose handshake is through.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerArrived {
    /// The connection, on whatever thread it was accepted or dialled.
    pub connection: Connection,
    /// What the other side said.
    pub handshake: Handshake,
    /// Bytes it sent behind its handshake.
    pub early: bytes::BytesMut,
    /// Did it connect to us?
    pub inbound: bool,
}

/// A dial of ours opened a connection; the handshake follows.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct DialOpened;

/// A dial of ours came to nothing.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct DialFailed {
    /// Whom we dialled.
    pub(crate) addr: SocketAddr,
    /// Why, for the swarm.
    pub(crate) kind: DialFailure,
    /// Why, in words.
    pub(crate) reason: String,
}

/// The network is another one, is gone, or is back; which one, [`crate::shared::Shared::away`] knows.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct NetworkChanged {
    /// Connections that were made before are over.
    pub are_lost: bool,
    /// What the user shall know of it.
    pub notice: Option<Arc<str>>,
}

/// The peer's state changed.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerChanged {
    /// Who.
    pub peer: PeerKey,
    /// What.
    pub change: PeerChange,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// Whether it wants something of us.
    Interested(bool),
    /// Whether it chokes us.
    ChokesUs(bool),
    /// Whether it has stopped sending though asked.
    Snubbed(bool),
    /// What it calls itself (BEP 10), and where it listens.
    Introduced {
        /// Client name and version, cut and escaped.
        client: Box<str>,
        /// Its listening port.
        port: Option<u16>,
        /// It wants nothing (BEP 21).
        upload_only: bool,
        /// The extensions that it offers and we know.
        extensions: Vec<Extension>,
        /// Bytes of the metadata that it could give (BEP 9).
        metadata_size: Option<u32>,
    },
    /// Its DHT node listens on this UDP port (BEP 5).
    DhtPort(u16),
    /// It has every piece.
    IsSeed,
}

/// A peer says something by an extension that we offer (BEP 10).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerSaid {
    /// Who.
    pub peer: PeerKey,
    /// By which extension.
    pub extension: Extension,
    /// What.
    pub payload: bytes::Bytes,
}

/// Twice a second while anything moves.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct PeerReport {
    /// Who.
    pub peer: PeerKey,
    /// Bytes of blocks it gave in all, those wasted among them.
    pub downloaded: u64,
    /// Bytes of blocks it was given in all.
    pub uploaded: u64,
    /// What it gives now, bytes per second.
    pub down_rate: u64,
    /// What it is given now, bytes per second.
    pub up_rate: u64,
}

/// A piece is verified and on disk.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PieceCompleted {
    /// Which.
    pub piece: PieceIndex,
    /// Wanted bytes still missing.
    pub left: u64,
    /// Who gave blocks of it; told only if earlier pieces were bad, so that suspicions end.
    pub contributors: Vec<PeerKey>,
}

/// A piece did not match its hash and is fetched again.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PieceRejected {
    /// Which.
    pub piece: PieceIndex,
    /// Who gave blocks of it.
    pub contributors: Vec<PeerKey>,
}

/// Bytes of blocks that came twice or unasked.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct BytesWasted(pub u64);

/// Digests of pieces that were checked on disk.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PiecesChecked {
    /// The first piece.
    pub first: u32,
    /// A digest for each, `None` where it cannot be read.
    pub digests: Vec<Option<castanet_core::Sha1Digest>>,
}

/// The disk refused; in words for the user.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct StorageFailed {
    /// What and where.
    pub error: String,
    /// Reading for a peer failed, rather than writing what was received.
    pub reading: bool,
}

/// A plugin's host as a torrent sees it.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct PluginStarted {
    /// Its name.
    pub plugin: PluginName,
    /// The plugin itself, for what it can be asked at any time.
    pub seam: Arc<dyn Discovery>,
    /// What it has spent.
    pub meter: Arc<Meter>,
    /// Takes the torrent to look for.
    pub watch: Recipient<Watch>,
    /// Ends that.
    pub unwatch: Recipient<Unwatch>,
    /// Ends that with a good-bye.
    pub leave: Recipient<Leave>,
    /// Takes the news that the torrent is complete.
    pub completed: Recipient<TorrentCompleted>,
    /// Takes what became of its peers.
    pub fared: Recipient<PeersFared>,
    /// Takes what connected peers say by its extension.
    pub neighbour: Recipient<NeighbourHeard>,
    /// Takes what concerns no single torrent.
    pub hear: Recipient<Hear>,
}

/// What a torrent is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Phase {
    /// Reading resume data, opening files.
    #[default]
    Opening,
    /// Asking peers for what a .torrent file would say (BEP 9).
    Metadata,
    /// Hashing what is on disk.
    Checking,
    /// Fetching pieces.
    Downloading,
    /// Every wanted piece is here; serving others.
    Seeding,
    /// Stopped by the user; nothing is connected.
    Paused,
    /// Given up, for this reason.
    Failed(String),
}

/// A torrent's state, as observers see it.
#[derive(Debug, Clone, Default)]
pub struct TorrentSnapshot {
    /// What it is doing.
    pub phase: Phase,
    /// What the torrent is, once that is known.
    pub metainfo: Option<Arc<Metainfo>>,
    /// What each discovery plugin brought and spent, by name.
    pub plugins: Arc<[PluginReport]>,
    /// The stations from the start to the complete download.
    pub timeline: Timeline,
    /// Why nothing arrives, or little, with its evidence.
    pub why: Option<Arc<Diagnosis>>,
    /// Bytes of the torrent.
    pub length: u64,
    /// Wanted bytes that are missing.
    pub left: u64,
    /// Pieces of the torrent.
    pub pieces: u32,
    /// Verified pieces.
    pub have: u32,
    /// Pieces checked so far, while checking.
    pub checked: u32,
    /// Pieces to be checked, while checking.
    pub to_check: u32,
    /// Bytes of blocks received in this run, those wasted among them.
    pub downloaded: u64,
    /// Bytes of blocks sent in this run.
    pub uploaded: u64,
    /// Bytes received that turned out bad or double.
    pub wasted: u64,
    /// Bytes per second coming in.
    pub down_rate: u64,
    /// Bytes per second going out.
    pub up_rate: u64,
    /// Open connections.
    pub peers: u32,
    /// Of these, how many have every piece.
    pub seeds: u32,
    /// Peers known.
    pub known: u32,
    /// Which pieces are verified.
    pub bitfield: Option<Arc<Bitfield>>,
    /// Why nothing arrives, when nothing does.
    pub stalled: Option<String>,
}

impl TorrentSnapshot {
    /// Is every wanted piece on disk?
    pub fn is_complete(&self) -> bool {
        self.phase == Phase::Seeding
    }

    /// How far it is, 0 to 100, rounded down; while checking, how far the check is.
    pub fn percent(&self) -> u32 {
        let (done, all) = match self.phase {
            Phase::Metadata => (0, 1),
            Phase::Checking => (u64::from(self.checked), u64::from(self.to_check)),
            _ => (self.length - self.left.min(self.length), self.length),
        };
        (u128::from(done) * 100).checked_div(u128::from(all)).unwrap_or(100) as u32
    }
}

/// What a discovery plugin brought to a torrent, and what it spent.
#[derive(Debug, Clone)]
pub struct PluginReport {
    /// What it brought.
    pub worth: Worth,
    /// When it named the first peer, counted from the torrent's start.
    pub first_after: Option<Duration>,
    /// What it spent, for all torrents of the session together; of `holepunch`, for this one.
    pub cost: Cost,
    /// Its own words on how it fares.
    pub condition: Option<String>,
    /// The largest size of the swarm that one of its instances told.
    pub swarm: Option<SwarmSize>,
}

/// Something that happened in a torrent, for observers.
#[derive(Debug, Clone)]
pub struct TorrentEvent {
    /// When.
    pub at: Moment,
    /// Where.
    pub torrent: TorrentId,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Happening {
    /// What the torrent is has come from peers, or from where its link pointed.
    Metadata(Arc<Metainfo>),
    /// A station was reached for the first time.
    Reached(Milestone),
    /// Pieces arrive, but slowly, and why.
    Slow(String),
    /// The files are checked (or vouched for), the torrent starts.
    Started {
        /// Verified pieces.
        have: u32,
    },
    /// A plugin found a peer that was not known.
    PeerFound {
        /// Its address.
        addr: SocketAddr,
        /// Which plugin.
        plugin: PluginName,
        /// Which instance of it: a tracker's URL, say.
        instance: Arc<str>,
    },
    /// A peer's handshake succeeded.
    PeerConnected {
        /// Its address.
        addr: SocketAddr,
        /// Did it connect to us?
        inbound: bool,
    },
    /// A connection ended or could not be made.
    PeerLost {
        /// Its address.
        addr: SocketAddr,
        /// Why, in words.
        reason: String,
    },
    /// A piece is verified and on disk.
    Piece(PieceIndex),
    /// A piece did not match its hash.
    PieceRejected(PieceIndex),
    /// Something the user should know.
    Notice(String),
    /// Nothing arrives, and why.
    Stalled(String),
    /// Every wanted piece is verified and on disk.
    Complete,
    /// The torrent gave up.
    Failed(String),
}
