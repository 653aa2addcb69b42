//! `--interface`, captured: of two links the wrong one has the better way into the world, and nothing goes there. Not at
//! the start, not for names, trackers, the DHT, the local network or peers, and not while the right link is down or gone.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::castanet::{Castanet, command, named, refusal};
use crate::discovery::lonely_seed;
use crate::payload::{self, Shape, Torrent};
use crate::privacy::Capture;
use crate::programs::libtorrent::script;
use crate::programs::opentracker::Opentracker;
use crate::world::{self, Cable, NEXT_DOOR, Neighbour, Process, World, sh, wait_until};

/// The wrong link, by which the world is nearer.
const WRONG: Cable = Cable { name: "wrong", here: ["192.168.78.1", "fd78::1"], there: ["192.168.78.2", "fd78::2"] };
/// A server of the world, which both neighbours lead to: name server, trackers, DHT node.
const WORLD: &str = "203.0.113.1";
/// Nobody is there, but who does not know may ask.
const NOWHERE: &str = "203.0.113.9";
const TRACKER: u16 = 6969;
const NODE: u16 = 7777;
const SEED: u16 = 7002;

/// Both links, and everybody on them.
struct Scene<'a> {
    right: Neighbour<'a>,
    wrong: Neighbour<'a>,
    torrent: Torrent,
    /// What stands for `/etc/resolv.conf`.
    resolv_conf: PathBuf,
    _running: (Process, Opentracker, crate::programs::session::Session),
}

