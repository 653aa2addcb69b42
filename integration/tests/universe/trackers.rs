//! Engines that meet through a tracker of their universe.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet::seams::{datagrams::DatagramFactory, transport::Transport};
use castanet_integration::{
    payload::Payload,
    tracker::{Counts, Tracker, TrackerConfig},
    universe::{Universe, universe},
};

use crate::{KIB, MIB, all_complete, complete, discovery::worth, seconds};

const PIECE: u32 = 64 * KIB as u32;

async fn tracker(world: &Universe, config: TrackerConfig) -> Tracker {
    let host = world.net().host(IpAddr::from([10, 0, 0, 200]));
    let at = SocketAddr::new(host.ip(), 80);
    let http = host.listen(at).await.expect("a tracker listens once");
    let datagrams = host.bind(at).await.expect("the port is free");
    Tracker::serve(http, datagrams, config, world.seed())
}

/// One seeds and three download, who know nothing but the tracker.
fn meet(seed: u64, url: &str, plugin: &'static str) -> Vec<String> {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1).with_tracker(url);
    universe(seed, async |world| {
        let tracker = tracker(world, TrackerConfig::default()).await;
        let hosts = world.hosts(4).await;
        hosts[0].seed(&payload).await;
        let mut leeching = Vec::new();
        for host in &hosts[1..] {
            leeching.push(host.leech(&payload, &[]).await);
        }
        all_complete(&mut leeching).await;
        seconds(20).await;
        let counts = tracker.counts(payload.metainfo.info_hashes.wire());
        assert_eq!(counts, Counts { seeds: 4, leeches: 0, completed: 3 });
        assert!(leeching.iter().any(|handle| worth(handle, plugin).3 > 0));
        for host in &hosts {
            host.shutdown(Duration::from_secs(5)).await;
        }
        let counts = tracker.counts(payload.metainfo.info_hashes.wire());
        assert_eq!(counts, Counts { seeds: 0, leeches: 0, completed: 3 }, "all said good-bye");
    })
}

#[test]
fn a_swarm_meets_over_http_the_same_way_every_time() {
    let life = |seed| meet(seed, "http://10.0.0.200:80/announce", "http-tracker");
    assert_eq!(life(701), life(701));
}

#[test]
fn a_swarm_meets_over_udp_the_same_way_every_time() {
    let life = |seed| meet(seed, "udp://10.0.0.200:80/announce", "udp-tracker");
    assert_eq!(life(702), life(702));
}

#[test]
fn a_tracker_that_lies_does_not_keep_peers_apart() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1).with_tracker("http://10.0.0.200:80/announce");
    universe(703, async |world| {
        let _tracker = tracker(world, TrackerConfig { made_up: 200, ..TrackerConfig::default() }).await;
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        let mut leeching = hosts[1].leech(&payload, &hosts[..1]).await;
        complete(&mut leeching).await;
        let (found, _, useful, _) = worth(&leeching, "http-tracker");
        assert!(found >= 200 && useful == 0, "{:?}", leeching.state().plugins);
    });
}
