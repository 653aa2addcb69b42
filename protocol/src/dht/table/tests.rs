use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use proptest::prelude::{prop, prop_assert, proptest};

use super::*;
use crate::dht::external::id_for;

const OWN: NodeId = NodeId([0; 20]);

/// A node in the far half, of a network of its own on the public Internet, whose id fits if it can.
fn stranger(n: u8) -> Node {
    let ip = IpAddr::from([8, n, 1, 1]);
    let mut rng = Rng::with_seed(n.into());
    let id = std::iter::repeat_with(|| id_for(ip, &mut rng)).find(|id| id.0[0] >= 0x80);
    Node { id: id.expect("every second one is"), addr: (ip, 6881).into() }
}

/// A node on this machine: the id begins with `first`.
fn local(first: u8, port: u16) -> Node {
    let mut id = NodeId([first; 20]);
    id.0[18..].copy_from_slice(&port.to_be_bytes());
    Node { id, addr: (Ipv4Addr::LOCALHOST, port).into() }
}

fn at(minutes: u64) -> Moment {
    Moment::from_secs(minutes * 60)
}

fn nodes(table: &Table) -> Vec<Node> {
    table.entries().map(|entry| entry.node).collect()
}

#[test]
fn far_buckets_are_large_and_all_are_bounded() {
    let mut table = Table::new(OWN);
    for (n, first) in (0..).zip([0x80, 0x40, 0x20, 0x10, 0x08, 0x04]) {
        for port in 1..=300 {
            table.answered(local(first, n * 1000 + port), at(1));
        }
    }
    let sizes: Vec<_> = table.buckets.iter().map(|bucket| bucket.entries.len()).collect();
    assert_eq!(sizes, [128, 64, 32, 16, 8, 8]);
    assert_eq!(table.len(), 256);
    table.answered(Node { id: OWN, addr: local(0, 1).addr }, at(1));
    assert_eq!(table.len(), 256, "we are no node of our own table");
    table.check_invariants();
}

#[test]
fn good_nodes_stay_and_bad_ones_make_way() {
    let mut table = Table::new(OWN);
    (1..=8).for_each(|port| table.answered(local(0x01, port), at(0)));
    let (old, new) = (local(0x01, 3), local(0x01, 9));
    assert!(!table.has_room_for(&new, at(1)), "all are good");
    table.answered(new, at(1));
    assert!(!nodes(&table).contains(&new));
    // Once is an accident, twice is bad: whoever waited takes the place.
    table.failed(old.addr, at(1));
    assert!(nodes(&table).contains(&old));
    table.failed(old.addr, at(1));
    assert!(nodes(&table).contains(&new) && !nodes(&table).contains(&old));
    // An answer forgives.
    let other = local(0x01, 4);
    table.failed(other.addr, at(1));
    table.answered(other, at(3));
    table.failed(other.addr, at(2));
    assert!(table.find(&other).is_some_and(|entry| entry.failures == 0), "it has answered since");
    table.failed(other.addr, at(3));
    assert!(table.find(&other).is_some_and(|entry| !entry.is_bad()));
    // Nobody waits: a bad node stays until it is hopeless, but nobody hears of it.
    (1..BAD).for_each(|_| table.failed(other.addr, at(4)));
    assert!(table.find(&other).is_some_and(|entry| entry.is_bad()));
    assert!(!table.nearest(&other.id, 100).contains(&other));
    (BAD..HOPELESS).for_each(|_| table.failed(other.addr, at(4)));
    assert!(table.find(&other).is_none());
    table.check_invariants();
}

