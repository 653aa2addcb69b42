//! Thirty plugins in one paused world, and their troubles: no tracker, dead nodes, taken ports, private torrents.

mod sockets;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use castanet_core::{
    InfoHashV1, InfoHashV2, InfoHashes, Moment,
    seams::{
        datagrams::{DatagramFactory, Datagrams, Protocol},
        discovery::{Found, FoundStream, Milestone, Progress, SwarmEvent},
        means::{Clock, Scratchpad},
    },
};
use castanet_transports::{
    memory::{Link, MemoryNet},
    resolver::FixedResolver,
    udp_mux::UdpMux,
};
use futures_util::StreamExt;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::testing::{Engine, Torrent, World};

const PORT: u16 = 6881;

/// Counts what a host sends.
#[derive(Debug)]
struct Counting<T>(T, Arc<AtomicUsize>);

#[async_trait]
impl<T: DatagramFactory> DatagramFactory for Counting<T> {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(Arc::new(Counting(self.0.bind(local).await?, self.1.clone())))
    }
}

#[async_trait]
impl Datagrams for Counting<Arc<dyn Datagrams>> {
    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.send_to(payload, to).await
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buffer).await
    }
}

/// A host with the plugin, which runs until this is dropped.
struct Host {
    plugin: Arc<dyn Discovery>,
    means: Means,
    sent: Arc<AtomicUsize>,
    running: AbortHandle,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.running.abort();
    }
}

struct Net {
    net: MemoryNet,
    names: BTreeMap<String, Vec<IpAddr>>,
    start: Instant,
}

fn ip(n: u8) -> IpAddr {
    [10, 0, n, 1].into()
}

impl Net {
    fn new() -> Self {
        let net = MemoryNet::new(1);
        net.set_default_link(Link { latency: Duration::from_millis(40), ..Link::default() });
        Self { net, names: BTreeMap::new(), start: Instant::now() }
    }

    fn means(&self, ip: IpAddr) -> (Means, Arc<AtomicUsize>) {
        let (start, sent) = (self.start, Arc::new(AtomicUsize::new(0)));
        let means = Means {
            datagrams: Arc::new(UdpMux::new(Arc::new(Counting(self.net.host(ip), sent.clone())))),
            resolver: Arc::new(FixedResolver(self.names.clone())),
            clock: Clock::new(move || Moment::ZERO + start.elapsed()),
            seed: match ip {
                IpAddr::V4(ip) => u64::from(ip.to_bits()),
                IpAddr::V6(ip) => ip.to_bits() as u64,
            },
            listening: Arc::new(vec![SocketAddr::new(ip, PORT)].into()),
            ..World::new().means()
        };
        (means, sent)
    }

    fn host(&self, n: u8, settings: &[(&str, &str)]) -> Host {
        let (means, sent) = self.means(ip(n));
        run(means, sent, settings)
    }

    /// A network of hosts 1 to `count`, each of which begins with the first.
    fn hosts(&self, count: u8) -> Vec<Host> {
        (1..=count).map(|n| self.host(n, &[("bootstrap", "10.0.1.1:6881"), ("always", "true")])).collect()
    }
}

fn run(means: Means, sent: Arc<AtomicUsize>, settings: &[(&str, &str)]) -> Host {
    let settings = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let plugin = build(&means, &Settings(settings)).unwrap();
    let runner = plugin.clone();
    let running = tokio::spawn(async move { runner.run().await }).abort_handle();
    Host { plugin, means, sent, running }
}

