//! Each rule of the swarm, then all of them under random use.

mod dials;

use proptest::prelude::*;

use super::*;

const OUR_ID: PeerId = PeerId([50; 20]);

fn at(second: u64) -> Moment {
    Moment::from_secs(second)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The n-th address of the public Internet, each with an IP of its own.
fn nth(n: u32) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from(0x0800_0000 + n).into(), 6881)
}

fn from(instance: &str, addrs: impl IntoIterator<Item = SocketAddr>) -> Vec<PeerCandidate> {
    addrs.into_iter().map(|addr| PeerCandidate { addr, peer_id: None, instance: instance.into() }).collect()
}

fn plugin(name: &str) -> PluginName {
    PluginName::from(name)
}

fn swarm_with(config: SwarmConfig) -> Swarm {
    Swarm::new(config, &[addr("0.0.0.0:7000")], OUR_ID, 1)
}

fn swarm() -> Swarm {
    swarm_with(SwarmConfig::default())
}

fn swarm_knowing(addrs: impl IntoIterator<Item = SocketAddr>) -> Swarm {
    let mut swarm = swarm();
    swarm.found(&plugin("dht"), from("dht", addrs), at(0));
    swarm
}

fn dials(swarm: &mut Swarm, now: Moment) -> Vec<SocketAddr> {
    std::iter::from_fn(|| swarm.next_dial(now)).map(|dial| dial.addr).collect()
}

fn open(swarm: &mut Swarm, key: u64, addr: SocketAddr, inbound: bool) -> Verdict {
    let verdict = swarm.connected(Opened { addr, key: PeerKey(key), inbound }, at(1));
    swarm.check_invariants();
    verdict
}

fn fates(swarm: &mut Swarm) -> Vec<(String, PeerFate)> {
    let each = |f: Feedback| f.plugins.into_iter().map(move |plugin| (plugin.to_string(), f.outcome.fate));
    std::iter::from_fn(|| swarm.poll_feedback()).flat_map(each).collect()
}

#[test]
fn what_is_found_is_sifted_and_keeps_its_sources() {
    let mut swarm = swarm();
    swarm.ban(addr("9.9.9.9:1"));
    let mut found = from(
        "udp://a",
        ["1.2.3.4:5", "[::ffff:1.2.3.4]:5", "1.2.3.4:0", "224.0.0.1:9", "127.0.0.1:7000", "9.9.9.9:2"].map(addr),
    );
    found.push(PeerCandidate { addr: addr("4.4.4.4:4"), peer_id: Some(OUR_ID), instance: "udp://a".into() });
    assert_eq!(swarm.found(&plugin("udp-tracker"), found, at(3)), 1);
    assert_eq!(swarm.found(&plugin("pex"), from("8.8.8.8:1", [addr("1.2.3.4:5")]), at(4)), 0);
    assert_eq!(swarm.found(&plugin("pex"), from("8.8.8.8:1", [addr("1.2.3.4:5")]), at(5)), 0);
    let sources: Vec<_> =
        swarm.provenance(addr("1.2.3.4:5")).iter().map(|p| (&*p.plugin.0, &*p.instance, p.when)).collect();
    assert_eq!(sources, [("udp-tracker", "udp://a", at(3)), ("pex", "8.8.8.8:1", at(4))]);
    for n in 0..50 {
        swarm.found(&plugin("pex"), from(&format!("neighbour {n}"), [addr("1.2.3.4:5")]), at(6));
    }
    swarm.found(&plugin("lsd"), from("lsd", [addr("1.2.3.4:5")]), at(7));
    assert_eq!(swarm.provenance(addr("1.2.3.4:5")).len(), MOST_PROVENANCE);
    assert_eq!(swarm.provenance(addr("1.2.3.4:5"))[MOST_PROVENANCE - 1].plugin, plugin("lsd"), "every plugin counts");
    swarm.check_invariants();
}

#[test]
fn connections_stay_within_every_limit() {
    let mut swarm = swarm_with(SwarmConfig { most_connections: 30, ..SwarmConfig::default() });
    for key in 0..8 {
        assert_eq!(open(&mut swarm, key, SocketAddr::new(nth(0).ip(), 1000 + key as u16), true), Verdict::Accept);
    }
    assert_eq!(open(&mut swarm, 8, nth(0), true), Verdict::Refuse(Reason::TooManyPerIp));
    for key in 10..32 {
        let local = SocketAddr::new(addr("127.0.0.1:1").ip(), 1000 + key as u16);
        assert_eq!(open(&mut swarm, key, local, true), Verdict::Accept, "twenty peers on loopback work");
    }
    assert_eq!(open(&mut swarm, 40, nth(1), true), Verdict::Refuse(Reason::Full));
    swarm.closed(PeerKey(3), CloseKind::Lost, at(2));
    assert_eq!(open(&mut swarm, 41, nth(1), true), Verdict::Accept);
}

