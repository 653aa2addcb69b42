//! Peers known and whom to dial, for one torrent.
pub mod priority;
