//! Does the plugin keep the contract, what does it remember, and does it bring anything?

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use castanet::{
    PeerId, conformance,
    magnet::Magnet,
    seams::{
        discovery::{
            Discovery, Found, FoundStream, Me, PeerFate, PeerOutcome, Progress, Settings, Swarm, SwarmEvent, SwarmInfo,
        },
        means::{LARGEST_PAGE, Means},
    },
};
use castanet_integration::lab::{Plan, Scenario, run, scenario::Change};
use futures_util::{FutureExt as _, StreamExt as _};
use memory::{MOST_PEERS, MOST_TORRENTS, NAME, build};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

/// A torrent that the plugin serves, and the engine's ends of its channels.
struct Served {
    found: FoundStream,
    events: mpsc::Sender<SwarmEvent>,
    progress: watch::Sender<Progress>,
}

fn info(torrent: u64) -> SwarmInfo {
    SwarmInfo::new(Magnet::parse(&format!("magnet:?xt=urn:btih:{torrent:040x}")).unwrap().info_hashes)
}

async fn serve(plugin: &Arc<dyn Discovery>, torrent: u64) -> Served {
    let (events, received) = mpsc::channel(1024);
    let (progress, watched) = watch::channel(Progress { wanted: 50, ..Progress::default() });
    let me = Me { peer_id: PeerId([1; 20]), port: 6881, key: 1 };
    let swarm = Swarm { info: info(torrent), me, progress: watched, events: received, gossip: None };
    Served { found: plugin.discover(swarm).await.unwrap(), events, progress }
}

/// The peer of this number, of whom each has an address of its own.
fn peer(number: u32) -> SocketAddr {
    ([192, 0, 2 + (number >> 8) as u8, number as u8], 6881).into()
}

fn plugin(means: &Means) -> Arc<dyn Discovery> {
    build(means, &Settings::default()).unwrap()
}

impl Served {
    /// The plugin hears of this, without finding anybody.
    async fn hears(&mut self, addr: SocketAddr, fate: PeerFate) {
        self.events.send(SwarmEvent::Outcome(PeerOutcome { addr, fate })).await.unwrap();
        assert!(self.found.next().now_or_never().is_none(), "it names nobody");
    }

