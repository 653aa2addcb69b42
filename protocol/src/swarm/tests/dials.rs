//! Who is dialled when, and who rests.

use super::*;

#[test]
fn another_network_is_another_chance() {
    let mut swarm = swarm_knowing((1..=4).map(nth));
    assert_eq!(dials(&mut swarm, at(0)).len(), 4);
    swarm.dial_failed(nth(1), DialFailure::Unreachable, at(1));
    swarm.dial_failed(nth(2), DialFailure::TimedOut, at(1));
    swarm.dial_failed(nth(3), DialFailure::Handshake, at(1));
    assert_eq!(open(&mut swarm, 1, nth(4), false), Verdict::Accept);
    assert_eq!(dials(&mut swarm, at(2)), [], "all rest, or are connected");
    swarm.closed(PeerKey(1), CloseKind::NetworkGone, at(2));
    assert_eq!(dials(&mut swarm, at(2)), [nth(4)], "that we lost it says nothing against it");
    swarm.network_changed(at(3));
    let mut again = dials(&mut swarm, at(3));
    again.sort();
    assert_eq!(again, [nth(1), nth(2)], "the third has another torrent, the fourth is being dialled");
    swarm.check_invariants();
}

#[test]
fn back_off_doubles_and_stays_within_bounds() {
    let mut swarm = swarm_knowing([nth(1)]);
    let mut now = at(0);
    let mut rests = Vec::new();
    for attempt in 1..=10 {
        assert_eq!(swarm.next_dial(now), Some(Dial { addr: nth(1), attempt }));
        assert_eq!(swarm.deadline(now), None, "it is under way");
        swarm.dial_failed(nth(1), DialFailure::Refused, now);
        let due = swarm.deadline(now).unwrap();
        assert_eq!(swarm.next_dial(due - Duration::from_nanos(1)), None);
        rests.push(due.since(now).as_secs_f64());
        now = due;
    }
    for (n, rest) in rests.iter().enumerate() {
        let least = (10.0 * f64::from(1 << n)).min(600.0);
        assert!((least..=least * 1.5).contains(rest), "rest {n} is {rest} s");
    }
    assert_eq!(fates(&mut swarm)[0], ("dht".into(), PeerFate::Refused));
}

#[test]
fn who_dials_us_in_this_moment_is_dialled_without_rest_but_within_the_limits() {
    let mut swarm = swarm_with(SwarmConfig { most_half_open: 2, ..SwarmConfig::default() });
    assert_eq!(swarm.dial_now(nth(1)), None, "it is unknown");
    swarm.found(&plugin("pex"), from("8.8.8.8:1", (1..=4).map(nth)), at(0));
    let [first, _] = dials(&mut swarm, at(0))[..] else { panic!("two have room") };
    assert_eq!(swarm.dial_now(first), None, "it is under way");
    swarm.dial_failed(first, DialFailure::TimedOut, at(0));
    assert_eq!(swarm.dial_now(first), Some(Dial { addr: first, attempt: 2 }));
    swarm.check_invariants();
    let idle = (1..=4).map(nth).find(|addr| swarm.dial_now(*addr).is_some());
    assert_eq!(idle, None, "two are under way");
    swarm.ban(first);
    swarm.dial_failed(first, DialFailure::TimedOut, at(1));
    assert_eq!(swarm.dial_now(first), None, "it is banned");
    let seed = (1..=4).map(nth).find(|addr| swarm.dial_now(*addr).is_some()).unwrap();
    assert_eq!(open(&mut swarm, 1, seed, false), Verdict::Accept);
    assert_eq!(swarm.dial_now(seed), None, "it is connected");
    swarm.is_seed(PeerKey(1));
    swarm.closed(PeerKey(1), CloseKind::Clean, at(2));
    swarm.set_seeding(true, at(2));
    assert_eq!(swarm.dial_now(seed), None, "it is of no use");
    swarm.check_invariants();
}

