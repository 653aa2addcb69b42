//! The ledger by itself against a naive one, and inside a swarm.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use castanet_core::{PeerId, PeerKey, seams::discovery::PeerCandidate};
use proptest::prelude::*;

use super::{
    super::{CloseKind, DialFailure, Opened, Swarm, SwarmConfig, Verdict},
    *,
};

fn at(second: u64) -> Moment {
    Moment::from_secs(second)
}

/// The n-th address of the public Internet, each with an IP of its own.
fn nth(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0800_0000 + n).into(), 6881)
}

fn plugin(name: &str) -> PluginName {
    PluginName::from(name)
}

struct Bench(Swarm, u64);

impl Bench {
    fn new() -> Self {
        Self(Swarm::new(SwarmConfig::default(), &[], PeerId([50; 20]), 1), 0)
    }
    fn found(&mut self, name: &str, addr: SocketAddr, second: u64) {
        let found = PeerCandidate { addr, peer_id: None, instance: name.into() };
        self.0.found(&plugin(name), vec![found], at(second));
    }
    /// Opens a connection and shakes hands.
    fn meet(&mut self, addr: SocketAddr, inbound: bool) -> PeerKey {
        self.1 += 1;
        let key = PeerKey(self.1);
        assert_eq!(self.0.connected(Opened { addr, key, inbound }, at(9)), Verdict::Accept);
        assert_eq!(self.0.handshaken(key, PeerId([self.1 as u8; 20])), Verdict::Accept);
        key
    }
    fn worth(&self) -> Vec<Worth> {
        self.0.check_invariants();
        self.0.worth()
    }
    fn of(&self, name: &str) -> Worth {
        self.worth().into_iter().find(|worth| worth.plugin == plugin(name)).unwrap_or_else(|| account(plugin(name)))
    }
}

/// A peer that did all it should and gave so many bytes.
fn good(name: &str, alone: u64, bytes: u64, first: u64) -> Worth {
    let (found, connected, handshaken, useful) = (1, 1, 1, 1);
    let first_peer = Some(at(first));
    Worth { found, alone, connected, handshaken, useful, bytes, first_peer, ..account(plugin(name)) }
}

#[test]
fn a_peer_of_two_plugins_counts_for_both_in_either_order() {
    for (one, other) in [("dht", "pex"), ("pex", "dht")] {
        let mut bench = Bench::new();
        bench.found(one, nth(1), 1);
        bench.found(one, nth(1), 2);
        assert_eq!((bench.of(one).found, bench.of(one).alone), (1, 1));
        bench.found(other, nth(1), 3);
        bench.found(other, nth(2), 4);
        bench.0.next_dial(at(5));
        bench.0.next_dial(at(5));
        bench.0.dial_failed(nth(2), DialFailure::Refused, at(6));
        let key = bench.meet(nth(1), false);
        bench.0.gave(key, 1000, at(10));
        bench.0.gave(key, 1, at(11));
        let mut expected = [good(one, 0, 1001, 1), Worth { found: 2, alone: 1, refused: 1, ..good(other, 0, 1001, 3) }];
        expected[0].shared = vec![(plugin(other), 1)];
        expected[1].shared = vec![(plugin(one), 1)];
        expected.sort_by(|one, other| one.plugin.cmp(&other.plugin));
        assert_eq!(bench.worth(), expected);
    }
}

#[test]
fn who_came_unasked_counts_as_incoming() {
    let mut bench = Bench::new();
    let key = bench.meet(SocketAddr::new(nth(1).ip(), 50_000), true);
    bench.0.gave(key, 5, at(10));
    assert_eq!(bench.worth(), [good(INCOMING, 1, 5, 9)]);
    bench.0.listens(key, 6881, at(11));
    bench.0.gave(key, 5, at(12));
    bench.0.closed(key, CloseKind::Lost, at(13));
    assert_eq!(bench.worth(), [good(INCOMING, 1, 10, 9)], "the same peer, wherever it listens");
    let again = bench.meet(SocketAddr::new(nth(1).ip(), 50_001), true);
    bench.0.listens(again, 6881, at(20));
    bench.0.gave(again, 1, at(21));
    assert_eq!(bench.worth(), [good(INCOMING, 1, 11, 9)], "it came back");
}

