//! The whole vocabulary of the engine, one file per receiving actor.
//!
//! Commands are imperatives, events past participles, queries begin with `Get` and answer with a `…Snapshot`.

pub mod discovery;
pub mod peer;
pub mod pieces;
pub mod port_mapper;
pub mod session;
pub mod storage;
pub mod torrent;
pub mod web_seed;
