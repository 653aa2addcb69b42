//! Tests of the session and its torrents, whole, against remotes that the test plays.

mod crash;
mod mapping;
mod network;

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use castanet_core::{
    Metainfo, PeerId, PieceIndex,
    seams::{
        datagrams::{DatagramFactory, Datagrams},
        discovery::{Discovery as Plugin, Found, FoundStream, News, PeerCandidate, Swarm, SwarmInfo},
        hasher::SoftwareHasher,
        means::{Means, Resolve, ResolveError, Scratchpad},
        resume::{ResumeKey, ResumeStore},
        transport::{Connection, DialOptions, Listener, Transport, TransportError},
        web::{Web, WebError},
    },
};
use castanet_protocol::wire::{Handshake, Message as Wire, Reserved};
use castanet_storage::resume::MemoryResumeStore;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::messages::session::Choose;
use crate::{
    disk::DiskPool,
    messages::{
        session::TorrentSpec,
        torrent::{Happening, Phase, TorrentEvent, TorrentSnapshot},
    },
    shared::{Config, Limits, Parts},
    testing::{Disk, Mood, Remote, clock, connection, settle, torrent},
};

const PIECE: u32 = 64 << 10;

fn host(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6881))
}

/// A plugin that finds the same peers for every torrent.
#[derive(Debug, Default)]
struct Script {
    peers: Mutex<Vec<SocketAddr>>,
    panics: AtomicBool,
    built: AtomicUsize,
    /// How often it heard that the network has changed.
    heard: AtomicUsize,
    /// What leads into the world.
    ways: Mutex<WaysOut>,
    /// Where it was listened again.
    listened: Mutex<Vec<SocketAddr>>,
    is_deaf: AtomicBool,
    alive: Arc<()>,
}

#[derive(Debug)]
struct Finder(Arc<Script>);

#[async_trait]
impl Plugin for Finder {
    fn name(&self) -> PluginName {
        "script".into()
    }
    fn serves(&self, _: &SwarmInfo) -> bool {
        true
    }
    fn hear(&self, _: &News) {
        self.0.heard.fetch_add(1, Ordering::Relaxed);
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        assert!(!self.0.panics.load(Ordering::Relaxed), "as the test wants it");
        let candidate = |addr: &SocketAddr| PeerCandidate { addr: *addr, peer_id: None, instance: "it".into() };
        let peers = self.0.peers.lock().unwrap().iter().map(candidate).collect();
        let held = (swarm, self.0.alive.clone());
        let rest = stream::poll_fn(move |_| {
            let _ = &held;
            std::task::Poll::Pending
        });
        Ok(Box::pin(stream::iter([Ok(Found::Peers(peers))]).chain(rest)))
    }
}

thread_local! {
    static SCRIPT: RefCell<Arc<Script>> = RefCell::default();
}

fn build(_: &Means, _: &Settings) -> Result<Arc<dyn Plugin>, DiscoveryError> {
    let script = SCRIPT.with_borrow(Arc::clone);
    script.built.fetch_add(1, Ordering::Relaxed);
    Ok(Arc::new(Finder(script)))
}

/// Dials end at the test.
#[derive(Debug)]
struct Wires(UnboundedSender<(SocketAddr, Remote)>);

#[async_trait]
impl Transport for Wires {
    fn name(&self) -> &'static str {
        "wires"
    }
    fn includes(&self, name: &str) -> bool {
        name == self.name()
    }
    async fn dial(&self, to: SocketAddr, _: DialOptions) -> Result<Connection, TransportError> {
        let (connection, remote) = connection(to, 1 << 20);
        self.0.send((to, remote)).map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
        Ok(connection)
    }
    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let script = SCRIPT.with_borrow(Arc::clone);
        if script.is_deaf.load(Ordering::Relaxed) {
            return Err(std::io::Error::from(std::io::ErrorKind::AddrInUse).into());
        }
        script.listened.lock().unwrap().push(on);
        Ok(Listener { local: on, incoming: Box::pin(stream::pending()) })
    }
}

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl DatagramFactory for Nothing {
    async fn bind(&self, _: SocketAddr) -> std::io::Result<Arc<dyn Datagrams>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn ways_out(&self) -> WaysOut {
        SCRIPT.with_borrow(|script| script.ways.lock().unwrap().clone())
    }
}
#[async_trait]
impl Web for Nothing {
    async fn get(&self, _: &str, _: std::ops::Range<u64>) -> Result<bytes::Bytes, WebError> {
        Err(WebError::Useless("there is no web".into()))
    }
}
#[async_trait]
impl Resolve for Nothing {
    async fn resolve(&self, host: &str) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        Err(ResolveError { host: host.into(), reason: "there are no names".into() })
    }
}

