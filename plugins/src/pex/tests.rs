//! Plugins that gossip over channels, in virtual time.

use std::{collections::BTreeMap, time::Duration};

use castanet_core::{Moment, seams::discovery::Neighbour};
use castanet_protocol::pex::{Contact, MOST_TAKEN, PexMessage};
use futures_util::StreamExt;
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::testing::{Engine, Torrent, World};

const MINUTE: Duration = Duration::from_secs(60);

/// A plugin in a swarm, seen from its engine.
struct Peer {
    addr: SocketAddr,
    stream: FoundStream,
    heard: mpsc::Sender<Heard>,
    said: mpsc::Receiver<Say>,
    engine: Engine,
    found: Vec<(SocketAddr, String)>,
    conditions: Vec<String>,
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn neighbour(remote: SocketAddr) -> Neighbour {
    Neighbour {
        remote,
        listens: Some(remote),
        speaks: true,
        reachable: true,
        seed: false,
        utp: false,
        encrypts: false,
        holepunch: false,
    }
}

impl Peer {
    async fn new(world: &World, port: u16) -> Self {
        let (heard, theirs) = mpsc::channel(64);
        let (say, said) = mpsc::channel(64);
        let (mut swarm, engine) = Torrent::new(&[]).swarm();
        swarm.gossip = Some(Gossip { heard: theirs, say });
        let plugin = build(&world.means(), &Settings::default()).unwrap();
        assert_eq!((plugin.extension(), plugin.serves(&swarm.info)), (Some("ut_pex"), true));
        let stream = plugin.discover(swarm).await.unwrap();
        Self { addr: local(port), stream, heard, said, engine, found: Vec::new(), conditions: Vec::new() }
    }
    fn hear(&self, heard: Heard) {
        self.heard.try_send(heard).unwrap();
    }
    fn says(&self, from: SocketAddr, added: impl IntoIterator<Item = SocketAddr>) {
        let added = added.into_iter().map(|addr| Contact { addr, flags: Flags::default() }).collect();
        let payload = PexMessage { added, dropped: Vec::new() }.encode().into();
        self.hear(Heard::Said { remote: from, payload });
    }
    /// Lets it work for so long.
    async fn run(&mut self, time: Duration) {
        let work = async {
            while let Some(found) = self.stream.next().await {
                match found.unwrap() {
                    Found::Peers(peers) => {
                        self.found.extend(peers.iter().map(|peer| (peer.addr, peer.instance.to_string())));
                    }
                    Found::Condition(words) => self.conditions.push(words),
                    Found::Reached(milestone) => assert_eq!((milestone, self.found.len()), (Milestone::LookedUp, 0)),
                    other => panic!("{other:?}"),
                }
            }
        };
        assert!(timeout(time, work).await.is_err(), "it goes on");
    }
    fn told(&mut self) -> Vec<(SocketAddr, PexMessage)> {
        let said = std::iter::from_fn(|| self.said.try_recv().ok());
        said.map(|say| (say.remote, PexMessage::decode(&say.payload).unwrap())).collect()
    }
}

/// Connects two peers, each known to the other by its listening address.
fn connect(one: &Peer, other: &Peer) {
    one.hear(Heard::Joined(neighbour(other.addr)));
    other.hear(Heard::Joined(neighbour(one.addr)));
}

/// Lets all of them work and carries what they say, second by second. Returns how many messages there were.
async fn mingle(peers: &mut [Peer], seconds: u64) -> usize {
    let mut messages = 0;
    for _ in 0..seconds {
        let mut mail = BTreeMap::<SocketAddr, Vec<Heard>>::new();
        for peer in peers.iter_mut() {
            // Each has the whole second, one after the other: only the order in which things happen matters.
            peer.run(Duration::from_millis(1000 / 4)).await;
            for say in std::iter::from_fn(|| peer.said.try_recv().ok()) {
                messages += 1;
                mail.entry(say.remote).or_default().push(Heard::Said { remote: peer.addr, payload: say.payload });
            }
        }
        for peer in peers.iter() {
            mail.remove(&peer.addr).into_iter().flatten().for_each(|heard| peer.hear(heard));
        }
    }
    messages
}

#[tokio::test(start_paused = true)]
async fn two_have_nothing_to_tell_each_other() {
    let world = World::new();
    let mut peers = [Peer::new(&world, 1).await, Peer::new(&world, 2).await];
    connect(&peers[0], &peers[1]);
    assert_eq!(mingle(&mut peers, 200).await, 0, "nobody is told of himself");
    assert!(peers.iter().all(|peer| peer.found.is_empty() && peer.conditions == ["1 neighbour speaks it"]));
}

#[tokio::test(start_paused = true)]
async fn two_strangers_meet_through_a_third() {
    let world = World::new();
    let mut peers = [Peer::new(&world, 1).await, Peer::new(&world, 2).await, Peer::new(&world, 3).await];
    connect(&peers[0], &peers[1]);
    connect(&peers[0], &peers[2]);
    assert_eq!(mingle(&mut peers, 200).await, 2, "one message each, and silence while nothing changes");
    assert!(peers[0].found.is_empty(), "it knows both");
    assert_eq!(peers[1].found, [(local(3), "127.0.0.1:1".to_owned())]);
    assert_eq!(peers[2].found, [(local(2), "127.0.0.1:1".to_owned())]);
    assert_eq!(peers[0].conditions.last().unwrap(), "2 neighbours speak it");
    peers[0].hear(Heard::Left { remote: local(2) });
    peers[0].hear(Heard::Left { remote: local(3) });
    assert_eq!(mingle(&mut peers, 200).await, 0);
    assert_eq!(peers[0].conditions.last().unwrap(), "no neighbour speaks it");
    drop(world);
}

#[tokio::test(start_paused = true)]
async fn who_wants_nobody_still_tells_and_keeps_what_it_hears() {
    let world = World::new();
    let mut peer = Peer::new(&world, 1).await;
    peer.engine.progress.send_modify(|progress| progress.wanted = 0);
    [2, 3].into_iter().for_each(|port| peer.hear(Heard::Joined(neighbour(local(port)))));
    peer.says(local(2), (1000..1080).map(local));
    peer.says(local(3), (1080..1160).map(local));
    peer.says(local(2), (1160..1240).map(local));
    peer.run(MINUTE).await;
    assert_eq!((peer.found.len(), peer.told().len()), (0, 2));
    peer.engine.progress.send_modify(|progress| progress.wanted = 5);
    peer.run(MINUTE).await;
    assert_eq!(peer.found.len(), MOST_KEPT);
    assert_eq!(peer.found[MOST_KEPT - 1], (local(1239), "127.0.0.1:2".to_owned()), "the newest");
}

#[tokio::test(start_paused = true)]
async fn a_seed_needs_no_seeds() {
    let world = World::new();
    let mut peer = Peer::new(&world, 1).await;
    peer.engine.progress.send_modify(|progress| progress.left = Some(0));
    peer.hear(Heard::Joined(neighbour(local(2))));
    let contact = |port, flags| Contact { addr: local(port), flags };
    let added = vec![contact(7, Flags::SEED), contact(8, Flags::UTP)];
    let payload = PexMessage { added, dropped: Vec::new() }.encode().into();
    peer.hear(Heard::Said { remote: local(2), payload });
    peer.run(MINUTE).await;
    assert_eq!(peer.found, [(local(8), "127.0.0.1:2".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn floods_and_lies_are_cut() {
    let world = World::new();
    let mut peer = Peer::new(&world, 1).await;
    let liar: SocketAddr = "9.9.9.9:9".parse().unwrap();
    let honest: SocketAddr = "8.8.8.8:8".parse().unwrap();
    peer.hear(Heard::Joined(neighbour(liar)));
    peer.hear(Heard::Joined(neighbour(honest)));
    // For an hour without pause: new addresses, our own network, ourselves, itself, nonsense.
    for second in 0..3600u32 {
        let [_, a, b, c] = (second << 8).to_be_bytes();
        peer.says(liar, (0..200).map(|n| ([a | 16, b, c ^ n, n], 80).into()).chain([local(5), liar]));
        peer.hear(Heard::Said { remote: liar, payload: vec![b'l'; 2000].into() });
        peer.says(([9, 9, 9, 10], 9).into(), [([5, 5, 5, 5], 5).into()]);
        peer.run(Duration::from_secs(1)).await;
    }
    assert!(world.now() >= Moment::from_secs(3600));
    assert!((1..=MOST_TAKEN).contains(&peer.found.len()), "{}", peer.found.len());
    assert!(peer.found.iter().all(|(addr, from)| *addr != liar && *addr != local(5) && from == "9.9.9.9:9"));
    let before = peer.found.len();
    peer.says(honest, [([7, 7, 7, 7], 7).into()]);
    peer.run(MINUTE).await;
    assert_eq!(peer.found[before..], [(([7, 7, 7, 7], 7).into(), honest.to_string())], "the honest one is heard");
    assert_eq!(peer.told().len(), 2, "and what a liar says is not passed on");
}

#[tokio::test(start_paused = true)]
async fn private_torrents_and_silent_hosts() {
    let world = World::new();
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    let mut torrent = Torrent::new(&[]);
    let (without_gossip, _engine) = torrent.swarm();
    assert!(plugin.discover(without_gossip).await.unwrap().next().await.is_none());
    torrent.info.private = true;
    let (mut swarm, _engine) = torrent.swarm();
    assert!(!plugin.serves(&swarm.info));
    let ((heard, theirs), (say, mut said)) = (mpsc::channel(8), mpsc::channel(8));
    swarm.gossip = Some(Gossip { heard: theirs, say });
    [1, 2].into_iter().for_each(|port| heard.try_send(Heard::Joined(neighbour(local(port)))).unwrap());
    assert!(plugin.discover(swarm).await.unwrap().next().await.is_none(), "even if it were asked to");
    assert!(said.recv().await.is_none());
    let settings = Settings([("x".to_owned(), "y".to_owned())].into());
    assert!(build(&world.means(), &settings).unwrap_err().to_string().contains("no setting x"));
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_torrent() {
    let world = World::new();
    let Peer { mut stream, heard, .. } = Peer::new(&world, 1).await;
    drop(heard);
    assert!(stream.next().await.is_none());
}
