//! Peers behind NATs, which lets them out and nobody in, meet by uTP through a third (BEP 55).

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use castanet::{EngineBuilder, Torrent, TorrentHandle};
use castanet_core::seams::datagrams::{DatagramFactory, Datagrams};
use castanet_integration::{
    payload::Payload,
    universe::{Host, Universe, universe},
};
use castanet_transports::{memory::MemoryTransport, utp::Utp};

use crate::{KIB, MIB, complete, discovery::worth, seconds};

const PIECE: u32 = 64 * KIB as u32;

/// The sockets of a host behind a NAT that keeps ports: a datagram comes in from where one has gone.
#[derive(Debug)]
struct Nat(MemoryTransport);

#[derive(Debug)]
struct Behind {
    socket: Arc<dyn Datagrams>,
    spoken_to: Mutex<BTreeSet<SocketAddr>>,
}

#[async_trait]
impl DatagramFactory for Nat {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let socket = self.0.bind(local).await?;
        Ok(Arc::new(Behind { socket, spoken_to: Mutex::default() }))
    }
}

#[async_trait]
impl Datagrams for Behind {
    fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.spoken_to.lock().unwrap_or_else(PoisonError::into_inner).insert(to);
        self.socket.send_to(payload, to).await
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let (length, from) = self.socket.recv_from(buffer).await?;
            if self.spoken_to.lock().unwrap_or_else(PoisonError::into_inner).contains(&from) {
                return Ok((length, from));
            }
        }
    }
}

fn utp(engine: EngineBuilder, datagrams: Arc<dyn DatagramFactory>) -> EngineBuilder {
    engine.transports(vec![Arc::new(Utp::new(datagrams, 1))])
}

/// A relay, and a seed and a leech behind NATs; all speak uTP alone, and all but the seed tell of peers.
async fn hosts(world: &Universe) -> [Host; 3] {
    let relay = world.host_on(|engine, net| utp(engine, Arc::new(net.clone())).enable_plugin("pex")).await;
    let seed = world.host_on(|engine, net| utp(engine, Arc::new(Nat(net.clone())))).await;
    let leech = world.host_on(|engine, net| utp(engine, Arc::new(Nat(net.clone()))).enable_plugin("pex")).await;
    [relay, seed, leech]
}

/// The seed knows the relay, which gets next to nothing; the leech knows the relay. The seed's torrent is set up as told.
async fn story(world: &Universe, setup: impl Fn(Torrent) -> Torrent) -> (Host, TorrentHandle, Payload) {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    let [relay, seed, leech] = hosts(world).await;
    seed.set_uplink(Some(64 * KIB as u64));
    seed.put(&payload);
    seed.add(setup(seed.torrent(&payload)).peers([relay.addr().to_string()])).await;
    relay.add(relay.torrent(&payload).discover_only(true)).await;
    seconds(5).await;
    let leeching = leech.leech(&payload, &[relay]).await;
    (leech, leeching, payload)
}

#[test]
fn two_behind_nats_meet_through_a_third() {
    universe(81, async |world| {
        let (leech, mut leeching, payload) = story(world, |seeding| seeding).await;
        complete(&mut leeching).await;
        assert_eq!(leech.difference(&payload), None);
        seconds(2).await;
        let (found, _, useful, bytes) = worth(&leeching, "holepunch");
        assert_eq!((found, useful, bytes), (1, 1, MIB as u64));
        let state = leeching.state();
        let cost =
            |plugin| state.plugins.iter().find(|report| &*report.worth.plugin.0 == plugin).expect("a report").cost;
        let (pex, punching) = (cost("pex"), cost("holepunch"));
        assert!(pex.received_messages > 0 && pex.received_bytes > 0, "{pex:?}");
        assert_eq!((punching.sent_messages, punching.received_messages), (1, 1), "it asks, and is told to dial");
    });
}

#[test]
fn without_it_they_do_not() {
    universe(82, async |world| {
        let alone = |seeding: Torrent| seeding.allow_plugins(["fixed"]);
        let (_, leeching, _) = story(world, alone).await;
        seconds(3600).await;
        let state = leeching.state();
        assert_eq!((state.downloaded, state.peers), (0, 1), "{state:?}");
        assert_eq!(worth(&leeching, "pex").0, 1, "it has heard of the seed");
    });
}
