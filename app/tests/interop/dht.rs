//! The DHT among real nodes: libtorrent sessions on 127.0.0.x, and Castanet as one of them.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use serde_json::json;

use crate::castanet::Castanet;
use crate::discovery::{found_by_alone, link, lonely_seed, timeline_adds_up};
use crate::payload::{self, Shape};
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
