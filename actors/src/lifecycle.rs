//! How actors end, and how their parents learn of it.

use actix::prelude::*;
use castanet_core::{PeerKey, PluginName, TorrentId};

/// Why an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to.
    Asked,
    /// It ended by itself, for a reason that a user can read.
    Failed(String),
    /// The other side broke the rules, in words.
    Violation(String),
    /// A panic, or its thread vanished: `stopped()` ran without anyone having closed it.
    Unexplained,
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked => f.write_str("it was asked to end"),
            Self::Failed(reason) | Self::Violation(reason) => f.write_str(reason),
            Self::Unexplained => f.write_str("an internal error"),
        }
    }
}

/// Who ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    /// A torrent of the session.
    Torrent(TorrentId),
    /// A discovery plugin of the session.
    Discovery(PluginName),
    /// The port mapper of the session.
    PortMapper,
    /// The piece manager of a torrent.
    Pieces,
    /// The storage of a torrent.
    Storage,
    /// A peer of a torrent.
    Peer(PeerKey),
    /// A web seed of a torrent.
    WebSeed(PeerKey),
}

/// Sent to the parent from `stopped()`, after a clean end and after a panic alike.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct ChildStopped {
    /// Who.
    pub child: Child,
    /// Why.
    pub reason: ExitReason,
}
