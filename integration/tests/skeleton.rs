//! The Rust plugin that `castanet lab new-plugin` writes, compiled and run where its files lie.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

// What the files call the plugin's crate.
extern crate self as skeleton;

#[path = "../src/lab/skeleton/rust/src/lib.rs"]
mod plugin;
#[allow(dead_code)]
#[path = "../src/lab/skeleton/rust/src/main.rs"]
mod program;
#[path = "../src/lab/skeleton/rust/tests/works.rs"]
mod works;

use castanet::{
    PeerId, conformance,
    magnet::Magnet,
    seams::discovery::{Found, Me, PeerFate, PeerOutcome, Progress, Settings, Swarm, SwarmEvent, SwarmInfo},
};
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

pub use plugin::{NAME, build};

fn settings(key: &str, value: &str) -> Settings {
    Settings([(key.to_owned(), value.to_owned())].into())
}

#[tokio::test(start_paused = true)]
async fn who_refuses_again_and_again_is_not_told_any_more() {
    let (good, bad) = ("192.0.2.1:6881", "192.0.2.2:6881");
    let plugin = build(&conformance::island(), &settings("peers", &format!("{good} {bad}"))).unwrap();
    let link = Magnet::parse(&format!("magnet:?xt=urn:btih:{}", "01".repeat(20))).unwrap();
    let (progress, watched) = watch::channel(Progress::default());
    let (events, received) = mpsc::channel(8);
    let me = Me { peer_id: PeerId([1; 20]), port: 6881, key: 1 };
    let info = SwarmInfo::new(link.info_hashes);
    let mut found =
        plugin.discover(Swarm { info, me, progress: watched, events: received, gossip: None }).await.unwrap();
    let mut told = async || match found.next().await {
        Some(Ok(Found::Peers(peers))) => peers.iter().map(|peer| peer.addr.to_string()).collect::<Vec<_>>(),
        other => panic!("no peers: {other:?}"),
    };
    let happens = async |fate| {
        let outcome = PeerOutcome { addr: bad.parse().unwrap(), fate };
        events.send(SwarmEvent::Outcome(outcome)).await.unwrap();
    };
    assert!(tokio::time::timeout(Duration::from_secs(15), told()).await.is_err(), "nobody is wanted yet");
    progress.send_modify(|progress| progress.wanted = 5);
    assert!(tokio::time::timeout(Duration::from_secs(1), told()).await.is_ok(), "and then they are told at once");
    for fate in [PeerFate::Refused, PeerFate::Refused, PeerFate::Handshaken, PeerFate::Refused, PeerFate::Refused] {
        assert_eq!(told().await.len(), 2);
        happens(fate).await;
    }
    assert_eq!(told().await.len(), 2);
    happens(PeerFate::Refused).await;
    assert_eq!(told().await, [good]);
    drop(progress);
    assert!(found.next().await.is_none(), "the torrent is gone");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (key, value, why) in [("peers", "192.0.2.1", "not ADDRESS:PORT"), ("pears", "", "has no setting pears")] {
        let error = build(&conformance::island(), &settings(key, value)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
