//! The distributed hash table, sans-IO (BEP 5, 32, 33, 42, 43, 44, 45, 46, 51).

mod id;

pub use id::{Distance, Node, NodeId};
