//! Datagrams to messages, as lenient as real clients require. Nothing is copied before its length is known.

use std::{net::SocketAddr, time::Duration};

use castanet_core::{
    addr::{COMPACT_V4, COMPACT_V6, is_dialable, parse_compact_v4, parse_compact_v6},
    bencode::{Dict, Limits, Value, scan},
};

use super::{
    Ask, Body, KrpcError, LARGEST_READ, LONGEST_INTERVAL, LONGEST_TOKEN, LONGEST_TRANSACTION, MOST_NODES, MOST_SAMPLES,
    MOST_VALUES, Message, Query, Response, Samples, Want, error_code,
};
use crate::dht::{Bloom, Item, Node, NodeId};

/// The longest text of an error or name of a query that is kept, in characters.
const LONGEST_TEXT: usize = 100;
const ID: usize = 20;

pub(super) fn message(datagram: &[u8]) -> Result<Message, KrpcError> {
    let limits = Limits { size: LARGEST_READ, ..Limits::MESSAGE };
    let dict = scan(datagram, limits)?.root.as_dict().ok_or(KrpcError::Envelope("dictionary"))?;
    let transaction = dict.bytes("t").filter(|t| (1..=LONGEST_TRANSACTION).contains(&t.len()));
    let transaction = transaction.ok_or(KrpcError::Envelope("transaction id"))?.to_vec();
    let body = match dict.bytes("y") {
        Some(b"q") => match query(dict) {
            Ok(query) => Body::Query(query),
            Err(Invalid(argument)) => return Err(KrpcError::Query { transaction, argument }),
        },
        Some(b"r") => {
            let results = dict.dict("r").ok_or(KrpcError::Response("dictionary"))?;
            Body::Response(Box::new(response(results)?))
        }
        Some(b"e") => error(dict),
        _ => return Err(KrpcError::Envelope("kind")),
    };
    let version = dict.bytes("v").and_then(|version| version.try_into().ok());
    let your_addr = dict.bytes("ip").and_then(address);
    Ok(Message { transaction, body, version, your_addr })
}