#[test]
fn oneself_is_recognised_and_not_dialled_again() {
    let mut swarm = swarm_knowing([nth(1)]);
    assert_eq!(dials(&mut swarm, at(0)), [nth(1)]);
    open(&mut swarm, 1, nth(1), false);
    open(&mut swarm, 2, nth(2), true);
    for key in [1, 2] {
        assert_eq!(swarm.handshaken(PeerKey(key), OUR_ID), Verdict::Refuse(Reason::Oneself));
        swarm.closed(PeerKey(key), CloseKind::Clean, at(1));
    }
    assert_eq!(swarm.counts(), Counts { known: 0, half_open: 0, connected: 0 });
    assert_eq!(swarm.found(&plugin("dht"), from("dht", [nth(1)]), at(2)), 0);
}

/// Two swarms whose peers dial each other at once; `first` says for each end which connection is handshaken first.
/// Returns the connections that each end keeps.
fn cross(ids: [PeerId; 2], first: [usize; 2]) -> [Vec<usize>; 2] {
    let hosts = [nth(1), nth(2)];
    [0, 1].map(|me| {
        let other = 1 - me;
        let mut swarm = Swarm::new(SwarmConfig::default(), &[], ids[me], 1);
        swarm.found(&plugin("dht"), from("dht", [hosts[other]]), at(0));
        assert_eq!(dials(&mut swarm, at(0)), [hosts[other]]);
        // Connection n was opened by host n.
        let theirs = SocketAddr::new(hosts[other].ip(), 50_000);
        open(&mut swarm, me as u64, hosts[other], false);
        open(&mut swarm, other as u64, theirs, true);
        let mut kept = Vec::new();
        for connection in [first[me], 1 - first[me]] {
            match swarm.handshaken(PeerKey(connection as u64), ids[other]) {
                Verdict::Accept => kept.push(connection),
                Verdict::Replace(old) => {
                    kept.retain(|n| !old.contains(&PeerKey(*n as u64)));
                    kept.push(connection);
                }
                Verdict::Refuse(reason) => assert_eq!(reason, Reason::Duplicate),
            }
        }
        kept
    })
}

#[test]
fn both_ends_close_the_same_duplicate() {
    let (small, large) = (PeerId([1; 20]), PeerId([2; 20]));
    for first in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        assert_eq!(cross([small, large], first), [vec![0], vec![0]], "{first:?}");
        assert_eq!(cross([large, small], first), [vec![1], vec![1]], "{first:?}");
    }
}

#[test]
fn duplicates_of_one_opener_are_its_own_affair() {
    let mut swarm = swarm_knowing([nth(1), addr("[2001:db8::1]:5")]);
    let id = PeerId([9; 20]);
    for (key, addr) in (0..).zip(dials(&mut swarm, at(0))) {
        open(&mut swarm, key, addr, false);
    }
    assert_eq!(swarm.handshaken(PeerKey(0), id), Verdict::Accept);
    assert_eq!(swarm.handshaken(PeerKey(1), id), Verdict::Refuse(Reason::Duplicate), "we opened both: one is enough");
    let other = PeerId([8; 20]);
    (10..13).for_each(|key| assert_eq!(open(&mut swarm, key, nth(key as u32), true), Verdict::Accept));
    assert_eq!(swarm.handshaken(PeerKey(10), other), Verdict::Accept);
    assert_eq!(swarm.handshaken(PeerKey(11), other), Verdict::Accept, "the first may be dead");
    assert_eq!(swarm.handshaken(PeerKey(12), other), Verdict::Refuse(Reason::Duplicate));
}

#[test]
fn a_stranger_with_a_stolen_id_closes_nobody() {
    let mut swarm = swarm_knowing([nth(1)]);
    let id = PeerId([1; 20]);
    dials(&mut swarm, at(0));
    open(&mut swarm, 1, nth(1), false);
    swarm.handshaken(PeerKey(1), id);
    open(&mut swarm, 2, nth(2), true);
    assert_eq!(swarm.handshaken(PeerKey(2), id), Verdict::Accept);
}

#[test]
fn who_says_where_it_listens_can_be_found_again() {
    let mut swarm = swarm();
    open(&mut swarm, 1, SocketAddr::new(nth(1).ip(), 50_000), true);
    swarm.handshaken(PeerKey(1), PeerId([1; 20]));
    swarm.listens(PeerKey(1), 6881, at(2));
    swarm.check_invariants();
    assert_eq!(swarm.next_dial(at(2)), None, "it is connected");
    swarm.gave(PeerKey(1), 16384, at(3));
    let outcome = PeerOutcome { addr: nth(1), fate: PeerFate::Gave(16384) };
    let feedback = Feedback { plugins: [plugin(INCOMING)].into(), outcome };
    assert_eq!(swarm.poll_feedback(), Some(feedback), "for plugins that overhear");
    swarm.closed(PeerKey(1), CloseKind::Lost, at(4));
    assert_eq!(swarm.next_dial(at(9)), Some(Dial { addr: nth(1), attempt: 1 }), "soon, for it was of use");
}

