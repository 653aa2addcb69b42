//! What the session is told and asked, and how a torrent is described to it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use actix::{WeakRecipient, prelude::*};
use castanet_core::{InfoHashes, Metainfo, PluginName, TorrentId, magnet::Magnet, seams::storage::Allocation};
use castanet_protocol::picker::Priority;
use tokio::sync::{broadcast, watch};

use super::torrent::{TorrentEvent, TorrentSnapshot};
use crate::shared::Limits;

/// What is known of a torrent when it is added.
#[derive(Debug, Clone)]
pub enum Source {
    /// Everything: what a .torrent file says.
    File(Arc<Metainfo>),
    /// Its info-hash and perhaps where to look; the rest comes from peers (BEP 9).
    Link(Arc<Magnet>),
}

impl Source {
    /// Which torrent it is.
    pub fn info_hashes(&self) -> InfoHashes {
        match self {
            Self::File(metainfo) => metainfo.info_hashes,
            Self::Link(magnet) => magnet.info_hashes,
        }
    }
}

/// Decides how much each file is wanted, in the torrent's order, once the files are known. Files beyond the end of the
/// answer are wanted normally. An error fails the torrent with these words.
#[derive(Clone)]
pub struct Choose(pub Arc<ChooseFn>);

/// What decides: see [`Choose`].
pub type ChooseFn = dyn Fn(&Metainfo) -> Result<Vec<Priority>, String> + Send + Sync;

impl Choose {
    /// Everything is wanted normally.
    pub fn everything() -> Self {
        Self(Arc::new(|_| Ok(Vec::new())))
    }
}

impl fmt::Debug for Choose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Choose")
    }
}

/// What a torrent shall do.
#[derive(Debug, Clone)]
pub struct TorrentSpec {
    /// What is known of it.
    pub source: Source,
    /// The folder that holds, or will hold, its file or folder.
    pub folder: PathBuf,
    /// Whether space is reserved beforehand.
    pub allocation: Allocation,
    /// Pieces in order instead of rarest first.
    pub sequential: bool,
    /// How much each file is wanted.
    pub choose: Choose,
    /// Peers to dial at once, as HOST:PORT.
    pub peers: Vec<String>,
    /// Trackers besides the torrent's own.
    pub trackers: Vec<String>,
    /// The only discovery plugins that may serve it, however public it turns out to be; `None`: all that would.
    pub allow: Option<Vec<PluginName>>,
    /// Rate limits, besides the session's.
    pub limits: Limits,
    /// Hash everything, whatever the resume data say.
    pub recheck: bool,
    /// End after the check, without connecting to anyone.
    pub check_only: bool,
    /// Never download: fail after the check if anything is missing.
    pub seed_only: bool,
    /// Find peers and shake hands with them, but open no files and move no pieces.
    pub discover_only: bool,
}

/// Add a torrent and start it.
#[derive(Message, Debug)]
#[rtype(result = "Result<TorrentAdded, AddError>")]
pub struct AddTorrent(pub TorrentSpec);

/// A torrent was added.
#[derive(Debug)]
pub struct TorrentAdded {
    /// Its name in this session.
    pub torrent: TorrentId,
    /// What happens in it, from its start.
    pub events: broadcast::Receiver<TorrentEvent>,
    /// Its state, renewed a few times a second.
    pub state: watch::Receiver<TorrentSnapshot>,
    /// Takes new limits for all its connections together.
    pub set_limits: WeakRecipient<SetLimits>,
    /// Takes new limits for each of its connections.
    pub set_peer_limits: WeakRecipient<SetPeerLimits>,
}

/// Why a torrent cannot be added. The text is for users.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It is there already.
    #[error("this torrent is already being handled")]
    Duplicate,
    /// What it needs is not built yet.
    #[error("{0}")]
    Unsupported(String),
    /// The files cannot be opened.
    #[error("{0}")]
    Storage(String),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// Stop a torrent and forget it; its files and its resume data stay.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct RemoveTorrent(pub TorrentId);

/// Pause a torrent.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct PauseTorrent(pub TorrentId);

/// Let a paused torrent go on.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct ResumeTorrent(pub TorrentId);

/// Stop every torrent, say good-bye, save; answered when all is done.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Shutdown {
    /// How long the good-byes may take.
    pub within: Duration,
}

/// Change the rate limits of the whole session, or of a torrent, in bytes per second; `None` is unlimited.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SetLimits {
    /// Download.
    pub down: Option<u64>,
    /// Upload.
    pub up: Option<u64>,
}

/// Change the rate limits of each connection of the whole session, or of a torrent, in bytes per second; `None` is unlimited.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SetPeerLimits {
    /// Download.
    pub down: Option<u64>,
    /// Upload.
    pub up: Option<u64>,
}

/// Ask for the session's state.
#[derive(Message, Debug)]
#[rtype(result = "SessionSnapshot")]
pub struct GetSession;

/// The session's state.
#[derive(Debug, Clone, MessageResponse)]
pub struct SessionSnapshot {
    /// The torrents.
    pub torrents: Vec<TorrentId>,
    /// Where it listens.
    pub listening: Vec<std::net::SocketAddr>,
    /// Discovery plugins that are registered.
    pub plugins: Vec<castanet_core::PluginName>,
    /// Whether a router lets peers in; `None` if that is not known, or nobody is asked.
    pub port_report: Option<castanet_protocol::portmap::Report>,
    /// Memory held between socket and disk, in blocks.
    pub blocks_in_memory: usize,
}
