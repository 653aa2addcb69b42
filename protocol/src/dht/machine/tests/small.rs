//! Small networks: joining, announcing, storing, families, memory and trouble.

use std::{net::SocketAddr, time::Duration};

use castanet_core::Moment;

use super::net::Net;
use crate::dht::{
    AnnounceAs, Ask, Body, Dht, DhtConfig, DhtOutput, Families, Item, LookUp, Message, Node, NodeId, Response, Want,
    external::fits,
};

const SWARM: LookUp = LookUp { info_hash: [7; 20], announce: None, seed: false, scrape: false };
const ANNOUNCE: LookUp = LookUp { announce: Some(AnnounceAs { port: Some(6881), mapped: None }), ..SWARM };

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many nodes on one address, which all know the first.
fn village(nodes: u16) -> Net {
    let mut net = Net::new(3);
    net.trip.0 = Duration::from_millis(2);
    (0..nodes).for_each(|n| {
        net.join_as(local(1000 + n), DhtConfig::default(), &[local(1000)][..n.min(1).into()]);
    });
    net.run(seconds(10));
    net
}

fn look_up(net: &mut Net, at: usize, look_up: LookUp) -> super::net::Outcome {
    let id = net.with(at, |dht, now| dht.find_peers(look_up, now));
    assert!(net.run_until(net.now + seconds(30), |net| net.is_over(at, id)), "it ends");
    net.outcome(at, id)
}

#[test]
fn thirty_nodes_on_one_address_find_each_other_and_each_others_peers() {
    let mut net = village(30);
    net.check();
    for at in 0..30 {
        let joined = |(_, told): &&(Moment, DhtOutput)| matches!(told, DhtOutput::Bootstrapped { .. });
        assert_eq!(net.hosts[at].told.iter().filter(joined).count(), 1, "node {at}");
        assert!(net.dht(at).nodes() >= 8, "node {at} knows {}", net.dht(at).nodes());
    }
    assert_eq!(look_up(&mut net, 3, ANNOUNCE).announced, 8);
    assert_eq!(look_up(&mut net, 9, ANNOUNCE).peers[0], local(6881));
    let found = look_up(&mut net, 20, LookUp { scrape: true, ..SWARM });
    assert!(found.peers.iter().all(|peer| *peer == local(6881)) && found.asked >= 8, "{found:?}");
    // All on one address are one to a Bloom filter (BEP 33).
    let swarm = net.hosts[20].told.iter().find_map(|(_, told)| match told {
        DhtOutput::Finished { swarm, .. } => *swarm,
        _ => None,
    });
    assert_eq!(swarm.map(|swarm| (swarm.seeds, swarm.downloaders)), Some((0, 1)));
}

#[test]
fn who_has_everything_finds_no_seeds() {
    let mut net = village(30);
    let peer = |port, seed| LookUp { announce: Some(AnnounceAs { port: Some(port), mapped: None }), seed, ..SWARM };
    // All are nodes as well: the first seed may itself be one of those that keep who was announced.
    for (at, port, seed) in [(3, 1, true), (4, 2, false), (5, 3, true)] {
        look_up(&mut net, at, peer(port, seed));
    }
    for at in 0..30 {
        let both = |seed| {
            let mut found = look_up(&mut net, at, LookUp { seed, ..SWARM }).peers;
            found.sort_unstable();
            found.dedup();
            found
        };
        assert_eq!([true, false].map(both), [vec![local(2)], vec![local(1), local(2), local(3)]], "node {at}");
    }
}

#[test]
fn two_nodes_are_a_network() {
    let mut net = village(2);
    assert_eq!(look_up(&mut net, 0, ANNOUNCE).announced, 1);
    // It was announced to the second node, which is the one that asks now.
    assert_eq!(look_up(&mut net, 1, SWARM).peers, [local(6881)]);
}

#[test]
fn enough_is_enough_but_announces_and_cancel_is_silence() {
    let mut net = village(30);
    look_up(&mut net, 3, ANNOUNCE);
    let id = net.with(5, |dht, now| dht.find_peers(ANNOUNCE, now));
    net.run_until(net.now + seconds(5), |net| net.outcome(5, id).first.is_some());
    net.with(5, |dht, now| dht.enough(id, now));
    net.run(seconds(5));
    let early = net.outcome(5, id);
    assert!(early.end.is_some() && early.announced > 0 && early.asked < 10, "{early:?}");
    let id = net.with(6, |dht, now| dht.find_peers(ANNOUNCE, now));
    net.with(6, |dht, _| dht.cancel(id));
    let told = net.hosts[6].told.len();
    net.run(seconds(10));
    assert_eq!(net.hosts[6].told.len(), told);
    // One that has not begun, because nobody is known.
    let lonely = net.join_as(local(1), DhtConfig::default(), &[]);
    let id = net.with(lonely, |dht, now| dht.find_peers(SWARM, now));
    net.with(lonely, |dht, now| dht.enough(id, now));
    assert!(net.is_over(lonely, id));
    net.check();
}