#[test]
fn a_connection_that_came_to_nothing_counts_as_a_failure() {
    for (kind, lasted, gave, retry) in [
        (CloseKind::Clean, 1, 0, 10..=15),
        (CloseKind::Lost, 1, 0, 10..=15),
        (CloseKind::Clean, 1, 1, 3..=5),
        (CloseKind::Lost, 60, 0, 3..=5),
        (CloseKind::BothSeeds, 1, 0, 1800..=1800),
        (CloseKind::Idle, 500, 1, 1800..=1800),
    ] {
        let mut swarm = swarm_knowing([nth(1)]);
        dials(&mut swarm, at(0));
        open(&mut swarm, 1, nth(1), false);
        swarm.handshaken(PeerKey(1), PeerId([1; 20]));
        if gave > 0 {
            swarm.gave(PeerKey(1), gave, at(1));
        }
        let end = at(1 + lasted);
        swarm.closed(PeerKey(1), kind, end);
        let rest = swarm.deadline(end).unwrap().since(end).as_secs();
        assert!(retry.contains(&rest), "{kind:?} after {lasted} s and {gave} bytes: {rest} s");
    }
}

#[test]
fn bad_data_bans_the_host_and_a_violation_the_address() {
    let mut swarm = swarm_knowing([nth(1), nth(2), SocketAddr::new(nth(1).ip(), 1), SocketAddr::new(nth(2).ip(), 1)]);
    for (key, addr) in (0..).zip(dials(&mut swarm, at(0))) {
        open(&mut swarm, key, addr, false);
        let kind = match (addr.ip() == nth(1).ip(), addr.port()) {
            (_, 1) => CloseKind::Lost,
            (true, _) => CloseKind::BadData,
            (false, _) => CloseKind::Violation,
        };
        swarm.closed(PeerKey(key), kind, at(1));
    }
    assert!(swarm.is_banned(nth(1)) && swarm.is_banned(SocketAddr::new(nth(1).ip(), 1)));
    assert!(swarm.is_banned(nth(2)) && !swarm.is_banned(SocketAddr::new(nth(2).ip(), 1)));
    assert_eq!(swarm.counts().known, 1);
    assert_eq!(open(&mut swarm, 90, nth(1), true), Verdict::Refuse(Reason::Banned));
    swarm.check_invariants();
}

#[test]
fn on_loopback_a_ban_leaves_the_others_but_not_the_same_peer_from_another_port() {
    let mut swarm = swarm();
    let id = PeerId([1; 20]);
    open(&mut swarm, 1, addr("127.0.0.1:50000"), true);
    swarm.handshaken(PeerKey(1), id);
    assert!(swarm.bad_piece(PeerKey(1), true));
    swarm.closed(PeerKey(1), CloseKind::BadData, at(2));
    assert_eq!(open(&mut swarm, 2, addr("127.0.0.1:50001"), true), Verdict::Accept);
    assert_eq!(swarm.handshaken(PeerKey(2), id), Verdict::Refuse(Reason::Banned));
    assert_eq!(open(&mut swarm, 3, addr("127.0.0.1:50002"), true), Verdict::Accept);
    assert_eq!(swarm.handshaken(PeerKey(3), PeerId([2; 20])), Verdict::Accept);
}

#[test]
fn shared_bad_pieces_are_strikes_and_hanging_up_does_not_help() {
    let mut swarm = swarm();
    open(&mut swarm, 1, nth(1), true);
    assert!(!swarm.bad_piece(PeerKey(1), false));
    swarm.good_piece(PeerKey(1));
    swarm.closed(PeerKey(1), CloseKind::Clean, at(2));
    for _ in 1..STRIKES {
        assert!(!swarm.bad_piece(PeerKey(1), false));
    }
    assert!(swarm.bad_piece(PeerKey(1), false));
    assert!(swarm.is_banned(nth(1)));
    assert!(!swarm.bad_piece(PeerKey(77), true), "a key never seen");
}

#[test]
fn plugins_hear_what_became_of_their_peers() {
    let mut swarm = swarm_knowing([nth(1)]);
    swarm.found(&plugin("pex"), from("x", [nth(1)]), at(0));
    dials(&mut swarm, at(0));
    open(&mut swarm, 1, nth(1), false);
    swarm.handshaken(PeerKey(1), PeerId([1; 20]));
    for _ in 0..4 {
        swarm.gave(PeerKey(1), 16384, at(1));
    }
    swarm.closed(PeerKey(1), CloseKind::BadData, at(2));
    let heard: Vec<_> = fates(&mut swarm).into_iter().filter(|(plugin, _)| plugin == "pex").map(|(_, f)| f).collect();
    let gave = [1, 2, 4, 4].map(|n| PeerFate::Gave(n * 16384));
    assert_eq!(heard[..2], [PeerFate::Connected, PeerFate::Handshaken]);
    assert_eq!(heard[2..6], gave);
    assert_eq!(heard[6..], [PeerFate::Banned]);
}