#[test]
fn silence_is_doubted_oldest_first_and_queries_are_a_sign_of_life() {
    let mut rng = Rng::with_seed(1);
    let mut table = Table::new(OWN);
    (1..=3).for_each(|port| table.answered(local(0x01, port), at(port.into())));
    assert_eq!(table.doubtful(at(15), &mut rng), None);
    assert!(!table.asked(local(0x01, 1), at(15)), "it is known");
    let (node, target) = table.doubtful(at(17), &mut rng).unwrap();
    assert_eq!((node.addr.port(), OWN.distance(&target).shared_bits()), (2, 7));
    assert_eq!(table.doubtful(at(17), &mut rng), None, "asked just now");
    assert_eq!(table.doubtful(at(18), &mut rng).map(|(node, _)| node.addr.port()), Some(3));
    assert_eq!(table.doubtful(at(18), &mut rng).map(|(node, _)| node.addr.port()), Some(2));
    table.answered(local(0x01, 2), at(18));
    table.answered(local(0x01, 3), at(18));
    assert_eq!(table.doubtful(at(19), &mut rng), None);
    // Who asks us is worth a ping only if it would get a place.
    assert!(table.asked(local(0x01, 4), at(19)));
    (4..=8).for_each(|port| table.answered(local(0x01, port), at(19)));
    assert!(!table.asked(local(0x01, 9), at(19)));
    // Buckets with room that heard nothing for long are refreshed, once.
    let stale: Vec<_> = std::iter::from_fn(|| table.stale(at(19), &mut rng)).collect();
    let bits: Vec<_> = stale.iter().map(|id| OWN.distance(id).shared_bits()).collect();
    assert_eq!(bits, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn one_host_has_one_place_and_one_network_has_few() {
    let mut table = Table::new(OWN);
    let node = stranger(1);
    table.answered(node, at(0));
    let twin = Node { id: stranger(2).id, addr: (node.addr.ip(), 1).into() };
    table.answered(twin, at(0));
    assert_eq!(nodes(&table), [node], "another port of the same host");
    let thief = Node { id: node.id, addr: stranger(3).addr };
    table.answered(thief, at(0));
    assert_eq!(nodes(&table), [node], "another host under the same id");
    table.answered(twin, at(20));
    assert_eq!(nodes(&table), [twin], "the first has been silent for long");
    let reborn = Node { id: stranger(4).id, addr: twin.addr };
    table.answered(reborn, at(20));
    assert_eq!(nodes(&table), [reborn], "the same node begun anew");
    // A thousand Sybils of one network.
    let mut rng = Rng::with_seed(2);
    for n in 0..=255 {
        let ip = IpAddr::from([9, 9, 9, n]);
        (0..4).for_each(|_| table.answered(Node { id: id_for(ip, &mut rng), addr: (ip, 5).into() }, at(20)));
    }
    assert!(table.len() <= 1 + MOST_OF_A_NETWORK, "{}", table.len());
    table.check_invariants();
}

#[test]
fn ids_that_do_not_fit_give_way() {
    let mut table = Table::new(OWN);
    let unfit = |n: u8| Node { id: NodeId([0xff - n; 20]), addr: ([7, n, 1, 1], 5).into() };
    for n in 0..120 {
        table.answered(unfit(n), at(0));
    }
    (0..8).for_each(|n| table.answered(stranger(n), at(0)));
    assert_eq!(table.len(), 128, "there was room");
    assert_eq!(
        table.nodes_for_others(&unfit(3).id, at(0)).iter().filter(|node| fits(&node.id, node.addr.ip())).count(),
        8
    );
    assert!(fits(&table.nearest(&unfit(3).id, 1)[0].id, table.nearest(&unfit(3).id, 1)[0].addr.ip()));
    assert_eq!(table.nearest(&unfit(3).id, 9)[8], unfit(3), "better than nobody");
    (8..128).for_each(|n| table.answered(stranger(n), at(0)));
    assert!(nodes(&table).iter().all(|node| fits(&node.id, node.addr.ip())));
    table.answered(unfit(60), at(0));
    assert_eq!(table.len(), 128);
    table.check_invariants();
}

#[test]
fn nodes_of_last_time_are_begun_with_but_not_recommended() {
    let mut table = Table::new(OWN);
    let (old, new) = (local(0x80, 1), local(0x80, 2));
    table.remember(old, at(0));
    assert_eq!(table.len(), 0, "it has not answered");
    assert_eq!((table.nearest(&OWN, 8), table.nodes_for_others(&OWN, at(0))), (vec![old], vec![]));
    assert_eq!(table.doubtful(at(0), &mut Rng::with_seed(1)).map(|(node, _)| node), Some(old));
    table.answered(new, at(1));
    assert_eq!(table.worth_saving(8), [new, old]);
    let rebuilt = table.rebuilt(NodeId([0xff; 20]), at(1));
    assert_eq!((rebuilt.worth_saving(8), rebuilt.len()), (vec![new, old], 1));
    rebuilt.check_invariants();
}

proptest! {
    #[test]
    fn bounds_hold_whatever_happens(own: [u8; 20], acts in prop::collection::vec((0..6_u8, 0..12_u8, 0..6_u8, 0..4_u16, 0..40_u64), 0..400)) {
        let mut table = Table::new(NodeId(own));
        let mut rng = Rng::with_seed(7);
        for (act, bits, host, port, minutes) in acts {
            let id = table.target_in(bits.into(), &mut rng);
            let addr = if port == 0 { ([127, 0, 0, 1], 1 + u16::from(host)).into() } else { ([8, host % 2, 1, host], port).into() };
            let node = Node { id, addr };
            match act {
                0 => table.answered(node, at(minutes)),
                1 => table.remember(node, at(minutes)),
                2 => { table.asked(node, at(minutes)); }
                3 => table.failed(node.addr, at(minutes)),
                4 => { table.doubtful(at(minutes), &mut rng); }
                _ => table = table.rebuilt(id, at(minutes)),
            }
            table.check_invariants();
            prop_assert!(table.nearest(&id, 9).len() <= 9 && table.nodes_for_others(&id, at(minutes)).len() <= K);
        }
    }
}