#[test]
fn a_peer_named_after_it_connected_counts_for_who_named_it() {
    let mut bench = Bench::new();
    let key = bench.meet(SocketAddr::new(nth(1).ip(), 50_000), true);
    bench.0.gave(key, 5, at(10));
    bench.found("lsd", nth(1), 11);
    assert_eq!(bench.of("lsd").connected, 0, "nobody knows yet that it is the same peer");
    bench.0.listens(key, 6881, at(12));
    bench.0.gave(key, 5, at(13));
    assert_eq!(bench.worth(), [good("lsd", 1, 10, 11)], "and nobody is incoming");

    let mut bench = Bench::new();
    let key = bench.meet(SocketAddr::new(nth(1).ip(), 50_000), true);
    bench.0.listens(key, 6881, at(10));
    bench.0.gave(key, 7, at(11));
    bench.found("pex", nth(1), 12);
    bench.0.gave(key, 7, at(13));
    assert_eq!(bench.worth(), [good("pex", 1, 14, 12)]);
    bench.0.closed(key, CloseKind::BadData, at(14));
    assert_eq!(bench.worth(), [Worth { banned: 1, ..good("pex", 1, 14, 12) }]);
}

#[test]
fn bans_count_for_strangers_too() {
    let mut bench = Bench::new();
    let key = bench.meet(SocketAddr::new(nth(1).ip(), 50_000), true);
    bench.0.closed(key, CloseKind::BadData, at(10));
    assert_eq!(bench.of(INCOMING).banned, 1);
    bench.found("dht", nth(1), 11);
    assert_eq!(bench.of("dht").found, 0, "banned already");
}

#[test]
fn what_was_counted_outlives_the_candidates() {
    let config = SwarmConfig { most_candidates: 4, ..SwarmConfig::default() };
    let mut bench = Bench(Swarm::new(config, &[], PeerId([50; 20]), 1), 0);
    for n in 0..50 {
        let from = PeerCandidate { addr: nth(n), peer_id: None, instance: n.to_string().into() };
        // A peer that has failed twice is forgotten for a new one.
        let now = at(u64::from(n) * 100);
        bench.0.found(&plugin(["a", "b"][n as usize % 2]), vec![from], now);
        for dial in std::iter::from_fn(|| bench.0.next_dial(now)).collect::<Vec<_>>() {
            bench.0.dial_failed(dial.addr, DialFailure::TimedOut, now);
        }
    }
    assert!(bench.0.counts().known == 4 && bench.0.provenance(nth(0)).is_empty());
    (0..50).for_each(|n| bench.found("c", nth(n), 6000));
    let (a, c) = (bench.of("a"), bench.of("c"));
    assert_eq!((a.found, a.alone, c.found, c.alone), (25, 0, 50, 0));
    assert_eq!(c.refused, a.refused + bench.of("b").refused, "named late, credited all the same");
    assert!(c.refused > 20, "{c:?}");
}

#[test]
fn failures_are_counted_by_kind_until_they_are_made_good() {
    let mut bench = Bench::new();
    (0..4).for_each(|n| bench.found("dht", nth(n), 0));
    let kinds = [DialFailure::Refused, DialFailure::Refused, DialFailure::TimedOut, DialFailure::Handshake];
    for kind in kinds {
        let addr = bench.0.next_dial(at(0)).unwrap().addr;
        bench.0.dial_failed(addr, kind, at(0));
    }
    assert_eq!(DialFailure::ALL.map(|kind| bench.0.failed(kind)), [2, 1, 0, 1, 0]);
    assert_eq!(bench.0.resting(), 4);
    for _ in 0..4 {
        let addr = bench.0.next_dial(at(60)).unwrap().addr;
        bench.meet(addr, false);
    }
    assert_eq!(DialFailure::ALL.map(|kind| bench.0.failed(kind)), [0; 5]);
    assert_eq!((bench.0.resting(), bench.0.banned()), (0, 0));
    bench.0.ban(nth(9));
    assert_eq!(bench.0.banned(), 1);
}

