//! The messages between nodes: queries, responses and errors in bencoded datagrams (KRPC, BEP 5).
//!
//! `read.rs` takes what real clients send: missing options count as absent, unknown keys are skipped, lists are cut.
//! `write.rs` writes the one canonical form. IPv6 is BEP 32, scrapes BEP 33, the sender's view of our address BEP 42,
//! read-only nodes BEP 43, stored items BEP 44, samples of info-hashes BEP 51.

mod read;
mod write;

use std::{fmt, net::SocketAddr, time::Duration};

use castanet_core::bencode::BencodeError;

use super::{Bloom, Item, Node, NodeId};

/// The most bytes of a datagram that we send: no path of today cuts it into pieces.
pub const LARGEST_DATAGRAM: usize = 1400;
/// The most bytes of a datagram that is read; larger ones are no DHT messages.
pub const LARGEST_READ: usize = 4096;
/// The longest transaction id that is read, in bytes. Real ones have 1 to 8.
pub const LONGEST_TRANSACTION: usize = 16;
/// The longest token that is read, in bytes. Real ones have 4 to 20.
pub const LONGEST_TOKEN: usize = 128;
/// Nodes of a family that are read from a response: two buckets, as the largest honest answers have.
pub const MOST_NODES: usize = 16;
/// Peers that are read from a response: what fits a datagram of 1,500 bytes.
pub const MOST_VALUES: usize = 200;
/// Info-hashes of a sample that are read.
pub const MOST_SAMPLES: usize = 100;
/// The longest interval of a sample that is believed (BEP 51).
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(21_600);
/// What Castanet says under `v`: its letters as in peer ids, and a version.
pub const VERSION: [u8; 4] = *b"Cn\x01\x00";

/// A message of one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `t`: chosen by who asks and repeated by who answers; 1 to [`LONGEST_TRANSACTION`] bytes.
    pub transaction: Vec<u8>,
    /// What is asked or answered.
    pub body: Body,
    /// `v`: the sender's program, if it says so in the usual four bytes.
    pub version: Option<[u8; 4]>,
    /// `ip`: the receiver's address as the sender sees it (BEP 42).
    pub your_addr: Option<SocketAddr>,
}

/// The three kinds of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// `q`: a question.
    Query(Query),
    /// `r`: its answer.
    Response(Box<Response>),
    /// `e`: its refusal.
    Error {
        /// A code such as [`error_code::PROTOCOL`].
        code: i64,
        /// The other's words, cut and printable.
        text: String,
    },
}

impl Body {
    /// A refusal in our words.
    pub fn error(code: i64, text: impl Into<String>) -> Self {
        Self::Error { code, text: text.into() }
    }
}

/// Codes of errors (BEP 5, BEP 44).
pub mod error_code {
    /// Something went wrong.
    pub const GENERIC: i64 = 201;
    /// The node cannot serve this now.
    pub const SERVER: i64 = 202;
    /// A malformed message or argument, or a bad token.
    pub const PROTOCOL: i64 = 203;
    /// A query that the node does not know.
    pub const UNKNOWN_METHOD: i64 = 204;
    /// An item's value is too big.
    pub const VALUE_TOO_BIG: i64 = 205;
    /// An item's signature is not its key's.
    pub const BAD_SIGNATURE: i64 = 206;
    /// An item's salt is too big.
    pub const SALT_TOO_BIG: i64 = 207;
    /// The stored item is not the one that was to be replaced.
    pub const CAS_MISMATCH: i64 = 301;
    /// The stored item is newer.
    pub const OLD_SEQUENCE: i64 = 302;
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// `id`: who asks.
    pub from: NodeId,
    /// `ro`: who asks cannot be asked, and belongs into no table (BEP 43).
    pub read_only: bool,
    /// `want`: nodes of which families are asked for (BEP 32).
    pub want: Want,
    /// What is asked.
    pub ask: Ask,
}

