//! The discovery seam: one contract for every way of finding peers.
//!
//! A plugin is asked once per torrent to [`Discovery::discover`] and answers with a stream; dropping the stream stops the
//! work. It sees of the torrent only what [`Swarm`] carries: demand and progress to pull, events and outcomes to receive.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{means::Means, transport::BoxStream};
use crate::{
    ids::{InfoHashes, PeerId, PluginName},
    magnet::Magnet,
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
    /// Work that belongs to no torrent: a DHT node answers others whether we download or not. It is polled for as long as
    /// the plugin lives and may return early; dropping it stops that work.
    async fn run(&self) {}
    /// Something that concerns no single torrent. Must not block.
    fn hear(&self, _news: &News) {}
    /// Saves what shall be known next time, within a deadline. Nothing is asked of the plugin after it.
    async fn close(&self, _within: Duration) {}
    /// The extension (BEP 10) by which it talks with connected peers, such as `ut_pex`. It then gets [`Swarm::gossip`].
    fn extension(&self) -> Option<&'static str> {
        None
    }
    /// Does it hear what became of every peer, not only of those that it named? For who learns from what others found.
    fn overhears(&self) -> bool {
        false
    }
    /// The UDP port of its DHT node, for peers to be told (BEP 5); `None` while there is none.
    fn dht_port(&self) -> Option<u16> {
        None
    }
}

/// What concerns no single torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// A peer says that a DHT node listens there (BEP 5's PORT message).
    DhtNode(SocketAddr),
    /// The network is another one, or back: addresses and neighbours may have changed.
    NetworkChanged,
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
    /// Trackers by tier (BEP 12), the user's own in a tier at the end, those of a magnet link included.
    pub trackers: Arc<[Vec<String>]>,
    /// Peers that the user named, as HOST:PORT.
    pub peers: Arc<[String]>,
    /// DHT nodes that the torrent names (BEP 5), as HOST:PORT.
    pub nodes: Arc<[String]>,
    /// The magnet link it came by.
    pub link: Option<Arc<Magnet>>,
}

impl SwarmInfo {
    /// A public torrent of which nothing is known but its info-hashes.
    pub fn new(info_hashes: InfoHashes) -> Self {
        let (trackers, peers, nodes) = (Arc::default(), Arc::default(), Arc::default());
        Self { info_hashes, private: false, trackers, peers, nodes, link: None }
    }
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
    /// What connected peers say by the plugin's [`Discovery::extension`], if it has one.
    pub gossip: Option<Gossip>,
}

/// A plugin's line to the connected peers that speak its extension (BEP 10).
#[derive(Debug)]
pub struct Gossip {
    /// What they do and say. A plugin that does not read loses the newest.
    pub heard: mpsc::Receiver<Heard>,
    /// What they shall be told. What does not fit is lost.
    pub say: mpsc::Sender<Say>,
}

/// Something about a connected peer that speaks the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// It can be told something from now on.
    Joined(Neighbour),
    /// It says this.
    Said {
        /// Who, as in [`Heard::Joined`].
        remote: SocketAddr,
        /// What: the extension's payload, at most 64 KiB.
        payload: Bytes,
    },
    /// It is gone.
    Left {
        /// Who.
        remote: SocketAddr,
    },
}

/// A connected peer, as other peers may be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The other end of the connection.
    pub remote: SocketAddr,
    /// Where it accepts connections: what we dialled, or what it told us; `None` if unknown.
    pub listens: Option<SocketAddr>,
    /// Does it speak the plugin's extension? Others are named so that they can be told of.
    pub speaks: bool,
    /// We reached it by dialling: others can, too.
    pub reachable: bool,
    /// It has every piece, or wants nothing (BEP 21).
    pub seed: bool,
    /// It speaks uTP.
    pub utp: bool,
    /// It prefers encryption.
    pub encrypts: bool,
    /// It understands holepunching (BEP 55).
    pub holepunch: bool,
}

/// A message for a connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// Whom, as in [`Heard::Joined`].
    pub remote: SocketAddr,
    /// The extension's payload.
    pub payload: Bytes,
}

/// How far we are and how many peers we want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes of blocks received from peers, those wasted among them.
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
    /// More trackers are known; the tiers are those of [`SwarmInfo::trackers`].
    TrackersAdded(Vec<String>),
    /// Our interface, address or port is another one: what was said about them must be said again.
    NetworkChanged,
    /// What became of a peer that this plugin found, or, if it [overhears](Discovery::overhears), of any whose address is
    /// known.
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
    /// Web servers that have the torrent's files (BEP 19).
    WebSeeds(Vec<String>),
    /// The whole .torrent file, as the source has it: it is believed only if its info-hash is right. At most 64 MiB.
    TorrentFile(Bytes),
    /// How many there are in the swarm, as this instance knows (BEP 33, 48).
    SwarmSize {
        /// The tracker's URL or the like.
        instance: Arc<str>,
        /// Its numbers.
        size: SwarmSize,
    },
    /// A station on the way from a link to the first piece.
    Reached(Milestone),
    /// Its condition in a few words, such as `has 214 nodes`, after its name; replaces what it said before.
    Condition(String),
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

/// How many there are in a swarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwarmSize {
    /// Peers that have everything.
    pub seeds: u32,
    /// Peers that do not.
    pub leeches: u32,
    /// Downloads ever completed, if it is known.
    pub completed: Option<u32>,
}

/// The stations from a link to the complete download, in the order in which they are usually reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Milestone {
    /// The torrent was added.
    Added,
    /// The names of trackers or bootstrap nodes have addresses.
    NamesResolved,
    /// The DHT knows nodes in its neighbourhood.
    Bootstrapped,
    /// The first answer to "who has this torrent?" is here: peers from a tracker, the DHT, ...
    LookedUp,
    /// The first peer is known.
    FirstPeer,
    /// The first connection is open.
    FirstConnected,
    /// The first handshake succeeded.
    FirstHandshake,
    /// The metadata is known and verified.
    Metadata,
    /// The first piece is verified.
    FirstPiece,
    /// Every wanted piece is verified.
    Complete,
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
