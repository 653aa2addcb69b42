//! What the port mapper is told, and what it tells.

use std::time::Duration;

use actix::prelude::*;
use castanet_protocol::portmap::Report;

/// The network is another one, or back: ask for everything anew.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct MapAnew;

/// Take back what is open, and end; answered when that is done or the time is up.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ClosePortMapper {
    /// How long it may take.
    pub within: Duration,
}

/// To the session: how the port stands; `None` when that is not known, as in a network that is new.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PortReported(pub Option<Report>);
