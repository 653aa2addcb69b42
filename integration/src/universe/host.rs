//! A host: an address, a disk, resume data, and an engine that lives, dies and comes back.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use castanet::{Engine, EngineBuilder, Listen, Torrent, TorrentEvent, TorrentHandle, seams::means::Scratchpad};
use castanet_storage::{memory::MemoryFactory, resume::MemoryResumeStore};
use castanet_transports::{
    memory::{MemoryNet, MemoryTransport},
    resolver::FixedResolver,
};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::{JoinHandle, LocalSet},
    time::timeout,
};

use super::{LAST_BREATH, Log};
use crate::payload::Payload;

/// Where every engine listens.
const PORT: u16 = 6881;
/// Plugins that introduce whom a story did not: off, unless it turns them on (`EngineBuilder::enable_plugin`).
const SILENT: [&str; 3] = ["dht", "lsd", "pex"];
/// The folder of every torrent on its host's disk.
const FOLDER: &str = "/downloads";

/// What is set up before each life of an engine.
type Setup = Box<dyn Fn(EngineBuilder, &MemoryTransport) -> EngineBuilder>;

/// A host, shared by cloning.
#[derive(Clone)]
pub struct Host(Rc<Inner>);

struct Inner {
    net: MemoryNet,
    transport: MemoryTransport,
    seed: u64,
    log: Log,
    setup: Setup,
    disk: MemoryFactory,
    resume: MemoryResumeStore,
    notebook: Arc<Scratchpad>,
    living: RefCell<Option<Living>>,
}

/// An engine that runs.
struct Living {
    engine: Rc<Engine>,
    /// All its tasks: ends when the last of them does. Aborting it is a power cut.
    tasks: JoinHandle<()>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.ip())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.ip())
    }
}

