//! Behind a SOCKS5 proxy: everybody is in a network that we have no way to, under names that only the proxy can look up.
//! Of all that we send nothing goes anywhere but to the proxy, with every plugin on that a proxy leaves.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::castanet::{Castanet, command, named, refusal};
use crate::discovery::{found_by_alone, link, lonely_seed, report};
use crate::payload::{self, Shape, Torrent, run};
use crate::privacy::{Capture, end};
use crate::programs::opentracker::{self, Opentracker};
use crate::programs::proxies::{Proxy, dante, microsocks};
use crate::programs::session::{Dht, Session};
use crate::web::serve;
use crate::world::{self, HERE, NEXT_DOOR, Neighbour, World};

/// Where the others are, next door.
const NETWORK: [u8; 3] = [198, 51, 100];
const TRACKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 200), 6969);
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 201), 7002);
const WEB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 202), 8000);
/// What only the proxy knows.
const NAMES: [(&str, &str); 4] = [
    ("tracker.test", "198.51.100.200"),
    ("peer.test", "198.51.100.201"),
    ("web.test", "198.51.100.202"),
    ("node.test", "198.51.100.2"),
];
const TRACKERS: &str = "&tr=http://tracker.test:6969/announce&tr=udp://tracker.test:6969/announce";

/// Who microsocks lets through, as it is and as a URL has it.
const LOGIN: [&str; 2] = ["some one", "p@ss:word"];
const WRITTEN: &str = "some%20one:p%40ss%3Aword@";

/// A neighbour with a network of its own.
fn next_door(world: &World) -> Result<Neighbour<'_>> {
    let next_door = world.neighbour()?;
    let [a, b, c] = NETWORK;
    next_door.at(|| run(Command::new("ip").args(["addr", "add", &format!("{a}.{b}.{c}.1/24"), "dev", "lo"])))?;
    Ok(next_door)
}

fn with_microsocks(world: &World) -> Result<(Proxy, String)> {
    let proxy = microsocks(world, SocketAddrV4::new(NEXT_DOOR[0].parse()?, 1080), LOGIN, &NAMES)?;
    let url = format!("socks5://{WRITTEN}{}", proxy.address);
    Ok((proxy, url))
}

fn with_dante(world: &World) -> Result<(Proxy, String)> {
    let proxy = dante(world, SocketAddrV4::new(NEXT_DOOR[0].parse()?, 1080), &NAMES)?;
    let url = format!("socks5h://{}", proxy.address);
    Ok((proxy, url))
}

/// A torrent that a tracker serves and a libtorrent session seeds.
fn swarm(world: &World) -> Result<(Torrent, Opentracker, Session)> {
    let torrent = payload::make(world, Shape::OneFile, 71, 16 * 1024, &[&opentracker::http_url(TRACKER)])?;
    let tracker = Opentracker::start(world, TRACKER, &[&torrent.info_hash])?;
    let seed = lonely_seed(world, &torrent, PEER, &json!({}))?;
    tracker.wait_for_seed(&torrent.info_hash)?;
    Ok((torrent, tracker, seed))
}

/// Fails if a packet is not between us and the proxy; says whether there were datagrams.
fn nothing_else_was_sent(capture: Capture, proxy: &Proxy) -> Result<bool> {
    let mut relayed = false;
    for packet in capture.end()? {
        let mut ends = [end(&packet, "from")?, end(&packet, "to")?];
        ends.sort_unstable();
        let [(ours, _), (theirs, port)] = ends;
        let is_stream = packet["proto"] == "tcp" && port == proxy.address.port();
        let is_datagram = packet["proto"] == "udp";
        ensure!((ours, theirs) == (HERE[0], NEXT_DOOR[0]) && (is_stream || is_datagram), "it leaks: {packet}");
        relayed |= is_datagram;
    }
    Ok(relayed)
}

/// The password is nowhere in what was said or logged.
fn no_password(text: &str) -> Result<()> {
    ensure!(text.contains(NEXT_DOOR[0]), "the log should name the proxy");
    ensure!(!text.contains(LOGIN[1]) && !text.contains("p%40ss"), "the password is shown");
    Ok(())
}

/// Without datagrams: the DHT and the UDP tracker fail in words, the HTTP tracker is enough.
#[test]
fn by_an_http_tracker_whose_name_the_proxy_looks_up() {
    world::test(|world| -> Result<()> {
        let next_door = next_door(world)?;
        let (torrent, _tracker, _seed, (proxy, url)) = next_door.at(|| {
            let (torrent, tracker, seed) = swarm(world)?;
            Ok((torrent, tracker, seed, with_microsocks(world)?))
        })?;
        let capture = Capture::start(world)?;
        let folder = world.folder("get")?;
        let options = ["--dht-bootstrap", "node.test:7777"];
        let mut get = Castanet::get_through(world, &url, &link(&torrent, TRACKERS), &folder, &options)?;
        let events = get.complete()?;
        ensure!(named(&events, "peer_found").all(|found| found["plugin"] == "http-tracker"), "{events:?}");
        ensure!(report(&events, "lsd").is_err(), "it does not look for neighbours");
        ensure!(!nothing_else_was_sent(capture, &proxy)?, "datagrams were sent");
        let log = get.stderr()?;
        ensure!(log.contains("does not know that command"), "nobody was told that there are no datagrams");
        no_password(&log)?;
        torrent.same_in(&folder, false)
    });
}

