//! The world of the session's tests: a plugin by script, dials that end at the test, a machine that outlives sessions.

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
    Metainfo, PeerId,
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
use castanet_protocol::wire::{Handshake, Reserved};
use castanet_storage::resume::MemoryResumeStore;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::*;
use crate::messages::session::Choose;
use crate::{
    disk::DiskPool,
    messages::{
        session::TorrentSpec,
        torrent::{Happening, Phase, TorrentEvent, TorrentSnapshot},
    },
    shared::{Config, Parts},
    testing::{Disk, Remote, clock, connection, torrent},
};

pub(super) const PIECE: u32 = 64 << 10;

pub(super) fn host(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6881))
}

/// A plugin that finds the same peers for every torrent.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) peers: Mutex<Vec<SocketAddr>>,
    pub(super) panics: AtomicBool,
    pub(super) built: AtomicUsize,
    /// How often it heard that the network has changed.
    pub(super) heard: AtomicUsize,
    /// What leads into the world.
    pub(super) ways: Mutex<WaysOut>,
    /// Where it was listened again.
    pub(super) listened: Mutex<Vec<SocketAddr>>,
    pub(super) is_deaf: AtomicBool,
    pub(super) alive: Arc<()>,
}

#[derive(Debug)]
pub(super) struct Finder(Arc<Script>);

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

pub(super) fn build(_: &Means, _: &Settings) -> Result<Arc<dyn Plugin>, DiscoveryError> {
    let script = SCRIPT.with_borrow(Arc::clone);
    script.built.fetch_add(1, Ordering::Relaxed);
    Ok(Arc::new(Finder(script)))
}

/// Dials end at the test.
#[derive(Debug)]
pub(super) struct Wires(UnboundedSender<(SocketAddr, Remote)>);

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
pub(super) struct Nothing;

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
pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) resume: MemoryResumeStore,
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) data: Arc<Vec<u8>>,
}

/// A session and the test's ends of everything.
pub(super) struct World {
    pub(super) session: Addr<Session>,
    pub(super) shared: Shared,
    pub(super) script: Arc<Script>,
    pub(super) dialled: UnboundedReceiver<(SocketAddr, Remote)>,
    pub(super) inbound: UnboundedSender<Connection>,
}

impl Machine {
    pub(super) fn new(pieces: u64) -> Self {
        let (metainfo, data) = torrent(pieces * u64::from(PIECE), PIECE);
        Self { disk: Disk::default(), resume: MemoryResumeStore::new(), metainfo, data: Arc::new(data) }
    }
    pub(super) fn start(&self, threads: usize, config: Config) -> World {
        self.start_by(threads, config, WaysOut::default())
    }
    pub(super) fn start_by(&self, threads: usize, config: Config, ways: WaysOut) -> World {
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
    pub(super) fn spec(&self) -> TorrentSpec {
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
    pub(super) fn handshake(&self, id: u8) -> Handshake {
        let mut reserved = Reserved::default();
        reserved.0[7] |= 4;
        Handshake { reserved, info_hash: self.metainfo.info_hashes.wire(), peer_id: PeerId([id; 20]) }
    }
    /// Lets a remote be a seed; piece `bad` is spoilt on its way.
    pub(super) fn seed(&self, mut remote: Remote, id: u8, bad: Option<u32>) {
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
    pub(super) fn is_free(&self) -> bool {
        let root = self.metainfo.info.layout("/d".as_ref(), Default::default()).root;
        self.resume.lock(&ResumeKey { info_hashes: self.metainfo.info_hashes, root }).is_ok()
    }
}

impl World {
    pub(super) async fn add(&self, spec: TorrentSpec) -> TorrentAdded {
        self.session.send(AddTorrent(spec)).await.unwrap().unwrap()
    }
    /// A connection from `from`.
    pub(super) fn arrive(&self, from: SocketAddr) -> Remote {
        let (connection, remote) = connection(from, 1 << 20);
        self.inbound.send(connection).unwrap();
        remote
    }
    pub(super) async fn shut_down(&self) {
        self.session.send(Shutdown { within: Duration::from_secs(2) }).await.unwrap();
    }
    /// Nothing of a torrent is left running.
    pub(super) fn assert_empty(&self, machine: &Machine) {
        assert_eq!(self.shared.budget.in_use(), 0);
        assert!(self.shared.doors.read().unwrap().is_empty());
        assert_eq!(Arc::strong_count(&self.script.alive), 1, "a plugin works for a torrent that is gone");
        assert!(machine.is_free(), "the files are still claimed");
    }
}

pub(super) async fn until(added: &mut TorrentAdded, phase: Phase) -> TorrentSnapshot {
    added.state.wait_for(|state| state.phase == phase).await.unwrap().clone()
}

pub(super) fn events(added: &mut TorrentAdded) -> Vec<Happening> {
    std::iter::from_fn(|| added.events.try_recv().ok()).map(|TorrentEvent { what, .. }| what).collect()
}
