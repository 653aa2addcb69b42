//! Floor 4: the actors, thin shells that wait and pass on. Decisions are in `castanet-protocol`, what touches the world is
//! behind the seams of `castanet-core`.
//!
//! session → torrents, discovery plugins, port mapper; torrent → storage, pieces, peers. The whole vocabulary is in [`messages`];
//! docs/ACTORS.md says what may be relied upon.

pub mod budget;
pub mod discovery;
pub mod disk;
pub mod lifecycle;
pub mod mail;
pub mod messages;
pub mod metered;
pub mod peer;
pub mod pieces;
pub mod placement;
pub mod port_mapper;
pub mod session;
mod shake;
pub mod shared;
pub mod storage;
#[cfg(test)]
mod testing;
pub mod throttle;
pub mod torrent;
pub mod web_seed;
