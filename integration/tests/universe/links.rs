//! Swarms on bad networks: far apart, at changing delays, over narrow and lossy links that stall, part and are cut.

use std::{sync::Arc, time::Duration};

use castanet_integration::{
    payload::Payload,
    universe::{Host, Universe, universe},
};
use castanet_transports::{
    faulty::Faults,
    link::{Link, Outages},
    memory::MemoryTransport,
    utp::Utp,
};

use crate::{KIB, MIB, all_complete, complete, discovery::by_link, seconds};

const MS: Duration = Duration::from_millis(1);
const PIECE: u32 = 64 * KIB as u32;
/// Far apart, at changing delays, and narrow.
const FAR: Link = Link {
    latency: MS.saturating_mul(50),
    jitter: MS.saturating_mul(20),
    bandwidth: Some(MIB as u64),
    queue: 256 * KIB as u64,
    loss: 0.0,
    doubled: 0.0,
    overtaken: 0.0,
    largest: 1500,
};

/// Hosts that share these faults, on a network that adds nothing of its own.
async fn faulty_hosts(world: &Universe, count: usize, faults: &Faults) -> Vec<Host> {
    world.net().set_default_link(Link { latency: Duration::ZERO, ..Link::default() });
    let mut hosts = Vec::new();
    for _ in 0..count {
        hosts.push(world.faulty_host_with(faults.clone(), |engine| engine).await);
    }
    hosts
}

/// One seed and so many leeches exchange 8 MiB. Answers with how long it took, and the log.
fn exchange(seed: u64, leeches: usize, faults: &Faults) -> (Duration, Vec<String>) {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE, 1);
    let mut took = Duration::ZERO;
    let log = universe(seed, async |world| {
        let hosts = faulty_hosts(world, 1 + leeches, faults).await;
        hosts[0].seed(&payload).await;
        let start = world.elapsed();
        let mut leeching = Vec::new();
        for host in &hosts[1..] {
            leeching.push(host.leech(&payload, &hosts).await);
        }
        all_complete(&mut leeching).await;
        took = world.elapsed() - start;
        assert!(hosts.iter().all(|host| host.difference(&payload).is_none()));
    });
    (took, log)
}

#[test]
fn far_apart_the_bandwidth_is_used() {
    let (took, _) = exchange(1, 1, &Faults { link: Some(FAR), ..Faults::default() });
    println!("8 MiB at 1 MiB/s, 50 ms and up to 20 ms more: {took:?}");
    assert!((Duration::from_secs(8)..Duration::from_secs(11)).contains(&took), "{took:?}");
}

#[test]
fn a_swarm_far_apart_completes_and_every_time_in_the_same_way() {
    let faults = Faults { link: Some(FAR), ..Faults::default() };
    let (took, log) = exchange(2, 6, &faults);
    println!("six of them: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(log, exchange(2, 6, &faults).1);
    assert_ne!(log, exchange(3, 6, &faults).1);
}

#[test]
fn a_swarm_outlives_cuts_and_stalls() {
    let second = Duration::from_secs(1);
    let cut = Faults { link: Some(FAR), cut: Some(second..second * 6), ..Faults::default() };
    let stalls = Outages::Drawn { up: second..second * 4, down: MS * 100..second * 3 };
    for faults in [cut.clone(), Faults { stalls: stalls.clone(), cut: None, ..cut.clone() }, Faults { stalls, ..cut }] {
        let (took, log) = exchange(4, 4, &faults);
        let lost = log.iter().filter(|line| line.contains("PeerLost")).count();
        let what = format!("cuts: {}, stalls: {}", faults.cut.is_some(), faults.stalls != Outages::Never);
        println!("{what}: {took:?}, {lost} connections lost");
        // Each of 4 + 3 + 2 + 1 connections is known at both its ends.
        assert!(faults.cut.is_none() || lost > 20, "{what}: only {lost} connections lost");
    }
}

#[test]
fn a_swarm_by_utp_alone_outlives_losses_and_disorder_and_every_time_in_the_same_way() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    let link = Link { loss: 0.01, doubled: 0.01, overtaken: 0.05, ..FAR };
    let story = |seed| {
        universe(seed, async |world| {
            world.net().set_default_link(link);
            let mut hosts = Vec::new();
            for _ in 0..4 {
                let by_utp = |engine: castanet::EngineBuilder, net: &MemoryTransport| {
                    engine.transports(vec![Arc::new(Utp::new(Arc::new(net.clone()), 1))])
                };
                hosts.push(world.host_on(by_utp).await);
            }
            hosts[0].seed(&payload).await;
            let mut leeching = Vec::new();
            for host in &hosts[1..] {
                leeching.push(host.leech(&payload, &hosts).await);
            }
            all_complete(&mut leeching).await;
            assert!(hosts.iter().all(|host| host.difference(&payload).is_none()));
        })
    };
    let log = story(6);
    assert_eq!(log, story(6));
    assert_ne!(log, story(7));
}

#[test]
fn a_dht_on_a_bad_network_finds_the_seed() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    let link = Link { loss: 0.05, doubled: 0.05, overtaken: 0.1, largest: 1400, ..FAR };
    let faults = Faults { link: Some(link), ..Faults::default() };
    let story = |seed| {
        universe(seed, async |world| {
            world.net().set_default_link(Link { latency: Duration::ZERO, ..Link::default() });
            let mut hosts: Vec<Host> = Vec::new();
            for _ in 0..12 {
                let bootstrap = hosts.first().map_or(String::new(), |host| host.addr().to_string());
                let node = move |engine: castanet::EngineBuilder| {
                    let engine = engine.enable_plugin("dht").plugin_setting("dht", "always", "true");
                    engine.plugin_setting("dht", "bootstrap", &bootstrap)
                };
                hosts.push(world.faulty_host_with(faults.clone(), node).await);
            }
            seconds(60).await;
            hosts[3].seed(&payload).await;
            seconds(20).await;
            let mut leeching = hosts[9].add(by_link(&payload, &[])).await;
            complete(&mut leeching).await;
            assert_eq!(hosts[9].difference(&payload), None);
        })
    };
    assert_eq!(story(5), story(5));
}
