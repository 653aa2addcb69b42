//! How peers are reached: encrypted or not, over TCP or uTP, with each program that insists on one of them.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::castanet::{Castanet, LISTEN};
use crate::payload::{self, Shape, Torrent};
use crate::programs::session::Session;
use crate::programs::{Manners, Program, State};
use crate::world::{self, World};

/// A tracker that is down.
const NOBODY: &str = "http://10.77.0.1:9/announce";
const ENCRYPTED: Manners = Manners { encrypted: true };

fn torrent(world: &World) -> Result<Torrent> {
    payload::make(world, Shape::ManyFiles, 9, 256 * 1024, &[NOBODY])
}

/// libtorrent as `session` describes it seeds; `castanet get` with these options fetches.
fn from_libtorrent(session: &Value, options: &[&str]) {
    world::test(|world| {
        let torrent = torrent(world)?;
        let mut seed = Session::start(world, &torrent, &torrent.folder, world.host(), session)?;
        seed.complete()?;
        let (folder, peer) = (world.folder("get")?, seed.address.to_string());
        Castanet::get(world, &torrent.file, &folder, &[&["--peer", &peer], options].concat())?.complete()?;
        torrent.same_in(&folder, false)
    });
}

/// `castanet seed` with these options dials libtorrent as `session` describes it, which fetches.
fn to_libtorrent(session: &Value, options: &[&str]) {
    world::test(|world| {
        let (torrent, folder) = (torrent(world)?, world.folder("leech")?);
        let mut leech = Session::start(world, &torrent, &folder, world.host(), session)?;
        leech.downloads()?;
        let peer = leech.address.to_string();
        let seed = Castanet::seed(world, &torrent.file, &torrent.folder, &[&["--peer", &peer], options].concat())?;
        leech.complete()?;
        seed.interrupt()?;
        torrent.same_in(&folder, false)
    });
}

/// libtorrent as `session` describes it dials `castanet seed` with these options, and fetches.
fn libtorrent_dials(session: &Value, options: &[&str]) {
    world::test(|world| {
        let (torrent, folder) = (torrent(world)?, world.folder("leech")?);
        let mut seed = Castanet::seed(world, &torrent.file, &torrent.folder, options)?;
        seed.wait_until_listening()?;
        let mut session = session.clone();
        session["peers"] = json!([SocketAddr::from(LISTEN).to_string()]);
        Session::start(world, &torrent, &folder, world.host(), &session)?.complete()?;
        seed.interrupt()?;
        torrent.same_in(&folder, false)
    });
}

mod encrypted {
    use super::*;

    const REQUIRE: &[&str] = &["--encryption", "require"];

    fn libtorrent() -> Value {
        json!({ "encryption": "require", "transports": ["tcp"] })
    }

    #[test]
    fn from_libtorrent_that_requires_it() {
        from_libtorrent(&libtorrent(), &["--transport", "tcp"]);
    }

    #[test]
    fn from_libtorrent_when_both_require_it() {
        from_libtorrent(&libtorrent(), &[REQUIRE, &["--transport", "tcp"]].concat());
    }

    #[test]
    fn to_libtorrent_that_requires_it() {
        to_libtorrent(&libtorrent(), REQUIRE);
    }

    #[test]
    fn libtorrent_dials_and_both_require_it() {
        libtorrent_dials(&libtorrent(), REQUIRE);
    }

    #[test]
    fn from_libtorrent_that_has_none_plain_all_the_same() {
        from_libtorrent(&json!({ "encryption": "disable", "transports": ["tcp"] }), &[]);
    }

    #[test]
    fn without_it_there_is_no_connection_when_it_is_required() {
        world::test(|world| {
            let torrent = torrent(world)?;
            let plain = json!({ "encryption": "disable" });
            let mut seed = Session::start(world, &torrent, &torrent.folder, world.host(), &plain)?;
            seed.complete()?;
            let (folder, peer) = (world.folder("get")?, seed.address.to_string());
            let options = ["--peer", &peer, "--encryption", "require", "--stall-timeout", "5s"];
            let mut get = Castanet::get(world, &torrent.file, &folder, &options)?;
            get.gives_up()
        });
    }

    fn from(program: Program) {
        world::test(|world| {
            let torrent = torrent(world)?;
            let seed = program.seed_with(world, &torrent, ENCRYPTED)?;
            let (folder, peer) = (world.folder("get")?, seed.address.to_string());
            Castanet::get(world, &torrent.file, &folder, &["--peer", &peer])?.complete()?;
            torrent.same_in(&folder, false)
        });
    }

