//! Sources that lie: millions of peers, metadata that are none, trackers that lead astray. The download comes from the
//! honest rest, and what is kept of the lies is bounded.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use castanet::{
    Happening, Magnet, PluginName, Torrent,
    seams::{
        discovery::{Discovery, DiscoveryError, Found, FoundStream, PeerCandidate, Settings, Swarm, SwarmInfo},
        means::Means,
        transport::Transport,
    },
};
use castanet_integration::{
    payload::Payload,
    universe::{Stranger, strange_id, universe},
};
use castanet_protocol::wire::{Message, Reserved};
use castanet_transports::memory::MemoryTransport;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    KIB, MIB, complete,
    discovery::{by_link, worth},
    seconds,
};

const PIECE: u32 = 64 * KIB as u32;
const PORT: u16 = 6881;

/// A plugin that makes up a million peers.
#[derive(Debug)]
struct Millionaire;

#[async_trait]
impl Discovery for Millionaire {
    fn name(&self) -> PluginName {
        "millionaire".into()
    }
    fn serves(&self, _: &SwarmInfo) -> bool {
        true
    }
    async fn discover(&self, _: Swarm) -> Result<FoundStream, DiscoveryError> {
        let some = |hundredth: u32| {
            let made_up = |n: u32| PeerCandidate {
                addr: SocketAddr::from((Ipv4Addr::from_bits(0x1400_0000 + n), PORT)),
                peer_id: None,
                instance: "imagination".into(),
            };
            Ok(Found::Peers((hundredth * 10_000..(hundredth + 1) * 10_000).map(made_up).collect()))
        };
        Ok(Box::pin(stream::iter(0..100).map(some)))
    }
}

fn build(_: &Means, _: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    Ok(Arc::new(Millionaire))
}

#[test]
fn a_million_peers_of_one_source_hide_nobody() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(71, async |world| {
        let seed = world.host().await;
        seed.set_uplink(Some(256 * KIB as u64));
        seed.seed(&payload).await;
        let host = world.host_with(|engine| engine.discovery("millionaire", build)).await;
        let mut leeching = host.leech(&payload, &[seed]).await;
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        seconds(2).await;
        let (found, _, useful, _) = worth(&leeching, "millionaire");
        assert!((500_000..2_000_000).contains(&found) && useful == 0, "{found} by estimate");
        assert!(leeching.state().known <= 10_000, "{}", leeching.state().known);
        assert_eq!(worth(&leeching, "fixed").2, 1);
    });
}

