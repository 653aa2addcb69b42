//! All of them in one swarm: one slow seed, everybody completes, and Castanet both takes and gives.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::castanet::{Castanet, named};
use crate::payload::{self, Shape};
use crate::programs::libtorrent::Libtorrent;
use crate::programs::opentracker::{self, Opentracker};
use crate::programs::{Control, Program, State};
use crate::world::{self, wait_until};

/// What the only seed uploads a second: slow enough that the others exchange pieces.
const LIMIT: usize = 512 * 1024;

#[test]
fn of_everyone() {
    world::test(|world| -> Result<()> {
        let address = world.host();
        let torrent = payload::make(world, Shape::ManyFiles, 8, 64 * 1024, &[&opentracker::http_url(address)])?;
        let tracker = Opentracker::start(world, address, &[&torrent.info_hash])?;
        let mut seed = Libtorrent::start(world, &torrent, &torrent.folder, world.host(), LIMIT)?;
        wait_until("the seed is ready", || Ok(seed.state().is_ok_and(|state| state == State::Complete)))?;
        tracker.wait_for_seed(&torrent.info_hash)?;

        let folder = world.folder("castanet")?;
        let mut castanet = Castanet::get(world, &torrent.file, &folder, &["--seed"])?;
        castanet.wait_until_listening()?;
        let mut others = Vec::new();
        for program in Program::ALL {
            let folder = world.folder(&format!("{program:?}"))?;
            others.push((program.start(world, &torrent, &folder)?, folder));
        }
        for (peer, _) in &mut others {
            peer.wait_for(State::Complete)?;
        }
        castanet.wait_for("complete", 1)?;

        // Both numbers are of payload, as Castanet counts them.
        let most = |events: &[Value], key| named(events, "progress").filter_map(|event| event[key].as_u64()).max();
        wait_until("castanet says that it took and gave", || {
            let events = castanet.events()?;
            let least = torrent.length as u64;
            Ok(most(&events, "downloaded") >= Some(least) && most(&events, "uploaded") > Some(0))
        })?;
        let events = castanet.events()?;
        ensure!(named(&events, "peer_connected").count() >= 2, "it met the seed alone");
        castanet.interrupt()?;
        torrent.same_in(&folder, false)?;
        for (peer, folder) in others {
            let skips = peer.program.skips_empty_files();
            drop(peer);
            torrent.same_in(&folder, skips)?;
        }
        Ok(())
    });
}