#[test]
fn a_look_up_waits_for_somebody_to_be_known_but_not_for_ever() {
    let mut net = village(20);
    let late = net.join_as(local(1), DhtConfig::default(), &[]);
    let id = net.with(late, |dht, now| dht.find_peers(ANNOUNCE, now));
    net.run(seconds(5));
    assert!(!net.is_over(late, id));
    net.with(late, |dht, now| dht.contact(&[local(1003)], now));
    net.run(seconds(5));
    assert!(net.outcome(late, id).announced > 0, "{:?}", net.outcome(late, id));
    let lonely = net.join_as(local(2), DhtConfig::default(), &[]);
    let outcome = look_up(&mut net, lonely, SWARM);
    assert_eq!((outcome.asked, outcome.announced), (0, 0));
}

#[test]
fn a_node_that_cannot_be_reached_says_so_and_is_in_no_table() {
    let mut net = village(10);
    let config = DhtConfig { read_only: true, ..DhtConfig::default() };
    let at = net.join_as(local(1), config, &[local(1000)]);
    let found = look_up(&mut net, at, ANNOUNCE);
    assert_eq!(found.announced, 8, "it is served like others");
    net.run(seconds(60));
    let known = |other: usize| net.dht(other).save().nodes.iter().any(|node| node.addr == local(1));
    assert!((0..10).all(|other| !known(other)));
    let ping = Message::new(*b"pp", Body::Query(query(Ask::Ping))).encode();
    net.with(at, |dht, now| {
        dht.received(local(1000), &ping, now);
        assert_eq!(dht.poll(), None, "it answers nobody");
        dht.find_peers(SWARM, now);
        let Some(DhtOutput::Send { datagram, .. }) = dht.poll() else { panic!("it asks") };
        assert!(matches!(Message::decode(&datagram).unwrap().body, Body::Query(query) if query.read_only));
    });
}

fn query(ask: Ask) -> crate::dht::Query {
    crate::dht::Query { from: NodeId([9; 20]), read_only: false, want: Want::default(), ask }
}

#[test]
fn the_id_follows_the_address_that_others_see() {
    let mut net = Net::new(4);
    let first = net.join(&[]);
    let contact = net.hosts[first].addr;
    (0..20).for_each(|_| {
        net.join(&[contact]);
    });
    net.run(seconds(20));
    let addr = net.public_addr();
    let at = net.join_as(addr, DhtConfig::default(), &[contact]);
    assert!(!fits(&net.dht(at).id(false), addr.ip()), "a random id");
    net.run(seconds(20));
    assert!(net.hosts[at].told.iter().any(|(_, told)| *told == DhtOutput::ExternalAddress(addr)));
    assert!(fits(&net.dht(at).id(false), addr.ip()));
    assert!(net.dht(at).nodes() > 8);
    net.check();
}

#[test]
fn what_was_saved_is_enough_to_come_back() {
    let mut net = village(20);
    let saved = net.dht(7).save();
    assert!(saved.nodes.len() >= 8 && saved.id6.is_none());
    net.hosts[7].dht = None;
    let again = net.join_as(local(1), DhtConfig { saved: Some(saved.clone()), ..DhtConfig::default() }, &[]);
    let id = net.with(again, |dht, now| dht.find_peers(ANNOUNCE, now));
    net.run(seconds(10));
    assert_eq!(Some(net.dht(again).id(false)), saved.id4);
    assert!(net.dht(again).nodes() >= 8 && net.outcome(again, id).announced == 8);
    // Nobody answers: what was saved is not lost by saving again.
    let mut alone = Dht::new(DhtConfig { saved: Some(saved.clone()), ..DhtConfig::default() }, Moment::ZERO);
    for second in 1..600 {
        alone.timeout(Moment::from_secs(second));
        while alone.poll().is_some() {}
    }
    assert_eq!((alone.nodes(), alone.save().nodes.len()), (0, saved.nodes.len()));
}

