//! Answers the queries of other nodes: routes, peers, items and samples, within limits (BEP 5, 32, 33, 43, 44, 51).
//!
//! One server for both families. It knows no table: whoever asks it brings the nodes. It answers read-only nodes like
//! all others (BEP 43); that they belong into no table, and that a read-only node of ours answers nobody, is the
//! caller's business.

use std::net::SocketAddr;

use castanet_core::{Moment, addr::canonical};
use fastrand::Rng;

use super::{
    Ask, Body, KrpcError, LARGEST_DATAGRAM, Message, Node, NodeId, Query, Response, Want,
    items::Items,
    krpc::error_code,
    limits::{HOST_RATE, Host, Limits, TOTAL_RATE},
    peers::Peers,
    tokens::Tokens,
};

/// Nodes of a family in an answer: a bucket (BEP 5's K).
pub(super) const NODES_IN_AN_ANSWER: usize = 8;
/// What surrounds an answer in a datagram, at most: transaction id, version, the asker's address.
pub(super) const ENVELOPE: usize = 72;
/// What a `put` costs its sender's allowance beside the answer: the time to check a signature.
pub(super) const COST_OF_A_PUT: usize = 512;

/// How much a [`Server`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// Bytes a second to one host; [`HOST_RATE`].
    pub host_rate: u64,
    /// Bytes a second to all hosts; [`TOTAL_RATE`].
    pub total_rate: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { host_rate: HOST_RATE, total_rate: TOTAL_RATE }
    }
}

/// What a [`Server`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Swarms of which peers were announced.
    pub swarms: usize,
    /// Peers in all of them.
    pub peers: usize,
    /// Items (BEP 44).
    pub items: usize,
}

/// The serving half of a node.
#[derive(Debug)]
pub struct Server {
    rng: Rng,
    limits: Limits,
    tokens: Tokens,
    peers: Peers,
    items: Items,
}

/// A code and the words for it.
struct Refusal(i64, String);