/// What outlives a session.
#[derive(Clone)]
struct Machine {
    disk: Disk,
    resume: MemoryResumeStore,
    metainfo: Arc<Metainfo>,
    data: Arc<Vec<u8>>,
}

/// A session and the test's ends of everything.
struct World {
    session: Addr<Session>,
    shared: Shared,
    script: Arc<Script>,
    dialled: UnboundedReceiver<(SocketAddr, Remote)>,
    inbound: UnboundedSender<Connection>,
}

impl Machine {
    fn new(pieces: u64) -> Self {
        let (metainfo, data) = torrent(pieces * u64::from(PIECE), PIECE);
        Self { disk: Disk::default(), resume: MemoryResumeStore::new(), metainfo, data: Arc::new(data) }
    }
    fn start(&self, threads: usize, config: Config) -> World {
        self.start_by(threads, config, WaysOut::default())
    }
    fn start_by(&self, threads: usize, config: Config, ways: WaysOut) -> World {
        let script = Arc::new(Script { ways: Mutex::new(ways), ..Script::default() });
        SCRIPT.set(script.clone());
        let (dials, dialled) = unbounded_channel();
        let transport: Arc<dyn Transport> = Arc::new(Wires(dials));
        let means = Means {
            datagrams: Arc::new(Nothing),
            dialer: transport.clone(),
            resolver: Arc::new(Nothing),
            clock: clock(),
            seed: 1,
            bind: Vec::new(),
            listening: Arc::default(),
            mapped: Arc::default(),
            notebook: Arc::new(Scratchpad::default()),
            user_agent: "test".into(),
        };
        let shared = Shared::new(Parts {
            web: Arc::new(Nothing),
            disk: Arc::new(DiskPool::new(threads, Arc::new(SoftwareHasher)).unwrap()),
            storage: Arc::new(self.disk.clone()),
            resume: Arc::new(self.resume.clone()),
            transports: vec![transport.clone()],
            means,
            config,
            swarms: Default::default(),
            seed: 1,
        });
        let (inbound, mut arriving) = unbounded_channel();
        let incoming = stream::poll_fn(move |cx| arriving.poll_recv(cx).map(|next| next.map(Ok)));
        let listener = Listener { local: host(1), incoming: Box::pin(incoming) };
        let plugin = Registered { name: "script".into(), build, settings: Settings::default() };
        let session = Session::new(shared.clone(), Placement::here(), vec![listener].into(), vec![plugin]).start();
        World { session, shared, script, dialled, inbound }
    }
    fn spec(&self) -> TorrentSpec {
        TorrentSpec {
            source: Source::File(self.metainfo.clone()),
            folder: "/d".into(),
            allocation: Default::default(),
            sequential: false,
            choose: Choose::everything(),
            peers: Vec::new(),
            trackers: Vec::new(),
            allow: None,
            limits: Default::default(),
            recheck: false,
            check_only: false,
            seed_only: false,
            discover_only: false,
        }
    }
    fn handshake(&self, id: u8) -> Handshake {
        let mut reserved = Reserved::default();
        reserved.0[7] |= 4;
        Handshake { reserved, info_hash: self.metainfo.info_hashes.wire(), peer_id: PeerId([id; 20]) }
    }
    /// Lets a remote be a seed; piece `bad` is spoilt on its way.
    fn seed(&self, mut remote: Remote, id: u8, bad: Option<u32>) {
        let (handshake, data) = (self.handshake(id), self.data.clone());
        actix_rt::spawn(async move {
            if remote.shake(handshake).await.is_some() {
                remote
                    .serve(data, PIECE.into(), move |piece, bytes| {
                        if Some(piece) == bad {
                            bytes[0] ^= 1;
                        }
                    })
                    .await;
            }
        });
    }
    fn is_free(&self) -> bool {
        let root = self.metainfo.info.layout("/d".as_ref(), Default::default()).root;
        self.resume.lock(&ResumeKey { info_hashes: self.metainfo.info_hashes, root }).is_ok()
    }
}

