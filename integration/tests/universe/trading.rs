//! Leeches trade: one slow seed feeds many, and the same seed of chance gives the same run.

use std::time::Duration;

use castanet_integration::{
    payload::Payload,
    universe::{Universe, universe},
};

use crate::{KIB, MIB, all_complete};

/// A seed of 4 MiB/s and eight leeches of 8 MiB/s: how long until all are complete, and how often the seed sent each byte.
/// `by_rule` says whether the seed's limit is one of its user's, or of its line.
async fn trade(world: &Universe, payload: &Payload, leeches: usize, by_rule: bool) -> (Duration, f64) {
    let limit = Some(4 * MIB as u64);
    let mut hosts = vec![world.host_with(move |engine| engine.max_up(limit.filter(|_| by_rule))).await];
    hosts.extend(world.hosts(leeches).await);
    hosts[0].set_uplink(limit.filter(|_| !by_rule));
    hosts[1..].iter().for_each(|host| host.set_uplink(Some(8 * MIB as u64)));
    let seeding = hosts[0].seed(payload).await;
    let start = world.elapsed();
    let mut leeching = Vec::new();
    for host in &hosts[1..] {
        leeching.push(host.leech(payload, &hosts).await);
    }
    all_complete(&mut leeching).await;
    let took = world.elapsed() - start;
    assert!(hosts.iter().all(|host| host.difference(payload).is_none()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    (took, seeding.state().uploaded as f64 / seeding.state().length as f64)
}

#[test]
fn leeches_trade() {
    let payload = Payload::one_file("cargo", 32 * MIB, 256 * KIB as u32, 1);
    for by_rule in [false, true] {
        universe(1, async |world| {
            let (took, copies) = trade(world, &payload, 8, by_rule).await;
            println!(
                "8 leeches, 32 MiB, a seed of 4 MiB/s (by rule: {by_rule}): {took:?}, 8 s is ideal; {copies:.2} copies"
            );
            assert!(copies < 0.2 * 8.0, "the seed sent {copies:.2} of 8 copies");
            assert!(took < Duration::from_secs(11), "{took:?}");
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let payload = Payload::one_file("cargo", 2 * MIB, 64 * KIB as u32, 1);
    let run = |seed| {
        universe(seed, async |world| {
            trade(world, &payload, 4, false).await;
        })
    };
    let (first, again, other) = (run(7), run(7), run(8));
    assert!(first.len() > 4 * 32, "{first:#?}");
    for (one, two) in first.iter().zip(&again) {
        assert_eq!(one, two);
    }
    assert_eq!(first.len(), again.len());
    assert_ne!(first, other);
}
