//! What the host of a discovery plugin is told.

use std::time::Duration;

use actix::prelude::*;
use castanet_core::{
    PluginName, TorrentId,
    seams::discovery::{Me, PeerCandidate, PeerOutcome, Progress, SwarmInfo},
};
use tokio::sync::watch;

/// Find peers for this torrent from now on.
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
    /// Takes what the user should know.
    pub noted: Recipient<PluginNoted>,
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

/// End.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CloseDiscovery;

/// To a torrent: a plugin found peers.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeersFound {
    /// Which plugin.
    pub plugin: PluginName,
    /// Whom.
    pub peers: Vec<PeerCandidate>,
}

/// To a torrent: a plugin has something to say to the user.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PluginNoted {
    /// Which plugin.
    pub plugin: PluginName,
    /// One sentence.
    pub text: String,
    /// Is it about something that failed?
    pub failed: bool,
    /// The address by which others see us (BEP 24), if that is the news.
    pub external: Option<std::net::IpAddr>,
}