impl World {
    async fn add(&self, spec: TorrentSpec) -> TorrentAdded {
        self.session.send(AddTorrent(spec)).await.unwrap().unwrap()
    }
    /// A connection from `from`.
    fn arrive(&self, from: SocketAddr) -> Remote {
        let (connection, remote) = connection(from, 1 << 20);
        self.inbound.send(connection).unwrap();
        remote
    }
    async fn shut_down(&self) {
        self.session.send(Shutdown { within: Duration::from_secs(2) }).await.unwrap();
    }
    /// Nothing of a torrent is left running.
    fn assert_empty(&self, machine: &Machine) {
        assert_eq!(self.shared.budget.in_use(), 0);
        assert!(self.shared.doors.read().unwrap().is_empty());
        assert_eq!(Arc::strong_count(&self.script.alive), 1, "a plugin works for a torrent that is gone");
        assert!(machine.is_free(), "the files are still claimed");
    }
}

async fn until(added: &mut TorrentAdded, phase: Phase) -> TorrentSnapshot {
    added.state.wait_for(|state| state.phase == phase).await.unwrap().clone()
}

fn events(added: &mut TorrentAdded) -> Vec<Happening> {
    std::iter::from_fn(|| added.events.try_recv().ok()).map(|TorrentEvent { what, .. }| what).collect()
}

#[actix::test]
async fn a_torrent_is_fetched_saved_and_believed_after_a_restart() {
    tokio::time::pause();
    let machine = Machine::new(40);
    let mut world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    let (to, remote) = world.dialled.recv().await.unwrap();
    assert_eq!(to, host(9));
    machine.seed(remote, 9, None);
    // A second peer, with nothing, is told of all pieces.
    let mut leech = world.arrive(host(8));
    leech.shake(machine.handshake(8)).await.unwrap();
    leech.send(Wire::HaveNone).await;
    let state = until(&mut added, Phase::Seeding).await;
    assert_eq!((state.left, state.have), (0, 40));
    assert_eq!(machine.disk.memory.contents("/d/file".as_ref()).unwrap(), *machine.data);
    let mut told = 0;
    while told < 40 {
        match leech.next().await.unwrap() {
            Wire::Have(_) => told += 1,
            Wire::HaveAll => told = 40,
            _ => {}
        }
    }
    world.shut_down().await;
    settle().await;
    assert!(!world.session.connected());
    world.assert_empty(&machine);
    assert!(leech.until(|_| None::<()>).await.is_none(), "connections are closed");

    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Seeding).await;
    let told = events(&mut added);
    assert!(matches!(told[0], Happening::Started { have: 40 }), "{told:?}");
    assert_eq!(added.state.borrow().to_check, 0);
    world.shut_down().await;

    // Someone changes a byte behind our back: everything in that file is read again, one piece is missing.
    let mut bytes = (*machine.data).clone();
    bytes[7] ^= 1;
    machine.disk.memory.replace("/d/file".as_ref(), &bytes);
    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    assert_eq!(until(&mut added, Phase::Downloading).await.have, 39);
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn what_was_fetched_before_a_stop_is_believed_after_it() {
    tokio::time::pause();
    let machine = Machine::new(100);
    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    let mut remote = world.arrive(host(9));
    remote.shake(machine.handshake(9)).await.unwrap();
    remote.send(Wire::HaveAll).await;
    remote.send(Wire::Unchoke).await;
    // The remote gives two whole pieces, and one more block at the very moment of the end.
    for n in 0..9 {
        let block = remote.until(|message| if let Wire::Request(block) = message { Some(block) } else { None }).await;
        let block = block.unwrap();
        let at = (block.piece.0 * PIECE + block.begin) as usize;
        let data = machine.data[at..at + block.length as usize].to_vec().into();
        if n == 8 {
            added.state.wait_for(|state| state.have == 2).await.unwrap();
        }
        remote.send(Wire::Piece { block, data }).await;
    }
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    assert_eq!(until(&mut added, Phase::Downloading).await.have, 2);
    let record = machine.resume.load(&ResumeKey {
        info_hashes: machine.metainfo.info_hashes,
        root: machine.metainfo.info.layout("/d".as_ref(), Default::default()).root,
    });
    let layout = machine.metainfo.info.layout("/d".as_ref(), Default::default());
    let storage = castanet_core::seams::storage::StorageFactory::open(&machine.disk, &layout).unwrap();
    let vouched = castanet_core::seams::resume::vouched(
        &record.unwrap().unwrap(),
        &storage.stamps().unwrap(),
        &layout,
        &machine.metainfo.info.geometry(),
    );
    assert_eq!(vouched.count(), 2, "nothing was written after the files were stamped");
    world.shut_down().await;
}

