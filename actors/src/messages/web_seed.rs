//! What a web seed is told, and tells. It also handles `Request`, `Cancel`, `SetInterest` and `Suggest`, as peers do.

use actix::prelude::*;
use castanet_core::PeerKey;

/// Fetch nothing more, and end.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CloseWebSeed;

/// How a web seed fares.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct WebSeedFared {
    /// Which.
    pub seed: PeerKey,
    /// How.
    pub fate: WebSeedFate,
}

/// What became of a question to a web seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebSeedFate {
    /// It gave so many bytes of blocks.
    Gave(u64),
    /// It failed, for this reason, and rests.
    Failed(String),
    /// It is of no use, for this reason, and is given up.
    Useless(String),
}