impl Host {
    async fn discover(&self, torrent: &Torrent) -> Watched {
        let (swarm, engine) = torrent.swarm();
        Watched { stream: self.plugin.discover(swarm).await.unwrap(), engine, seen: Vec::new() }
    }
    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

/// A torrent's stream and what came out of it.
struct Watched {
    stream: FoundStream,
    engine: Engine,
    seen: Vec<Found>,
}

impl Watched {
    /// Reads until something satisfies `is_it`, for at most so many seconds.
    async fn until(&mut self, seconds: u64, is_it: impl Fn(&Found) -> bool) -> bool {
        let reading = async {
            while let Some(found) = self.stream.next().await {
                let found = found.unwrap();
                self.seen.push(found.clone());
                if is_it(&found) {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(seconds), reading).await.is_ok()
    }
    async fn finds(&mut self, seconds: u64, peer: SocketAddr) -> bool {
        self.until(seconds, |found| matches!(found, Found::Peers(all) if all.iter().any(|one| one.addr == peer))).await
    }
    async fn watch(&mut self, seconds: u64) {
        self.until(seconds, |_| false).await;
    }
    fn peers(&self) -> BTreeSet<SocketAddr> {
        let peers = |found: &Found| if let Found::Peers(peers) = found { peers.clone() } else { Vec::new() };
        self.seen.iter().flat_map(peers).map(|peer| peer.addr).collect()
    }
    fn conditions(&self) -> Vec<&str> {
        let mut conditions = Vec::new();
        for found in &self.seen {
            if let Found::Condition(text) = found {
                conditions.push(text.as_str());
            }
        }
        conditions
    }
    fn reached(&self) -> Vec<Milestone> {
        let milestone = |found: &Found| if let Found::Reached(milestone) = found { Some(*milestone) } else { None };
        self.seen.iter().filter_map(milestone).collect()
    }
}

fn torrent(hash: u8, port: u16) -> Torrent {
    let mut torrent = Torrent::new(&[]);
    torrent.info.info_hashes = InfoHashes::v1(InfoHashV1([hash; 20]));
    torrent.me.port = port;
    torrent
}

#[tokio::test(start_paused = true)]
async fn two_torrents_find_each_other_by_the_dht_alone() {
    let net = Net::new();
    let hosts = net.hosts(30);
    sleep(Duration::from_secs(30)).await;
    let (ours, another) = (torrent(7, PORT), torrent(8, PORT));
    let mut first = hosts[4].discover(&ours).await;
    let mut stranger = hosts[9].discover(&another).await;
    first.watch(5).await;
    let mut second = hosts[22].discover(&ours).await;
    assert!(second.finds(2, SocketAddr::new(ip(5), PORT)).await, "{:?}", second.seen);
    assert!(first.finds(60, SocketAddr::new(ip(23), PORT)).await, "it looks again, and the other announced itself");
    second.watch(20).await;
    stranger.watch(60).await;
    assert!(stranger.peers().is_empty(), "{:?}", stranger.seen);

    assert_eq!(second.reached(), [Milestone::NamesResolved, Milestone::Bootstrapped, Milestone::LookedUp]);
    let instances = second.seen.iter().filter_map(|found| match found {
        Found::Peers(peers) => Some(peers[0].instance.to_string()),
        _ => None,
    });
    for instance in instances {
        assert!(instance.starts_with("node 10.0.") && instance.ends_with(":6881"), "{instance}");
    }
    let condition = second.conditions().last().unwrap().to_string();
    assert!(condition.starts_with("has ") && condition.ends_with(" nodes"), "{condition}");
    assert!(second.until(60, |found| matches!(found, Found::Idle { retry_at: Some(_) })).await);
    assert_eq!(hosts[0].plugin.dht_port(), Some(PORT));
}

#[tokio::test(start_paused = true)]
async fn a_private_torrent_causes_not_one_datagram() {
    let net = Net::new();
    let host = net.host(1, &[("bootstrap", "10.0.3.1:6881")]);
    let mut private = torrent(7, PORT);
    private.info.private = true;
    private.info.nodes = vec!["10.0.2.1:6881".to_owned()].into();
    assert!(!host.plugin.serves(&private.info));
    assert!(host.plugin.discover(private.swarm().0).await.is_err());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.sent(), 0);
    // The same torrent, public: so the counter counts.
    private.info.private = false;
    host.discover(&private).await.watch(5).await;
    assert!(host.sent() > 0);
}

#[tokio::test(start_paused = true)]
async fn dead_bootstrap_nodes_and_names_do_not_keep_us_out() {
    let mut net = Net::new();
    net.names.insert("dead.example".into(), vec!["10.9.9.9".parse().unwrap()]);
    net.names.insert("live.example".into(), vec![ip(1), "10.9.9.8".parse().unwrap()]);
    let hosts = net.hosts(5);
    sleep(Duration::from_secs(10)).await;
    let late = net.host(9, &[("bootstrap", "dead.example:6881, gone.example:1, live.example:6881")]);
    let mut watched = late.discover(&torrent(7, PORT)).await;
    assert!(watched.until(3, |found| *found == Found::Reached(Milestone::Bootstrapped)).await, "{:?}", watched.seen);
    // Now the only one is dead at first: it is asked again, later.
    net.net.unplug(ip(1));
    let later = net.host(10, &[("bootstrap", "live.example:6881")]);
    let mut watched = later.discover(&torrent(7, PORT)).await;
    watched.watch(60).await;
    assert_eq!(watched.conditions(), ["has no nodes"]);
    assert!(later.sent() < 100, "politely: {}", later.sent());
    net.net.plug(ip(1));
    assert!(watched.until(120, |found| *found == Found::Reached(Milestone::Bootstrapped)).await);
    watched.watch(1).await;
    assert_ne!(watched.conditions().last(), Some(&"has no nodes"));
    drop(hosts);
}

#[tokio::test(start_paused = true)]
async fn the_nodes_of_last_time_are_enough() {
    let net = Net::new();
    let mut hosts = net.hosts(30);
    sleep(Duration::from_secs(300)).await;
    let last = hosts.pop().unwrap();
    last.plugin.close(Duration::from_secs(1)).await;
    let notebook = last.means.notebook.clone();
    assert!(notebook.read(NAME).unwrap().is_some());
    let mut seed = hosts[3].discover(&torrent(7, PORT)).await;
    seed.watch(5).await;
    drop(last);
    // Even the node that all began with is gone.
    hosts.remove(0);
    net.net.unplug(ip(1));

    let (means, sent) = net.means(ip(30));
    let again = run(Means { notebook, ..means }, sent, &[("bootstrap", "")]);
    let mut watched = again.discover(&torrent(7, PORT)).await;
    assert!(watched.finds(10, SocketAddr::new(ip(4), PORT)).await, "{:?}", watched.seen);
    assert!(!watched.reached().contains(&Milestone::NamesResolved), "no name was asked for");
}

#[tokio::test(start_paused = true)]
async fn the_table_is_saved_now_and_then_and_nonsense_is_not_believed() {
    let net = Net::new();
    let hosts = net.hosts(5);
    sleep(Duration::from_secs(90)).await;
    let page = hosts[2].means.notebook.read(NAME).unwrap().expect("it is saved without being closed");
    for nonsense in [&b"nonsense"[..], &page[..page.len() / 2]] {
        let (means, sent) = net.means(ip(50));
        means.notebook.write(NAME, nonsense).unwrap();
        let host = run(means, sent, &[("bootstrap", "10.0.1.1:6881")]);
        let mut watched = host.discover(&torrent(7, PORT)).await;
        assert!(watched.until(5, |found| *found == Found::Reached(Milestone::Bootstrapped)).await);
        host.plugin.close(Duration::from_secs(1)).await;
        assert_ne!(host.means.notebook.read(NAME).unwrap().as_deref(), Some(nonsense));
        drop(host);
        net.net.kill(ip(50));
        tokio::task::yield_now().await;
    }
    // Who knows nobody keeps what there was.
    let (means, sent) = net.means(ip(51));
    means.notebook.write(NAME, b"nonsense").unwrap();
    let host = run(means, sent, &[("bootstrap", "")]);
    sleep(Duration::from_secs(2000)).await;
    host.plugin.close(Duration::from_secs(1)).await;
    assert_eq!(host.means.notebook.read(NAME).unwrap().as_deref(), Some(&b"nonsense"[..]));
}

#[tokio::test(start_paused = true)]
async fn torrents_and_peers_name_nodes_too() {
    let net = Net::new();
    let hosts = net.hosts(10);
    sleep(Duration::from_secs(10)).await;
    let by_torrent = net.host(20, &[("bootstrap", "")]);
    let mut naming = torrent(7, PORT);
    naming.info.nodes = vec!["nonsense".to_owned(), "gone.example:1".to_owned(), "10.0.3.1:6881".to_owned()].into();
    let mut watched = by_torrent.discover(&naming).await;
    assert!(watched.until(5, |found| *found == Found::Reached(Milestone::Bootstrapped)).await, "{:?}", watched.seen);

    let by_peer = net.host(21, &[("bootstrap", "")]);
    let mut watched = by_peer.discover(&torrent(7, PORT)).await;
    watched.watch(60).await;
    assert_eq!(watched.conditions(), ["has no nodes"]);
    by_peer.plugin.hear(&News::DhtNode(SocketAddr::new(ip(3), PORT)));
    assert!(watched.finds(30, SocketAddr::new(ip(20), PORT)).await, "{:?}", watched.seen);
    drop(hosts);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_looked_for_whom_nobody_wants() {
    let net = Net::new();
    let hosts = net.hosts(20);
    sleep(Duration::from_secs(30)).await;
    let mut seed = hosts[4].discover(&torrent(7, PORT)).await;
    seed.watch(5).await;
    // A seed that wants nobody is to be found all the same.
    let mut satisfied = torrent(7, PORT + 1);
    satisfied.progress = Progress { left: Some(0), wanted: 0, ..Progress::default() };
    let mut satisfied = hosts[5].discover(&satisfied).await;
    satisfied.watch(20).await;
    let mut third = hosts[6].discover(&torrent(7, 0)).await;
    assert!(third.finds(5, SocketAddr::new(ip(6), PORT + 1)).await, "{:?}", third.seen);
    assert!(satisfied.peers().is_empty(), "{:?}", satisfied.seen);
    // It comes back before it is forgotten, and only then.
    let before = hosts[5].sent();
    satisfied.watch(600).await;
    let quiet = hosts[5].sent() - before;
    satisfied.engine.progress.send_modify(|progress| progress.wanted = 5);
    assert!(satisfied.finds(100, SocketAddr::new(ip(5), PORT)).await, "it is awake again, after {quiet} datagrams");
    // Who does not listen is not announced.
    third.watch(100).await;
    satisfied.watch(400).await;
    assert!(satisfied.peers().iter().all(|peer| peer.ip() != ip(7)));
}

#[tokio::test(start_paused = true)]
async fn the_size_of_the_swarm_counts_seeds_and_leeches() {
    let net = Net::new();
    let hosts = net.hosts(20);
    sleep(Duration::from_secs(30)).await;
    let mut leech = hosts[4].discover(&torrent(7, PORT)).await;
    leech.watch(5).await;
    let mut other = hosts[5].discover(&torrent(7, PORT)).await;
    other.watch(5).await;
    other.engine.progress.send_modify(|progress| (progress.left, progress.wanted) = (Some(0), 0));
    other.engine.events.send(SwarmEvent::Completed).await.unwrap();
    other.watch(5).await;
    let mut third = hosts[6].discover(&torrent(7, 0)).await;
    assert!(third.until(10, |found| matches!(found, Found::SwarmSize { .. })).await);
    let Some(Found::SwarmSize { instance, size }) = third.seen.last() else { unreachable!() };
    assert_eq!((&**instance, size.seeds, size.leeches), (NAME, 1, 1), "the one that is complete said so at once");
}

#[tokio::test(start_paused = true)]
async fn a_seed_looks_for_those_who_lack_something() {
    let net = Net::new();
    let hosts = net.hosts(10);
    sleep(Duration::from_secs(10)).await;
    let lacks = |left| {
        let mut torrent = torrent(7, PORT);
        torrent.progress.left = Some(left);
        torrent
    };
    let mut seed = hosts[4].discover(&lacks(0)).await;
    seed.watch(5).await;
    let mut leech = hosts[5].discover(&lacks(1)).await;
    leech.watch(5).await;
    let mut other = hosts[6].discover(&lacks(0)).await;
    other.watch(5).await;
    assert_eq!(leech.peers(), [SocketAddr::new(ip(5), PORT)].into());
    assert_eq!(other.peers(), [SocketAddr::new(ip(6), PORT)].into());
}

#[tokio::test(start_paused = true)]
async fn a_hybrid_is_looked_up_under_both_hashes() {
    let net = Net::new();
    let hosts = net.hosts(10);
    sleep(Duration::from_secs(10)).await;
    let (v1, v2) = (InfoHashV1([1; 20]), InfoHashV2([2; 32]));
    let with = |info_hashes, port| {
        let mut torrent = torrent(0, port);
        torrent.info.info_hashes = info_hashes;
        torrent
    };
    let mut old = hosts[1].discover(&with(InfoHashes::v1(v1), 1001)).await;
    let mut new = hosts[2].discover(&with(InfoHashes { v1: None, v2: Some(v2) }, 1002)).await;
    old.watch(5).await;
    new.watch(5).await;
    let mut hybrid = hosts[3].discover(&with(InfoHashes { v1: Some(v1), v2: Some(v2) }, 1003)).await;
    hybrid.watch(5).await;
    let found: Vec<_> = hybrid.peers().iter().map(SocketAddr::port).collect();
    assert!(found.contains(&1001) && found.contains(&1002), "{found:?}");
    assert!(old.finds(30, SocketAddr::new(ip(4), 1003)).await);
    assert!(new.finds(30, SocketAddr::new(ip(4), 1003)).await);
}

#[tokio::test(start_paused = true)]
async fn a_read_only_node_answers_nobody_and_finds_all_the_same() {
    let net = Net::new();
    let hosts = net.hosts(10);
    sleep(Duration::from_secs(10)).await;
    let mut seed = hosts[3].discover(&torrent(7, PORT)).await;
    seed.watch(5).await;
    let shy = net.host(20, &[("bootstrap", "10.0.1.1:6881"), ("read_only", "true")]);
    assert!(shy.discover(&torrent(7, 0)).await.finds(10, SocketAddr::new(ip(4), PORT)).await);
    let mut stranger = net.net.host(ip(30)).bind(SocketAddr::new(ip(30), 1)).await.unwrap();
    let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
    let mut buffer = [0; 500];
    stranger.send_to(ping, SocketAddr::new(ip(4), PORT)).await.unwrap();
    assert!(timeout(Duration::from_secs(1), stranger.recv_from(&mut buffer)).await.is_ok());
    stranger = net.net.host(ip(31)).bind(SocketAddr::new(ip(31), 1)).await.unwrap();
    stranger.send_to(ping, SocketAddr::new(ip(20), PORT)).await.unwrap();
    assert!(timeout(Duration::from_secs(9), stranger.recv_from(&mut buffer)).await.is_err());
}

#[test]
fn settings_are_understood_or_refused() {
    let means = Means { notebook: Arc::new(Scratchpad::default()), ..crate::conformance::island() };
    let build = |key: &str, value: &str| build(&means, &Settings([(key.to_owned(), value.to_owned())].into()));
    assert!(build("bootstrap", "a:1,b:2").is_ok() && build("bootstrap", "").is_ok());
    assert!(build("read_only", "true").is_ok());
    for (key, value, says) in
        [("bootstrap", "a", "HOST:PORT"), ("read_only", "yes", "read_only"), ("port", "1", "no setting port")]
    {
        let error = build(key, value).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