#[test]
fn the_same_seed_dials_in_the_same_order() {
    let run = |seed| {
        let mut swarm = Swarm::new(SwarmConfig::default(), &[], OUR_ID, seed);
        swarm.found(&plugin("dht"), from("dht", (0..40).map(nth)), at(0));
        dials(&mut swarm, at(0))
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn fewest_failures_come_first_then_canonical_priority() {
    let ours = addr("123.213.32.10:7000");
    let mut swarm = swarm_knowing((0..20).map(nth));
    swarm.set_external(ours.ip());
    let order = dials(&mut swarm, at(0));
    let mut expected: Vec<_> = (0..20).map(nth).collect();
    expected.sort_by_key(|addr| std::cmp::Reverse(priority::priority(ours, *addr)));
    assert_eq!(order, expected);
    assert_eq!(swarm.found(&plugin("dht"), from("dht", [ours]), at(0)), 0, "that is ourselves");
    order.iter().for_each(|addr| swarm.dial_failed(*addr, DialFailure::TimedOut, at(0)));
    swarm.found(&plugin("dht"), from("dht", [nth(99)]), at(0));
    assert_eq!(dials(&mut swarm, at(60))[0], nth(99));
    swarm.check_invariants();
}

#[test]
fn a_flood_from_one_plugin_delays_the_others_by_a_turn() {
    let mut swarm = swarm();
    swarm.found(&plugin("junk"), from("junk", (0..5000).map(nth)), at(0));
    assert_eq!(swarm.counts().known, 2500, "one instance gets a quarter of the room");
    for instance in ["b", "c", "d", "e"] {
        let salt = u32::from(instance.as_bytes()[0]) * 10_000;
        swarm.found(&plugin("junk"), from(instance, (0..5000).map(|n| nth(salt + n))), at(0));
    }
    assert_eq!(swarm.counts().known, 10_000);
    let honest: Vec<_> = (5_000_000..5_000_020).map(nth).collect();
    assert_eq!(swarm.found(&plugin("dht"), from("dht", honest.clone()), at(0)), 20);
    assert_eq!(swarm.counts().known, 10_000, "the largest share paid");
    let first = dials(&mut swarm, at(0));
    assert_eq!(first.len(), 50);
    assert!(honest.iter().all(|addr| first[..41].contains(addr)));
    swarm.check_invariants();
}

#[test]
fn what_two_plugins_found_is_dialled_in_the_turn_of_the_smaller() {
    let mut swarm = swarm();
    swarm.found(&plugin("junk"), from("junk", (0..2000).map(nth)), at(0));
    swarm.found(&plugin("dht"), from("dht", (0..10).map(nth)), at(0));
    let first = dials(&mut swarm, at(0));
    assert!((0..10).all(|n| first[..21].contains(&nth(n))));
    swarm.check_invariants();
}

#[test]
fn dials_stay_within_every_limit() {
    let config = SwarmConfig { most_connections: 10, most_half_open: 4, most_per_ip: 2, ..SwarmConfig::default() };
    let mut swarm = swarm_with(config);
    swarm.found(&plugin("dht"), from("dht", (0..5).map(|n| SocketAddr::new(nth(0).ip(), 100 + n))), at(0));
    assert_eq!(dials(&mut swarm, at(0)).len(), 2, "two to one address");
    swarm.found(&plugin("dht"), from("dht", (1..40).map(nth)), at(0));
    let mut under_way = dials(&mut swarm, at(0));
    assert_eq!(under_way.len(), 2, "four half-open");
    (100..103).for_each(|key| assert_eq!(open(&mut swarm, key, nth(key as u32), true), Verdict::Accept));
    let mut key = 0;
    while let Some(addr) = under_way.pop() {
        key += 1;
        assert_eq!(open(&mut swarm, key, addr, false), Verdict::Accept);
        under_way.extend(dials(&mut swarm, at(0)));
    }
    // The two dials to one address are under way still.
    assert_eq!(swarm.counts(), Counts { known: 44, half_open: 2, connected: 8 });
    assert_eq!(swarm.deadline(at(0)), None);
    assert_eq!(open(&mut swarm, 200, nth(200), true), Verdict::Accept, "who dials us needs only a free place");
}

#[test]
fn one_host_cannot_make_us_knock_at_all_ports_of_another() {
    let mut swarm = swarm();
    let ports = |ip: &str| (1..200).map(|port| SocketAddr::new(ip.parse().unwrap(), port)).collect::<Vec<_>>();
    assert_eq!(swarm.found(&plugin("pex"), from("x", ports("8.8.8.8")), at(0)), MOST_PORTS);
    assert_eq!(swarm.found(&plugin("pex"), from("x", ports("127.0.0.1")), at(0)), 199);
}

#[test]
fn who_is_here_already_is_not_dialled() {
    let mut swarm = swarm();
    let id = PeerId([1; 20]);
    open(&mut swarm, 1, SocketAddr::new(nth(1).ip(), 50_000), true);
    swarm.handshaken(PeerKey(1), id);
    let known = PeerCandidate { addr: nth(1), peer_id: Some(id), instance: "t".into() };
    swarm.found(&plugin("http-tracker"), vec![known], at(1));
    assert_eq!(swarm.next_dial(at(1)), None);
    assert_eq!(swarm.deadline(at(1)), Some(at(61)));
}

#[test]
fn demand_falls_with_supply() {
    let mut swarm = swarm();
    assert_eq!(swarm.wanted(), 80);
    swarm.found(&plugin("dht"), from("dht", (0..30).map(nth)), at(0));
    assert_eq!(swarm.wanted(), 70);
    dials(&mut swarm, at(0)).into_iter().for_each(|addr| swarm.dial_failed(addr, DialFailure::Refused, at(0)));
    assert_eq!(swarm.wanted(), 80, "failures are no supply");
    (0..80).for_each(|key| assert_eq!(open(&mut swarm, key, nth(1000 + key as u32), true), Verdict::Accept));
    assert_eq!(swarm.wanted(), 0);
    swarm.set_seeding(true, at(1));
    assert_eq!(swarm.wanted(), 0);
}

#[test]
fn a_seed_among_seeds_slows_down_until_somebody_takes_something() {
    let mut swarm = swarm_knowing((1..=60).map(nth));
    swarm.set_seeding(true, at(0));
    let (mut now, mut key) = (at(0), 0);
    // Dials one that turns out to be a seed, as soon as it may; says after which pause.
    let mut one = |swarm: &mut Swarm| {
        let due = swarm.deadline(now).unwrap();
        let pause = due.since(now);
        assert!(pause.is_zero() || swarm.next_dial(due - Duration::from_nanos(1)).is_none());
        now = due;
        let Dial { addr, .. } = swarm.next_dial(now).unwrap();
        key += 1;
        assert_eq!(open(swarm, key, addr, false), Verdict::Accept);
        (pause.as_secs(), PeerKey(key), now)
    };
    let in_vain = |swarm: &mut Swarm, (pause, key, now)| {
        swarm.closed(key, CloseKind::BothSeeds, now);
        pause
    };
    let pauses: Vec<_> = (0..16)
        .map(|_| {
            let dialled = one(&mut swarm);
            in_vain(&mut swarm, dialled)
        })
        .collect();
    assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30]);
    let (pause, taker, now) = one(&mut swarm);
    assert_eq!(pause, 30);
    swarm.took(taker, now);
    swarm.closed(taker, CloseKind::Lost, now);
    assert_eq!(swarm.deadline(now), Some(now), "somebody wants something: on with it");
    swarm.check_invariants();
}
