//! Each way of finding peers alone, with real programs on the other side; and links whose torrent comes from peers.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::castanet::{Castanet, LISTEN, named};
use crate::payload::{self, Shape, Torrent};
use crate::programs::Program;
use crate::programs::opentracker::{self, Opentracker};
use crate::programs::session::Session;
use crate::world::{self, World};

/// A tracker that is down: rtorrent takes no torrent without any.
const NOBODY: &str = "http://10.77.0.1:9/announce";

/// The link that says nothing but which torrent it is, and what `more` says.
pub(crate) fn link(torrent: &Torrent, more: &str) -> String {
    format!("magnet:?xt=urn:btih:{}{more}", torrent.info_hash)
}

/// The plugin's entry in the summary.
pub(crate) fn report<'a>(events: &'a [Value], plugin: &'a str) -> Result<&'a Value> {
    let summary = named(events, "summary").next().context("no summary")?;
    let mut plugins = summary["plugins"].as_array().context("no plugins in the summary")?.iter();
    plugins.find(|report| report["plugin"] == plugin).with_context(|| format!("nothing about {plugin} in {summary}"))
}

/// Fails unless `plugin` alone found the peers, and was of use.
pub(crate) fn found_by_alone(events: &[Value], plugin: &str) -> Result<()> {
    ensure!(named(events, "peer_found").count() > 0, "no peer_found in {events:?}");
    for found in named(events, "peer_found") {
        ensure!(found["plugin"] == plugin, "not found by {plugin}: {found}");
    }
    let worth = report(events, plugin)?;
    let at_least_one = |key: &str| worth[key].as_u64() >= Some(1);
    ensure!(["found", "alone", "connected", "useful", "bytes"].iter().all(|key| at_least_one(key)), "{worth}");
    Ok(())
}

/// Fails unless the stations are in order and add up.
pub(crate) fn timeline_adds_up(events: &[Value]) -> Result<()> {
    let summary = named(events, "summary").next().context("no summary")?;
    let stations = summary["timeline"].as_array().context("no timeline")?;
    let number = |station: &Value, key: &str| station[key].as_f64().with_context(|| format!("{key} in {station}"));
    let (mut sum, mut last) = (0.0, 0.0);
    for station in stations {
        sum += number(station, "took")?;
        last = number(station, "after")?;
    }
    // Each is rounded to a millisecond.
    ensure!((sum - last).abs() < 0.0011 * stations.len() as f64, "the phases do not add up: {stations:?}");
    for milestone in ["first_peer", "first_connected", "first_handshake", "metadata", "first_piece", "complete"] {
        ensure!(stations.iter().any(|station| station["milestone"] == milestone), "no {milestone} in {stations:?}");
    }
    Ok(())
}

/// The program seeds; Castanet knows its address and the info-hash, nothing more.
fn metadata_from(program: Program) {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::ManyFiles, 21, 16 * 1024, &[NOBODY])?;
        let seed = program.seed(world, &torrent)?;
        let folder = world.folder("get")?;
        let peer = seed.address.to_string();
        let link = link(&torrent, "");
        let events = Castanet::get(world, Path::new(&link), &folder, &["--peer", &peer])?.complete()?;
        ensure!(named(&events, "metadata").count() == 1, "one metadata event in {events:?}");
        timeline_adds_up(&events)?;
        torrent.same_in(&folder, false)
    });
}

#[test]
fn metadata_from_libtorrent() {
    metadata_from(Program::Libtorrent);
}

#[test]
fn metadata_from_transmission() {
    metadata_from(Program::Transmission);
}

#[test]
fn metadata_from_aria2() {
    metadata_from(Program::Aria2);
}

#[test]
fn metadata_from_qbittorrent() {
    metadata_from(Program::Qbittorrent);
}

#[test]
fn metadata_from_rtorrent() {
    metadata_from(Program::Rtorrent);
}

/// libtorrent knows the info-hash and where Castanet is: it gets the torrent itself from Castanet, too.
#[test]
fn metadata_for_libtorrent() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::ManyFiles, 22, 16 * 1024, &[])?;
        let mut seed = Castanet::seed(world, &torrent.file, &torrent.folder, &[])?;
        seed.wait_until_listening()?;
        let folder = world.folder("leech")?;
        let peers = json!({ "peers": [LISTEN.to_string()] });
        let mut leech = Session::magnet(world, &link(&torrent, ""), &folder, world.host(), &peers)?;
        leech.complete()?;
        seed.interrupt()?;
        drop(leech);
        torrent.same_in(&folder, false)
    });
}

/// A link with a tracker; the torrent comes from a libtorrent seed that the tracker names.
fn by_tracker_alone(plugin: &str, url: fn(SocketAddrV4) -> String) {
    world::test(|world| -> Result<()> {
        let address = world.host();
        let torrent = payload::make(world, Shape::OneFile, 23, 16 * 1024, &[&url(address)])?;
        let tracker = Opentracker::start(world, address, &[&torrent.info_hash])?;
        let _seed = Program::Libtorrent.seed(world, &torrent)?;
        tracker.wait_for_seed(&torrent.info_hash)?;
        let folder = world.folder("get")?;
        let link = link(&torrent, &format!("&tr={}", url(address)));
        let events = Castanet::get(world, Path::new(&link), &folder, &["--plugins", plugin])?.complete()?;
        found_by_alone(&events, plugin)?;
        timeline_adds_up(&events)?;
        torrent.same_in(&folder, false)
    });
}

#[test]
fn http_tracker_alone() {
    by_tracker_alone("http-tracker", opentracker::http_url);
}

#[test]
fn udp_tracker_alone() {
    by_tracker_alone("udp-tracker", opentracker::udp_url);
}

/// A libtorrent seed that uses no discovery at all.
pub(crate) fn lonely_seed(
    world: &World,
    torrent: &Torrent,
    address: impl Into<SocketAddr>,
    more: &Value,
) -> Result<Session> {
    let mut seed = Session::start(world, torrent, &torrent.folder, address, more)?;
    seed.complete()?;
    Ok(seed)
}

/// The Python example of docs/PLUGIN-PROTOCOL.md reads the seed's address from a file.
#[test]
fn process_plugin_alone() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 24, 16 * 1024, &[])?;
        let seed = lonely_seed(world, &torrent, world.host(), &json!({}))?;
        let (folder, file) = (world.folder("get")?, world.folder("friends")?.join("friends.txt"));
        fs::write(&file, format!("{}\n", seed.address))?;
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plugins/friends.py");
        let plugin = format!("friends=python3 '{}' '{}'", example.display(), file.display());
        let options = ["--plugin", &plugin, "--plugins", "friends"];
        let link = link(&torrent, "");
        let events = Castanet::get(world, Path::new(&link), &folder, &options)?.complete()?;
        found_by_alone(&events, "friends")?;
        torrent.same_in(&folder, false)
    });
}

/// The link itself names the seed (`x.pe`).
#[test]
fn x_pe_alone() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::OneFile, 26, 16 * 1024, &[])?;
        let seed = lonely_seed(world, &torrent, world.host(), &json!({}))?;
        let (folder, listen) = (world.folder("get")?, LISTEN.to_string());
        let link = link(&torrent, &format!("&x.pe={}", seed.address));
        let options = ["--listen", &listen, "--plugins", "magnet"];
        let events = Castanet::get_freely(world, &link, &folder, &options)?.complete()?;
        found_by_alone(&events, "magnet")?;
        torrent.same_in(&folder, false)
    });
}
