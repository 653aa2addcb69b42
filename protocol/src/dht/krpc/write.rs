//! Messages to datagrams: canonical bencode, keys in order.
//!
//! Written by hand, not with `bendy`: the value of an item (BEP 44) is signed, and goes out byte for byte as it came.

use std::net::SocketAddr;

use castanet_core::addr::write_compact;

use super::{Ask, Body, Message, Query, Response, Want};
use crate::dht::{Item, Node, NodeId};

pub(super) fn message(message: &Message) -> Vec<u8> {
    let mut out = Writer(vec![b'd']);
    match &message.body {
        Body::Query(query) => arguments(query, &mut out),
        Body::Error { code, text } => {
            out.open("e", b'l');
            out.0.extend_from_slice(format!("i{code}e").as_bytes());
            out.string(text.as_bytes());
            out.close();
        }
        Body::Response(_) => {}
    }
    if let Some(addr) = message.your_addr {
        out.bytes("ip", &compact(addr));
    }
    let kind = match &message.body {
        Body::Query(query) => {
            out.bytes("q", query.ask.to_string().as_bytes());
            out.flag("ro", query.read_only);
            b"q"
        }
        Body::Response(response) => {
            out.open("r", b'd');
            results(response, &mut out);
            out.close();
            b"r"
        }
        Body::Error { .. } => b"e",
    };
    out.bytes("t", &message.transaction);
    if let Some(version) = message.version {
        out.bytes("v", &version);
    }
    out.bytes("y", kind);
    out.close();
    out.0
}

pub(super) fn response_length(response: &Response) -> usize {
    let mut out = Writer(Vec::new());
    results(response, &mut out);
    out.0.len()
}

fn arguments(query: &Query, out: &mut Writer) {
    out.open("a", b'd');
    if let Ask::Put { cas: Some(cas), .. } = query.ask {
        out.int("cas", cas);
    }
    out.id("id", query.from);
    match &query.ask {
        Ask::Ping | Ask::Other { target: None, .. } => {}
        Ask::FindNode { target } | Ask::SampleInfohashes { target } | Ask::Other { target: Some(target), .. } => {
            out.id("target", *target);
        }
        Ask::GetPeers { info_hash, noseed, scrape } => {
            out.id("info_hash", *info_hash);
            out.flag("noseed", *noseed);
            out.flag("scrape", *scrape);
        }
        Ask::AnnouncePeer { info_hash, port, token, seed } => {
            out.flag("implied_port", port.is_none());
            out.id("info_hash", *info_hash);
            // Several programs insist on a port even if they are to ignore it.
            out.int("port", port.unwrap_or_default().into());
            out.flag("seed", *seed);
            out.bytes("token", token);
        }
        Ask::Get { target, seq } => {
            if let Some(seq) = seq {
                out.int("seq", *seq);
            }
            out.id("target", *target);
        }
        Ask::Put { token, item, .. } => {
            if let Item::Mutable { key, salt, seq, signature, .. } = item {
                out.bytes("k", key);
                if !salt.is_empty() {
                    out.bytes("salt", salt);
                }
                out.int("seq", *seq);
                out.bytes("sig", signature);
            }
            out.bytes("token", token);
            out.raw("v", item.value());
        }
    }
    if query.want != Want::default() {
        out.open("want", b'l');
        if query.want.v4 {
            out.string(b"n4");
        }
        if query.want.v6 {
            out.string(b"n6");
        }
        out.close();
    }
    out.close();
}

fn results(response: &Response, out: &mut Writer) {
    if let Some(bloom) = &response.downloaders {
        out.bytes("BFpe", bloom.as_bytes());
    }
    if let Some(bloom) = &response.seeds {
        out.bytes("BFsd", bloom.as_bytes());
    }
    out.id("id", response.from);
    if let Some(samples) = &response.samples {
        out.int("interval", samples.interval.as_secs().cast_signed());
    }
    let mutable = match &response.item {
        Some(Item::Mutable { key, seq, signature, .. }) => Some((key, *seq, signature)),
        _ => None,
    };
    if let Some((key, ..)) = mutable {
        out.bytes("k", key);
    }
    out.nodes("nodes", &response.nodes);
    out.nodes("nodes6", &response.nodes6);
    if let Some(samples) = &response.samples {
        out.int("num", samples.total.into());
        let hashes: Vec<u8> = samples.hashes.iter().flat_map(|hash| hash.0).collect();
        out.bytes("samples", &hashes);
    }
    if let Some(seq) = mutable.map(|(_, seq, _)| seq).or(response.seq) {
        out.int("seq", seq);
    }
    if let Some((.., signature)) = mutable {
        out.bytes("sig", signature);
    }
    if let Some(token) = &response.token {
        out.bytes("token", token);
    }
    if let Some(item) = &response.item {
        out.raw("v", item.value());
    }
    if !response.values.is_empty() {
        out.open("values", b'l');
        for peer in &response.values {
            out.string(&compact(*peer));
        }
        out.close();
    }
}

fn compact(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(18);
    write_compact(addr, &mut bytes);
    bytes
}

/// Appends to a dictionary or list; the caller keeps keys in order.
struct Writer(Vec<u8>);

impl Writer {
    fn string(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes.len().to_string().as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(bytes);
    }
    fn open(&mut self, key: &str, kind: u8) {
        self.string(key.as_bytes());
        self.0.push(kind);
    }
    fn close(&mut self) {
        self.0.push(b'e');
    }
    fn bytes(&mut self, key: &str, value: &[u8]) {
        self.string(key.as_bytes());
        self.string(value);
    }
    fn int(&mut self, key: &str, value: i64) {
        self.raw(key, format!("i{value}e").as_bytes());
    }
    fn flag(&mut self, key: &str, set: bool) {
        if set {
            self.int(key, 1);
        }
    }
    /// A value that is bencoded already.
    fn raw(&mut self, key: &str, bencoded: &[u8]) {
        self.string(key.as_bytes());
        self.0.extend_from_slice(bencoded);
    }
    fn id(&mut self, key: &str, id: NodeId) {
        self.bytes(key, &id.0);
    }
    fn nodes(&mut self, key: &str, nodes: &[Node]) {
        if nodes.is_empty() {
            return;
        }
        let mut bytes = Vec::with_capacity(nodes.len() * 38);
        for node in nodes {
            bytes.extend_from_slice(&node.id.0);
            write_compact(node.addr, &mut bytes);
        }
        self.bytes(key, &bytes);
    }
}
