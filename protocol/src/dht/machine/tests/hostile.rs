//! Strangers who lie: Sybils, poisoned and forged answers, reflection, floods and noise.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use castanet_core::Moment;
use proptest::prelude::*;

use super::net::{Net, Strange};
use crate::dht::{
    AnnounceAs, Ask, Body, Dht, DhtConfig, DhtOutput, LookUp, Message, Node, NodeId, Query, Response, Want,
    external::{id_for, random_id},
};

const INFO_HASH: [u8; 20] = [0x5a; 20];
const SWARM: LookUp = LookUp { info_hash: INFO_HASH, announce: None, seed: false, scrape: false };
const ANNOUNCE: LookUp = LookUp { announce: Some(AnnounceAs { port: Some(1), mapped: None }), ..SWARM };

/// A node that answers every question with what `answer` makes.
fn liar(id: NodeId, addr: SocketAddr, answer: impl Fn(&Query) -> Response + 'static) -> Strange {
    Box::new(move |from, datagram| {
        let Ok(Message { transaction, body: Body::Query(query), .. }) = Message::decode(datagram) else {
            return vec![];
        };
        let response = Response { from: id, ..answer(&query) };
        vec![(addr, from, Message::new(transaction, Body::Response(response.into())).encode())]
    })
}

/// Honest nodes at public addresses, with a peer announced.
fn town(nodes: usize) -> (Net, SocketAddr) {
    let mut net = Net::new(11);
    (net.loss, net.trip.1) = (2, 0.5);
    let first = net.join(&[]);
    let contact = net.hosts[first].addr;
    for _ in 1..nodes {
        net.join(&[contact]);
        net.run(Duration::from_millis(100));
    }
    net.run(Duration::from_secs(10));
    let id = net.with(1, |dht, now| dht.find_peers(ANNOUNCE, now));
    net.run(Duration::from_secs(10));
    assert!(net.outcome(1, id).announced >= 6);
    let peer = (net.hosts[1].addr.ip(), 1).into();
    (net, peer)
}

/// An id that shares three bytes with the target.
fn near_id(net: &mut Net) -> NodeId {
    let mut id = random_id(&mut net.rng);
    id.0[..3].copy_from_slice(&INFO_HASH[..3]);
    id
}

#[test]
fn sybils_around_a_target_keep_nobody_from_its_peers() {
    let (mut net, peer) = town(60);
    // Two hundred in ten networks, all nearer than any honest node, who know only each other and a false peer.
    let mut sybils = Vec::new();
    for n in 0..200 {
        let addr = SocketAddr::from(([45, 9, n % 10, n], 6881));
        sybils.push(Node { id: near_id(&mut net), addr });
    }
    let trap: SocketAddr = "45.9.1.1:666".parse().unwrap();
    for sybil in &sybils {
        let (named, id) = (sybils[..16].to_vec(), sybil.id);
        let answer = move |_: &Query| Response {
            nodes: named.clone(),
            values: vec![trap],
            token: Some((*b"trap").into()),
            ..Response::default()
        };
        net.add_strange(sybil.addr, liar(id, sybil.addr, answer));
        // Each makes itself known to some.
        let query = Query { from: id, read_only: false, want: Want::default(), ask: Ask::Ping };
        for _ in 0..5 {
            let to = net.rng.usize(0..60);
            net.send(sybil.addr, net.hosts[to].addr, Message::new(*b"sy", Body::Query(query.clone())).encode());
        }
    }
    net.run(Duration::from_secs(60));
    net.check();
    let mut announced = 0;
    for at in (2..60).step_by(10) {
        let id = net.with(at, |dht, now| dht.find_peers(ANNOUNCE, now));
        net.run(Duration::from_secs(15));
        let outcome = net.outcome(at, id);
        assert!(outcome.peers.contains(&peer), "node {at} was kept from the peer: {outcome:?}");
        announced += outcome.announced;
    }
    let stored: usize = (0..60).filter(|at| net.dht(*at).counts().peers > 3).count();
    assert!(announced >= 30 && stored >= 5, "announced {announced} times, {stored} honest nodes know of it");
}