#[actix::test]
async fn who_alone_gave_a_bad_piece_is_banned() {
    tokio::time::pause();
    let machine = Machine::new(10);
    let mut world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    machine.seed(world.dialled.recv().await.unwrap().1, 9, Some(3));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let told = events(&mut added);
    let rejected = |what: &&Happening| matches!(what, Happening::PieceRejected(PieceIndex(3)));
    assert_eq!(told.iter().filter(rejected).count(), 1);
    let text = "does not match";
    assert!(told.iter().any(|what| matches!(what, Happening::PeerLost { reason, .. } if reason.contains(text))));
    assert!(world.dialled.try_recv().is_err(), "it is not dialled again");
    let mut again = world.arrive(host(9));
    let _ = again.shake(machine.handshake(9)).await;
    assert!(again.until(|_| None::<()>).await.is_none(), "nor is it let in");
    // Others are.
    machine.seed(world.arrive(host(10)), 10, None);
    let state = until(&mut added, Phase::Seeding).await;
    assert!(state.wasted >= PIECE.into());
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn a_disk_that_refuses_fails_the_torrent_and_not_the_session() {
    tokio::time::pause();
    let machine = Machine::new(40);
    let mut world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    machine.disk.set(Mood::Refusing);
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    let failed = |state: &TorrentSnapshot| matches!(&state.phase, Phase::Failed(why) if why.contains("disk is full"));
    added.state.wait_for(failed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((added.state.borrow().peers, world.shared.budget.in_use()), (0, 0));
    assert_eq!(Arc::strong_count(&world.script.alive), 1, "nobody looks for peers of a failed torrent");
    assert!(failed(&added.state.borrow()));
    assert_eq!(world.session.send(GetSession).await.unwrap().torrents, [added.torrent]);
    assert!(matches!(world.session.send(AddTorrent(machine.spec())).await.unwrap(), Err(AddError::Duplicate)));
    assert!(world.session.send(RemoveTorrent(added.torrent)).await.unwrap());
    machine.disk.set(Mood::Well);
    // It can be added again at once.
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn a_plugin_that_panics_is_made_anew_and_put_to_work_again() {
    tokio::time::pause();
    let machine = Machine::new(2);
    let mut world = machine.start(0, Config::default());
    world.script.panics.store(true, Ordering::Relaxed);
    let mut added = world.add(machine.spec()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let built = world.script.built.load(Ordering::Relaxed);
    assert!((3..8).contains(&built), "pauses grow: {built}");
    world.script.panics.store(false, Ordering::Relaxed);
    world.script.peers.lock().unwrap().push(host(9));
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    until(&mut added, Phase::Seeding).await;
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn a_disk_that_hangs_does_not_hold_up_the_end() {
    tokio::time::pause();
    let machine = Machine::new(2);
    let world = machine.start(1, Config::default());
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    machine.disk.set(Mood::Hanging);
    world.shut_down().await;
    settle().await;
    assert!(!world.session.connected());
    machine.disk.set(Mood::Well);
}

#[actix::test]
async fn a_torrent_may_be_stopped_at_any_moment_of_its_start() {
    tokio::time::pause();
    let machine = Machine::new(300);
    machine.disk.memory.replace("/d/file".as_ref(), &machine.data);
    let world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    for steps in 0..60 {
        let added = world.add(TorrentSpec { recheck: true, ..machine.spec() }).await;
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        assert!(world.session.send(RemoveTorrent(added.torrent)).await.unwrap());
        assert!(!world.session.send(ResumeTorrent(added.torrent)).await.unwrap());
        settle().await;
        world.assert_empty(&machine);
        assert_eq!(added.state.borrow().phase, Phase::Paused, "it went on after {steps} steps");
    }
    world.shut_down().await;
}

#[actix::test]
async fn a_pause_closes_everything_and_may_end() {
    tokio::time::pause();
    let machine = Machine::new(20);
    let mut world =
        machine.start(0, Config { limits: Limits { down: Some(1 << 18), ..Limits::default() }, ..Config::default() });
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    machine.seed(world.arrive(host(9)), 9, None);
    added.state.wait_for(|state| state.have >= 2).await.unwrap();
    assert!(world.session.send(PauseTorrent(added.torrent)).await.unwrap());
    until(&mut added, Phase::Paused).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((added.state.borrow().peers, world.shared.budget.in_use()), (0, 0));
    assert!(world.shared.doors.read().unwrap().is_empty() && !machine.is_free());
    let mut refused = world.arrive(host(9));
    assert!(refused.shake(machine.handshake(9)).await.is_none());
    world.script.peers.lock().unwrap().push(host(9));
    assert!(world.session.send(ResumeTorrent(added.torrent)).await.unwrap());
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    until(&mut added, Phase::Seeding).await;
    assert_eq!(machine.disk.memory.contents("/d/file".as_ref()).unwrap(), *machine.data);
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}