/// The argument of a query that is missing or malformed.
struct Invalid(&'static str);

fn query(dict: Dict<'_>) -> Result<Query, Invalid> {
    let arguments = dict.dict("a").ok_or(Invalid("arguments"))?;
    let mut want = Want::default();
    for family in arguments.list("want").into_iter().flatten() {
        want.v4 |= family.as_bytes() == Some(b"n4");
        want.v6 |= family.as_bytes() == Some(b"n6");
    }
    Ok(Query {
        from: id(arguments, "id").ok_or(Invalid("id"))?,
        read_only: flag(dict, "ro"),
        want,
        ask: ask(dict.bytes("q").ok_or(Invalid("method"))?, arguments)?,
    })
}

fn ask(method: &[u8], arguments: Dict<'_>) -> Result<Ask, Invalid> {
    let target = || id(arguments, "target").ok_or(Invalid("target"));
    let info_hash = || id(arguments, "info_hash").ok_or(Invalid("info_hash"));
    let write_token = || token(arguments).ok_or(Invalid("token"));
    Ok(match method {
        b"ping" => Ask::Ping,
        b"find_node" => Ask::FindNode { target: target()? },
        b"get_peers" => Ask::GetPeers {
            info_hash: info_hash()?,
            noseed: flag(arguments, "noseed"),
            scrape: flag(arguments, "scrape"),
        },
        b"announce_peer" => Ask::AnnouncePeer {
            info_hash: info_hash()?,
            port: match flag(arguments, "implied_port") {
                true => None,
                false => Some(port(arguments).ok_or(Invalid("port"))?),
            },
            token: write_token()?,
            seed: arguments.int("seed") == Some(1),
        },
        b"get" => Ask::Get { target: target()?, seq: arguments.int("seq") },
        b"put" => {
            Ask::Put { token: write_token()?, item: item(arguments).ok_or(Invalid("item"))?, cas: arguments.int("cas") }
        }
        b"sample_infohashes" => Ask::SampleInfohashes { target: target()? },
        other => Ask::Other {
            method: printable(other),
            target: id(arguments, "target").or_else(|| id(arguments, "info_hash")),
        },
    })
}

fn response(results: Dict<'_>) -> Result<Response, KrpcError> {
    let item = item(results);
    Ok(Response {
        from: id(results, "id").ok_or(KrpcError::Response("id"))?,
        nodes: nodes(results, "nodes", ID + COMPACT_V4),
        nodes6: nodes(results, "nodes6", ID + COMPACT_V6),
        values: values(results),
        token: token(results),
        seeds: results.bytes("BFsd").and_then(Bloom::from_bytes),
        downloaders: results.bytes("BFpe").and_then(Bloom::from_bytes),
        seq: results.int("seq").filter(|_| item.is_none()),
        item,
        samples: results.bytes("samples").map(|hashes| samples(results, hashes)),
    })
}

/// `[code, text]` in theory.
fn error(dict: Dict<'_>) -> Body {
    let parts = || dict.list("e").into_iter().flatten();
    let code = parts().find_map(Value::as_int).unwrap_or(error_code::GENERIC);
    let text = parts().find_map(Value::as_bytes).or(dict.bytes("e")).unwrap_or_default();
    Body::Error { code, text: printable(text) }
}

fn item(dict: Dict<'_>) -> Option<Item> {
    let value = dict.get("v")?.raw().into();
    let Some(key) = dict.get("k") else { return Some(Item::Immutable(value)) };
    Some(Item::Mutable {
        key: key.as_bytes()?.try_into().ok()?,
        salt: dict.bytes("salt").unwrap_or_default().into(),
        seq: dict.int("seq")?,
        signature: dict.bytes("sig")?.try_into().ok()?,
        value,
    })
}

/// A list of strings, or all in one string.
fn values(results: Dict<'_>) -> Vec<SocketAddr> {
    let listed = results.list("values").into_iter().flatten().filter_map(|entry| address(entry.as_bytes()?));
    let joined = parse_compact_v4(results.bytes("values").unwrap_or_default());
    listed.chain(joined).filter(|peer| is_dialable(*peer)).take(MOST_VALUES).collect()
}

/// An address of 6 or 18 bytes.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    match bytes.len() {
        COMPACT_V4 => parse_compact_v4(bytes).next(),
        COMPACT_V6 => parse_compact_v6(bytes).next(),
        _ => None,
    }
}

/// Nodes in entries of so many bytes. Those that cannot be asked are left out.
fn nodes(results: Dict<'_>, key: &str, entry: usize) -> Vec<Node> {
    let entries = results.bytes(key).unwrap_or_default().chunks_exact(entry);
    let nodes = entries.filter_map(|entry| {
        let (id, addr) = entry.split_at(ID);
        let addr = address(addr).filter(|addr| is_dialable(*addr))?;
        // An IPv4 address in IPv6's clothes belongs to the other table.
        (addr.is_ipv6() == (entry.len() == ID + COMPACT_V6)).then_some(Node { id: NodeId(id.try_into().ok()?), addr })
    });
    nodes.take(MOST_NODES).collect()
}

fn samples(results: Dict<'_>, hashes: &[u8]) -> Samples {
    let seconds = results.int("interval").and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
    Samples {
        interval: Duration::from_secs(seconds).min(LONGEST_INTERVAL),
        total: results.int("num").and_then(|num| u32::try_from(num).ok()).unwrap_or_default(),
        hashes: hashes.as_chunks().0.iter().map(|hash| NodeId(*hash)).take(MOST_SAMPLES).collect(),
    }
}

fn id(dict: Dict<'_>, key: &str) -> Option<NodeId> {
    dict.bytes(key)?.try_into().ok().map(NodeId)
}

fn token(dict: Dict<'_>) -> Option<Box<[u8]>> {
    dict.bytes("token").filter(|token| token.len() <= LONGEST_TOKEN).map(Into::into)
}

fn port(dict: Dict<'_>) -> Option<u16> {
    u16::try_from(dict.int("port")?).ok().filter(|port| *port != 0)
}

fn flag(dict: Dict<'_>, key: &str) -> bool {
    dict.int(key).is_some_and(|flag| flag != 0)
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}