    /// Whom it names at once.
    fn named(&mut self) -> Vec<SocketAddr> {
        match self.found.next().now_or_never() {
            Some(Some(Ok(Found::Peers(peers)))) => peers.iter().map(|peer| peer.addr).collect(),
            None => Vec::new(),
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// Whom another life of the plugin names at once.
async fn recalled(means: &Means, torrent: u64) -> Vec<SocketAddr> {
    serve(&plugin(means), torrent).await.named()
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    let options = conformance::Options { settle: Duration::from_secs(60), within: Duration::from_secs(3) };
    let means = conformance::island();
    // The kit's first torrent, so that there is something to name.
    let page = format!("memory 1\n{} 192.0.2.1:6881,9,0 192.0.2.2:6881,8,2\nend\n", "01".repeat(20));
    means.notebook.write(NAME, page.as_bytes()).unwrap();
    let report = conformance::check(|| build(&means, &Settings::default()), &options).await;
    assert!(report.passed(), "{report:#?}");
    assert!(plugin(&means).serves(&info(1)) && !plugin(&means).serves(&SwarmInfo { private: true, ..info(1) }));
    assert!(build(&means, &Settings([("peers".into(), "x".into())].into())).is_err(), "it has no settings");
}

#[tokio::test(start_paused = true)]
async fn who_gave_most_is_named_first_and_a_few_at_a_time() {
    let means = conformance::island();
    let first = plugin(&means);
    let mut served = serve(&first, 1).await;
    for number in 1..=7 {
        served.hears(peer(number), PeerFate::Gave(u64::from(number))).await;
    }
    served.hears(peer(8), PeerFate::Handshaken).await;
    first.close(Duration::ZERO).await;
    assert_eq!(recalled(&means, 2).await, [], "another torrent");

    let mut served = serve(&plugin(&means), 1).await;
    served.progress.send_modify(|progress| progress.wanted = 0);
    assert_eq!(served.named(), [], "it rests");
    served.progress.send_modify(|progress| progress.wanted = 3);
    assert_eq!(served.named(), [7, 6, 5, 4, 3].map(peer));
    assert_eq!(served.named(), []);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(served.named(), [2, 1].map(peer));
    sleep(Duration::from_secs(1000)).await;
    assert_eq!(served.named(), [], "each is named once");
    drop(served.progress);
    assert!(served.found.next().await.is_none(), "the torrent is gone");
}

#[tokio::test(start_paused = true)]
async fn who_refuses_again_and_again_is_forgotten() {
    let means = conformance::island();
    let first = plugin(&means);
    let mut served = serve(&first, 1).await;
    for number in 1..=3 {
        served.hears(peer(number), PeerFate::Gave(1000)).await;
    }
    for fate in [PeerFate::Refused, PeerFate::Refused, PeerFate::Handshaken, PeerFate::Refused, PeerFate::Refused] {
        served.hears(peer(1), fate).await;
    }
    served.hears(peer(3), PeerFate::Banned).await;
    first.close(Duration::ZERO).await;
    assert_eq!(recalled(&means, 1).await, [2, 1].map(peer), "who refused is named last");
    served.hears(peer(1), PeerFate::Refused).await;
    first.close(Duration::ZERO).await;
    assert_eq!(recalled(&means, 1).await, [peer(2)]);
    served.hears(peer(2), PeerFate::Banned).await;
    first.close(Duration::ZERO).await;
    assert_eq!(means.notebook.read(NAME).unwrap().unwrap(), b"memory 1\nend\n");
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_loses_the_last_seconds_only() {
    let means = conformance::island();
    let first = plugin(&means);
    let mut served = serve(&first, 1).await;
    tokio::select! {
        () = first.run() => {}
        () = async {
            sleep(Duration::from_millis(1)).await;
            assert_eq!(means.notebook.read(NAME).unwrap(), None, "nothing has changed");
            for number in 1..=2 {
                served.hears(peer(number), PeerFate::Gave(1)).await;
                sleep(Duration::from_millis(1)).await;
                assert_eq!(recalled(&means, 1).await, [peer(1)], "the first at once, the next not so soon");
            }
            sleep(Duration::from_secs(5)).await;
            assert_eq!(recalled(&means, 1).await.len(), 2);
        } => {}
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_bounded_and_fits_on_a_page() {
    let means = conformance::island();
    let first = plugin(&means);
    let (torrents, peers) = (MOST_TORRENTS as u64 + 1, MOST_PEERS as u16 + 1);
    for torrent in 1..=torrents {
        let mut served = serve(&first, torrent).await;
        for port in 10_000..10_000 + peers {
            let long = format!("[1111:2222:3333:4444:5555:6666:7777:8888]:{port}").parse().unwrap();
            served.hears(long, PeerFate::Gave(u64::MAX - u64::from(port))).await;
        }
    }
    first.close(Duration::ZERO).await;
    let page = String::from_utf8(means.notebook.read(NAME).unwrap().unwrap()).unwrap();
    assert!(page.len() < LARGEST_PAGE / 2, "{}", page.len());
    assert_eq!((page.lines().count(), page.matches('[').count()), (MOST_TORRENTS + 2, MOST_TORRENTS * MOST_PEERS));
    assert_eq!(recalled(&means, 1).await, [], "the oldest is forgotten");
    assert_eq!(recalled(&means, torrents).await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_page_is_thrown_away() {
    let means = conformance::island();
    let hash = format!("{:040x}", 1);
    let line = format!("{hash} 192.0.2.1:6881,9,0\n");
    let good = format!("memory 1\n{line}end\n");
    means.notebook.write(NAME, good.as_bytes()).unwrap();
    assert_eq!(recalled(&means, 1).await, [peer(1)]);
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|length| good.as_bytes()[..length].to_vec()).collect();
    for (part, other) in [
        ("memory 1", "memory 2"),
        ("192.0.2.1", "0.0.0.0"),
        ("6881", "0"),
        ("6881", "68810"),
        (",9", ",-9"),
        (",9", ",99999999999999999999"),
        (",0\n", ",3\n"),
        (",0\n", ",0,0\n"),
        (",0\n", ",0  \n"),
        (",0\n", ",0\n\n"),
        ("00001 ", "0000g "),
        ("00001 ", "0000 "),
    ] {
        damaged.push(good.replacen(part, other, 1).into_bytes());
    }
    damaged.push(good.replace(&line, &line.repeat(MOST_TORRENTS + 1)).into_bytes());
    damaged.push(good.replace(",9,0", &",9,0 192.0.2.1:6881".repeat(MOST_PEERS + 1)).into_bytes());
    damaged.push(good.replace(",9,0", &format!(",9,0{}", " 192.0.2.1:6881,9,0".repeat(MOST_PEERS))).into_bytes());
    damaged.extend([b"\xff\xfe".to_vec(), vec![0; 1000]]);
    for page in damaged {
        means.notebook.write(NAME, &page).unwrap();
        assert_eq!(recalled(&means, 1).await, [], "{:?}", String::from_utf8_lossy(&page));
        plugin(&means).close(Duration::ZERO).await;
        assert_eq!(means.notebook.read(NAME).unwrap().unwrap(), page, "there is nothing to write");
    }
    // And it begins anew.
    let next = plugin(&means);
    serve(&next, 1).await.hears(peer(1), PeerFate::Gave(9)).await;
    next.close(Duration::ZERO).await;
    assert_eq!(means.notebook.read(NAME).unwrap().unwrap(), good.as_bytes());
}

/// How many are complete in the end, with these plugins.
fn complete(plugins: &str) -> usize {
    let (folder, extra) = (PathBuf::from("."), vec![(NAME, build as _)]);
    let change = |field: &str, value: &str| Change { field: field.to_owned(), value: value.to_owned() };
    let changes = [change("plugins", plugins), change("for", "5m")];
    let text = include_str!("../scenarios/blackout.toml");
    let scenario = Scenario::changed(text, &changes, &folder, &extra).unwrap();
    run(&Plan { name: NAME.to_owned(), scenario: Arc::new(scenario), folder, extra, seed: 1 }).seekers.complete
}

#[test]
fn after_a_blackout_nobody_finds_anybody_without_it_and_everybody_is_complete_with_it() {
    assert_eq!(complete("http-tracker+pex"), 0);
    assert_eq!(complete("http-tracker+pex+memory"), 14);
}
