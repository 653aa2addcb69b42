use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use proptest::prelude::{any, prop, proptest};

use super::*;
use crate::dht::external::id_for;

const TARGET: NodeId = NodeId([0; 20]);

/// A node on this machine, the nearer the smaller `n`.
fn local(n: u16) -> Node {
    let mut id = NodeId([0; 20]);
    id.0[..2].copy_from_slice(&n.to_be_bytes());
    Node { id, addr: (Ipv4Addr::LOCALHOST, n).into() }
}

/// A node at a public address with an id that does not fit it, very near.
fn liar(n: u8, network: u8) -> Node {
    let mut id = NodeId([0; 20]);
    id.0[19] = n + 1;
    Node { id, addr: ([9, 9, network, n], 7).into() }
}

/// An honest node at a public address, not as near as a liar.
fn public(n: u8) -> Node {
    let ip = IpAddr::from([8, n, 1, 1]);
    Node { id: id_for(ip, &mut Rng::with_seed(n.into())), addr: (ip, 7).into() }
}

fn token() -> Option<Box<[u8]>> {
    Some((*b"t").into())
}

/// Asks while anybody is to be asked; says who was.
fn run(search: &mut Search, answer: impl Fn(&mut Search, SocketAddr)) -> Vec<SocketAddr> {
    let mut asked = Vec::new();
    while let Some(to) = search.next() {
        assert!(!search.is_done());
        asked.push(to);
        answer(search, to);
        search.check_invariants();
    }
    asked
}

#[test]
fn the_nearest_are_asked_first_and_k_answers_end_it() {
    let mut search = Search::new(TARGET, &(1..=30).map(local).collect::<Vec<_>>(), 4);
    let at_once: Vec<_> = std::iter::from_fn(|| search.next()).map(|addr| addr.port()).collect();
    assert_eq!(at_once, [1, 2, 3, 4]);
    search.answered(local(4), token(), vec![]);
    assert_eq!(search.next().map(|addr| addr.port()), Some(5));
    (1..=3).for_each(|n| search.answered(local(n), token(), vec![]));
    assert!(!search.is_done());
    let rest = run(&mut search, |search, to| search.answered(local(to.port()), token(), vec![]));
    assert_eq!(rest.len(), 4);
    assert!(!search.is_done(), "the fifth may still answer");
    search.answered(local(5), None, vec![]);
    assert!(search.is_done());
    let stores: Vec<_> = search.stores().iter().map(|(node, _)| node.addr.port()).collect();
    assert_eq!(stores, [1, 2, 3, 4, 6, 7, 8, 9], "the fifth gave no token");
}

#[test]
fn nearer_nodes_that_are_named_are_asked_before_it_ends() {
    let mut search = Search::new(TARGET, &(100..=110).map(local).collect::<Vec<_>>(), 4);
    let asked = run(&mut search, |search, to| {
        let named = if to.port() == 103 { (1..=20).map(local).collect() } else { vec![] };
        search.answered(local(to.port()), token(), named);
    });
    let ports: Vec<_> = asked.iter().map(|addr| addr.port()).collect();
    assert_eq!(ports[4..], [1, 2, 3, 4, 5, 6, 7, 8], "the nearest eight of twenty");
}

#[test]
fn who_is_late_frees_a_slot_is_asked_once_more_and_still_heard() {
    let mut search = Search::new(TARGET, &(1..=20).map(local).collect::<Vec<_>>(), 2);
    assert_eq!([search.next(), search.next(), search.next()], [Some(local(1).addr), Some(local(2).addr), None]);
    search.late(local(1).addr);
    assert_eq!(search.next(), Some(local(1).addr), "a datagram may have been lost");
    search.late(local(1).addr);
    assert_eq!(search.next(), Some(local(3).addr), "now it may be dead");
    search.answered(local(1), token(), vec![local(9)]);
    search.answered(local(2), token(), vec![]);
    run(&mut search, |search, to| search.answered(local(to.port()), token(), vec![]));
    assert_eq!(search.stores()[0].0, local(1));
}

#[test]
fn dead_nodes_do_not_keep_it_from_ending() {
    let mut search = Search::new(TARGET, &(1..=20).map(local).collect::<Vec<_>>(), 4);
    let asked = run(&mut search, |search, to| match to.port() % 2 {
        0 => search.answered(local(to.port()), token(), vec![]),
        _ => search.late(to),
    });
    assert!(search.is_done());
    assert_eq!(search.stores().last().map(|(node, _)| *node), Some(local(16)));
    assert!(asked.len() <= 8 + 2 * 8, "{asked:?}");
    let mut search = Search::new(TARGET, &[local(1)], 4);
    run(&mut search, |search, to| search.refused(to));
    assert_eq!(search.asked(), 1, "who refuses is not asked again");
}

