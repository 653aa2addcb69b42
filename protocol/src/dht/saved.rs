//! What a node remembers until next time: its ids and the nodes that were alive.

use std::net::SocketAddr;

use castanet_core::{
    addr::{COMPACT_V4, COMPACT_V6, is_dialable, is_stand_in, parse_compact_v4, parse_compact_v6, write_compact},
    bencode::{Dict, Limits, scan},
};

use super::{Node, NodeId};

/// Nodes of a family that are kept.
pub const MOST_SAVED: usize = 150;

const ID: usize = 20;
/// The version of the format; others are not read.
const VERSION: i64 = 1;

/// The memory of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// Our id in the IPv4 DHT.
    pub id4: Option<NodeId>,
    /// Our id in the IPv6 DHT: ids belong to addresses (BEP 42, 45).
    pub id6: Option<NodeId>,
    /// Nodes of both families, the best of each first; at most [`MOST_SAVED`] of each are kept.
    pub nodes: Vec<Node>,
}

impl Saved {
    /// As bencode.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![b'd'];
        let mut string = |key: &str, bytes: &[u8]| {
            if !bytes.is_empty() {
                out.extend_from_slice(format!("{}:{key}{}:", key.len(), bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
            }
        };
        let id = |id: Option<NodeId>| id.map(|id| id.0.to_vec()).unwrap_or_default();
        string("id4", &id(self.id4));
        string("id6", &id(self.id6));
        string("nodes4", &self.compact(SocketAddr::is_ipv4));
        string("nodes6", &self.compact(SocketAddr::is_ipv6));
        out.extend_from_slice(format!("7:versioni{VERSION}ee").as_bytes());
        out
    }

    fn compact(&self, family: fn(&SocketAddr) -> bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        // What stands in for a name means nothing next time.
        let lasting = |node: &&Node| family(&node.addr) && !is_stand_in(node.addr.ip());
        for node in self.nodes.iter().filter(lasting).take(MOST_SAVED) {
            bytes.extend_from_slice(&node.id.0);
            write_compact(node.addr, &mut bytes);
        }
        bytes
    }

    /// Reads what [`Saved::encode`] wrote; `None` if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let limits = Limits { size: 64 << 10, ..Limits::MESSAGE };
        let dict = scan(bytes, limits).ok()?.root.as_dict()?;
        if dict.int("version") != Some(VERSION) {
            return None;
        }
        let id = |key| dict.bytes(key).and_then(|id| id.try_into().ok()).map(NodeId);
        let mut nodes = read_nodes(dict, "nodes4", ID + COMPACT_V4);
        nodes.extend(read_nodes(dict, "nodes6", ID + COMPACT_V6));
        Some(Self { id4: id("id4"), id6: id("id6"), nodes })
    }
}

fn read_nodes(dict: Dict<'_>, key: &str, length: usize) -> Vec<Node> {
    let entries = dict.bytes(key).unwrap_or_default().chunks_exact(length).take(MOST_SAVED);
    let node = |entry: &[u8]| {
        let (id, addr) = entry.split_first_chunk::<ID>()?;
        let addr = if length == ID + COMPACT_V4 {
            parse_compact_v4(addr).next()
        } else {
            parse_compact_v6(addr).next().filter(SocketAddr::is_ipv6)
        };
        Some(Node { id: NodeId(*id), addr: addr.filter(|addr| is_dialable(*addr))? })
    };
    entries.filter_map(node).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_saved_is_read_again() {
        let node = |n: u8, addr: &str| Node { id: NodeId([n; 20]), addr: addr.parse().unwrap() };
        let nodes = vec![node(1, "1.2.3.4:5"), node(2, "9.9.9.9:1"), node(3, "[2001:db8::1]:7")];
        let saved = Saved { id4: Some(NodeId([7; 20])), id6: None, nodes };
        assert_eq!(Saved::decode(&saved.encode()), Some(saved));
        assert_eq!(Saved::decode(&Saved::default().encode()), Some(Saved::default()));
        let many = Saved { nodes: vec![node(1, "1.2.3.4:5"); 1000], ..Saved::default() };
        assert_eq!(Saved::decode(&many.encode()).unwrap().nodes.len(), MOST_SAVED);
        let stand_ins = Saved { nodes: vec![node(1, "240.1.2.3:5"), node(2, "[100::1]:5")], ..Saved::default() };
        assert_eq!(Saved::decode(&stand_ins.encode()), Some(Saved::default()));
        for bad in [&b""[..], b"de", b"d7:versioni2ee", b"le"] {
            assert_eq!(Saved::decode(bad), None);
        }
        let sloppy = b"d3:id43:abc6:nodes427:abcdefghijklmnopqrst\0\0\0\0\0\x01x7:versioni1ee";
        assert_eq!(Saved::decode(sloppy), Some(Saved::default()));
    }

    proptest! {
        #[test]
        fn damage_does_no_harm(at: usize, to: u8) {
            let nodes = vec![Node { id: NodeId([1; 20]), addr: "1.2.3.4:5".parse().unwrap() }; 3];
            let mut bytes = Saved { id4: None, id6: Some(NodeId([2; 20])), nodes }.encode();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Saved::decode(&bytes);
        }
    }
}
