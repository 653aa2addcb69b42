//! Ways of finding peers in whole swarms, and links whose torrent comes from peers.

use castanet::{Happening, Magnet, Phase, Torrent, TorrentHandle};
use castanet_integration::{
    payload::Payload,
    universe::{Host, Universe, universe},
};

use crate::{KIB, MIB, complete, seconds};

const PIECE: u32 = 64 * KIB as u32;

/// The payload by its link, from these hosts.
pub(crate) fn by_link(payload: &Payload, peers: &[&Host]) -> Torrent {
    let link = Magnet::new(payload.metainfo.info_hashes);
    Torrent::from_magnet(link, "/downloads").peers(peers.iter().map(|peer| peer.addr().to_string()))
}

/// What a plugin was worth to a torrent: found, alone, useful, bytes.
pub(crate) fn worth(handle: &TorrentHandle, plugin: &str) -> (u64, u64, u64, u64) {
    let state = handle.state();
    let report = state.plugins.iter().find(|report| &*report.worth.plugin.0 == plugin);
    let worth = &report.unwrap_or_else(|| panic!("no report on {plugin} in {:?}", state.plugins)).worth;
    (worth.found, worth.alone, worth.useful, worth.bytes)
}

#[test]
fn a_link_becomes_a_download_and_is_remembered() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(51, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        let mut leeching = hosts[1].add(by_link(&payload, &[&hosts[0]])).await;
        let mut events = leeching.events();
        complete(&mut leeching).await;
        assert_eq!(hosts[1].difference(&payload), None);
        // The last bytes are in the books when their connection is closed, and those are added up once a second.
        seconds(2).await;
        let happened: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.what).collect();
        assert_eq!(happened.iter().filter(|what| matches!(what, Happening::Metadata(_))).count(), 1);
        let state = leeching.state();
        assert_eq!(state.metainfo.as_deref().map(|known| known.info_hashes), Some(payload.metainfo.info_hashes));
        let phases = state.timeline.phases();
        assert_eq!(phases.iter().map(|phase| phase.took).sum::<std::time::Duration>(), phases.last().unwrap().at);
        assert_eq!(worth(&leeching, "fixed"), (1, 1, 1, MIB as u64));
        assert!(state.downloaded == MIB as u64 && state.peers <= 1, "the connection that gave metadata gave pieces");

        // The second run knows the torrent although nobody is there to ask.
        hosts[0].kill().await;
        hosts[1].shutdown(std::time::Duration::from_secs(5)).await;
        hosts[1].start().await;
        let mut again = hosts[1].add(by_link(&payload, &[])).await;
        complete(&mut again).await;
        assert_eq!(again.state().downloaded, 0);
    });
}

#[test]
fn a_link_can_be_paused_before_and_after_its_torrent_is_known() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(52, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].set_uplink(Some(MIB as u64));
        let mut leeching = hosts[1].add(by_link(&payload, &[&hosts[0]])).await;
        seconds(2).await;
        assert_eq!(leeching.state().phase, Phase::Metadata);
        assert!(hosts[1].engine().pause(leeching.id()).await);
        seconds(2).await;
        assert_eq!(leeching.state().phase, Phase::Paused);
        hosts[0].seed(&payload).await;
        assert!(hosts[1].engine().resume(leeching.id()).await);
        leeching.next_state().await;
        seconds(2).await;
        assert!(hosts[1].engine().pause(leeching.id()).await);
        seconds(2).await;
        assert!(hosts[1].engine().resume(leeching.id()).await);
        complete(&mut leeching).await;
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn a_link_that_nobody_knows_says_why_it_waits() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(53, async |world| {
        let hosts = world.hosts(2).await;
        let leeching = hosts[1].add(by_link(&payload, &[&hosts[0]])).await;
        seconds(60).await;
        let state = leeching.state();
        assert_eq!((state.phase.clone(), state.percent()), (Phase::Metadata, 0));
        let why = state.why.expect("it says why");
        assert!(why.names().contains(&"not_connected"), "{why}");
        assert_eq!(state.stalled, Some(why.to_string()));
    });
}

/// Three hosts that tell each other of peers.
async fn gossips(world: &Universe) -> Vec<Host> {
    let mut hosts = Vec::new();
    for _ in 0..3 {
        hosts.push(world.host_with(|engine| engine.enable_plugin("pex")).await);
    }
    hosts
}

/// A seed, one that knows the seed, and one that knows the second alone and speaks what `setup` lets it.
async fn in_a_row(payload: &Payload, hosts: &[Host], last: Torrent) -> TorrentHandle {
    hosts[0].set_uplink(Some(256 * KIB as u64));
    hosts[0].seed(payload).await;
    hosts[1].leech(payload, &hosts[..1]).await;
    seconds(2).await;
    hosts[2].add(last).await
}

#[test]
fn peers_tell_of_peers() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE, 1);
    universe(54, async |world| {
        let hosts = gossips(world).await;
        let mut leeching = in_a_row(&payload, &hosts, by_link(&payload, &[&hosts[1]])).await;
        complete(&mut leeching).await;
        let (found, alone, useful, _) = worth(&leeching, "pex");
        assert!(found >= 1 && alone >= 1 && useful >= 1, "{:?}", leeching.state().plugins);
    });
}

#[test]
fn who_is_allowed_is_decided_before_the_metadata_are_known() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE, 1);
    universe(55, async |world| {
        let hosts = gossips(world).await;
        let alone = by_link(&payload, &[&hosts[1]]).allow_plugins(["fixed", "http-tracker", "udp-tracker"]);
        let mut leeching = in_a_row(&payload, &hosts, alone).await;
        complete(&mut leeching).await;
        assert!(leeching.state().plugins.iter().all(|report| &*report.worth.plugin.0 != "pex"));
        assert_eq!(worth(&leeching, "fixed").0, 1);
    });
}

#[test]
fn a_private_torrent_is_not_gossiped_about() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE, 1).private();
    universe(56, async |world| {
        let hosts = gossips(world).await;
        let mut leeching = in_a_row(&payload, &hosts, by_link(&payload, &[&hosts[1]])).await;
        complete(&mut leeching).await;
        assert_eq!(worth(&leeching, "pex"), (0, 0, 0, 0));
        assert_eq!(worth(&leeching, "fixed").0, 1);
    });
}

#[test]
fn discovering_moves_no_pieces() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(57, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        for torrent in
            [by_link(&payload, &[&hosts[0]]), hosts[1].torrent(&payload).peers([hosts[0].addr().to_string()])]
        {
            let looking = hosts[1].add(torrent.discover_only(true)).await;
            seconds(5).await;
            let state = looking.state();
            assert!(state.metainfo.is_some() && state.downloaded == 0 && state.peers == 1, "{state:?}");
            assert_eq!(worth(&looking, "fixed"), (1, 1, 0, 0));
            assert!(hosts[1].engine().remove(looking.id()).await);
        }
        assert!(hosts[1].difference(&payload).is_some());
    });
}