impl Host {
    pub(super) fn new(
        net: MemoryNet,
        transport: MemoryTransport,
        seed: u64,
        log: Log,
        setup: impl Fn(EngineBuilder, &MemoryTransport) -> EngineBuilder + 'static,
    ) -> Self {
        let (disk, resume) = (MemoryFactory::new(), MemoryResumeStore::new());
        let (setup, notebook) = (Box::new(setup), Arc::default());
        let living = RefCell::default();
        Self(Rc::new(Inner { net, transport, seed, log, setup, disk, resume, notebook, living }))
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.0.transport.ip()
    }
    /// Where its engine listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), PORT)
    }
    /// Its disk.
    pub fn disk(&self) -> &MemoryFactory {
        &self.0.disk
    }
    /// Its engine.
    ///
    /// # Panics
    /// If it does not run.
    pub fn engine(&self) -> Rc<Engine> {
        self.0.living.borrow().as_ref().expect("the engine runs").engine.clone()
    }
    /// Bytes a second that it can send; `None` for no limit.
    pub fn set_uplink(&self, bandwidth: Option<u64>) {
        self.0.net.set_uplink(self.ip(), bandwidth);
    }

    /// Starts the engine, or starts it again on what the last one left on disk.
    pub async fn start(&self) {
        let Inner { transport, seed, setup, disk, resume, notebook, .. } = &*self.0;
        let builder = Engine::builder()
            .in_place()
            .seed(*seed)
            .listen(Listen::At(vec![self.addr()]))
            .transports(vec![Arc::new(transport.clone())])
            .datagrams(Arc::new(transport.clone()))
            .resolver(Arc::new(FixedResolver(BTreeMap::new())))
            .storage(Arc::new(disk.clone()))
            .resume(Arc::new(resume.clone()))
            .notebook(notebook.clone())
            .retain_plugins(|name| !SILENT.contains(&name));
        // The tasks of an engine in a set of their own can be counted, and ended together.
        let tasks = LocalSet::new();
        let engine = tasks.run_until(setup(builder, transport).start()).await;
        let engine = Rc::new(engine.expect("an engine without a system beneath has nothing to miss"));
        let living = Living { engine, tasks: actix_rt::spawn(tasks) };
        assert!(self.0.living.borrow_mut().replace(living).is_none(), "{self} has one engine only");
    }

    /// Ends the engine as a power cut does: at once and unsaved.
    pub async fn kill(&self) {
        self.0.net.kill(self.ip());
        let living = self.0.living.take();
        if let Some(living) = living {
            living.tasks.abort();
            let _ = living.tasks.await;
        }
    }

    /// Shuts the engine down in good order. Without one nothing happens.
    ///
    /// # Panics
    /// If a task of the engine outlives it.
    pub async fn shutdown(&self, within: Duration) {
        let living = self.0.living.take();
        let Some(Living { engine, tasks }) = living else { return };
        let engine = Rc::into_inner(engine).expect("nobody else holds the engine now");
        engine.shutdown(within).await;
        assert!(timeout(LAST_BREATH, tasks).await.is_ok(), "tasks of {self} outlive its engine");
    }

    /// Adds a torrent; what happens to it goes to the world's log.
    pub async fn add(&self, torrent: Torrent) -> TorrentHandle {
        let handle = self.engine().add(torrent).await.expect("the torrent can be handled");
        actix_rt::spawn(record(self.0.log.clone(), self.ip(), handle.events()));
        handle
    }

    /// A torrent of this payload in the host's folder.
    pub fn torrent(&self, payload: &Payload) -> Torrent {
        Torrent::new(payload.metainfo.clone(), FOLDER)
    }

    /// Puts the payload on the disk.
    pub fn put(&self, payload: &Payload) {
        for (path, data) in &payload.files {
            self.0.disk.replace(&Path::new(FOLDER).join(path), data);
        }
    }

    /// Puts the payload on the disk and seeds it.
    ///
    /// # Panics
    /// If it does not turn out to be complete.
    pub async fn seed(&self, payload: &Payload) -> TorrentHandle {
        self.put(payload);
        let mut handle = self.add(self.torrent(payload)).await;
        handle.completed().await.expect("a complete payload is seeded");
        handle
    }

    /// Downloads the payload from these hosts and whoever comes.
    pub async fn leech(&self, payload: &Payload, peers: &[Host]) -> TorrentHandle {
        let others = peers.iter().filter(|peer| peer.ip() != self.ip());
        self.add(self.torrent(payload).peers(others.map(|peer| peer.addr().to_string()))).await
    }

    /// The first file of the payload that is not on disk as it should be.
    pub fn difference(&self, payload: &Payload) -> Option<String> {
        let is_there = |path: &str| self.0.disk.contents(&Path::new(FOLDER).join(path));
        payload.files.iter().find(|(path, data)| is_there(path).as_ref() != Some(data)).map(|(path, _)| path.clone())
    }

    /// Does its engine run?
    pub fn is_up(&self) -> bool {
        self.0.living.borrow().is_some()
    }

    /// Lets every torrent rest.
    pub(super) async fn rest(&self) {
        if !self.is_up() {
            return;
        }
        let engine = self.engine();
        for torrent in engine.state().await.map(|state| state.torrents).unwrap_or_default() {
            engine.pause(torrent).await;
        }
    }

    /// Is no memory held now that every torrent rests?
    pub(super) async fn check_memory(&self) {
        if !self.is_up() {
            return;
        }
        let held = self.engine().state().await.map_or(0, |state| state.blocks_in_memory);
        assert_eq!(held, 0, "{self} holds blocks in memory though every torrent rests");
    }
}

/// Writes down what happens in a torrent until it ends.
async fn record(log: Log, ip: IpAddr, mut events: Receiver<TorrentEvent>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                let line = format!("{ip} {:.9} torrent {}: {:?}", event.at.as_secs_f64(), event.torrent, event.what);
                log.borrow_mut().push(line);
            }
            Err(RecvError::Lagged(events)) => log.borrow_mut().push(format!("{ip} {events} events missed")),
            Err(RecvError::Closed) => return,
        }
    }
}