#[test]
fn a_million_peers_of_one_plugin_are_an_estimate_in_bounded_memory() {
    let mut ledger = Ledger::new(7);
    for n in 0..1_000_000 {
        ledger.named(&plugin("flood"), nth(n), at(1));
        if n % 50 == 0 {
            ledger.named(&plugin("modest"), nth(n), at(1));
        }
        if n % 10 == 0 {
            ledger.fared(nth(n), &[], PeerFate::Refused);
        }
    }
    ledger.check_invariants();
    let worth = ledger.worth();
    let near = |is: u64, expected: f64, tolerance: f64| (is as f64 / expected - 1.0).abs() < tolerance;
    assert!(near(worth[0].found, 1e6, 0.03) && near(worth[0].alone, 0.98e6, 0.03), "{worth:?}");
    assert!(near(worth[1].found, 2e4, 0.15) && worth[1].alone == 0, "{worth:?}");
    let (sample, met) = (ledger.sample.len(), ledger.met.len());
    assert_eq!((sample, met), (MOST_SAMPLED, MOST_MET));
    // Repetition changes nothing.
    (0..1000).for_each(|n| ledger.named(&plugin("flood"), nth(n), at(2)));
    assert_eq!(ledger.worth(), worth);
}

#[test]
fn a_peer_beyond_the_sample_is_credited_by_its_candidate() {
    let mut ledger = Ledger::new(7);
    (0..100_000).for_each(|n| ledger.named(&plugin("dht"), nth(n), at(1)));
    let beyond = (0..).map(nth).find(|addr| ledger.horizon.is_some_and(|end| ledger.key(*addr) >= end)).unwrap();
    let sources = [Provenance { plugin: plugin("dht"), instance: "".into(), when: at(1) }];
    ledger.fared(beyond, &sources, PeerFate::Handshaken);
    ledger.gave(beyond, &sources, 9);
    let worth = &ledger.worth()[0];
    assert_eq!((worth.connected, worth.handshaken, worth.useful, worth.bytes), (1, 1, 1, 9));
}

#[test]
fn plugins_without_number_are_not_counted() {
    let mut ledger = Ledger::new(7);
    (0..100).for_each(|n| ledger.named(&plugin(&format!("{n:02}")), nth(1), at(1)));
    assert_eq!(ledger.worth().len(), MOST_PLUGINS);
    ledger.check_invariants();
}

proptest! {
    /// The accounts are what a look at everything would give, whatever the order of events.
    #[test]
    fn the_accounts_are_a_function_of_who_named_whom_and_what_they_did(
        events in prop::collection::vec((0u8..3, 0u32..6, 0u8..6), 0..60),
    ) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut ledger = Ledger::new(3);
        let mut named: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        let mut deeds: BTreeMap<u32, (bool, bool, u64)> = BTreeMap::new();
        for (name, peer, event) in events {
            let deed = deeds.entry(peer).or_default();
            match event {
                0..=2 => {
                    ledger.named(&plugin(NAMES[name as usize]), nth(peer), at(1));
                    named.entry(peer).or_default().insert(NAMES[name as usize]);
                }
                3 => { ledger.fared(nth(peer), &[], PeerFate::Refused); deed.0 = true; }
                4 => { ledger.came(nth(peer), &[], at(1)); deed.1 = true; }
                _ => { ledger.gave(nth(peer), &[], 10); deed.1 = true; deed.2 += 10; }
            }
            ledger.check_invariants();
        }
        for name in NAMES.into_iter().chain([INCOMING]) {
            let its = |peer: &u32| match named.get(peer) {
                Some(names) => names.contains(name),
                None => name == INCOMING,
            };
            let sum = |amount: fn(&(bool, bool, u64)) -> u64| -> u64 {
                deeds.iter().filter(|(peer, _)| its(peer)).map(|(_, deed)| amount(deed)).sum()
            };
            let worth = ledger.worth().into_iter().find(|worth| worth.plugin == plugin(name));
            let is = worth.unwrap_or_else(|| account(plugin(name)));
            let found = named.values().filter(|names| names.contains(name)).count() as u64;
            let alone = named.values().filter(|names| names.contains(name) && names.len() == 1).count() as u64;
            if name == INCOMING {
                let came = sum(|deed| deed.1.into());
                prop_assert_eq!((is.found, is.alone), (came, came));
                if came == 0 { continue; }
            } else {
                prop_assert_eq!((is.found, is.alone), (found, alone));
            }
            prop_assert_eq!((is.refused, is.connected), (sum(|deed| deed.0.into()), sum(|deed| deed.1.into())));
            prop_assert_eq!((is.useful, is.bytes), (sum(|deed| u64::from(deed.2 > 0)), sum(|deed| deed.2)));
        }
    }
}
