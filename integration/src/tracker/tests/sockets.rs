//! The plugins against the tracker over loopback sockets, and requests made by hand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use castanet_core::{
    InfoHashV1, InfoHashes, Moment, PeerId,
    bencode::{Limits, scan},
    seams::{
        discovery::{Discovery, Found, Me, Progress, Settings, Swarm, SwarmInfo, SwarmSize},
        means::{Clock, Means, Scratchpad},
    },
};
use castanet_plugins::BUILTIN;
use castanet_protocol::tracker::udp::{self, Reply};
use castanet_transports::{resolver::FixedResolver, tcp, udp::Udp};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, watch},
    time::Instant,
};

use super::{HASH, announce};
use crate::tracker::{Counts, Tracker, http::LONGEST_HEAD};

async fn start() -> Tracker {
    Tracker::start(([127, 0, 0, 1], 0).into()).await.unwrap()
}

fn plugin(name: &str) -> Arc<dyn Discovery> {
    let started = Instant::now();
    let means = Means {
        datagrams: Arc::new(Udp::default()),
        dialer: tcp::build(&castanet_transports::Settings::default()).unwrap(),
        resolver: Arc::new(FixedResolver(BTreeMap::new())),
        clock: Clock::new(move || Moment::ZERO + started.elapsed()),
        seed: 1,
        bind: vec![([127, 0, 0, 1], 0).into()],
        listening: Arc::default(),
        mapped: Arc::default(),
        notebook: Arc::new(Scratchpad::default()),
        user_agent: "Castanet/test".into(),
    };
    let (_, build) = BUILTIN.iter().find(|(builtin, _)| *builtin == name).unwrap();
    build(&means, &Settings::default()).unwrap()
}

async fn get(tracker: &Tracker, target: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(tracker.addr()).await.unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let body = response.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    response.split_off(body)
}

/// Two peers meet through the tracker, one of them finishes, and both say good-bye.
async fn meet(plugin_name: &str, url: impl Fn(&Tracker) -> String) {
    let tracker = start().await;
    let info =
        SwarmInfo { trackers: vec![vec![url(&tracker)]].into(), ..SwarmInfo::new(InfoHashes::v1(InfoHashV1(HASH))) };
    let (seed, leech) = (plugin(plugin_name), plugin(plugin_name));
    let me = |port| Me { peer_id: PeerId([port as u8; 20]), port, key: 1 };
    let progress = |left| Progress { left: Some(left), wanted: 50, ..Progress::default() };
    let mut kept = Vec::new();
    let mut swarm = |port, left| {
        let (watched, events) = (watch::channel(progress(left)), mpsc::channel(1));
        kept.push((watched.0, events.0));
        Swarm { info: info.clone(), me: me(port), progress: watched.1, events: events.1, gossip: None }
    };
    let mut seeding = seed.discover(swarm(1001, 0)).await.unwrap();
    while !matches!(seeding.next().await, Some(Ok(Found::Idle { .. }))) {}
    assert_eq!(tracker.counts(HASH), Counts { seeds: 1, leeches: 0, completed: 0 });
    let mut leeching = leech.discover(swarm(1002, 5)).await.unwrap();
    let peers = loop {
        match leeching.next().await {
            Some(Ok(Found::Peers(peers))) => break peers,
            Some(Ok(_)) => {}
            other => panic!("no peers: {other:?}"),
        }
    };
    assert_eq!(peers.iter().map(|peer| peer.addr).collect::<Vec<_>>(), [([127, 0, 0, 1], 1001).into()]);
    while !matches!(leeching.next().await, Some(Ok(Found::Idle { .. }))) {}
    assert_eq!(tracker.counts(HASH), Counts { seeds: 1, leeches: 1, completed: 0 });
    drop((seeding, leeching));
    leech.leave(info.clone(), me(1002), progress(0), Duration::from_secs(60)).await.unwrap();
    assert_eq!(tracker.counts(HASH), Counts { seeds: 1, leeches: 0, completed: 1 });
    seed.leave(info.clone(), me(1001), progress(0), Duration::from_secs(60)).await.unwrap();
    assert_eq!(tracker.counts(HASH), Counts { seeds: 0, leeches: 0, completed: 1 });
}