#[test]
fn seeds_do_not_stay_with_seeds() {
    let mut swarm = swarm_knowing([nth(1)]);
    dials(&mut swarm, at(0));
    open(&mut swarm, 1, nth(1), false);
    swarm.handshaken(PeerKey(1), PeerId([1; 20]));
    assert_eq!(swarm.is_seed(PeerKey(1)), Verdict::Accept);
    assert_eq!(swarm.set_seeding(true, at(2)), [PeerKey(1)]);
    assert_eq!(swarm.is_seed(PeerKey(1)), Verdict::Refuse(Reason::BothSeeds));
    swarm.closed(PeerKey(1), CloseKind::Lost, at(3));
    assert_eq!(swarm.next_dial(at(600)), None, "it has everything and so have we");
    swarm.set_seeding(false, at(700));
    assert_eq!(swarm.next_dial(at(700)).map(|dial| dial.addr), Some(nth(1)));
}

#[test]
fn the_longest_idle_makes_room_for_a_newcomer() {
    let mut swarm = swarm_with(SwarmConfig { most_connections: 3, ..SwarmConfig::default() });
    (0..3).for_each(|key| assert_eq!(open(&mut swarm, key, nth(key as u32), true), Verdict::Accept));
    swarm.took(PeerKey(0), at(400));
    swarm.gave(PeerKey(2), 1, at(100));
    assert_eq!(swarm.whom_to_drop(at(500)), None, "nobody waits");
    swarm.found(&plugin("dht"), from("dht", [nth(9)]), at(5));
    assert_eq!(swarm.whom_to_drop(at(100)), None, "nobody is idle yet");
    assert_eq!(swarm.whom_to_drop(at(500)), Some(PeerKey(1)));
    swarm.closed(PeerKey(1), CloseKind::Idle, at(500));
    assert_eq!(swarm.whom_to_drop(at(500)), None, "there is room");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_books_balance_whatever_happens(seed: u64, steps in 50usize..400) {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = SwarmConfig { most_connections: 6, most_half_open: 4, most_candidates: 20, most_per_ip: 2, ..SwarmConfig::default() };
        let mut swarm = swarm_with(config);
        let (mut now, mut next_key) = (at(0), 0);
        let mut dialled = Vec::new();
        for _ in 0..steps {
            let host = random.u32(..12);
            let ip = if host < 3 { addr("127.0.0.1:1").ip() } else { nth(host).ip() };
            let somewhere = SocketAddr::new(ip, 1 + random.u16(..4));
            let key = PeerKey(random.u64(..=next_key));
            let id = PeerId([48 + random.u8(..5); 20]);
            now += Duration::from_secs(random.u64(..20));
            match random.u8(..16) {
                0..=2 => { swarm.found(&plugin(["a", "b", "c"][random.usize(..3)]), from("x", [somewhere]), now); }
                3 => dialled.extend(swarm.next_dial(now).map(|dial| dial.addr)),
                4 => dialled.extend(swarm.dial_now(somewhere).map(|dial| dial.addr)),
                5 if !dialled.is_empty() => {
                    let addr = dialled.swap_remove(random.usize(..dialled.len()));
                    swarm.dial_failed(addr, DialFailure::ALL[random.usize(..DialFailure::ALL.len())], now);
                }
                6..=8 => {
                    let dial = dialled.pop();
                    next_key += 1;
                    let addr = dial.unwrap_or(somewhere);
                    swarm.connected(Opened { addr, key: PeerKey(next_key), inbound: dial.is_none() }, now);
                }
                9 => { swarm.handshaken(key, id); }
                10 => swarm.listens(key, 1 + random.u16(..4), now),
                11 => swarm.gave(key, 16384, now),
                12 => { swarm.is_seed(key); swarm.set_seeding(random.bool(), now); }
                13 => { swarm.bad_piece(key, random.u8(..4) == 0); }
                14 => swarm.set_external(nth(random.u32(..3)).ip()),
                _ => {
                    let kinds = [CloseKind::Clean, CloseKind::Idle, CloseKind::BothSeeds, CloseKind::Violation, CloseKind::Lost];
                    swarm.closed(key, kinds[random.usize(..kinds.len())], now);
                }
            }
            swarm.check_invariants();
            prop_assert!(swarm.deadline(now).is_none_or(|due| due >= now));
        }
    }
}