impl Server {
    /// A server that stores nothing yet. Tokens come from the seed: nobody outside may be able to guess it.
    pub fn new(seed: u64, config: ServerConfig) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            limits: Limits::new(config.host_rate, config.total_rate),
            tokens: Tokens::new(rng.fork(), Moment::ZERO),
            peers: Peers::default(),
            items: Items::default(),
            rng,
        }
    }

    /// Answers a query that came from this address to our id `us`. `None`: say nothing, they have had enough.
    ///
    /// `nodes` gives the known nodes nearest to an id, nearest first, of the families that are asked for. With a
    /// transaction id and an `ip`, the answer stays within [`LARGEST_DATAGRAM`].
    pub fn answer(
        &mut self,
        query: &Query,
        from: SocketAddr,
        us: NodeId,
        nodes: impl FnMut(NodeId, Want) -> (Vec<Node>, Vec<Node>),
        now: Moment,
    ) -> Option<Body> {
        let from = canonical(from);
        let host = Host::of(from);
        if !self.limits.admit(host, now) {
            return None;
        }
        self.peers.expire(now);
        self.items.expire(now);
        let work = if let Ask::Put { .. } = query.ask { COST_OF_A_PUT } else { 0 };
        let (body, length) = match self.respond(query, from, us, nodes, now) {
            Ok(response) => {
                let length = response.length();
                (Body::Response(Box::new(response)), length)
            }
            Err(Refusal(code, text)) => {
                let length = text.len();
                (Body::Error { code, text }, length)
            }
        };
        self.limits.charge(host, ENVELOPE + length + work, now);
        Some(body)
    }

    fn respond(
        &mut self,
        query: &Query,
        from: SocketAddr,
        us: NodeId,
        mut nodes: impl FnMut(NodeId, Want) -> (Vec<Node>, Vec<Node>),
        now: Moment,
    ) -> Result<Response, Refusal> {
        let mut response = Response { from: us, ..Response::default() };
        let want = match query.want {
            Want { v4: false, v6: false } => Want { v4: from.is_ipv4(), v6: from.is_ipv6() },
            want => want,
        };
        let mut near = |target| nodes(target, want);
        match &query.ask {
            Ask::Ping => {}
            Ask::FindNode { target } | Ask::Other { target: Some(target), .. } => {
                add_nodes(&mut response, near(*target), from);
            }
            Ask::Other { method, target: None } => {
                return Err(Refusal(error_code::UNKNOWN_METHOD, format!("unknown method {method}")));
            }
            Ask::GetPeers { info_hash, noseed, scrape } => {
                response.token = Some(self.tokens.make(from.ip(), now));
                if *scrape && let Some((seeds, downloaders)) = self.peers.filters(*info_hash, now) {
                    (response.seeds, response.downloaders) = (Some(seeds), Some(downloaders));
                }
                add_nodes(&mut response, near(*info_hash), from);
                let (most, which) = (values_that_fit(&response, from), (from.is_ipv6(), *noseed));
                response.values = self.peers.some(*info_hash, which, most, &mut self.rng, now);
            }
            Ask::AnnouncePeer { info_hash, port, token, seed } => {
                self.check_token(token, from, now)?;
                let peer = SocketAddr::new(from.ip(), port.unwrap_or(from.port()));
                let kept = self.peers.announce(*info_hash, peer, *seed, Host::of(from), now);
                kept.map_err(|_| Refusal(error_code::SERVER, "too many announces from your address".to_owned()))?;
            }
            Ask::Get { target, seq } => {
                response.token = Some(self.tokens.make(from.ip(), now));
                if let Some(item) = self.items.get(*target) {
                    if seq.is_some() && item.seq().is_some() && item.seq() <= *seq {
                        response.seq = item.seq();
                    } else {
                        response.item = Some(item.clone());
                    }
                }
                add_nodes(&mut response, near(*target), from);
            }
            Ask::Put { token, item, cas } => {
                self.check_token(token, from, now)?;
                let kept = self.items.put(item.clone(), *cas, Host::of(from), now);
                kept.map_err(|error| Refusal(error.code(), error.to_string()))?;
            }
            Ask::SampleInfohashes { target } => {
                response.samples = Some(self.peers.sample(&mut self.rng, now));
                add_nodes(&mut response, near(*target), from);
            }
        }
        Ok(response)
    }

    fn check_token(&mut self, token: &[u8], from: SocketAddr, now: Moment) -> Result<(), Refusal> {
        let ours = self.tokens.accept(token, from.ip(), now);
        ours.then_some(()).ok_or_else(|| Refusal(error_code::PROTOCOL, "invalid token".to_owned()))
    }

    /// What to tell the sender of a datagram that is no valid message. `None`: nothing.
    pub fn refuse(&mut self, error: &KrpcError, from: SocketAddr, now: Moment) -> Option<Message> {
        let reply = error.reply()?;
        let host = Host::of(canonical(from));
        if !self.limits.admit(host, now) {
            return None;
        }
        self.limits.charge(host, reply.encode().len(), now);
        Some(reply)
    }

    /// The peers that were announced to us for a swarm; without seeds if `noseed`.
    pub fn peers(&self, info_hash: NodeId, noseed: bool) -> Vec<SocketAddr> {
        self.peers.all(info_hash, noseed)
    }

    /// What is stored.
    pub fn counts(&self) -> Counts {
        let (swarms, peers) = self.peers.counts();
        Counts { swarms, peers, items: self.items.count() }
    }

    /// Panics if the stores contradict themselves or exceed their bounds. For tests.
    pub fn check_invariants(&self) {
        self.limits.check_invariants();
        self.peers.check_invariants();
        self.items.check_invariants();
    }
}

/// Bytes of an answer that are still free.
fn room(response: &Response) -> usize {
    (LARGEST_DATAGRAM - ENVELOPE).saturating_sub(response.length())
}

/// Adds as many nodes as fit, those of the asker's family first (BEP 32).
fn add_nodes(response: &mut Response, (v4, v6): (Vec<Node>, Vec<Node>), asker: SocketAddr) {
    let fit = |mut list: Vec<Node>, entry: usize, response: &Response| {
        // The longest key of a list of nodes and its length: "6:nodes6304:".
        list.truncate(NODES_IN_AN_ANSWER.min(room(response).saturating_sub(12) / entry));
        list
    };
    if asker.is_ipv6() {
        response.nodes6 = fit(v6, 38, response);
        response.nodes = fit(v4, 26, response);
    } else {
        response.nodes = fit(v4, 26, response);
        response.nodes6 = fit(v6, 38, response);
    }
}

/// Peers of the asker's family that fit: "6:valuesl", entries like "18:...", "e".
fn values_that_fit(response: &Response, asker: SocketAddr) -> usize {
    let entry = if asker.is_ipv6() { 3 + 18 } else { 2 + 6 };
    room(response).saturating_sub(10) / entry
}

#[cfg(test)]
mod tests;