/// Tells whoever connects of a hundred peers that are not there, a hundred times a second.
async fn gossip(at: MemoryTransport, info_hash: [u8; 20]) {
    let mut listener = Stranger::listen(&at, PORT).await;
    let mut made_up = 0x1500_0000_u32;
    while let Ok(mut stranger) = Stranger::accept(&mut listener).await {
        let flooding = async {
            stranger.shake_as(info_hash, strange_id(b'F'), Reserved([0, 0, 0, 0, 0, 0x10, 0, 4])).await?;
            stranger.say(Message::Extended { id: 0, payload: Bytes::from_static(b"d1:md6:ut_pexi5eee") }).await?;
            stranger.say(Message::HaveNone).await?;
            loop {
                let mut message = b"d5:added600:".to_vec();
                for _ in 0..100 {
                    made_up += 1;
                    message.extend([&made_up.to_be_bytes()[..], &PORT.to_be_bytes()].concat());
                }
                message.push(b'e');
                stranger.say(Message::Extended { id: 2, payload: message.into() }).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _: std::io::Result<()> = flooding.await;
    }
}

#[test]
fn a_flood_of_gossip_is_cut() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(74, async |world| {
        let seed = world.host().await;
        seed.set_uplink(Some(128 * KIB as u64));
        seed.seed(&payload).await;
        let gossiper = world.stranger();
        world.let_live(gossip(gossiper.clone(), payload.metainfo.info_hashes.wire()));
        let host = world.host_with(|engine| engine.enable_plugin("pex")).await;
        let peers = [seed.addr(), SocketAddr::new(gossiper.ip(), PORT)].map(|addr| addr.to_string());
        let mut leeching = host.add(host.torrent(&payload).peers(peers)).await;
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        seconds(2).await;
        let (found, _, useful, _) = worth(&leeching, "pex");
        assert!((1..=1000).contains(&found) && useful == 0, "{found} of thousands are taken");
    });
}

/// What the torrent told its user, and why peers went.
fn told(events: &mut tokio::sync::broadcast::Receiver<castanet::TorrentEvent>) -> Vec<String> {
    let words = |what| match what {
        Happening::Notice(text) => Some(text),
        Happening::PeerLost { addr, reason } => Some(format!("{addr}: {reason}")),
        _ => None,
    };
    let all = std::iter::from_fn(|| {
        loop {
            match events.try_recv() {
                Ok(event) => return Some(event.what),
                Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    });
    all.filter_map(words).collect()
}

/// Offers metadata of this size, and answers every request with zeros.
async fn pretend(at: MemoryTransport, letter: u8, info_hash: [u8; 20], size: u64) {
    let mut listener = Stranger::listen(&at, PORT).await;
    while let Ok(mut stranger) = Stranger::accept(&mut listener).await {
        let pretending = async {
            let reserved = Reserved([0, 0, 0, 0, 0, 0x10, 0, 4]);
            stranger.shake_as(info_hash, strange_id(letter), reserved).await?;
            let offer = format!("d1:md11:ut_metadatai3ee13:metadata_sizei{size}ee");
            stranger.say(Message::Extended { id: 0, payload: offer.into() }).await?;
            loop {
                let Message::Extended { id: 3, payload } = stranger.hear().await? else { continue };
                let text = String::from_utf8_lossy(&payload).into_owned();
                let piece = text.split_once("5:piecei").and_then(|(_, rest)| rest.split_once('e')).map(|(n, _)| n);
                let piece: u64 = piece.and_then(|n| n.parse().ok()).unwrap_or(0);
                let mut answer = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{size}ee").into_bytes();
                answer.resize(answer.len() + (size - piece * 16_384).min(16_384) as usize, 0);
                // By the number that an engine offers for it.
                stranger.say(Message::Extended { id: 1, payload: Bytes::from(answer) }).await?;
            }
        };
        let _: std::io::Result<()> = pretending.await;
    }
}

#[test]
fn metadata_of_two_gigabytes_and_of_zeros_are_not_believed() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(72, async |world| {
        let seed = world.host().await;
        seed.set_uplink(Some(64 * KIB as u64));
        seed.seed(&payload).await;
        let (size, hash) = (payload.metainfo.info_bytes.len() as u64, payload.metainfo.info_hashes.wire());
        let liars: Vec<_> = (0..4).map(|n| world.stranger_again(n)).collect();
        for ((liar, size), letter) in liars.iter().zip([1 << 31, u64::from(u32::MAX), size, size]).zip(b'P'..) {
            world.let_live(pretend(liar.clone(), letter, hash, size));
        }
        let host = world.host().await;
        let peers = liars.iter().map(|liar| SocketAddr::new(liar.ip(), PORT).to_string());
        let mut leeching = host.add(by_link(&payload, &[]).peers(peers)).await;
        let mut events = leeching.events();
        // The liars are alone at first.
        seconds(20).await;
        assert!(leeching.state().metainfo.is_none());
        let told = told(&mut events);
        let accused = |liar: usize| {
            let addr = format!("{}:{PORT}: ", liars[liar].ip());
            told.iter().any(|told| told.starts_with(&addr) && told.contains("metadata"))
        };
        assert!(accused(2) && accused(3), "who sent zeros is named: {told:?}");
        assert!(host.engine().remove(leeching.id()).await);
        let peers = liars.iter().map(|liar| SocketAddr::new(liar.ip(), PORT).to_string());
        leeching = host.add(by_link(&payload, &[&seed]).peers(peers)).await;
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
    });
}

/// A web server that says this to everyone, a byte every `pause` seconds if there is one. Counts who came.
async fn web(at: MemoryTransport, answer: String, pause: u64, came: Rc<Cell<usize>>) {
    let mut listener = at.listen(SocketAddr::new(at.ip(), 80)).await.expect("it listens once");
    while let Some(Ok(mut connection)) = listener.incoming.next().await {
        came.set(came.get() + 1);
        let answer = answer.clone();
        actix_rt::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && connection.io.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            for byte in answer.as_bytes().chunks(if pause > 0 { 1 } else { answer.len() }) {
                if connection.io.write_all(byte).await.is_err() {
                    return;
                }
                seconds(pause).await;
            }
        });
    }
}

/// The reasons that are told for this tracker.
fn blamed(told: &[String], tracker: &MemoryTransport) -> String {
    told.iter().filter(|told| told.contains(&tracker.ip().to_string())).cloned().collect::<Vec<_>>().join("; ")
}

#[test]
fn trackers_that_lead_astray_cost_their_patience_only() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(73, async |world| {
        let seed = world.host().await;
        seed.seed(&payload).await;
        let trackers: Vec<_> = (0..4).map(|_| world.stranger()).collect();
        let [circle, drip, flood, honest] = [&trackers[0], &trackers[1], &trackers[2], &trackers[3]];
        let came: Vec<_> = (0..4).map(|_| Rc::new(Cell::new(0))).collect();
        let ip = seed.ip();
        let page = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let list = format!("d8:intervali1800e5:peersld2:ip{}:{ip}4:porti{PORT}eeee", ip.to_string().len());
        let away = format!("HTTP/1.1 302 Found\r\nLocation: http://{}/again\r\nContent-Length: 0\r\n\r\n", circle.ip());
        let answers = [away, page(&list), page(&"d".repeat(8 * MIB)), page(&list)];
        for (((tracker, answer), pause), came) in trackers.iter().zip(answers).zip([0, 30, 0, 0]).zip(&came) {
            world.let_live(web(tracker.clone(), answer, pause, came.clone()));
        }
        let host = world.host().await;
        // Each is a tier of its own, and all tiers are asked.
        let urls = [circle, drip, flood, honest].map(|tracker| format!("http://{}/announce", tracker.ip()));
        let link = Magnet { trackers: urls.to_vec(), ..Magnet::new(payload.metainfo.info_hashes) };
        let mut leeching = host.add(Torrent::from_magnet(link, "/downloads")).await;
        let mut events = leeching.events();
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        seconds(300).await;
        let told = told(&mut events);
        assert!(blamed(&told, circle).contains("redirect"), "{told:?}");
        assert!(!blamed(&told, drip).is_empty() && !blamed(&told, flood).is_empty(), "{told:?}");
        assert_eq!(blamed(&told, honest), "");
        let visits: Vec<usize> = came.iter().map(|came| came.get()).collect();
        assert!(visits.iter().all(|visits| *visits <= 60), "{visits:?}");
    });
}
