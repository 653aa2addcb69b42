//! The distributed hash table, sans-IO (BEP 5, 32, 33, 42, 43, 44, 45, 46, 51).

mod bloom;
mod id;
mod item;
pub mod krpc;

pub use bloom::{BLOOM_LENGTH, Bloom};
pub use id::{Distance, Node, NodeId};
pub use item::{Item, ItemError, LONGEST_SALT, LONGEST_VALUE, public_key, target_of, torrent_value};
pub use krpc::{Ask, Body, KrpcError, LARGEST_DATAGRAM, Message, Query, Response, Samples, Want};
