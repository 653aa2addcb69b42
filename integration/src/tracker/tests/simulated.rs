//! In a simulated network, in paused time.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use castanet_core::{
    PeerId,
    seams::{
        datagrams::{DatagramFactory, Datagrams},
        transport::{DialOptions, Transport},
    },
};
use castanet_protocol::tracker::{
    Announce, Answer, AnswerError, Event,
    http::parse_answer,
    udp::{Reply, announce_request, connect_request, parse_reply},
};
use castanet_transports::memory::{MemoryNet, MemoryTransport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use super::{HASH, announce};
use crate::tracker::{Counts, Tracker, TrackerConfig};

/// Over HTTP and over UDP.
const URLS: (&str, &str) = ("http://10.0.0.200:80/announce", "udp://10.0.0.200:80/announce");

type Told = Result<Answer, AnswerError>;

/// A network with a tracker.
struct World {
    net: MemoryNet,
    tracker: Tracker,
}

impl World {
    async fn new(config: TrackerConfig, seed: u64) -> Self {
        let net = MemoryNet::new(1);
        let host = net.host([10, 0, 0, 200].into());
        let at = SocketAddr::new(host.ip(), 80);
        let (http, datagrams) = (host.listen(at).await.unwrap(), host.bind(at).await.unwrap());
        Self { net, tracker: Tracker::serve(http, datagrams, config, seed) }
    }

    fn host(&self, number: u16) -> MemoryTransport {
        let [high, low] = number.to_be_bytes();
        self.net.host(IpAddr::from([10, 1, high, low]))
    }

    async fn over_http(&self, from: u16, more: &str) -> Told {
        let connection = self.host(from).dial(self.tracker.addr(), DialOptions::default()).await.unwrap();
        let mut stream = connection.io;
        let target = announce(6881, more);
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let head = response.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
        parse_answer(&response[head + 4..])
    }

    async fn over_udp(&self, from: u16, left: u64) -> Told {
        let socket = self.host(from).bind(SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();
        let Ok(Reply::Connected(id)) = self.ask(&socket, connect_request(1)).await else { panic!("not connected") };
        let announce = Announce {
            info_hash: HASH,
            peer_id: PeerId([b'p'; 20]),
            port: 6881,
            key: 0,
            uploaded: 0,
            downloaded: 0,
            left,
            wanted: 50,
            event: Event::Started,
        };
        match self.ask(&socket, announce_request(id, 2, &announce, "")).await? {
            Reply::Announced(answer) => Ok(answer),
            other => panic!("no answer to an announce: {other:?}"),
        }
    }

    async fn ask(&self, socket: &Arc<dyn Datagrams>, request: Vec<u8>) -> Result<Reply, AnswerError> {
        socket.send_to(&request, self.tracker.addr()).await.unwrap();
        let mut reply = vec![0; 4096];
        let (length, _) = socket.recv_from(&mut reply).await.unwrap();
        parse_reply(&reply[..length], false)
    }
}

fn addrs(told: &Told) -> Vec<SocketAddr> {
    told.as_ref().unwrap().peers.iter().map(|(addr, _)| *addr).collect()
}

#[tokio::test(start_paused = true)]
async fn peers_meet_over_both_protocols() {
    let world = World::new(TrackerConfig::default(), 1).await;
    assert_eq!((&*world.tracker.url(), &*world.tracker.udp_url()), URLS);
    assert_eq!(addrs(&world.over_http(1, "left=0").await), []);
    let answer = world.over_udp(2, 1).await;
    assert_eq!(addrs(&answer), [([10, 1, 0, 1], 6881).into()]);
    assert_eq!(addrs(&world.over_http(1, "left=0").await), [([10, 1, 0, 2], 6881).into()]);
    assert_eq!(world.tracker.counts(HASH), Counts { seeds: 1, leeches: 1, completed: 0 });
    sleep(Duration::from_secs(31)).await;
    assert_eq!(world.tracker.counts(HASH), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_in_both_protocols() {
    let config = TrackerConfig { refuses: Some("closed today".into()), ..TrackerConfig::default() };
    let world = World::new(config, 1).await;
    let told = [world.over_http(1, "left=1").await, world.over_udp(1, 1).await];
    assert_eq!(told.map(|told| told.unwrap_err().to_string()), ["closed today"; 2]);
}

#[tokio::test(start_paused = true)]
async fn lies_are_told_in_both_protocols() {
    let world = World::new(TrackerConfig { made_up: 60, ..TrackerConfig::default() }, 1).await;
    for told in [world.over_http(1, "left=1&numwant=1").await, world.over_udp(2, 1).await] {
        let addrs = addrs(&told);
        assert_eq!(addrs.len(), 60);
        assert!(addrs.iter().all(|addr| addr.to_string().starts_with("198.1")), "{addrs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_tracker_thinks_about_all_at_once() {
    // Longer than a request may take to arrive.
    let answers_after = Duration::from_secs(20);
    let world = World::new(TrackerConfig { answers_after, ..TrackerConfig::default() }, 1).await;
    let before = Instant::now();
    let asked = tokio::join!(
        world.over_http(1, "left=1"),
        world.over_udp(2, 1),
        async {
            sleep(Duration::from_secs(3)).await;
            world.over_udp(3, 1).await.map(|answer| (answer, before.elapsed()))
        },
        async {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(world.tracker.counts(HASH).leeches, 1, "it counts from when it arrives");
            world.over_http(4, "left=1").await.map(|answer| (answer, before.elapsed()))
        }
    );
    assert!(asked.0.is_ok() && asked.1.is_ok());
    let (by_udp, by_http) = (asked.2.unwrap(), asked.3.unwrap());
    assert_eq!((by_udp.1.as_secs(), by_http.1.as_secs()), (43, 21));
    assert_eq!(by_udp.0.leeches, Some(4));
}

/// Hundreds that come at the same moments, as tasks of their own.
async fn crowd(seed: u64) -> Vec<Vec<SocketAddr>> {
    let world = Arc::new(World::new(TrackerConfig::default(), seed).await);
    let mut told = Vec::new();
    for _ in 0..2 {
        let asking = (1..400).map(|from| {
            let world = world.clone();
            tokio::spawn(async move {
                match from % 2 {
                    0 => addrs(&world.over_http(from, "left=1").await),
                    _ => addrs(&world.over_udp(from, 1).await),
                }
            })
        });
        for asked in asking.collect::<Vec<_>>() {
            told.push(asked.await.unwrap());
        }
        sleep(Duration::from_secs(10)).await;
    }
    told
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_answers() {
    let first = crowd(5).await;
    assert!(first[399..].iter().all(|peers| peers.len() == 50));
    assert_ne!(first[500], first[501], "who comes at the same moment does not meet the same");
    assert!(first == crowd(5).await && first != crowd(6).await);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_tracker_holds_nothing() {
    let world =
        World::new(TrackerConfig { answers_after: Duration::from_secs(5), ..TrackerConfig::default() }, 1).await;
    let (net, addr) = (world.net.clone(), world.tracker.addr());
    let waiting = world.host(1).dial(addr, DialOptions::default()).await.unwrap();
    drop((world, waiting));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(net.open_connections(), 0);
    let host = net.host(addr.ip());
    assert!(host.listen(addr).await.is_ok() && host.bind(addr).await.is_ok(), "its place is free");
}
