//! A thousand nodes with the delays, losses and deaths of the real network: how long a look-up takes.

use std::time::Duration;

use castanet_core::Moment;

use super::net::Net;
use crate::dht::{AnnounceAs, LookUp};

const NODES: usize = 1250;
const DYING: usize = NODES / 5;
const SWARMS: usize = 100;
const LOOK_UPS: usize = 200;

/// `cargo test -p castanet-protocol a_thousand_nodes -- --nocapture` prints the numbers of docs/MEASUREMENTS.md.
#[test]
fn a_thousand_nodes_find_peers_in_half_a_second() {
    let seed = 1;
    let mut net = Net::new(seed);
    (net.loss, net.trip) = (5, (Duration::from_millis(100), 0.7));
    // They join by way of each other, twenty a second, so the tables are what tables become.
    for n in 0..NODES {
        let contacts: Vec<_> = (0..3.min(n)).map(|_| net.hosts[net.rng.usize(0..n)].addr).collect();
        net.join(&contacts);
        net.run(Duration::from_millis(50));
    }
    println!("{NODES} nodes have joined with {} datagrams", net.sent);
    let swarms: Vec<[u8; 20]> = (0..SWARMS).map(|_| std::array::from_fn(|_| net.rng.u8(..))).collect();
    for info_hash in &swarms {
        let at = net.rng.usize(0..NODES);
        let announce = Some(AnnounceAs { port: Some(6881), mapped: None });
        let id = net.with(at, |dht, now| {
            dht.find_peers(LookUp { info_hash: *info_hash, announce, seed: false, scrape: false }, now)
        });
        net.run_until(net.now + Duration::from_secs(20), |net| net.is_over(at, id));
        assert!(net.outcome(at, id).announced >= 4, "seed {seed}: {:?}", net.outcome(at, id));
    }
    // A fifth of all dies; nobody is told.
    let mut order: Vec<usize> = (0..NODES).collect();
    net.rng.shuffle(&mut order);
    order[..DYING].iter().for_each(|at| net.hosts[*at].dht = None);
    let sizes: Vec<_> = order[DYING..].iter().map(|at| net.dht(*at).nodes()).collect();
    println!("{} are left, with {} nodes in a table", sizes.len(), sizes.iter().sum::<usize>() / sizes.len());

    let before = net.sent;
    let mut begun = Vec::new();
    for n in 0..LOOK_UPS {
        let (at, info_hash) = (order[DYING + n], swarms[n % SWARMS]);
        let look_up = LookUp { info_hash, announce: None, seed: false, scrape: false };
        begun.push((at, net.now, net.with(at, |dht, now| dht.find_peers(look_up, now))));
        net.run(Duration::from_millis(50));
    }
    net.run(Duration::from_secs(20));
    net.check();
    let outcomes: Vec<_> = begun.iter().map(|(at, began, id)| (*began, net.outcome(*at, *id))).collect();
    let millis = |since: Moment, at: Option<Moment>| at.map_or(u64::MAX, |at| at.since(since).as_millis() as u64);
    let first = Spread::of(outcomes.iter().map(|(began, outcome)| millis(*began, outcome.first)));
    let end = Spread::of(outcomes.iter().map(|(began, outcome)| millis(*began, outcome.end)));
    let asked = Spread::of(outcomes.iter().map(|(_, outcome)| outcome.asked as u64));
    println!("{LOOK_UPS} look-ups, {} datagrams in the network meanwhile", net.sent - before);
    println!("first peer, ms: {first:?}\nthe end, ms: {end:?}\nquestions: {asked:?}");
    assert!(first.median < 400 && first.of_95 < 1500, "seed {seed}: {first:?}");
    assert!(end.median < 2500 && end.most < 20_000, "seed {seed}: {end:?}");
}

#[derive(Debug)]
#[allow(dead_code)]
struct Spread {
    least: u64,
    median: u64,
    of_95: u64,
    most: u64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = u64>) -> Self {
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_unstable();
        let at = |percent: usize| numbers[(numbers.len() - 1) * percent / 100];
        Self { least: at(0), median: at(50), of_95: at(95), most: at(100) }
    }
}
