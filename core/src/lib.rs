//! Floor 1: the words of the engine and the seams between its parts.
//!
//! Nothing here does I/O, reads a clock or knows actix. Everything a stranger sends is parsed here or in
//! `castanet-protocol`, with every size checked before it is believed.

pub mod addr;
pub mod bencode;
pub mod bitfield;
pub mod buffers;
pub mod digest;
pub mod geometry;
pub mod ids;
pub mod magnet;
pub mod metainfo;
pub mod moment;
pub mod paths;
pub mod seams;
pub mod units;

pub use bitfield::Bitfield;
pub use digest::Sha1Digest;
pub use geometry::{BLOCK_LENGTH, BlockRef, Geometry};
pub use ids::{InfoHashV1, InfoHashV2, InfoHashes, PeerId, PeerKey, PieceIndex, PluginName, TorrentId};
pub use metainfo::Metainfo;
pub use moment::Moment;
