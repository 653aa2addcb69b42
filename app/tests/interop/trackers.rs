//! The trackers people run: the only way to the seed is what the tracker says.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::castanet::{Castanet, named};
use crate::payload::{self, Shape};
use crate::programs::Program;
use crate::programs::bittorrent_tracker::BittorrentTracker;
use crate::programs::opentracker::{self, Opentracker};
use crate::world;

/// Some peer was found, and all that were found came from a plugin of this kind ("http", "udp").
fn found_by(events: &[Value], kind: &str) -> Result<()> {
    ensure!(named(events, "peer_found").count() > 0, "no peer_found in {events:?}");
    for found in named(events, "peer_found") {
        let plugin = found["plugin"].as_str().unwrap_or_default();
        ensure!(plugin.contains(kind), "found by {plugin:?}, not by an {kind} tracker: {found}");
    }
    Ok(())
}

fn by_opentracker(kind: &str, url: fn(SocketAddrV4) -> String) {
    world::test(|world| -> Result<()> {
        let address = world.host();
        let torrent = payload::make(world, Shape::OneFile, 5, 16 * 1024, &[&url(address)])?;
        let tracker = Opentracker::start(world, address, &[&torrent.info_hash])?;
        let _seed = Program::Libtorrent.seed(world, &torrent)?;
        tracker.wait_for_seed(&torrent.info_hash)?;
        let folder = world.folder("get")?;
        let events = Castanet::get(world, &torrent.file, &folder, &[])?.complete()?;
        found_by(&events, kind)?;
        torrent.same_in(&folder, false)
    });
}

fn by_bittorrent_tracker(kind: &str, url: fn(SocketAddrV4) -> String) {
    world::test(|world| -> Result<()> {
        let address = world.host();
        let torrent = payload::make(world, Shape::OneFile, 6, 16 * 1024, &[&url(address)])?;
        let tracker = BittorrentTracker::start(world, address)?;
        let _seed = Program::Libtorrent.seed(world, &torrent)?;
        tracker.wait_for_event("start", 1)?;
        let folder = world.folder("get")?;
        let events = Castanet::get(world, &torrent.file, &folder, &[])?.complete()?;
        found_by(&events, kind)?;
        // The seed was complete when it came and has not left: these are Castanet's.
        tracker.wait_for_event("complete", 1)?;
        tracker.wait_for_event("stop", 1)?;
        torrent.same_in(&folder, false)
    });
}

#[test]
fn opentracker_over_http() {
    by_opentracker("http", opentracker::http_url);
}

#[test]
fn opentracker_over_udp() {
    by_opentracker("udp", opentracker::udp_url);
}

#[test]
fn bittorrent_tracker_over_http() {
    by_bittorrent_tracker("http", opentracker::http_url);
}

#[test]
fn bittorrent_tracker_over_udp() {
    by_bittorrent_tracker("udp", opentracker::udp_url);
}
