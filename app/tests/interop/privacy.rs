//! Private torrents (BEP 27), captured: with every plugin on, nothing leaves but what goes to the tracker and to the peer
//! that it named.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::castanet::Castanet;
use crate::discovery::{link, lonely_seed};
use crate::payload::{self, Shape};
use crate::programs::libtorrent::script;
use crate::programs::opentracker::{self, Opentracker};
use crate::world::{self, HERE, NEXT_DOOR, Process, World, wait_until};

const TRACKER: u16 = 6969;
const SEED: u16 = 7002;
const NODE: u16 = 7777;
const LISTEN: u16 = 6881;

/// All packets on the interfaces of the world.
pub(crate) struct Capture(Process);

impl Capture {
    pub(crate) fn start(world: &World) -> Result<Capture> {
        let mut capture = world.start("capture", &mut script("capture.py"))?;
        wait_until("packets are captured", || {
            capture.still_running()?;
            Ok(capture.stdout()?.contains("ready"))
        })?;
        Ok(Capture(capture))
    }

    /// Has a packet of this kind been seen by now?
    pub(crate) fn has(&self, wanted: impl Fn(&Value) -> bool) -> Result<bool> {
        let said = self.0.stdout()?;
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        Ok(whole.lines().filter_map(|line| serde_json::from_str(line).ok()).any(|packet| wanted(&packet)))
    }

    pub(crate) fn end(mut self) -> Result<Vec<Value>> {
        self.0.terminate()?;
        let packets = self.0.stdout()?.lines().skip(1).map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
        ensure!(!packets.is_empty(), "nothing was captured");
        Ok(packets)
    }
}

/// Host and port of one end of a packet.
pub(crate) fn end<'a>(packet: &'a Value, which: &str) -> Result<(&'a str, u16)> {
    let (host, port) = packet[which].as_str().and_then(|end| end.split_once(' ')).context("an end")?;
    Ok((host, port.parse()?))
}

/// Is it between us and the tracker, or us and the seed?
fn is_allowed(packet: &Value) -> Result<bool> {
    let mut ends = [end(packet, "from")?, end(packet, "to")?];
    ends.sort_unstable();
    let [(ours, our_port), (theirs, their_port)] = ends;
    let is_known = [TRACKER, SEED].contains(&their_port) || our_port == LISTEN;
    Ok(packet["proto"] == "tcp" && ours == HERE[0] && theirs == NEXT_DOOR[0] && is_known)
}

/// What we send beside what a private torrent may, while we download and seed a torrent of this format.
fn leaks(format: &str, by_link: bool) -> Result<Vec<String>> {
    let mut leaks = Vec::new();
    world::test(|world| -> Result<()> {
        let next_door = world.neighbour()?;
        let at = |port| -> Result<SocketAddrV4> { Ok(SocketAddrV4::new(NEXT_DOOR[0].parse()?, port)) };
        let url = opentracker::http_url(at(TRACKER)?);
        let torrent = payload::make_as(world, format, Shape::OneFile, 51, 16 * 1024, &[&url])?;
        let _others = next_door.at(|| {
            let tracker = Opentracker::start(world, at(TRACKER)?, &[&torrent.info_hash])?;
            // libtorrent gives nobody the metadata of private torrents; Castanet gives them to peers of the swarm.
            let (theirs, ours) = if by_link {
                let listen = at(SEED)?.to_string();
                let options = ["--listen", &listen, "--plugins", "http-tracker"];
                (None, Some(Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?))
            } else {
                (Some(lonely_seed(world, &torrent, at(SEED)?, &json!({}))?), None)
            };
            tracker.wait_for_seed(&torrent.info_hash)?;
            Ok((tracker, theirs, ours))
        })?;
        let capture = Capture::start(world)?;
        let (folder, listen, node) =
            (world.folder("get")?, format!("{}:{LISTEN}", HERE[0]), format!("{}:{NODE}", NEXT_DOOR[0]));
        let mut options = vec!["--listen", &listen, "--dht-bootstrap", &node];
        let mut source = torrent.file.to_string_lossy().into_owned();
        if by_link {
            source = link(&torrent, &format!("&tr={url}"));
            options.extend(["--plugins", "http-tracker"]);
        }
        Castanet::get_freely(world, &source, &folder, &options)?.complete()?;
        torrent.same_in(&folder, false)?;
        if !by_link {
            let mut seed = Castanet::seed_freely(world, &torrent.file, &folder, &options)?;
            seed.wait_until_listening_at(listen.parse::<SocketAddrV4>()?)?;
            // Long enough for whatever would be said at the start.
            std::thread::sleep(Duration::from_secs(5));
            seed.interrupt()?;
        }
        for packet in capture.end()? {
            let (from, _) = end(&packet, "from")?;
            if !is_allowed(&packet)? {
                leaks.push(packet["to"].to_string());
            } else if packet["speaks_pex"] == true && from == HERE[0] {
                leaks.push("ut_pex".to_owned());
            }
        }
        Ok(())
    });
    Ok(leaks)
}

#[test]
fn a_private_torrent_is_between_us_and_its_tracker() -> Result<()> {
    assert_eq!(leaks("private", false)?, [""; 0]);
    Ok(())
}

#[test]
fn a_private_link_is_if_trackers_alone_are_allowed() -> Result<()> {
    assert_eq!(leaks("private", true)?, [""; 0]);
    Ok(())
}

/// The same capture sees what the others are free to say.
#[test]
fn what_is_not_private_is_seen_by_the_same_capture() -> Result<()> {
    let leaks = leaks("v1", false)?;
    for wanted in ["192.168.77.2 7777", "239.192.152.143 6771", "ut_pex"] {
        assert!(leaks.iter().any(|leak| leak.contains(wanted)), "no {wanted} in {leaks:?}");
    }
    Ok(())
}