/// Families of nodes that an answer should have; neither: the family of the datagram (BEP 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Want {
    /// `n4`: nodes with IPv4 addresses.
    pub v4: bool,
    /// `n6`: nodes with IPv6 addresses.
    pub v6: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Are you there?
    Ping,
    /// Which nodes are near this one?
    FindNode {
        /// Any id.
        target: NodeId,
    },
    /// Who is in this swarm, and if you do not know, who is near?
    GetPeers {
        /// The swarm.
        info_hash: NodeId,
        /// Rather no seeds (BEP 33).
        noseed: bool,
        /// How many are they (BEP 33)?
        scrape: bool,
    },
    /// I am in this swarm.
    AnnouncePeer {
        /// The swarm.
        info_hash: NodeId,
        /// Where I take connections; `None`: the port that this datagram comes from (`implied_port`).
        port: Option<u16>,
        /// What the answer to `get_peers` gave me.
        token: Box<[u8]>,
        /// I have everything (BEP 33).
        seed: bool,
    },
    /// Which item is stored there (BEP 44)?
    Get {
        /// The item's place.
        target: NodeId,
        /// A version that I have: send newer ones only.
        seq: Option<i64>,
    },
    /// Store this item (BEP 44).
    Put {
        /// What the answer to `get` gave me.
        token: Box<[u8]>,
        /// The item.
        item: Item,
        /// Only if this version is the stored one.
        cas: Option<i64>,
    },
    /// Which swarms do you know of (BEP 51)?
    SampleInfohashes {
        /// Send nodes that are near this one, too.
        target: NodeId,
    },
    /// A query from the future. Who sends a target can use nodes near it.
    Other {
        /// Its name, cut and printable.
        method: String,
        /// Its `target` or `info_hash`.
        target: Option<NodeId>,
    },
}

/// An answer. What it holds depends on the question; nothing but the sender is sure to be there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// `id`: who answers.
    pub from: NodeId,
    /// Nodes near the target with IPv4 addresses; at most [`MOST_NODES`] are read.
    pub nodes: Vec<Node>,
    /// Nodes near the target with IPv6 addresses; at most [`MOST_NODES`] are read (BEP 32).
    pub nodes6: Vec<Node>,
    /// Peers of the swarm; at most [`MOST_VALUES`] are read.
    pub values: Vec<SocketAddr>,
    /// Allows the asker to announce or put, for some minutes.
    pub token: Option<Box<[u8]>>,
    /// `BFsd`: addresses of seeds (BEP 33).
    pub seeds: Option<Bloom>,
    /// `BFpe`: addresses of all others (BEP 33).
    pub downloaders: Option<Bloom>,
    /// The item. A response carries no salt: see [`Item::received`].
    pub item: Option<Item>,
    /// The stored item's version, if the item itself is left out because the asker has it.
    pub seq: Option<i64>,
    /// Info-hashes that the node knows (BEP 51).
    pub samples: Option<Samples>,
}

/// Some of the info-hashes that a node stores (BEP 51).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Samples {
    /// When to ask again; whole seconds, at most [`LONGEST_INTERVAL`].
    pub interval: Duration,
    /// How many it stores.
    pub total: u32,
    /// Some of them; at most [`MOST_SAMPLES`] are read.
    pub hashes: Vec<NodeId>,
}

impl Message {
    /// A message that says nothing of its sender's program and its receiver's address.
    pub fn new(transaction: impl Into<Vec<u8>>, body: Body) -> Self {
        Self { transaction: transaction.into(), body, version: None, your_addr: None }
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// If it is no message. A query whose sender deserves to be told so has a [`KrpcError::reply`].
    pub fn decode(datagram: &[u8]) -> Result<Self, KrpcError> {
        read::message(datagram)
    }

    /// As a datagram. Whoever fills lists sees to it that it stays within [`LARGEST_DATAGRAM`].
    pub fn encode(&self) -> Vec<u8> {
        write::message(self)
    }
}

impl Response {
    /// The bytes that it takes in a datagram, the envelope not counted.
    pub fn length(&self) -> usize {
        write::response_length(self)
    }
}

/// Why a datagram is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KrpcError {
    /// It is not bencoded.
    #[error("not a DHT message: {0}")]
    Bencode(#[from] BencodeError),
    /// Something that every message has is missing or malformed.
    #[error("not a DHT message: no valid {0}")]
    Envelope(&'static str),
    /// A response that does not say who answers.
    #[error("a DHT response without a valid {0}")]
    Response(&'static str),
    /// A query with missing or malformed arguments.
    #[error("a DHT query without a valid {argument}")]
    Query {
        /// The query's transaction id.
        transaction: Vec<u8>,
        /// What is wrong with it.
        argument: &'static str,
    },
}

impl KrpcError {
    /// What to tell the sender, if it asked something. Goes through [`super::Server::refuse`], which limits it.
    pub fn reply(&self) -> Option<Message> {
        let Self::Query { transaction, argument } = self else { return None };
        let text = format!("missing or invalid {argument}");
        Some(Message::new(transaction.clone(), Body::error(error_code::PROTOCOL, text)))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "ping",
            Self::FindNode { .. } => "find_node",
            Self::GetPeers { .. } => "get_peers",
            Self::AnnouncePeer { .. } => "announce_peer",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::SampleInfohashes { .. } => "sample_infohashes",
            Self::Other { method, .. } => method,
        })
    }
}

#[cfg(test)]
mod tests;
