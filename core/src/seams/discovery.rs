//! The discovery seam: one contract for every way of finding peers.
//!
//! A plugin is asked once per torrent to [`Discovery::discover`] and answers with a stream; dropping the stream stops the
//! work. It sees of the torrent only what [`Swarm`] carries: demand and progress to pull, events and outcomes to receive.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::{means::Means, transport::BoxStream};
use crate::{
    ids::{InfoHashes, PeerId, PluginName},
    moment::Moment,
};

/// What a plugin answers with. Errors are reports: the stream goes on after them until it ends.
pub type FoundStream = BoxStream<Result<Found, DiscoveryError>>;

/// One way of finding peers. One value serves every torrent of a session.
#[async_trait]
pub trait Discovery: fmt::Debug + Send + Sync + 'static {
    /// The name under which it is registered, shown and counted.
    fn name(&self) -> PluginName;
    /// May it serve such a torrent? (BEP 27: a private torrent is served by its trackers only.)
    fn serves(&self, swarm: &SwarmInfo) -> bool;
    /// Starts looking and announcing. Dropping the stream stops the work.
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError>;
    /// Says good-bye (a tracker's `stopped`) within a deadline.
    async fn leave(
        &self,
        _swarm: SwarmInfo,
        _me: Me,
        _last: Progress,
        _within: Duration,
    ) -> Result<(), DiscoveryError> {
        Ok(())
    }
}

/// Makes a plugin; called again when one has died.
pub type Build = fn(&Means, &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError>;

/// A plugin's own settings: text by key, documented and parsed by the plugin.
#[derive(Debug, Clone, Default)]
pub struct Settings(pub BTreeMap<String, String>);

/// What a plugin may know of a torrent; it does not change.
#[derive(Debug, Clone)]
pub struct SwarmInfo {
    /// Which torrent.
    pub info_hashes: InfoHashes,
    /// The private flag (BEP 27).
    pub private: bool,
    /// Trackers by tier (BEP 12), the user's own in a tier at the end.
    pub trackers: Arc<[Vec<String>]>,
    /// Peers that the user or a magnet link named, as HOST:PORT.
    pub peers: Arc<[String]>,
}

/// Who we are in this swarm.
#[derive(Debug, Clone)]
pub struct Me {
    /// Our peer id.
    pub peer_id: PeerId,
    /// Where peers may connect: the first listening port, 0 if none.
    pub port: u16,
    /// A random number that stays the same for this torrent, so that a tracker knows us after an address change (BEP 7).
    pub key: u32,
}

/// A swarm to serve.
#[derive(Debug)]
pub struct Swarm {
    /// What does not change.
    pub info: SwarmInfo,
    /// Who we are.
    pub me: Me,
    /// What changes: pull it when it matters.
    pub progress: watch::Receiver<Progress>,
    /// What must not be missed.
    pub events: mpsc::Receiver<SwarmEvent>,
}

/// How far we are and how many peers we want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes of useful data received from peers.
    pub downloaded: u64,
    /// Bytes still missing; `None` before the metadata is known.
    pub left: Option<u64>,
    /// Demand: how many more peers would be useful. A plugin that is not needed rests.
    pub wanted: usize,
}

/// What happened in the torrent. A plugin that does not read them loses the newest, never blocks the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwarmEvent {
    /// The download is complete (a tracker's `completed`).
    Completed,
    /// What became of a peer that this plugin found.
    Outcome(PeerOutcome),
}

/// What became of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerOutcome {
    /// Whom it is about.
    pub addr: SocketAddr,
    /// What happened.
    pub fate: PeerFate,
}

/// The stations of a peer's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFate {
    /// It did not accept our connection.
    Refused,
    /// The connection is open.
    Connected,
    /// The handshake succeeded: it is in this swarm.
    Handshaken,
    /// It gave this many bytes of verified or pending data in all.
    Gave(u64),
    /// It sent bad data or broke the protocol, and is not dialled again.
    Banned,
}

/// What a plugin found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// Peers, perhaps known already.
    Peers(Vec<PeerCandidate>),
    /// More trackers for this torrent.
    Trackers(Vec<String>),
    /// The address by which others see us (BEP 24).
    ExternalAddress(std::net::IpAddr),
    /// Something the user should know, in one sentence (a tracker's warning).
    Notice(String),
    /// Nothing to do before then.
    Idle {
        /// When it goes on by itself, if it does.
        retry_at: Option<Moment>,
    },
}

/// A peer that a plugin found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCandidate {
    /// Where to dial.
    pub addr: SocketAddr,
    /// Its peer id, if the source told it.
    pub peer_id: Option<PeerId>,
    /// Which instance of the plugin found it: the tracker's URL, the PEX neighbour, ...
    pub instance: Arc<str>,
}

/// Why a plugin could not do its work. The text is for users.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The other side refused, in its own words.
    #[error("{instance} says: {message}")]
    Refused {
        /// The tracker's URL or the like.
        instance: Arc<str>,
        /// Its words, cut and escaped.
        message: String,
    },
    /// The other side answered nonsense.
    #[error("{instance} sent a bad answer: {what}")]
    Malformed {
        /// The tracker's URL or the like.
        instance: Arc<str>,
        /// What is wrong with it.
        what: String,
    },
    /// The other side could not be reached.
    #[error("{instance} cannot be reached: {reason}")]
    Unreachable {
        /// The tracker's URL or the like.
        instance: Arc<str>,
        /// In plain words.
        reason: String,
    },
    /// The plugin cannot work with these settings or this torrent.
    #[error("{0}")]
    Unusable(String),
}
