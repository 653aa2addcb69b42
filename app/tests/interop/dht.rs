//! The DHT among real nodes on 127.0.0.x: libtorrent sessions, npm's bittorrent-dht, and Castanet as one of them.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use serde_json::json;

use crate::castanet::Castanet;
use crate::discovery::{found_by_alone, link, lonely_seed, timeline_adds_up};
use crate::payload::{self, Shape};
use crate::programs::bittorrent_dht::BittorrentDht;
use crate::programs::session::{Dht, Session};
use crate::world;

/// How many nodes there are besides those of a test.
const NODES: u8 = 30;
/// Where Castanet and its DHT node are.
const HERE: &str = "127.0.0.1:6881";

/// An address for one more of libtorrent's sessions.
fn there(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 6900 + u16::from(last))
}

/// The seed has announced itself to the DHT; Castanet knows the info-hash and one node.
fn found_through(plugin: &str) {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 31, 16 * 1024, &[])?;
        let dht = Dht::start(world, NODES)?;
        let first = dht.nodes[0].to_string();
        let mut seed = lonely_seed(world, &torrent, there(100), &json!({ "dht": [first] }))?;
        seed.announced()?;
        let folder = world.folder("get")?;
        let options = ["--listen", HERE, "--plugins", plugin, "--dht-bootstrap", &first];
        let events = Castanet::get_freely(world, &link(&torrent, ""), &folder, &options)?.complete()?;
        found_by_alone(&events, plugin)?;
        timeline_adds_up(&events)?;
        torrent.same_in(&folder, false)
    });
}

#[test]
fn dht_alone() {
    found_through("dht");
}

#[test]
fn mainline_alone() {
    found_through("mainline");
}

/// Castanet announces its seed; libtorrent knows the info-hash, and of the DHT nobody but Castanet.
#[test]
fn castanets_node_answers_and_its_seed_is_found() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 32, 16 * 1024, &[])?;
        let dht = Dht::start(world, NODES)?;
        let options = ["--listen", HERE, "--plugins", "dht", "--dht-bootstrap", &dht.nodes[0].to_string()];
        let mut seed = Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?;
        seed.wait_until_listening_at(HERE.parse::<SocketAddrV4>()?)?;
        let folder = world.folder("leech")?;
        let node = json!({ "dht": [HERE] });
        let mut leech = Session::magnet(world, &link(&torrent, ""), &folder, there(101), &node)?;
        leech.knows_nodes(5)?;
        leech.complete()?;
        seed.interrupt()?;
        drop(leech);
        torrent.same_in(&folder, false)
    });
}

/// Addresses for nodes of bittorrent-dht.
fn nodes(count: u8) -> Vec<String> {
    (0..count).map(|at| format!("127.0.0.{}:7800", 40 + at)).collect()
}

/// A node of bittorrent-dht announces a peer; Castanet knows the info-hash and another of its nodes.
#[test]
fn found_through_bittorrent_dht() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 33, 16 * 1024, &[])?;
        let nodes = nodes(8);
        let at = Ipv4Addr::new(127, 0, 0, 47);
        let seed = lonely_seed(world, &torrent, SocketAddrV4::new(at, 6947), &json!({}))?;
        let announce = json!({ "info_hash": torrent.info_hash, "port": seed.address.port() });
        let mut others = BittorrentDht::start(world, &json!({ "nodes": nodes, "announce": announce }))?;
        others.announced()?;
        let folder = world.folder("get")?;
        let options = ["--listen", HERE, "--plugins", "dht", "--dht-bootstrap", &nodes[0]];
        let events = Castanet::get_freely(world, &link(&torrent, ""), &folder, &options)?.complete()?;
        found_by_alone(&events, "dht")?;
        torrent.same_in(&folder, false)
    });
}

/// Castanet announces its seed; a node of bittorrent-dht knows the info-hash, and of the DHT nobody but Castanet.
#[test]
fn bittorrent_dht_finds_a_seed_through_castanets_node() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 34, 16 * 1024, &[])?;
        let nodes = nodes(8);
        let mut others = BittorrentDht::start(world, &json!({ "nodes": nodes }))?;
        others.know(2)?;
        let options = ["--listen", HERE, "--plugins", "dht", "--dht-bootstrap", &nodes[0]];
        let mut seed = Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?;
        let here = HERE.parse::<SocketAddrV4>()?;
        seed.wait_until_listening_at(here)?;
        let stranger = json!({ "nodes": ["127.0.0.60:7800"], "know": [HERE], "find": torrent.info_hash });
        let mut stranger = BittorrentDht::start(world, &stranger)?;
        stranger.finds(here)?;
        // It has learnt of the others by our node alone.
        stranger.know(5)?;
        seed.interrupt()
    });
}