#[test]
fn a_liar_who_names_the_dead_costs_little_time() {
    let (mut net, peer) = town(60);
    for _ in 0..20 {
        // Their ids fit, and so do those of the dead that they name.
        let addr = net.public_addr();
        let id = id_for(addr.ip(), &mut net.rng);
        let dead: Vec<_> = (0..16).map(|_| Node { id: near_id(&mut net), addr: net.public_addr() }).collect();
        net.add_strange(addr, liar(id, addr, move |_| Response { nodes: dead.clone(), ..Response::default() }));
        (0..60).for_each(|at| net.with(at, |dht, now| dht.contact(&[addr], now)));
        net.run(Duration::from_secs(1));
    }
    net.run(Duration::from_secs(30));
    for at in [5, 25, 45] {
        let begun = net.now;
        let id = net.with(at, |dht, now| dht.find_peers(SWARM, now));
        net.run(Duration::from_secs(30));
        let outcome = net.outcome(at, id);
        assert!(outcome.peers.contains(&peer), "{outcome:?}");
        assert!(outcome.first.unwrap().since(begun) < Duration::from_secs(5), "{outcome:?} begun {begun:?}");
        assert!(outcome.end.unwrap().since(begun) < Duration::from_secs(20), "{outcome:?} begun {begun:?}");
    }
}

#[test]
fn a_node_cannot_make_us_flood_others() {
    let mut net = Net::new(12);
    let victim = IpAddr::from([99, 1, 2, 3]);
    let at_home: SocketAddr = "192.168.1.1:53".parse().unwrap();
    let hits = Rc::new(RefCell::new([0, 0]));
    for port in 1000..1200 {
        let hits = hits.clone();
        net.add_strange(
            (victim, port).into(),
            Box::new(move |_, _| {
                hits.borrow_mut()[0] += 1;
                vec![]
            }),
        );
    }
    let home_hits = hits.clone();
    net.add_strange(
        at_home,
        Box::new(move |_, _| {
            home_hits.borrow_mut()[1] += 1;
            vec![]
        }),
    );
    let mut liars = Vec::new();
    for n in 0..10_u16 {
        let addr = net.public_addr();
        let id = id_for(addr.ip(), &mut net.rng);
        let mut near: Vec<_> =
            (0..15).map(|k| Node { id: near_id(&mut net), addr: (victim, 1000 + n * 16 + k).into() }).collect();
        near.push(Node { id: near_id(&mut net), addr: at_home });
        net.add_strange(
            addr,
            liar(id, addr, move |_| Response { nodes: near.clone(), values: vec![at_home], ..Response::default() }),
        );
        liars.push(addr);
    }
    let at = net.join(&liars);
    for _ in 0..5 {
        let id = net.with(at, |dht, now| dht.find_peers(SWARM, now));
        net.run(Duration::from_secs(20));
        assert!(net.is_over(at, id) && net.outcome(at, id).peers.is_empty());
    }
    let [victim, home] = *hits.borrow();
    // One host, one question and its repetition in each search, and in a ping.
    assert!(victim <= 20, "{victim} datagrams to a host that never asked for them");
    assert_eq!(home, 0, "a public node knows nobody in our home");
}

/// A node that has just asked a first question, of this transaction, at this address.
fn asking(contact: SocketAddr) -> (Dht, Vec<u8>, Moment) {
    let now = Moment::from_secs(1);
    let mut dht = Dht::new(DhtConfig::default(), now);
    dht.contact(&[contact], now);
    let Some(DhtOutput::Send { to, datagram }) = dht.poll() else { panic!("it asks") };
    assert_eq!(to, contact);
    (dht, Message::decode(&datagram).unwrap().transaction, now)
}

#[test]
fn only_who_was_asked_can_answer_and_only_once() {
    let contact: SocketAddr = "8.8.8.8:1".parse().unwrap();
    let (mut dht, transaction, now) = asking(contact);
    assert_eq!(transaction.len(), 2);
    let response = |from| Body::Response(Response { from: NodeId([from; 20]), ..Response::default() }.into());
    let answer = Message::new(transaction.clone(), response(1)).encode();
    for forger in ["8.8.8.8:2", "8.8.8.9:1", "[::1]:1"] {
        dht.received(forger.parse().unwrap(), &answer, now);
        assert_eq!(dht.nodes(), 0, "{forger}");
    }
    for guess in [&b""[..], b"x", b"xyz", &[transaction[0], !transaction[1]]] {
        let guessed = Message { transaction: guess.to_vec(), ..Message::new(*b"aa", response(1)) };
        dht.received(contact, &guessed.encode(), now);
        assert_eq!(dht.nodes(), 0);
    }
    // A mirror of ourselves is no node.
    let (mut mirrored, transaction, _) = asking(contact);
    let us = Response { from: mirrored.id(false), ..Response::default() };
    mirrored.received(contact, &Message::new(transaction, Body::Response(us.into())).encode(), now);
    assert_eq!(mirrored.nodes(), 0);
    // IPv4 in the clothes of IPv6 is the same address.
    dht.received("[::ffff:8.8.8.8]:1".parse().unwrap(), &answer, now);
    assert_eq!(dht.nodes(), 1);
    dht.received(contact, &answer, now);
    dht.check_invariants();
}

