//! What the host of a discovery plugin is told.

use std::time::Duration;

use actix::prelude::*;
use castanet_core::{
    PluginName, TorrentId,
    seams::discovery::{DiscoveryError, Found, Heard, Me, News, PeerCandidate, PeerOutcome, Progress, Say, SwarmInfo},
};
use tokio::sync::watch;

/// Find peers for this torrent from now on. Sent again it tells what has changed: more trackers, or the private flag.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Watch {
    /// The torrent.
    pub torrent: TorrentId,
    /// What the plugin may know of it.
    pub info: SwarmInfo,
    /// Who we are.
    pub me: Me,
    /// How far we are and how many peers we want.
    pub progress: watch::Receiver<Progress>,
    /// Takes what is found.
    pub found: Recipient<PeersFound>,
    /// Takes what else the plugin says.
    pub said: Recipient<PluginSaid>,
    /// Takes what connected peers shall be told.
    pub told: Recipient<NeighbourTold>,
}

/// Stop looking, without a good-bye.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Unwatch(pub TorrentId);

/// Stop looking and say good-bye; answered when that is done or the time is up.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Leave {
    /// The torrent.
    pub torrent: TorrentId,
    /// How long it may take.
    pub within: Duration,
}

/// The torrent is complete now.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct TorrentCompleted(pub TorrentId);

/// What became of peers that this plugin found.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeersFared {
    /// The torrent.
    pub torrent: TorrentId,
    /// Their fates.
    pub outcomes: Vec<PeerOutcome>,
}

/// Something about a connected peer, for plugins with an extension of their own (BEP 10).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct NeighbourHeard {
    /// The torrent.
    pub torrent: TorrentId,
    /// What.
    pub heard: Heard,
}

/// Something that concerns no single torrent.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Hear(pub News);

/// Save what shall be known next time, and end; answered when that is done or the time is up.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CloseDiscovery {
    /// How long it may take.
    pub within: Duration,
}

/// To a torrent: a plugin found peers.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeersFound {
    /// Which plugin.
    pub plugin: PluginName,
    /// Whom.
    pub peers: Vec<PeerCandidate>,
}

/// To a torrent: what a plugin says besides the peers it finds.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PluginSaid {
    /// Which plugin.
    pub plugin: PluginName,
    /// What.
    pub said: Result<Found, DiscoveryError>,
}

/// To a torrent: a plugin wants a connected peer to be told something.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct NeighbourTold {
    /// The plugin's extension.
    pub extension: &'static str,
    /// Whom, and what.
    pub say: Say,
}