#[tokio::test]
async fn peers_meet_over_http() {
    meet("http-tracker", Tracker::url).await;
}

#[tokio::test]
async fn peers_meet_over_udp() {
    meet("udp-tracker", Tracker::udp_url).await;
}

#[tokio::test]
async fn requests_by_hand() {
    let tracker = start().await;
    get(&tracker, &announce(80, "left=0&event=completed")).await;
    let body = get(&tracker, &announce(81, "left=1&compact=0&numwant=9")).await;
    let answer = castanet_protocol::tracker::http::parse_answer(&body).unwrap();
    assert_eq!(answer.peers, [(([127, 0, 0, 1], 80).into(), Some(PeerId([b'p'; 20])))]);
    assert_eq!(answer.external, Some([127, 0, 0, 1].into()));
    let seed = get(&tracker, &announce(82, "left=0")).await;
    let seed = castanet_protocol::tracker::http::parse_answer(&seed).unwrap();
    assert_eq!(seed.peers.iter().map(|(peer, _)| peer.port()).collect::<Vec<_>>(), [81], "a seed needs no seed");
    let body = get(&tracker, &format!("/scrape?info_hash={}", "%07".repeat(20))).await;
    let scrape = scan(&body, Limits::MESSAGE).unwrap().root.as_dict().unwrap();
    let counts = scrape.dict("files").unwrap().dict(HASH).unwrap();
    assert_eq!(
        (counts.int("complete"), counts.int("incomplete"), counts.int("downloaded")),
        (Some(2), Some(1), Some(1))
    );
}

#[tokio::test]
async fn scrapes_over_udp() {
    let tracker = start().await;
    get(&tracker, &announce(80, "left=0&event=completed")).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(tracker.addr()).await.unwrap();
    let ask = async |request: Vec<u8>| {
        socket.send(&request).await.unwrap();
        let mut reply = [0; 100];
        let length = socket.recv(&mut reply).await.unwrap();
        udp::parse_reply(&reply[..length], false)
    };
    let Ok(Reply::Connected(id)) = ask(udp::connect_request(1)).await else { panic!("not connected") };
    let Ok(Reply::Scraped(sizes)) = ask(udp::scrape_request(id, 2, &[HASH, [0; 20]])).await else { panic!("no sizes") };
    let size = SwarmSize { seeds: 1, leeches: 0, completed: Some(1) };
    assert_eq!(sizes, [size, SwarmSize { completed: Some(0), ..SwarmSize::default() }]);
    assert!(ask(udp::scrape_request(id ^ 1, 3, &[HASH])).await.is_err(), "a forged id");
}

#[tokio::test]
async fn bad_requests_are_refused_in_words() {
    let tracker = start().await;
    for (target, reason) in [
        ("/announce", "no info_hash of 20 bytes"),
        ("/announce?info_hash=abc&&=&%", "no info_hash of 20 bytes"),
        (&*announce(0, "left=1"), "no port"),
        (&*announce(1, "left=-1"), "no left"),
    ] {
        let expected = format!("d14:failure reason{}:{reason}e", reason.len());
        assert_eq!(String::from_utf8_lossy(&get(&tracker, target).await), expected, "{target}");
    }
    assert_eq!(get(&tracker, "/else").await, b"");
    // Too long a head closes the connection, without harm to the others.
    let mut flood = TcpStream::connect(tracker.addr()).await.unwrap();
    let _ = flood.write_all(&vec![b'x'; 4 * LONGEST_HEAD]).await;
    assert!(get(&tracker, &announce(9, "left=1")).await.starts_with(b"d8:complete"));
}

#[tokio::test]
async fn a_dropped_tracker_is_gone() {
    let tracker = start().await;
    let addr = tracker.addr();
    drop(tracker);
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    TcpListener::bind(addr).await.unwrap();
}