#[test]
fn floods_are_bounded() {
    let mut dht = Dht::new(DhtConfig::default(), Moment::ZERO);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut sent = 0_usize;
    for n in 0..20_000_u32 {
        let now = Moment(u64::from(n) * 1_000_000);
        let from = SocketAddr::from(((0x0800_0000 + n * 777).to_be_bytes(), 5));
        let query = Query { from: random_id(&mut rng), read_only: false, want: Want::default(), ask: Ask::Ping };
        dht.received(from, &Message::new(*b"fl", Body::Query(query)).encode(), now);
        dht.contact(&[from], now);
        dht.timeout(now);
        sent += std::iter::from_fn(|| dht.poll()).filter(|output| matches!(output, DhtOutput::Send { .. })).count();
        if n % 1000 == 0 {
            dht.check_invariants();
        }
    }
    assert!(sent < 20 * 1000, "{sent} datagrams in twenty seconds");
    let mut over = 0;
    for _ in 0..25_000 {
        dht.find_peers(SWARM, Moment::from_secs(20));
        over += std::iter::from_fn(|| dht.poll()).filter(|output| matches!(output, DhtOutput::Finished { .. })).count();
    }
    assert_eq!(over, 5_000, "more than fit are over at once");
    dht.check_invariants();
}

#[test]
fn a_reply_with_too_much_of_everything_is_cut() {
    let contact: SocketAddr = "8.8.8.8:1".parse().unwrap();
    let (mut dht, _, now) = asking(contact);
    dht.find_peers(SWARM, now);
    let mut rng = fastrand::Rng::with_seed(2);
    let mut addr = |_| SocketAddr::from((rng.u32(0x0100_0000..0x0a00_0000).to_be_bytes(), 9));
    let values: Vec<_> = (0..150).map(&mut addr).collect();
    let nodes: Vec<_> = (0..16).map(|n| Node { id: NodeId([n; 20]), addr: addr(0) }).collect();
    let mut most_peers = 0;
    let mut answered = 0;
    while let Some(output) = dht.poll() {
        match output {
            DhtOutput::Send { to, datagram } if to == contact => {
                let transaction = Message::decode(&datagram).unwrap().transaction;
                let (nodes, values) = (nodes.clone(), values.clone());
                let response = Response { from: NodeId([1; 20]), nodes, values, ..Response::default() };
                dht.received(contact, &Message::new(transaction, Body::Response(response.into())).encode(), now);
                answered += 1;
            }
            DhtOutput::Peers { from, peers, .. } => {
                assert_eq!(from, contact);
                most_peers = most_peers.max(peers.len());
            }
            _ => {}
        }
    }
    assert!(answered >= 1);
    assert_eq!(most_peers, super::super::looking::MOST_PEERS);
    dht.check_invariants();
}

proptest! {
    #[test]
    fn noise_and_damaged_answers_do_no_harm(seed: u64, noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
                                            damage in prop::collection::vec((any::<usize>(), any::<u8>()), 0..200)) {
        let contact: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let mut now = Moment::from_secs(1);
        let mut dht = Dht::new(DhtConfig { seed, ..DhtConfig::default() }, now);
        let mut other = Dht::new(DhtConfig { seed: seed ^ 1, ..DhtConfig::default() }, now);
        dht.contact(&[contact], now);
        dht.find_peers(LookUp { scrape: true, ..ANNOUNCE }, now);
        noise.iter().for_each(|bytes| dht.received(contact, bytes, now));
        for (at, to) in damage {
            now += Duration::from_millis(300);
            while let Some(output) = dht.poll() {
                if let DhtOutput::Send { datagram, .. } = output {
                    other.received("127.0.0.1:1".parse().unwrap(), &datagram, now);
                }
            }
            while let Some(output) = other.poll() {
                if let DhtOutput::Send { mut datagram, .. } = output {
                    let at = at % (datagram.len() * 2);
                    if let Some(byte) = datagram.get_mut(at) {
                        *byte = to;
                    }
                    dht.received(contact, &datagram, now);
                }
            }
            dht.timeout(now);
            prop_assert!(dht.deadline() > now);
            dht.check_invariants();
        }
    }
}
