//! Hosts come and go, in good order and by power cut.

use std::{collections::BTreeSet, time::Duration};

use castanet::{Happening, TorrentHandle};
use castanet_integration::{payload::Payload, universe::universe};
use tokio::sync::broadcast::Receiver;

use crate::{KIB, MIB, PATIENCE, all_complete, complete, seconds};

const PIECE: usize = 128 * KIB;

/// The pieces with which a torrent starts.
async fn started(handle: &mut TorrentHandle) -> u32 {
    loop {
        match handle.next_event().await.map(|event| event.what) {
            Some(Happening::Started { have }) => return have,
            Some(_) => {}
            None => panic!("the torrent ended"),
        }
    }
}

/// How much was fetched must be what was missing, but for what was begun and what endgame doubles.
fn assert_only_missing(handle: &TorrentHandle, had: u32) {
    let (state, missing) = (handle.state(), (handle.state().pieces - had) as usize * PIECE);
    let fetched = state.downloaded as usize;
    assert!(fetched <= missing + missing / 10 + PIECE, "{fetched} bytes fetched, {missing} were missing");
}

#[test]
fn a_power_cut_costs_a_check_and_a_good_end_costs_nothing() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE as u32, 1);
    universe(2, async |world| {
        let hosts = world.hosts(4).await;
        hosts[0].set_uplink(Some(MIB as u64 / 2));
        hosts[0].seed(&payload).await;
        let mut leeching = Vec::new();
        for host in &hosts[1..] {
            leeching.push(host.leech(&payload, &hosts).await);
        }
        seconds(6).await;

        let before = leeching[0].state();
        assert!(before.have > 0 && !before.is_complete(), "{before:?}");
        hosts[1].kill().await;
        seconds(3).await;
        hosts[1].start().await;
        leeching[0] = hosts[1].leech(&payload, &hosts).await;
        let had = started(&mut leeching[0]).await;
        assert!(had >= before.have, "of {} pieces {had} were found again", before.have);

        let before = leeching[1].state();
        hosts[2].shutdown(Duration::from_secs(5)).await;
        seconds(3).await;
        hosts[2].start().await;
        leeching[1] = hosts[2].leech(&payload, &hosts).await;
        let kept = started(&mut leeching[1]).await;
        assert!(kept >= before.have && leeching[1].state().checked == 0);

        all_complete(&mut leeching).await;
        seconds(2).await;
        assert_only_missing(&leeching[0], had);
        assert_only_missing(&leeching[1], kept);
        assert!(hosts.iter().all(|host| host.difference(&payload).is_none()));
    });
}

#[test]
fn a_swarm_bears_constant_churn() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE as u32, 1);
    universe(3, async |world| {
        let hosts = world.hosts(6).await;
        hosts[0].set_uplink(Some(MIB as u64 / 4));
        hosts[0].seed(&payload).await;
        let mut leeching = Vec::new();
        for host in &hosts[1..] {
            leeching.push(host.leech(&payload, &hosts).await);
        }
        for round in 0..8 {
            let victim = 1 + round % 5;
            seconds(2).await;
            hosts[victim].kill().await;
            seconds(1).await;
            hosts[victim].start().await;
            leeching[victim - 1] = hosts[victim].leech(&payload, &hosts).await;
        }
        all_complete(&mut leeching).await;
        assert!(hosts.iter().all(|host| host.difference(&payload).is_none()));
    });
}

fn drain(events: &mut Receiver<castanet::TorrentEvent>, seen: &mut BTreeSet<u32>) {
    while let Ok(event) = events.try_recv() {
        if let Happening::Piece(piece) = event.what {
            seen.insert(piece.0);
        }
    }
}

#[test]
fn together_the_leeches_need_no_seed() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE as u32, 1);
    universe(4, async |world| {
        let hosts = world.hosts(6).await;
        hosts[0].set_uplink(Some(MIB as u64));
        hosts[1..].iter().for_each(|host| host.set_uplink(Some(MIB as u64 / 4)));
        hosts[0].seed(&payload).await;
        let (mut leeching, mut events, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for host in &hosts[1..] {
            leeching.push(host.leech(&payload, &hosts).await);
            events.extend(leeching.last().map(TorrentHandle::events));
        }
        let pieces = payload.metainfo.info.geometry().pieces() as usize;
        while seen.len() < pieces {
            tokio::time::sleep(Duration::from_millis(50)).await;
            events.iter_mut().for_each(|events| drain(events, &mut seen));
            assert!(world.elapsed() < PATIENCE, "{} of {pieces} pieces were spread", seen.len());
        }
        assert!(!leeching.iter().any(|handle| handle.state().is_complete()), "nobody has everything yet");
        hosts[0].kill().await;
        all_complete(&mut leeching).await;
    });
}

#[test]
fn a_seed_that_comes_late_is_found() {
    let payload = Payload::one_file("cargo", MIB, PIECE as u32, 1);
    universe(5, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].kill().await;
        let mut leeching = hosts[1].leech(&payload, &hosts).await;
        seconds(60).await;
        assert!(leeching.state().stalled.is_some());
        hosts[0].start().await;
        hosts[0].seed(&payload).await;
        complete(&mut leeching).await;
        assert!(world.elapsed() < Duration::from_secs(180), "found after {:?}", world.elapsed());
    });
}
