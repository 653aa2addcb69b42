//! Port mapping: a router with miniupnpd and nftables between us, who seed, and a libtorrent leech in the world.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::castanet::{Castanet, named};
use crate::payload::{self, Shape, Torrent};
use crate::programs::miniupnpd::{Miniupnpd, Speaks};
use crate::programs::opentracker::{self, Opentracker};
use crate::programs::session::Session;
use crate::world::{self, EXTERNAL, INSIDE, OUTSIDE, World, wait_until};

/// Where we listen, and where the router is asked to let peers in.
const PORT: u16 = 6881;
const EVERYWHERE: &str = "0.0.0.0:6881";

fn torrent(world: &World) -> Result<Torrent> {
    payload::make(world, Shape::OneFile, 61, 64 * 1024, &[])
}

/// Starts a seed behind the router.
fn seed(world: &World, torrent: &Torrent, options: &[&str]) -> Result<Castanet> {
    Castanet::seed_behind_a_router(world, &torrent.file, &torrent.folder, options)
}

/// What it says once the port is open.
fn open(seed: &mut Castanet) -> Result<Value> {
    seed.wait_for("port_mapped", 1)?;
    let events = seed.events()?;
    named(&events, "port_mapped").next().cloned().context("it said so")
}

/// The router leads both protocols to us.
fn is_mapped(mappings: &[String]) -> bool {
    let ours = format!("dport {PORT} dnat ip to {INSIDE}:{PORT}");
    mappings.len() == 2 && mappings.iter().all(|mapping| mapping.contains(&ours))
}

/// The router speaks one language, or we do: a leech in the world downloads by it, and at the end the port is closed.
fn a_leech_comes_in(speaks: Speaks, option: &str, method: &str) {
    world::test(|world| {
        let (torrent, router) = (torrent(world)?, world.router()?);
        let daemon = Miniupnpd::start(world, &router, speaks)?;
        let mut seed = seed(world, &torrent, &["--listen", EVERYWHERE, "--port-mapping", option])?;
        let open = open(&mut seed)?;
        let external = format!("{EXTERNAL}:{PORT}");
        ensure!(open["external"] == external && open["method"] == method && open["udp"] == true, "{open}");
        ensure!(is_mapped(&daemon.mappings()?), "{:?}", daemon.mappings()?);

        let folder = world.folder("leech")?;
        let (at, peers) = (SocketAddr::new(OUTSIDE.parse()?, 7002), json!({ "peers": [external] }));
        router.outside.at(|| Session::start(world, &torrent, &folder, at, &peers)?.complete())?;
        torrent.same_in(&folder, false)?;

        seed.interrupt()?;
        ensure!(daemon.mappings()?.is_empty(), "it is left open: {:?}", daemon.mappings()?);
        Ok(())
    });
}

#[test]
fn a_leech_comes_in_by_pcp() {
    a_leech_comes_in(Speaks::Datagrams, "pcp", "PCP");
}

#[test]
fn a_leech_comes_in_by_nat_pmp() {
    a_leech_comes_in(Speaks::Datagrams, "nat-pmp", "NAT-PMP");
}

#[test]
fn a_leech_comes_in_by_upnp() {
    a_leech_comes_in(Speaks::Upnp, "on", "UPnP");
}

/// Somebody else has the port already, so the router gives us another one; a leech hears of it from the tracker outside.
#[test]
fn the_world_is_told_the_port_that_the_router_gave() {
    world::test(|world| {
        let router = world.router()?;
        let tracker_at = SocketAddrV4::new(OUTSIDE.parse()?, 6969);
        let url = opentracker::http_url(tracker_at);
        let torrent = payload::make(world, Shape::OneFile, 62, 64 * 1024, &[&url])?;
        let _daemon = Miniupnpd::start(world, &router, Speaks::Datagrams)?;
        let tracker = router.outside.at(|| Opentracker::start(world, tracker_at, &[&torrent.info_hash]))?;
        world.take_port_from_the_router(PORT)?;

        let mut seed = seed(world, &torrent, &["--listen", EVERYWHERE])?;
        let open = open(&mut seed)?;
        let external: SocketAddrV4 = open["external"].as_str().context("an address")?.parse()?;
        ensure!(external.ip().to_string() == EXTERNAL && external.port() != PORT, "{open}");
        let told = [&external.ip().octets()[..], &external.port().to_be_bytes()].concat();
        wait_until("the tracker names the port that the router gave", || {
            let peers = router.outside.at(|| tracker.peers(&torrent.info_hash))?;
            Ok(peers.chunks_exact(6).any(|peer| peer == told))
        })?;

        let (folder, at) = (world.folder("leech")?, SocketAddr::new(OUTSIDE.parse()?, 7002));
        router.outside.at(|| Session::start(world, &torrent, &folder, at, &json!({}))?.complete())?;
        torrent.same_in(&folder, false)?;
        seed.interrupt()
    });
}

/// Without it nobody comes in: the control of the tests above.
#[test]
fn a_leech_stays_outside_without_it() {
    world::test(|world| {
        let (torrent, router) = (torrent(world)?, world.router()?);
        let daemon = Miniupnpd::start(world, &router, Speaks::Datagrams)?;
        for options in
            [["--listen", EVERYWHERE, "--port-mapping", "off"], ["--listen", "127.0.0.1:6881", "--port-mapping", "on"]]
        {
            let mut seed = seed(world, &torrent, &options)?;
            seed.wait_for("listening", 1)?;
            // Long enough for whatever would be said at the start.
            std::thread::sleep(Duration::from_secs(2));
            seed.interrupt()?;
        }
        ensure!(!daemon.log()?.contains("request received"), "{}", daemon.log()?);
        ensure!(daemon.mappings()?.is_empty(), "{:?}", daemon.mappings()?);
        Ok(())
    });
}

/// A mapping is kept up for as long as we live, and after a crash it is closed when its time is up.
fn kept_and_left_to_expire(speaks: Speaks, option: &str, said: &str) {
    world::test(|world| {
        let (torrent, router) = (torrent(world)?, world.router()?);
        let daemon = Miniupnpd::start(world, &router, speaks)?;
        let options = ["--listen", EVERYWHERE, "--port-mapping", option, "--port-mapping-lifetime", "10s"];
        let mut seed = seed(world, &torrent, &options)?;
        open(&mut seed)?;
        // Both protocols, four times: three renewals, of which the last comes after the first lifetime.
        wait_until("the mappings are renewed", || Ok(daemon.log()?.matches(said).count() >= 8))?;
        ensure!(is_mapped(&daemon.mappings()?), "{:?}", daemon.mappings()?);
        seed.kill()?;
        wait_until("the mappings expire", || Ok(daemon.mappings()?.is_empty()))
    });
}

#[test]
fn a_mapping_of_pcp_is_kept_and_left_to_expire() {
    kept_and_left_to_expire(Speaks::Datagrams, "pcp", "PCP request received");
}

#[test]
fn a_mapping_of_nat_pmp_is_kept_and_left_to_expire() {
    kept_and_left_to_expire(Speaks::Datagrams, "nat-pmp", "NAT-PMP port mapping request");
}

#[test]
fn a_mapping_of_upnp_is_kept_and_left_to_expire() {
    kept_and_left_to_expire(Speaks::Upnp, "upnp", "AddPortMapping: ext port");
}