    fn to(program: Program) {
        world::test(|world| {
            let (torrent, folder) = (torrent(world)?, world.folder("leech")?);
            let mut leech = program.leech_with(world, &torrent, &folder, ENCRYPTED)?;
            let peer = leech.address.to_string();
            let options = [&["--peer", &peer], REQUIRE].concat();
            let seed = Castanet::seed(world, &torrent.file, &torrent.folder, &options)?;
            leech.wait_for(State::Complete)?;
            seed.interrupt()?;
            drop(leech);
            torrent.same_in(&folder, program.skips_empty_files())
        });
    }

    #[test]
    fn from_transmission_that_requires_it() {
        from(Program::Transmission);
    }

    #[test]
    fn to_transmission_that_requires_it() {
        to(Program::Transmission);
    }

    #[test]
    fn from_qbittorrent_that_requires_it() {
        from(Program::Qbittorrent);
    }

    #[test]
    fn to_qbittorrent_that_requires_it() {
        to(Program::Qbittorrent);
    }
}

mod utp {
    use super::*;

    const ONLY: &[&str] = &["--transport", "utp"];
    const ONLY_ENCRYPTED: &[&str] = &["--transport", "utp", "--encryption", "require"];

    fn libtorrent(encryption: Option<&str>) -> Value {
        json!({ "encryption": encryption, "transports": ["utp"] })
    }

    #[test]
    fn from_libtorrent_alone() {
        from_libtorrent(&libtorrent(None), ONLY);
    }

    #[test]
    fn to_libtorrent_alone() {
        to_libtorrent(&libtorrent(None), ONLY);
    }

    #[test]
    fn libtorrent_dials_it_alone() {
        libtorrent_dials(&libtorrent(None), ONLY);
    }

    #[test]
    fn from_libtorrent_encrypted() {
        from_libtorrent(&libtorrent(Some("require")), ONLY_ENCRYPTED);
    }

    #[test]
    fn libtorrent_dials_it_encrypted() {
        libtorrent_dials(&libtorrent(Some("require")), ONLY_ENCRYPTED);
    }

    /// libtorrent without TCP accepts it all the same and hangs up; the next attempt is by uTP.
    #[test]
    fn from_libtorrent_that_has_no_tcp_by_a_race() {
        from_libtorrent(&libtorrent(None), &[]);
    }

    #[test]
    fn from_libtorrent_that_has_no_utp_by_a_race() {
        from_libtorrent(&json!({ "transports": ["tcp"] }), &[]);
    }

    /// One seed by TCP alone, one by uTP alone, and one download from both.
    #[test]
    fn several_transports_in_one_swarm() {
        world::test(|world| {
            let torrent = torrent(world)?;
            let (mut options, mut seeds) = (vec!["--max-down".to_owned(), "300K".to_owned()], Vec::new());
            for transport in ["tcp", "utp"] {
                let session = json!({ "transports": [transport] });
                let mut seed = Session::start(world, &torrent, &torrent.folder, world.host(), &session)?;
                seed.complete()?;
                options.extend(["--peer".to_owned(), seed.address.to_string()]);
                seeds.push(seed);
            }
            let folder = world.folder("get")?;
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let events = Castanet::get(world, &torrent.file, &folder, &options)?.complete()?;
            let connected = events.iter().filter(|event| event["event"] == "peer_connected").count();
            anyhow::ensure!(connected >= 2, "one seed was enough: {connected}");
            torrent.same_in(&folder, false)
        });
    }
}

/// Over `::1` alone.
mod over_ipv6 {
    use super::*;

    const OURS: &str = "[::1]:6881";

    fn theirs() -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 7002))
    }

    #[test]
    fn from_libtorrent() {
        world::test(|world| {
            let torrent = torrent(world)?;
            let mut seed = Session::start(world, &torrent, &torrent.folder, theirs(), &json!({}))?;
            seed.complete()?;
            let (folder, peer, file) = (world.folder("get")?, theirs().to_string(), torrent.file.to_string_lossy());
            let options = ["--listen", OURS, "--plugins", "fixed", "--peer", &peer];
            Castanet::get_freely(world, &file, &folder, &options)?.complete()?;
            torrent.same_in(&folder, false)
        });
    }

    #[test]
    fn to_libtorrent() {
        world::test(|world| {
            let (torrent, folder) = (torrent(world)?, world.folder("leech")?);
            let mut leech = Session::start(world, &torrent, &folder, theirs(), &json!({}))?.listens()?;
            let peer = theirs().to_string();
            let options = ["--interface", "::1", "--listen", OURS, "--plugins", "fixed", "--peer", &peer];
            let seed = Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?;
            leech.complete()?;
            seed.interrupt()?;
            drop(leech);
            torrent.same_in(&folder, false)
        });
    }
}
