//! The distributed hash table, sans-IO (BEP 5, 32, 33, 42, 43, 44, 45, 46, 51).

mod bloom;
mod external;
mod id;
mod item;
mod items;
pub mod krpc;
mod limits;
mod machine;
mod peers;
mod saved;
mod search;
mod server;
mod table;
mod tokens;

pub use bloom::{BLOOM_LENGTH, Bloom};
pub use id::{Distance, Node, NodeId};
pub use item::{Item, ItemError, LONGEST_SALT, LONGEST_VALUE, public_key, target_of, torrent_value};
pub use krpc::{Ask, Body, KrpcError, LARGEST_DATAGRAM, Message, Query, Response, Samples, Want};
pub use limits::{HOST_RATE, TOTAL_RATE};
pub use machine::{AnnounceAs, Dht, DhtConfig, DhtOutput, Families, LookUp, LookUpId, SwarmSize};
pub use saved::{MOST_SAVED, Saved};
pub use server::{Counts, Server, ServerConfig};