/// Finds peers by this plugin alone, through dante.
fn by_datagrams(plugin: &str, link: impl Fn(&Torrent) -> String) {
    world::test(|world| -> Result<()> {
        let next_door = next_door(world)?;
        let (torrent, _tracker, _seed, _dht, (proxy, url)) = next_door.at(|| {
            let dht = (plugin == "dht").then(|| Dht::start_in(world, 30, NETWORK)).transpose()?;
            let (torrent, tracker, mut seed) = match &dht {
                None => swarm(world).map(|(torrent, tracker, seed)| (torrent, Some(tracker), seed))?,
                Some(dht) => {
                    let torrent = payload::make(world, Shape::OneFile, 72, 16 * 1024, &[])?;
                    let session = json!({ "dht": [dht.nodes[0].to_string()] });
                    let seed = lonely_seed(world, &torrent, PEER, &session)?;
                    (torrent, None, seed)
                }
            };
            if dht.is_some() {
                seed.announced()?;
            }
            Ok((torrent, tracker, seed, dht, with_dante(world)?))
        })?;
        let capture = Capture::start(world)?;
        let folder = world.folder("get")?;
        let options = ["--plugins", plugin, "--dht-bootstrap", "node.test:7777"];
        let events = Castanet::get_through(world, &url, &link(&torrent), &folder, &options)?.complete()?;
        found_by_alone(&events, plugin)?;
        ensure!(nothing_else_was_sent(capture, &proxy)?, "no datagrams were sent");
        torrent.same_in(&folder, false)
    });
}

#[test]
fn by_a_udp_tracker_whose_name_the_proxy_looks_up() {
    by_datagrams("udp-tracker", |torrent| link(torrent, "&tr=udp://tracker.test:6969/announce"));
}

#[test]
fn by_a_udp_tracker_by_its_address() {
    by_datagrams("udp-tracker", |torrent| link(torrent, &format!("&tr={}", opentracker::udp_url(TRACKER))));
}

#[test]
fn by_the_dht_from_a_node_whose_name_the_proxy_looks_up() {
    by_datagrams("dht", |torrent| link(torrent, ""));
}

/// A peer by its name, and whoever it knows; everything on.
#[test]
fn from_a_peer_whose_name_the_proxy_looks_up() {
    world::test(|world| -> Result<()> {
        let next_door = next_door(world)?;
        let torrent = payload::make(world, Shape::ManyFiles, 73, 256 * 1024, &[])?;
        let (_seed, (proxy, url)) =
            next_door.at(|| Ok((lonely_seed(world, &torrent, PEER, &json!({}))?, with_dante(world)?)))?;
        let capture = Capture::start(world)?;
        let (folder, source) = (world.folder("get")?, torrent.file.to_string_lossy());
        let options = ["--peer", "peer.test:7002"];
        let events = Castanet::get_through(world, &url, &source, &folder, &options)?.complete()?;
        ensure!(named(&events, "peer_found").all(|found: &Value| found["plugin"] == "fixed"), "{events:?}");
        nothing_else_was_sent(capture, &proxy)?;
        torrent.same_in(&folder, false)
    });
}

/// Every byte of a peer by datagrams that the proxy relays.
#[test]
fn from_a_peer_by_utp_alone() {
    world::test(|world| -> Result<()> {
        let next_door = next_door(world)?;
        let torrent = payload::make(world, Shape::OneFile, 76, 64 * 1024, &[])?;
        let (_seed, (proxy, url)) =
            next_door.at(|| Ok((lonely_seed(world, &torrent, PEER, &json!({}))?, with_dante(world)?)))?;
        let capture = Capture::start(world)?;
        let (folder, source) = (world.folder("get")?, torrent.file.to_string_lossy());
        let options = ["--peer", &PEER.to_string(), "--transport", "utp"];
        Castanet::get_through(world, &url, &source, &folder, &options)?.complete()?;
        ensure!(nothing_else_was_sent(capture, &proxy)?, "no datagrams were sent");
        torrent.same_in(&folder, false)
    });
}

/// Our seed cannot be reached, so it dials.
#[test]
fn to_libtorrent() {
    world::test(|world| -> Result<()> {
        let next_door = next_door(world)?;
        let torrent = payload::make(world, Shape::ManyFiles, 74, 64 * 1024, &[])?;
        let folder = world.folder("leech")?;
        let (mut leech, (_proxy, url)) = next_door.at(|| {
            let leech = Session::start(world, &torrent, &folder, PEER, &json!({}))?;
            Ok((leech, with_microsocks(world)?))
        })?;
        let options = ["--proxy", &url, "--peer", &PEER.to_string()];
        let seed = Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?;
        leech.complete()?;
        seed.interrupt()?;
        drop(leech);
        torrent.same_in(&folder, false)
    });
}

/// A torrent file from the web, and what is said when the proxy does not let us through.
#[test]
fn a_torrent_file_from_the_web() {
    world::test(|world| -> Result<()> {
        let next_door = next_door(world)?;
        let torrent = payload::make(world, Shape::OneFile, 75, 16 * 1024, &[])?;
        let (_server, (proxy, url)) =
            next_door.at(|| Ok((serve(world, &torrent.folder, WEB)?, with_microsocks(world)?)))?;
        let file = format!("http://web.test:{}/v1.torrent", WEB.port());
        let shown = run(command(&["show", "--json", &file]).env("CASTANET_PROXY", &url))?;
        let shown: Value = serde_json::from_slice(&shown)?;
        ensure!(shown["info_hash"] == torrent.info_hash.as_str(), "{shown}");
        let wrong = format!("socks5://some%20one:guessed@{}", proxy.address);
        let said = refusal(&["show", &file, "--proxy", &wrong])?;
        ensure!(said.contains("does not accept the user and password") && !said.contains("guessed"), "{said}");
        refusal(&["show", &file]).map(drop)
    });
}