#[test]
fn ids_that_do_not_fit_do_not_count_and_are_bounded() {
    let honest: Vec<_> = (0..30).map(public).collect();
    let mut search = Search::new(TARGET, &honest[..8], 4);
    // A hundred Sybils in as many networks, nearer than any honest node.
    let sybils: Vec<_> = (0..100).map(|n| liar(n, n)).collect();
    let asked = run(&mut search, |search, to| {
        let all = honest.iter().chain(&sybils);
        let node = *all.clone().find(|node| node.addr == to).unwrap();
        let at = usize::from(to.port()) + search.asked() * 8;
        let named = if sybils.contains(&node) { sybils.iter() } else { honest.iter() };
        search.answered(node, token(), named.cycle().skip(at).take(8).copied().chain([sybils[0]]).collect());
    });
    let sybils_asked = asked.iter().filter(|addr| sybils.iter().any(|sybil| sybil.addr == **addr)).count();
    assert!((1..=MOST_UNFIT).contains(&sybils_asked), "{sybils_asked}");
    assert!(search.stores().iter().all(|(node, _)| honest.contains(node)), "{:?}", search.stores());
    assert_eq!(search.stores().len(), K);
}

#[test]
fn a_network_a_host_and_a_reply_have_few_candidates() {
    let mut search = Search::new(TARGET, &[local(1)], 4);
    search.next();
    search.answered(local(1), None, (0..200).map(|n| liar(n, 1)).collect());
    assert_eq!(search.candidates.len(), 1 + MOST_OF_A_NETWORK);
    let ports = (1..100).map(|port| Node { addr: ([7, 7, 7, 7], port).into(), ..local(port) }).collect();
    search.answered(local(2), None, ports);
    assert_eq!(search.candidates.len(), 3 + MOST_OF_A_NETWORK, "one host, however many ports");
    search.answered(local(3), None, (1000..2000).map(local).collect());
    assert_eq!(search.candidates.len(), 4 + MOST_OF_A_NETWORK + MOST_NAMED);
    let undialable =
        ["0.0.0.0:1", "9.9.9.9:0", "224.0.0.1:5"].map(|addr| Node { addr: addr.parse().unwrap(), ..liar(77, 0) });
    search.answered(local(4), None, undialable.to_vec());
    assert_eq!(search.candidates.len(), 5 + MOST_OF_A_NETWORK + MOST_NAMED);
    (10_000..10_100)
        .for_each(|n| search.answered(local(n), None, (0..8).map(|k| local(20_000 + (n - 10_000) * 8 + k)).collect()));
    assert_eq!(search.candidates.len(), MOST_CANDIDATES);
}

#[test]
fn who_names_the_dead_is_not_followed() {
    let mut search = Search::new(TARGET, &[local(40_000), local(50_000)], 4);
    let dead = |port: u16| port < 100;
    let asked = run(&mut search, |search, to| match to.port() {
        port if dead(port) => search.late(to),
        40_000 => search.answered(local(40_000), token(), (1..=8).map(local).collect()),
        50_000 => search.answered(local(50_000), token(), (201..=208).map(local).collect()),
        port => search.answered(local(port), token(), vec![]),
    });
    let wasted = asked.iter().filter(|addr| dead(addr.port())).count();
    assert!((MOST_DUDS..=2 * MOST_DUDS).contains(&wasted), "{wasted}");
    assert!((201..=208).all(|port| search.stores().iter().any(|(node, _)| node.addr.port() == port)));
}

#[test]
fn contacts_are_asked_at_once_and_clones_count_once() {
    let mut search = Search::new(TARGET, &[], 4);
    (1..=100).for_each(|n| search.contact(local(n).addr));
    let asked: Vec<_> = std::iter::from_fn(|| search.next()).collect();
    assert_eq!(asked.len(), MOST_CONTACTS);
    assert!(!search.is_done());
    // All say that they are the same node.
    asked.iter().for_each(|addr| search.answered(Node { id: TARGET, addr: *addr }, token(), vec![]));
    assert!(search.is_done());
    assert_eq!(search.stores().len(), 1);
}

proptest! {
    #[test]
    fn it_always_ends_within_bounds(acts in prop::collection::vec((0..5_u8, any::<u16>(), any::<u8>()), 0..300)) {
        let mut search = Search::new(TARGET, &(1..=16).map(local).collect::<Vec<_>>(), 4);
        let node = |n: u16, kind: u8| match kind % 3 {
            0 => local(n),
            1 => liar(n as u8 % 250, (n >> 8) as u8),
            _ => public(n as u8),
        };
        for (act, n, kind) in acts {
            let named = (0..u16::from(kind) % 30).map(|k| node(n.wrapping_mul(31).wrapping_add(k), kind)).collect();
            match act {
                0 => { search.next(); }
                1 => search.late(node(n % 40, kind).addr),
                2 => search.refused(node(n % 40, kind).addr),
                3 => search.contact(node(n, kind).addr),
                _ => if let Some(to) = search.next() { search.answered(Node { id: node(n, kind).id, addr: to }, token(), named) },
            }
            search.check_invariants();
        }
        // From now on nobody answers.
        while let Some(to) = search.next() {
            search.late(to);
        }
        for candidate in search.candidates.clone() {
            search.late(candidate.node.addr);
        }
        search.contacted.clone().into_iter().for_each(|addr| search.late(addr));
        while let Some(to) = search.next() {
            search.late(to);
        }
        assert!(search.is_done());
    }
}