impl<'a> Scene<'a> {
    fn new(world: &'a World) -> Result<Scene<'a>> {
        let (right, wrong) = (world.neighbour()?, world.neighbour_by(WRONG)?);
        sh(&format!(
            "ip route add default via {} dev wrong && ip route add default via {} dev wrong",
            WRONG.there[0], WRONG.there[1]
        ))?;
        lead_out()?;
        let urls = ["http", "udp"].map(|scheme| format!("{scheme}://tracker.test:{TRACKER}/announce"));
        let torrent = payload::make(world, Shape::OneFile, 91, 16 * 1024, &urls.each_ref().map(String::as_str))?;
        let be_the_world = format!("ip addr add {WORLD}/32 dev lo");
        let running = right.at(|| {
            sh(&be_the_world)?;
            let addresses = [WORLD, NEXT_DOOR[0], WRONG.there[0], NOWHERE].map(|ip| format!("tracker.test={ip}"));
            let mut names = world.start("names", script("names.py").arg(WORLD).args(addresses))?;
            wait_until("there is a name server", || {
                names.still_running()?;
                Ok(names.stdout()?.contains("ready"))
            })?;
            let tracker = Opentracker::start(world, at(WORLD, TRACKER)?, &[&torrent.info_hash])?;
            // It must miss us soon when the link is gone, since it takes nobody twice.
            let session = json!({ "patience": 15 });
            Ok((names, tracker, lonely_seed(world, &torrent, at(NEXT_DOOR[0], SEED)?, &session)?))
        })?;
        wrong.at(|| sh(&be_the_world))?;
        let resolv_conf = world.folder("etc")?.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {WORLD}\nnameserver {}\n", WRONG.there[0]))?;
        Ok(Scene { right, wrong, torrent, resolv_conf, _running: running })
    }

    /// `castanet get` with everything on, which knows peers on both links.
    fn get(&self, world: &World, folder: &Path, more: &[&str]) -> Result<Castanet> {
        let mut get = command(&["get", "--json", "--port-mapping", "off", "--max-down", "200K"]);
        get.args(["--dht-bootstrap", &at(WORLD, NODE)?.to_string()]);
        for neighbour in [NEXT_DOOR[0], WRONG.there[0]] {
            get.args(["--peer", &at(neighbour, SEED)?.to_string()]);
        }
        get.args(more).arg("-o").arg(folder).arg(&self.torrent.file);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
        command.arg(&self.resolv_conf).arg(get.get_program()).args(get.get_args());
        Castanet::start(world, &mut command)
    }
}

/// The right link leads into the world as well, but farther.
fn lead_out() -> Result<()> {
    sh(&format!(
        "ip route add default via {} dev lan metric 900 && ip route add default via {} dev lan metric 9000",
        NEXT_DOOR[0], NEXT_DOOR[1]
    ))
}

fn at(host: &str, port: u16) -> Result<SocketAddrV4> {
    Ok(SocketAddrV4::new(host.parse()?, port))
}

/// The ends that packets went to by this link, from us.
fn sent_by(packets: &[Value], link: Cable) -> Vec<String> {
    let is_ours = |packet: &&Value| {
        let from = packet["from"].as_str().unwrap_or_default();
        packet["by"] == link.name && !link.there.iter().any(|other| from.starts_with(&format!("{other} ")))
    };
    let word = |packet: &Value, key: &str| packet[key].as_str().unwrap_or_default().to_owned();
    packets.iter().filter(is_ours).map(|packet| format!("{} {}", word(packet, "proto"), word(packet, "to"))).collect()
}

/// Did we send this packet by this link, and to this end?
fn is_sent(packet: &Value, link: Cable, to: &str) -> bool {
    sent_by(std::slice::from_ref(packet), link).iter().any(|end| end.contains(to))
}

/// Waits until it has told the user this.
fn says(get: &Castanet, words: &str, count: usize) -> Result<()> {
    wait_until(&format!("castanet says {words:?}"), || {
        let events = get.events()?;
        Ok(named(&events, "notice")
            .filter(|event| event["text"].as_str().is_some_and(|text| text.contains(words)))
            .count()
            >= count)
    })
}

/// All there is of it: names, both kinds of trackers, the DHT, the local network, a peer.
const EVERYTHING: [&str; 6] = [
    "udp 203.0.113.1 53",
    "tcp 203.0.113.1 6969",
    "udp 203.0.113.1 6969",
    "udp 203.0.113.1 7777",
    "udp 239.192.152.143 6771",
    "tcp 192.168.77.2 7002",
];

fn held_to(interface: &str) {
    world::test(|world| -> Result<()> {
        let scene = Scene::new(world)?;
        let (capture, folder) = (Capture::start(world)?, world.folder("get")?);
        let mut get = scene.get(world, &folder, &["--interface", interface, "--seed"])?;
        get.wait_for("piece", 5)?;

        sh("ip link set lan down")?;
        says(&get, "is gone; everything waits until it is back", 1)?;
        // Long enough for whatever would look for another way.
        std::thread::sleep(std::time::Duration::from_secs(10));
        let before = get.pieces()?.len();
        sh(&format!("ip link set lan up && ip addr replace {}/64 dev lan nodad", world::HERE[1]))?;
        lead_out()?;
        says(&get, "is back", 1)?;
        get.wait_for("piece", before + 5)?;

        scene.right.rewire(|| {
            says(&get, "is gone; everything waits until it is back", 2)?;
            std::thread::sleep(std::time::Duration::from_secs(10));
            Ok(())
        })?;
        lead_out()?;
        says(&get, "is back", 2)?;
        get.wait_for("complete", 1)?;
        // The tracker's other addresses may be asked first, and some of them keep one waiting.
        for wanted in EVERYTHING {
            wait_until(&format!("{wanted} is spoken to"), || {
                capture.has(|packet| is_sent(packet, world::LAN, wanted))
            })?;
        }
        get.interrupt()?;
        scene.torrent.same_in(&folder, false)?;
        let wrong = sent_by(&capture.end()?, WRONG);
        ensure!(wrong.is_empty(), "it went to the wrong link: {wrong:?}");
        Ok(())
    });
}

#[test]
fn nothing_leaves_by_another_link_than_the_device_named() {
    held_to("lan");
}

#[test]
fn nothing_leaves_by_another_link_than_that_of_the_address_named() {
    held_to(world::HERE[0]);
}

/// The same capture sees what goes wrong without it.
#[test]
fn without_an_interface_the_same_capture_sees_everything_go_wrong() {
    world::test(|world| -> Result<()> {
        let scene = Scene::new(world)?;
        // Here the wrong neighbour has the trackers, or nobody would get as far as asking them.
        let _names = scene.wrong.at(|| {
            let mut names = world.start("names", script("names.py").args([WORLD, &format!("tracker.test={WORLD}")]))?;
            wait_until("there is a name server", || {
                names.still_running()?;
                Ok(names.stdout()?.contains("ready"))
            })?;
            Ok(names)
        })?;
        let (capture, folder) = (Capture::start(world)?, world.folder("get")?);
        let get = scene.get(world, &folder, &[])?;
        for wanted in EVERYTHING.iter().take(5).chain(&["tcp 192.168.78.2 7002"]) {
            wait_until(&format!("{wanted} is spoken to"), || capture.has(|packet| is_sent(packet, WRONG, wanted)))
                .with_context(|| format!("{wanted} by the wrong link"))?;
        }
        get.interrupt()?;
        capture.end()?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_held_is_refused_in_words() {
    world::test(|world| -> Result<()> {
        let _right = world.neighbour()?;
        let torrent = payload::make(world, Shape::OneFile, 92, 16 * 1024, &[])?;
        let folder = world.folder("get")?;
        let (file, folder) = (torrent.file.to_string_lossy(), folder.to_string_lossy());
        let refused = |options: &[&str]| refusal(&[&["get", &file, "-o", &folder], options].concat());
        for (options, words) in [
            (vec!["--interface", "wg9"], "there is no interface wg9 that is up and has an address"),
            (vec!["--interface", "192.0.2.9"], "no interface that is up has the address 192.0.2.9"),
            (vec!["--interface", "0.0.0.0"], "0.0.0.0 is no address of an interface"),
            (vec!["--interface", "lan", "--listen", "10.77.0.1:6881"], "10.77.0.1 is not an address of lan"),
            (vec!["--interface", "lan", "--plugin", "friends=true"], "friends opens sockets of its own"),
            (vec!["--interface", "lan", "--plugins", "mainline"], "mainline opens sockets of its own"),
        ] {
            let said = refused(&options)?;
            ensure!(said.contains(words), "{options:?}: {said}");
        }
        // What only fetches from the web is held as well.
        let said = refusal(&["show", "http://203.0.113.1/x.torrent", "--interface", "wg9"])?;
        ensure!(said.contains("there is no interface wg9"), "{said}");
        Ok(())
    });
}