#[test]
fn it_comes_back_with_the_network() {
    let mut net = village(20);
    net.loss = 100;
    let at = net.join_as(local(1), DhtConfig::default(), &[local(1000), local(1001)]);
    let before = net.sent;
    net.run(seconds(60));
    let tries = net.sent - before;
    assert_eq!(net.dht(at).nodes(), 0);
    net.run(seconds(3600));
    assert!(net.dht(3).nodes() == 0, "the others lost everybody as well");
    net.loss = 0;
    net.with(at, |dht, now| dht.network_changed(now));
    net.run(seconds(2));
    assert!(net.sent > before + tries);
    // The rest find back by themselves, from what they noted down.
    net.run(seconds(600));
    assert!((0..net.hosts.len()).all(|at| net.dht(at).nodes() >= 8));
    net.check();
}

#[test]
fn items_are_stored_and_found() {
    let mut net = village(20);
    let mutable = |seq| Item::signed([5; 32], b"salt", seq, b"5:hello").unwrap();
    for item in [Item::immutable(b"5:hello").unwrap(), mutable(1), mutable(2)] {
        let id = net.with(2, |dht, now| dht.put(item.clone(), None, now));
        net.run(seconds(5));
        assert_eq!(net.outcome(2, id).announced, 8);
        let salt: &[u8] = if item.seq().is_some() { b"salt" } else { b"" };
        let id = net.with(9, |dht, now| dht.get(item.target(), salt, now));
        net.run(seconds(5));
        let found = net.hosts[9].told.iter().filter_map(|(_, told)| match told {
            DhtOutput::Item { look_up, item, .. } if *look_up == id => Some(item),
            _ => None,
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.last(), Some(&&item));
        assert!(found.is_sorted_by_key(|item| item.seq()) && found.len() <= 2);
    }
    // Replacing another version than the stored one is refused by all.
    let id = net.with(2, |dht, now| dht.put(mutable(3), Some(1), now));
    net.run(seconds(5));
    assert_eq!(net.outcome(2, id).announced, 0);
}

#[test]
fn who_asks_us_is_known_once_it_answers_a_ping() {
    let mut net = village(3);
    let before = net.dht(1).nodes();
    let ping = Message::new(*b"pp", Body::Query(query(Ask::Ping))).encode();
    // One that is there, but never answers.
    net.send(local(9), local(1001), ping);
    net.run(seconds(30));
    assert_eq!(net.dht(1).nodes(), before);
    let at = net.join_as(local(1), DhtConfig::default(), &[local(1000)]);
    // The first pings are lost. It asks again, and is pinged again.
    net.loss = 100;
    net.run(seconds(7));
    net.loss = 0;
    net.run(seconds(60));
    assert!((0..3).all(|other| net.dht(other).save().nodes.iter().any(|node| node.addr == net.hosts[at].addr)));
}

#[test]
fn an_ipv6_network_works_alike() {
    let mut net = Net::new(5);
    let addr = |n: u16| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 1000 + n));
    (0..20).for_each(|n| {
        net.join_as(addr(n), DhtConfig::default(), &[addr(0), local(1)][..2 * usize::from(n.min(1))]);
    });
    net.run(seconds(10));
    look_up(&mut net, 4, ANNOUNCE);
    assert_eq!(look_up(&mut net, 9, SWARM).peers[0], SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 6881)));
}

#[test]
fn two_families_have_two_ids_and_help_each_other_to_join() {
    let now = Moment::from_secs(1);
    let families = Families { v4: true, v6: true };
    let mut dht = Dht::new(DhtConfig { seed: 1, families, ..DhtConfig::default() }, now);
    assert_ne!(dht.id(false), dht.id(true));
    dht.contact(&[local(5)], now);
    let Some(DhtOutput::Send { to, datagram }) = dht.poll() else { panic!("it asks") };
    let asked = Message::decode(&datagram).unwrap();
    let Body::Query(question) = asked.body else { panic!("a question") };
    assert_eq!((to, question.want, question.from), (local(5), Want { v4: true, v6: true }, dht.id(false)));
    let other = "[::1]:7".parse().unwrap();
    let nodes6 = vec![Node { id: NodeId([3; 20]), addr: other }];
    let response = Response { from: NodeId([2; 20]), nodes6, ..Response::default() };
    dht.received(local(5), &Message::new(asked.transaction, Body::Response(response.into())).encode(), now);
    let sent = std::iter::from_fn(|| dht.poll()).find_map(|output| match output {
        DhtOutput::Send { to, datagram } if to == other => Some(Message::decode(&datagram).unwrap().body),
        _ => None,
    });
    let Some(Body::Query(question)) = sent else { panic!("it asks the node of the other family") };
    assert_eq!(question.from, dht.id(true));
    dht.check_invariants();
}
