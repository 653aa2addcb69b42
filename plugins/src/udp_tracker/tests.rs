//! The plugin against trackers in memory, in virtual time.

use std::time::Duration;

use castanet_core::{
    InfoHashV1, InfoHashV2, InfoHashes,
    seams::discovery::{Found, FoundStream, Progress, SwarmEvent},
};
use castanet_protocol::tracker::{
    Event,
    udp::{Request, announce_reply, connect_reply, error_reply, parse_request, scrape_reply, transaction_of},
};
use futures_util::StreamExt;

use super::*;
use crate::testing::{Torrent, World};

type Requests = Arc<Mutex<Vec<Request>>>;

/// A tracker that grants its `connections` one after another and knows only the newest; one peer for everyone.
fn tracker(world: &World, addr: &str, peer: &str) -> Requests {
    let requests = Requests::default();
    let (heard, peer) = (requests.clone(), peer.parse().unwrap());
    world.datagrams(addr, move |datagram| {
        let request = parse_request(datagram).unwrap();
        let mut heard = heard.lock().unwrap();
        heard.push(request.clone());
        let newest = heard.iter().filter(|request| matches!(request, Request::Connect { .. })).count() as u64;
        let reply = match request {
            Request::Connect { transaction } => connect_reply(transaction, newest),
            Request::Announce { connection, transaction, .. } if connection != newest => {
                error_reply(transaction, "unknown connection")
            }
            Request::Announce { transaction, .. } => {
                let interval = Some(Duration::from_secs(1000));
                announce_reply(transaction, &Answer { interval, peers: vec![(peer, None)], ..Answer::default() })
            }
            Request::Scrape { transaction, names, .. } => {
                let size = |name: &[u8; 20]| SwarmSize { seeds: name[0].into(), leeches: 2, completed: Some(3) };
                scrape_reply(transaction, &names.iter().map(size).collect::<Vec<_>>())
            }
        };
        vec![reply]
    });
    requests
}

fn connects(requests: &Requests) -> usize {
    requests.lock().unwrap().iter().filter(|request| matches!(request, Request::Connect { .. })).count()
}
fn announces(requests: &Requests) -> Vec<(Announce, String)> {
    let announce = |request: &Request| match request {
        Request::Announce { announce, url_data, .. } => Some((announce.clone(), url_data.clone())),
        _ => None,
    };
    requests.lock().unwrap().iter().filter_map(announce).collect()
}

fn plugin(world: &World) -> Arc<dyn Discovery> {
    build(&world.means(), &Settings::default()).unwrap()
}

