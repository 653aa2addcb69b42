//! Swarms without a tracker: engines that are nodes of a DHT, and those who lie in it.

use std::{net::SocketAddr, time::Duration};

use castanet::{
    TorrentHandle,
    seams::{datagrams::DatagramFactory, discovery::Milestone},
};
use castanet_integration::{
    payload::Payload,
    universe::{Host, Universe, universe},
};
use castanet_protocol::dht::{Body, Message, Node, NodeId, Response};
use castanet_transports::memory::MemoryTransport;

use crate::{
    KIB, MIB, complete,
    discovery::{by_link, worth},
    seconds,
};

const PIECE: u32 = 64 * KIB as u32;
const PORT: u16 = 6881;

/// A host with a DHT node that begins with these; `always` also without a torrent.
async fn node(world: &Universe, bootstrap: String, always: bool) -> Host {
    let set_up = move |engine: castanet::EngineBuilder| {
        let engine = engine.enable_plugin("dht").plugin_setting("dht", "bootstrap", &bootstrap);
        if always { engine.plugin_setting("dht", "always", "true") } else { engine }
    };
    world.host_with(set_up).await
}

/// A DHT: hosts of which each begins with the first.
async fn nodes(world: &Universe, count: usize) -> Vec<Host> {
    let mut hosts = vec![node(world, String::new(), true).await];
    for _ in 1..count {
        hosts.push(node(world, hosts[0].addr().to_string(), true).await);
    }
    seconds(30).await;
    hosts
}

/// Datagrams that the DHT plugin of a torrent's host has sent and received.
fn datagrams(handle: &TorrentHandle) -> (u64, u64) {
    let state = handle.state();
    let cost = state.plugins.iter().find(|report| &*report.worth.plugin.0 == "dht").expect("a report").cost;
    (cost.sent_packets, cost.received_packets)
}

/// A link without a tracker, opened in a DHT of twenty. Answers with the log.
fn trackerless(seed: u64) -> Vec<String> {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(seed, async |world| {
        let hosts = nodes(world, 20).await;
        hosts[3].seed(&payload).await;
        seconds(10).await;
        let newcomer = node(world, hosts[0].addr().to_string(), false).await;
        let mut leeching = newcomer.add(by_link(&payload, &[])).await;
        complete(&mut leeching).await;
        assert_eq!(newcomer.difference(&payload), None);
        seconds(2).await;
        let (found, alone, useful, bytes) = worth(&leeching, "dht");
        assert!(found >= 1 && alone == found && useful == 1 && bytes == MIB as u64, "{:?}", leeching.state().plugins);
        let timeline = leeching.state().timeline;
        use Milestone::{
            Bootstrapped, Complete, FirstConnected, FirstHandshake, FirstPeer, FirstPiece, LookedUp, Metadata,
        };
        for station in
            [Bootstrapped, LookedUp, FirstPeer, FirstConnected, FirstHandshake, Metadata, FirstPiece, Complete]
        {
            assert!(timeline.at(station).is_some(), "{station:?} in {timeline:?}");
        }
        world.note(format!("{:?}", datagrams(&leeching)));
    })
}

#[test]
fn a_link_by_the_dht_alone_and_every_time_in_the_same_way() {
    let log = trackerless(61);
    assert_eq!(log, trackerless(61));
    assert_ne!(log, trackerless(62));
}

#[test]
fn a_private_torrent_costs_the_dht_not_one_datagram() {
    for private in [true, false] {
        let payload = Payload::one_file("cargo", MIB, PIECE, 1);
        let payload = if private { payload.private() } else { payload };
        universe(63, async |world| {
            let hosts = nodes(world, 5).await;
            hosts[1].seed(&payload).await;
            let newcomer = node(world, hosts[0].addr().to_string(), false).await;
            let mut leeching = newcomer.leech(&payload, &hosts[1..2]).await;
            complete(&mut leeching).await;
            seconds(60).await;
            assert_eq!(datagrams(&leeching) == (0, 0), private, "{:?}", datagrams(&leeching));
        });
    }
}

#[test]
fn when_the_network_is_back_the_dht_is_joined_at_once() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(65, async |world| {
        let hosts = nodes(world, 20).await;
        hosts[3].seed(&payload).await;
        let newcomer = node(world, hosts[0].addr().to_string(), false).await;
        world.net().unplug(newcomer.ip());
        let mut leeching = newcomer.add(by_link(&payload, &[])).await;
        // By now the pauses between attempts have grown to minutes.
        seconds(1000).await;
        assert_eq!(worth(&leeching, "dht").0, 0);
        world.net().plug(newcomer.ip());
        let back = world.elapsed();
        complete(&mut leeching).await;
        assert!(world.elapsed() - back < Duration::from_secs(30), "{:?}", world.elapsed() - back);
    });
}

/// One of a crowd around a target. Whatever it is asked, it names its friends, and peers that are not there.
async fn lie(at: MemoryTransport, number: u8, target: [u8; 20], friends: Vec<SocketAddr>) {
    let socket = at.bind(SocketAddr::new(at.ip(), PORT)).await.expect("a stranger binds once");
    let near = |number: u8| {
        let mut id = target;
        id[19] ^= number + 1;
        NodeId(id)
    };
    let crowd = (0..).zip(&friends).map(|(friend, addr)| Node { id: near(friend), addr: *addr });
    let crowd: Vec<Node> = crowd.take(16).collect();
    let mut buffer = [0; 2048];
    let mut made_up = u32::from(number) << 16;
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(Message { transaction, body: Body::Query(_), .. }) = Message::decode(&buffer[..length]) else {
            continue;
        };
        made_up += 100;
        let nobody = |n: u32| SocketAddr::from(([20, (n >> 16) as u8, (n >> 8) as u8, n as u8], 6881));
        let values = (made_up..made_up + 100).map(nobody).collect();
        let response = Response { from: near(number), nodes: crowd.clone(), values, ..Response::default() };
        let response = Response { token: Some(Box::from(&b"false"[..])), ..response };
        let message = Message::new(transaction, Body::Response(Box::new(response)));
        let _ = socket.send_to(&message.encode(), from).await;
        // And garbage, of which one piece is too long to be a message.
        for garbage in [&b"d1:rd2:id20:"[..], b"d1:ad2:id9999999999:", &[b'd'; 60_000]] {
            let _ = socket.send_to(garbage, from).await;
        }
    }
}

#[test]
fn a_crowd_of_liars_around_a_torrent_keeps_nobody_from_it() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(64, async |world| {
        let hosts = nodes(world, 20).await;
        hosts[3].seed(&payload).await;
        seconds(10).await;
        let liars: Vec<_> = (0..64).map(|n| world.stranger_again(n)).collect();
        let addrs: Vec<_> = liars.iter().map(|liar| SocketAddr::new(liar.ip(), PORT)).collect();
        for (number, liar) in (0..).zip(&liars) {
            world.let_live(lie(liar.clone(), number, payload.metainfo.info_hashes.wire(), addrs.clone()));
        }
        let newcomer = node(world, format!("{}, {}, {}", addrs[0], addrs[1], hosts[0].addr()), false).await;
        let mut leeching = newcomer.add(by_link(&payload, &[])).await;
        complete(&mut leeching).await;
        assert_eq!(newcomer.difference(&payload), None);
        seconds(600).await;
        let (sent, _) = datagrams(&leeching);
        assert!(sent < 3000, "{sent} datagrams in ten minutes");
        let state = leeching.state();
        let made_up = worth(&leeching, "dht").0;
        assert!(made_up > 100, "the liars were asked: {made_up}");
        assert!(state.known <= 10_000, "{}", state.known);
    });
}
