//! What the user may ask for: limits, order, a part only; and that the end is not slow.

use std::{cell::Cell, time::Duration};

use castanet::{Happening, Priority, TorrentEvent};
use castanet_integration::{payload::Payload, universe::universe};
use tokio::sync::broadcast::Receiver;

use crate::{KIB, MIB, all_complete, complete};

fn pieces(events: &mut Receiver<TorrentEvent>) -> Vec<u32> {
    let mut pieces = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Happening::Piece(piece) = event.what {
            pieces.push(piece.0);
        }
    }
    pieces
}

#[test]
fn limits_hold() {
    let payload = Payload::one_file("cargo", 2 * MIB, 64 * KIB as u32, 1);
    let rate = 100 * KIB as u64;
    for (up, down) in [(Some(rate), None), (None, Some(rate))] {
        universe(1, async |world| {
            let seed = world.host_with(move |engine| engine.max_up(up)).await;
            seed.seed(&payload).await;
            let leech = world.host_with(move |engine| engine.max_down(down)).await;
            let start = world.elapsed();
            let mut leeching = leech.leech(&payload, &[seed]).await;
            complete(&mut leeching).await;
            let average = (2 * MIB) as f64 / (world.elapsed() - start).as_secs_f64() / rate as f64;
            assert!((0.8..=1.2).contains(&average), "{average} of the limit (up {up:?}, down {down:?})");
        });
    }
}

#[test]
fn a_limit_is_shared_by_all_and_can_change() {
    let payload = Payload::one_file("cargo", 2 * MIB, 64 * KIB as u32, 1);
    universe(2, async |world| {
        let seed = world.host_with(|engine| engine.max_up(Some(100 * KIB as u64))).await;
        seed.seed(&payload).await;
        let mut leeching = Vec::new();
        for _ in 0..4 {
            leeching.push(world.host().await.leech(&payload, std::slice::from_ref(&seed)).await);
        }
        crate::seconds(10).await;
        let came: u64 = leeching.iter().map(|handle| handle.state().downloaded).sum();
        let share = came as f64 / (10 * 100 * KIB) as f64;
        assert!((0.8..=1.2).contains(&share), "{share} of the limit");
        seed.engine().set_limits(None, None).await;
        let before = world.elapsed();
        all_complete(&mut leeching).await;
        assert!(world.elapsed() - before < Duration::from_secs(10), "{:?}", world.elapsed() - before);
    });
}

#[test]
fn a_low_upload_limit_does_not_strangle_the_download() {
    let payload = Payload::one_file("cargo", 16 * MIB, 256 * KIB as u32, 1);
    universe(7, async |world| {
        let seed = world.host().await;
        seed.set_uplink(Some(2 * MIB as u64));
        seed.seed(&payload).await;
        let middle = world.host_with(|engine| engine.max_up(Some(20 * KIB as u64))).await;
        let start = world.elapsed();
        let mut downloading = middle.leech(&payload, std::slice::from_ref(&seed)).await;
        // These know nobody else: its few bytes a second are always spoken for.
        let mut hungry = Vec::new();
        for _ in 0..4 {
            hungry.push(world.host().await.leech(&payload, std::slice::from_ref(&middle)).await);
        }
        complete(&mut downloading).await;
        let ideal = (16 * MIB / (2 * MIB)) as f64;
        let took = (world.elapsed() - start).as_secs_f64();
        assert!(hungry.iter().any(|leech| leech.state().downloaded > 0), "it gave nothing: no test of the limit");
        assert!(took < 1.5 * ideal, "{took} s where {ideal} s would do");
    });
}

#[test]
fn in_order_means_nearly_in_order() {
    let payload = Payload::one_file("cargo", 4 * MIB, 64 * KIB as u32, 1);
    // How far pieces come from their place in order, on average.
    let disorder = |sequential| {
        let disorder = Cell::new(0.0);
        universe(3, async |world| {
            let hosts = world.hosts(4).await;
            for (host, share) in hosts[..3].iter().zip([1, 2, 3]) {
                host.set_uplink(Some(share * 256 * KIB as u64));
                host.seed(&payload).await;
            }
            let others = hosts[..3].iter().map(|host| host.addr().to_string());
            let mut leeching = hosts[3].add(hosts[3].torrent(&payload).sequential(sequential).peers(others)).await;
            let mut events = leeching.events();
            complete(&mut leeching).await;
            let order = pieces(&mut events);
            assert_eq!(order.len(), 64);
            let sum: u32 = order.iter().zip(0..).map(|(piece, at)| piece.abs_diff(at)).sum();
            disorder.set(f64::from(sum) / 64.0);
        });
        disorder.get()
    };
    let (ordered, rarest) = (disorder(true), disorder(false));
    // Peers of different speeds, and pieces that may be asked for before one is unchoked (BEP 6), mix it a little.
    assert!(ordered < 8.0 && rarest > 15.0, "{ordered} pieces out of place in order, {rarest} otherwise");
}

#[test]
fn what_is_wanted_most_comes_first_and_what_is_not_wanted_never() {
    let files = [("skipped", MIB), ("common", MIB), ("wanted", MIB)];
    let payload = Payload::folder("ship", &files, 64 * KIB as u32, 1);
    universe(4, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].set_uplink(Some(256 * KIB as u64));
        hosts[0].seed(&payload).await;
        let priorities = vec![Priority::Skip, Priority::Normal, Priority::High];
        let torrent = hosts[1].torrent(&payload).priorities(priorities).peers([hosts[0].addr().to_string()]);
        let mut leeching = hosts[1].add(torrent).await;
        let mut events = leeching.events();
        complete(&mut leeching).await;
        let order = pieces(&mut events);
        assert_eq!(order.len(), 32, "{order:?}");
        // But for the few that may be asked for before one is unchoked (BEP 6).
        let early = order[..16].iter().filter(|piece| **piece < 32).count();
        assert!(early <= 5, "{order:?}");
        assert!(hosts[1].disk().contents("/downloads/ship/skipped".as_ref()).is_none());
        assert_eq!(hosts[1].difference(&payload), Some("ship/skipped".into()));
        assert_eq!(leeching.state().left, 0);
    });
}

#[test]
fn one_slow_peer_does_not_hold_up_the_end() {
    let payload = Payload::one_file("cargo", 8 * MIB, 256 * KIB as u32, 1);
    universe(5, async |world| {
        let hosts = world.hosts(3).await;
        hosts[0].set_uplink(Some(2 * MIB as u64));
        hosts[1].set_uplink(Some(4 * KIB as u64));
        hosts[0].seed(&payload).await;
        hosts[1].seed(&payload).await;
        let start = world.elapsed();
        let mut leeching = hosts[2].leech(&payload, &hosts).await;
        complete(&mut leeching).await;
        let took = world.elapsed() - start;
        assert!(took < Duration::from_secs(5), "4 s is what the fast peer alone would need: {took:?}");
    });
}