/// The next thing that the plugin has to say, as text; when it goes idle is left out.
async fn next(stream: &mut FoundStream) -> String {
    loop {
        match stream.next().await {
            Some(Ok(Found::Idle { .. } | Found::Reached(_) | Found::SwarmSize { .. })) => {}
            Some(Ok(Found::Peers(peers))) => return format!("{} from {}", peers[0].addr, peers[0].instance),
            Some(Ok(other)) => return format!("{other:?}"),
            Some(Err(error)) => return error.to_string(),
            None => return "the end".to_owned(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_torrents_life() {
    let world = World::new();
    world.name("tracker.test", &["127.0.0.1", "::1"]);
    let v4 = tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let v6 = tracker(&world, "[::1]:6969", "[2001:db8::1]:81");
    let torrent = Torrent::new(&["udp://tracker.test:6969/announce?k=1"]);
    let plugin = plugin(&world);
    let (swarm, engine) = torrent.swarm();
    let mut stream = plugin.discover(swarm).await.unwrap();
    let mut said = [next(&mut stream).await, next(&mut stream).await];
    said.sort();
    let from = "from udp://tracker.test:6969/announce?k=1";
    assert_eq!(said, [format!("10.0.0.1:80 {from}"), format!("[2001:db8::1]:81 {from}")]);
    engine.events.send(SwarmEvent::Completed).await.unwrap();
    next(&mut stream).await;
    next(&mut stream).await;
    assert!(world.now() < Moment::from_secs(1));
    assert_eq!((connects(&v4), connects(&v6)), (1, 1), "the connection id is used again");
    next(&mut stream).await;
    assert!(world.now() >= Moment::from_secs(1000));
    next(&mut stream).await;
    assert_eq!((connects(&v4), connects(&v6)), (2, 2), "but not after a minute");
    drop(stream);
    let last = Progress { left: Some(0), ..Progress::default() };
    plugin.leave(torrent.info, torrent.me, last, Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.sockets(), 2);
    for announces in [announces(&v4), announces(&v6)] {
        let events: Vec<_> = announces.iter().map(|(announce, _)| announce.event).collect();
        assert_eq!(events, [Event::Started, Event::Completed, Event::Regular, Event::Stopped]);
        assert!(announces.iter().all(|(announce, url)| announce.key == 0xbeef && url == "/announce?k=1"));
        let first = &announces[0].0;
        assert_eq!((first.uploaded, first.downloaded, first.left, first.wanted, first.port), (1, 2, 3, 1, 6881));
    }
}

#[tokio::test(start_paused = true)]
async fn torrents_share_the_socket_and_the_connection() {
    let world = World::new();
    let heard = tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let plugin = plugin(&world);
    let mut kept = Vec::new();
    let mut streams = futures_util::stream::SelectAll::new();
    for n in 0..20 {
        let mut torrent = Torrent::new(&["udp://127.0.0.1:6969"]);
        torrent.info.info_hashes = InfoHashes::v1(InfoHashV1([n; 20]));
        let (swarm, engine) = torrent.swarm();
        kept.push(engine);
        streams.push(plugin.discover(swarm).await.unwrap());
    }
    let mut found = 0;
    while found < 20 {
        found += usize::from(matches!(streams.next().await, Some(Ok(Found::Peers(_)))));
    }
    assert_eq!((world.sockets(), connects(&heard), announces(&heard).len()), (1, 1, 20));
}

#[tokio::test(start_paused = true)]
async fn lost_datagrams_are_sent_again() {
    let world = World::new();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (log, clock) = (sent.clone(), world.means().clock);
    world.datagrams("127.0.0.1:6969", move |datagram| {
        let mut log = log.lock().unwrap();
        log.push((clock.now().since(Moment::ZERO).as_secs(), datagram.to_vec()));
        match parse_request(datagram) {
            Some(Request::Connect { transaction }) if log.len() == 3 => vec![connect_reply(transaction, 5)],
            Some(Request::Announce { transaction, .. }) => {
                let peers = vec![("10.0.0.1:80".parse().unwrap(), None)];
                vec![announce_reply(transaction, &Answer { peers, ..Answer::default() })]
            }
            _ => Vec::new(),
        }
    });
    let (swarm, _engine) = Torrent::new(&["udp://127.0.0.1:6969"]).swarm();
    let mut stream = plugin(&world).discover(swarm).await.unwrap();
    assert_eq!(next(&mut stream).await, "10.0.0.1:80 from udp://127.0.0.1:6969");
    let sent = sent.lock().unwrap();
    assert_eq!(sent.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 15, 45, 45]);
    assert!(sent[0].1 == sent[1].1 && sent[1].1 == sent[2].1, "the same datagram");
}

#[tokio::test(start_paused = true)]
async fn a_dead_tracker_delays_no_other() {
    let world = World::new();
    world.silent_name("slow.test");
    tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let urls = ["udp://slow.test:1", "udp://127.0.0.9:6969", "udp://127.0.0.1", "udp://127.0.0.1:6969"];
    let (swarm, _engine) = Torrent::new(&urls).swarm();
    let mut stream = plugin(&world).discover(swarm).await.unwrap();
    let mut said = [next(&mut stream).await, next(&mut stream).await];
    said.sort();
    assert_eq!(said, ["10.0.0.1:80 from udp://127.0.0.1:6969", "udp://127.0.0.1 is no tracker's URL: it has no port"]);
    assert!(world.now() < Moment::from_secs(1));
    let mut said = Vec::new();
    while world.now() < Moment::from_secs(60) {
        said.push(next(&mut stream).await);
    }
    let dead = "udp://127.0.0.9:6969 cannot be reached: no answer within 60 s";
    assert!(said.iter().any(|said| said == dead), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn of_several_addresses_one_that_answers_is_found_soon_and_kept() {
    let world = World::new();
    world.name("tracker.test", &["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let alive = tracker(&world, "127.0.0.3:6969", "10.0.0.1:80");
    let torrent = Torrent::new(&["udp://tracker.test:6969/announce"]);
    let plugin = plugin(&world);
    let (swarm, engine) = torrent.swarm();
    let mut stream = plugin.discover(swarm).await.unwrap();
    assert!(next(&mut stream).await.starts_with("10.0.0.1:80"));
    assert!(world.now() <= Moment::ZERO + 3 * STAGGER + Duration::from_secs(1), "{:?}", world.now());
    let found = world.now();
    engine.events.send(SwarmEvent::Completed).await.unwrap();
    next(&mut stream).await;
    assert!(world.now().since(found) < Duration::from_secs(1), "nobody else is asked while its id counts");
    assert_eq!((connects(&alive), announces(&alive).len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_id_is_replaced_once() {
    let world = World::new();
    let heard = tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let (swarm, engine) = Torrent::new(&["udp://127.0.0.1:6969"]).swarm();
    let mut stream = plugin(&world).discover(swarm).await.unwrap();
    next(&mut stream).await;
    // The tracker is restarted: the id that it granted means nothing to it any more.
    heard.lock().unwrap().push(Request::Connect { transaction: 0 });
    engine.events.send(SwarmEvent::Completed).await.unwrap();
    assert_eq!(next(&mut stream).await, "10.0.0.1:80 from udp://127.0.0.1:6969");
    assert_eq!(announces(&heard).last().unwrap().0.event, Event::Completed);
}

#[tokio::test(start_paused = true)]
async fn nonsense_and_strangers() {
    let world = World::new();
    let stranger = world.clone();
    world.datagrams("127.0.0.1:6969", move |datagram| {
        let transaction = u32::from_be_bytes(datagram[12..16].try_into().unwrap());
        // A stranger who saw the datagram, noise, and another exchange's answer do no harm.
        stranger.inject("127.0.0.66:6969", &error_reply(transaction, "I am the tracker"));
        stranger.inject("127.0.0.1:6969", b"short");
        vec![error_reply(transaction.wrapping_add(1), "not yours"), error_reply(transaction, "go\naway")]
    });
    for (addr, kind) in [("127.0.0.2:6969", 1), ("127.0.0.3:6969", 9), ("127.0.0.4:6969", 0)] {
        world.datagrams(addr, move |datagram| {
            let mut reply = error_reply(u32::from_be_bytes(datagram[12..16].try_into().unwrap()), "");
            reply[3] = kind;
            assert!(transaction_of(&reply).is_some());
            vec![if kind == 1 { [reply, vec![0; 12]].concat() } else { reply }]
        });
    }
    let urls = ["udp://127.0.0.1:6969", "udp://127.0.0.2:6969", "udp://127.0.0.3:6969", "udp://127.0.0.4:6969"];
    let (swarm, _engine) = Torrent::new(&urls).swarm();
    let mut stream = plugin(&world).discover(swarm).await.unwrap();
    let mut said = [(); 4].map(|()| String::new());
    for said in &mut said {
        *said = next(&mut stream).await;
    }
    said.sort();
    assert_eq!(
        said,
        [
            "udp://127.0.0.1:6969 says: go\\naway",
            "udp://127.0.0.2:6969 sent a bad answer: it answers another question",
            "udp://127.0.0.3:6969 sent a bad answer: the datagram is of an unknown kind",
            "udp://127.0.0.4:6969 sent a bad answer: the datagram is too short",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn who_leaves_at_completion_says_both() {
    let world = World::new();
    let heard = tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let torrent = Torrent::new(&["udp://127.0.0.1:6969"]);
    let plugin = plugin(&world);
    let (swarm, _engine) = torrent.swarm();
    let mut stream = plugin.discover(swarm).await.unwrap();
    while !matches!(stream.next().await, Some(Ok(Found::Idle { .. }))) {}
    drop(stream);
    let last = Progress { left: Some(0), ..Progress::default() };
    plugin.leave(torrent.info, torrent.me, last, Duration::from_secs(3)).await.unwrap();
    let events: Vec<_> = announces(&heard).iter().map(|(announce, _)| announce.event).collect();
    assert_eq!(events, [Event::Started, Event::Completed, Event::Stopped]);
}

#[tokio::test(start_paused = true)]
async fn both_names_of_a_hybrid_are_scraped_at_once() {
    let world = World::new();
    let heard = tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let udp = Udp::new(&world.means());
    let target = Target::parse("udp://127.0.0.1:6969/announce").unwrap();
    let both = InfoHashes { v1: Some(InfoHashV1([4; 20])), v2: Some(InfoHashV2([9; 32])) };
    let names: Vec<_> = both.wires().collect();
    let addresses = ["127.0.0.1:6969".parse().unwrap()];
    let size = udp.scrape(&target, &addresses, &names).await.unwrap();
    assert_eq!(size, Some(SwarmSize { seeds: 9, leeches: 2, completed: Some(3) }));
    assert!(matches!(&heard.lock().unwrap()[..], [Request::Connect { .. }, Request::Scrape { .. }]));
    // A tracker that answers with too few numbers, and one that answers with something else.
    for (reply, says) in [(2, "Ok(None)"), (1, "it answers another question")] {
        world.datagrams("127.0.0.1:6969", move |datagram| {
            let transaction = u32::from_be_bytes(datagram[12..16].try_into().unwrap());
            match (parse_request(datagram).unwrap(), reply) {
                (Request::Connect { .. }, _) => vec![connect_reply(transaction, 1)],
                (_, 2) => vec![scrape_reply(transaction, &[])],
                _ => vec![announce_reply(transaction, &Answer::default())],
            }
        });
        let said = format!("{:?}", udp.scrape(&target, &addresses, &names).await);
        assert!(said.contains(says), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn leaving_has_a_deadline() {
    let world = World::new();
    tracker(&world, "127.0.0.1:6969", "10.0.0.1:80");
    let torrent = Torrent::new(&["udp://127.0.0.1:6969"]);
    let plugin = plugin(&world);
    let (swarm, _engine) = torrent.swarm();
    let mut stream = plugin.discover(swarm).await.unwrap();
    next(&mut stream).await;
    drop(stream);
    world.datagrams("127.0.0.1:6969", |_| Vec::new());
    let left = plugin.leave(torrent.info, torrent.me, Progress::default(), Duration::from_secs(3)).await;
    assert_eq!(left.unwrap_err().to_string(), "udp://127.0.0.1:6969 cannot be reached: no answer in time");
    assert!(world.now() < Moment::from_secs(4));
}
