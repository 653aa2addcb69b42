//! Pause, remove, shut down: at any time, whatever the others do.

use std::time::Duration;

use castanet::Phase;
use castanet_integration::{
    payload::Payload,
    universe::{Host, Universe, universe},
};
use tokio::time::timeout;

use crate::{KIB, MIB, complete, seconds};

const PIECE: usize = 64 * KIB;

/// A seed of 256 KiB/s and a leech in the middle of 4 MiB.
async fn midway(world: &Universe, payload: &Payload) -> (Vec<Host>, castanet::TorrentHandle) {
    let hosts = world.hosts(2).await;
    hosts[0].set_uplink(Some(256 * KIB as u64));
    hosts[0].seed(payload).await;
    let leeching = hosts[1].leech(payload, &hosts).await;
    seconds(5).await;
    let have = leeching.state().have as usize * PIECE;
    assert!((KIB..4 * MIB).contains(&have), "{:?}", leeching.state());
    (hosts, leeching)
}

#[test]
fn a_pause_rests_and_a_resume_goes_on() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(1, async |world| {
        let (hosts, mut leeching) = midway(world, &payload).await;
        assert!(hosts[1].engine().pause(leeching.id()).await);
        seconds(2).await;
        let rested = leeching.state();
        assert_eq!((rested.phase.clone(), rested.peers), (Phase::Paused, 0));
        assert_eq!(world.net().open_connections(), 0);
        seconds(60).await;
        assert_eq!(leeching.state().have, rested.have);
        assert_eq!(leeching.state().downloaded, rested.downloaded);
        let before = world.elapsed();
        assert!(hosts[1].engine().resume(leeching.id()).await);
        complete(&mut leeching).await;
        assert!(world.elapsed() - before < Duration::from_secs(60), "{:?}", world.elapsed() - before);
        assert_eq!(hosts[1].difference(&payload), None);
        assert!(leeching.state().downloaded < 5 * MIB as u64);
    });
}

#[test]
fn pausing_and_resuming_at_once_goes_on() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(2, async |world| {
        let (hosts, mut leeching) = midway(world, &payload).await;
        for _ in 0..3 {
            assert!(hosts[1].engine().pause(leeching.id()).await);
            assert!(hosts[1].engine().resume(leeching.id()).await);
        }
        complete(&mut leeching).await;
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn what_is_removed_is_gone_and_can_be_added_again() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(3, async |world| {
        let (hosts, mut leeching) = midway(world, &payload).await;
        let had = leeching.state().have;
        assert!(hosts[1].engine().remove(leeching.id()).await);
        assert!(!hosts[1].engine().remove(leeching.id()).await);
        while leeching.next_state().await.is_some() {}
        assert!(hosts[1].engine().state().await.unwrap().torrents.is_empty());
        seconds(1).await;
        assert_eq!(world.net().open_connections(), 0);
        let mut again = hosts[1].leech(&payload, &hosts).await;
        complete(&mut again).await;
        seconds(2).await;
        assert!(again.state().downloaded as usize <= 4 * MIB - (had as usize - 1) * PIECE + MIB / 2);
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn a_shutdown_waits_for_nobody_who_hangs() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(4, async |world| {
        let (hosts, _leeching) = midway(world, &payload).await;
        world.net().unplug(hosts[0].ip());
        seconds(1).await;
        let before = world.elapsed();
        hosts[1].shutdown(Duration::from_secs(3)).await;
        assert!(world.elapsed() - before <= Duration::from_secs(4), "{:?}", world.elapsed() - before);
        let before = world.elapsed();
        hosts[0].shutdown(Duration::from_secs(3)).await;
        assert!(world.elapsed() - before <= Duration::from_secs(4), "{:?}", world.elapsed() - before);
    });
}

#[test]
fn a_cable_pulled_for_a_while_costs_a_while() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(5, async |world| {
        let (hosts, mut leeching) = midway(world, &payload).await;
        world.net().unplug(hosts[0].ip());
        seconds(15).await;
        world.net().plug(hosts[0].ip());
        complete(&mut leeching).await;
        assert!(world.elapsed() < Duration::from_secs(90), "{:?}", world.elapsed());
    });
}

#[test]
fn connections_that_break_are_made_again() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(6, async |world| {
        let (hosts, mut leeching) = midway(world, &payload).await;
        for _ in 0..4 {
            world.net().cut(hosts[0].ip());
            seconds(10).await;
        }
        let done = timeout(Duration::from_secs(120), leeching.completed()).await;
        assert_eq!(done, Ok(Ok(())), "{:?}", leeching.state());
    });
}

#[test]
fn an_engine_that_is_shut_down_while_it_opens_and_checks_ends() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(7, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].leech(&payload, &hosts).await;
        hosts[0].shutdown(Duration::from_secs(1)).await;
        hosts[1].seed(&payload).await;
        hosts[1].engine().remove(castanet::TorrentId(1)).await;
        hosts[1].add(hosts[1].torrent(&payload).recheck(true)).await;
        hosts[1].shutdown(Duration::from_secs(1)).await;
    });
}
