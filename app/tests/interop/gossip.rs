//! Peers of peers (PEX, BEP 11) and neighbours in the local network (LSD, BEP 14), each alone, with libtorrent on the
//! other side.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

use crate::castanet::{Castanet, LISTEN};
use crate::discovery::{found_by_alone, link, lonely_seed, report};
use crate::payload::{self, Shape};
use crate::programs::session::Session;
use crate::world::{self, HERE, NEXT_DOOR};

/// Castanet knows a libtorrent peer that has next to nothing to give; that one knows the seed.
#[test]
fn pex_alone() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 41, 16 * 1024, &[])?;
        let seed = lonely_seed(world, &torrent, world.host(), &json!({}))?;
        let idle = json!({ "pex": true, "idle": true, "peers": [seed.address.to_string()] });
        let broker = Session::start(world, &torrent, &world.folder("broker")?, world.host(), &idle)?.listens()?;
        let (folder, listen) = (world.folder("get")?, LISTEN.to_string());
        let options = ["--listen", &listen, "--plugins", "fixed,pex", "--peer", &broker.address.to_string()];
        let events = Castanet::get_freely(world, &link(&torrent, ""), &folder, &options)?.complete()?;
        let pex = report(&events, "pex")?;
        assert!(pex["useful"] == 1 && pex["alone"] == 1, "{pex}");
        torrent.same_in(&folder, false)
    });
}

/// libtorrent knows a Castanet that downloads next to nothing; that one knows the seed.
#[test]
fn pex_for_libtorrent() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 42, 16 * 1024, &[])?;
        let seed = lonely_seed(world, &torrent, world.host(), &json!({}))?;
        let (idle, listen) = (world.folder("idle")?, LISTEN.to_string());
        let options = ["--listen", &listen, "--plugins", "fixed,pex", "--peer", &seed.address.to_string()];
        let options = [&options[..], &["--max-down", "1K"]].concat();
        let mut broker = Castanet::get_freely(world, &torrent.file.to_string_lossy(), &idle, &options)?;
        broker.wait_until_listening()?;
        broker.wait_for("peer_connected", 1)?;
        let folder = world.folder("leech")?;
        let peers = json!({ "pex": true, "peers": [LISTEN.to_string()] });
        Session::start(world, &torrent, &folder, world.host(), &peers)?.complete()?;
        broker.interrupt()?;
        torrent.same_in(&folder, false)
    });
}

/// The addresses of both ends of the wire in one family, with the ports where the two listen.
fn ends(family: usize) -> Result<[SocketAddr; 2]> {
    Ok([SocketAddr::new(HERE[family].parse()?, 6881), SocketAddr::new(NEXT_DOOR[family].parse()?, 7002)])
}

/// A libtorrent seed next door says nothing to anybody but the multicast group; or our seed does, and libtorrent hears.
fn lsd(family: usize) {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 43, 16 * 1024, &[])?;
        let next_door = world.neighbour()?;
        let [here, there] = ends(family)?;
        let listen = here.to_string();
        let options = ["--listen", listen.as_str(), "--plugins", "lsd"];
        let lsd = json!({ "lsd": true });

        let folder = world.folder("get")?;
        // It hears us, too, and would be quicker.
        let waits = json!({ "lsd": true, "dials": false });
        let seed = next_door.at(|| lonely_seed(world, &torrent, there, &waits))?;
        let events = Castanet::get_freely(world, &link(&torrent, ""), &folder, &options)?.complete()?;
        found_by_alone(&events, "lsd")?;
        torrent.same_in(&folder, false)?;
        drop(seed);

        let folder = world.folder("leech")?;
        let mut seed = Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?;
        seed.wait_until_listening_at(here)?;
        next_door.at(|| Session::magnet(world, &link(&torrent, ""), &folder, there, &lsd)?.complete())?;
        seed.interrupt()?;
        torrent.same_in(&folder, false)
    });
}

#[test]
fn lsd_alone() {
    lsd(0);
}

#[test]
fn lsd_alone_by_ipv6() {
    lsd(1);
}
