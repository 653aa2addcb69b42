//! The engine: a session of actors in a thread of its own.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use actix::{Actor as _, Addr};
use castanet_actors::{
    disk::DiskPool,
    messages::session::{
        AddError, AddTorrent, GetSession, PauseTorrent, RemoveTorrent, ResumeTorrent, SetLimits, SetPeerLimits,
        Shutdown,
    },
    placement::Placement,
    session::{Listening, Registered, Session},
    shared::{Config, Parts, Shared},
};
use castanet_core::{
    TorrentId,
    seams::{means::Means, resume::ResumeStore},
};
use castanet_protocol::portmap::{PortMapping, Report as PortReport};
use castanet_storage::resume::{FileResumeStore, MemoryResumeStore};
use tokio::sync::{oneshot, watch};

pub use castanet_actors::messages::session::SessionSnapshot as SessionState;

use crate::{
    builder::EngineBuilder,
    torrent::{Torrent, TorrentHandle},
    ways::Ways,
};

/// Why an engine could not do it. The text is for users.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It could not start.
    #[error("{0}")]
    Start(String),
    /// A torrent cannot be added.
    #[error("{0}")]
    Add(#[from] AddError),
    /// Something could not be fetched from the web.
    #[error("{0}")]
    Fetch(String),
    /// It has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// A running engine. Without [`Engine::shutdown`] dropping it ends everything at once, unsaved.
#[derive(Debug)]
pub struct Engine {
    session: Addr<Session>,
    listening: Vec<SocketAddr>,
    port_report: watch::Receiver<Option<PortReport>>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Engine {
    /// Describes a new engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    pub(crate) async fn start(builder: EngineBuilder) -> Result<Self, Error> {
        if builder.in_place {
            let (session, listening, port_report) = open(builder).await?;
            return Ok(Self { session, listening, port_report, thread: None });
        }
        let (started, start) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            actix_rt::System::new().block_on(async move {
                let opened = open(builder).await;
                let is_up = opened.is_ok();
                if started.send(opened).is_ok() && is_up {
                    let _ = stopped.await;
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("castanet".into())
            .spawn(run)
            .map_err(|error| Error::Start(format!("cannot start a thread: {error}")))?;
        let (session, listening, port_report) = start.await.map_err(|_| Error::Stopped)??;
        Ok(Self { session, listening, port_report, thread: Some((stop, thread)) })
    }

    /// Adds a torrent and starts it.
    ///
    /// # Errors
    /// If it is there already or cannot be handled.
    pub async fn add(&self, torrent: Torrent) -> Result<TorrentHandle, Error> {
        let added = self.session.send(AddTorrent(torrent.0)).await.map_err(|_| Error::Stopped)??;
        Ok(TorrentHandle::new(added))
    }
    /// Closes a torrent's connections; it stays in the engine. `false` if there is none such.
    pub async fn pause(&self, torrent: TorrentId) -> bool {
        self.session.send(PauseTorrent(torrent)).await.unwrap_or(false)
    }
    /// Lets a paused torrent go on. `false` if there is none such.
    pub async fn resume(&self, torrent: TorrentId) -> bool {
        self.session.send(ResumeTorrent(torrent)).await.unwrap_or(false)
    }
    /// Stops a torrent, saves, and forgets it; its files stay. `false` if there is none such.
    pub async fn remove(&self, torrent: TorrentId) -> bool {
        self.session.send(RemoveTorrent(torrent)).await.unwrap_or(false)
    }
    /// Changes the limits of all torrents together, bytes per second. They hold at once.
    pub async fn set_limits(&self, down: Option<u64>, up: Option<u64>) {
        let _ = self.session.send(SetLimits { down, up }).await;
    }
    /// Changes the limits of each connection to a peer, bytes per second. They hold at once.
    pub async fn set_peer_limits(&self, down: Option<u64>, up: Option<u64>) {
        let _ = self.session.send(SetPeerLimits { down, up }).await;
    }
    /// Where it listens for peers.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
    /// What becomes of asking the router to let peers in: `None` while nothing is known, or where nobody is asked.
    pub fn port_reports(&self) -> watch::Receiver<Option<PortReport>> {
        self.port_report.clone()
    }
    /// The state of the whole session; `None` if it has stopped.
    pub async fn state(&self) -> Option<SessionState> {
        self.session.send(GetSession).await.ok()
    }
    /// Says good-bye to trackers (for at most `within`), saves everything and ends.
    pub async fn shutdown(mut self, within: Duration) {
        let _ = self.session.send(Shutdown { within }).await;
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            // The thread has nothing left to wait for; joining makes sure that its disk jobs are through.
            let _ = thread.join();
        }
    }
}

/// What an engine is made of.
type Opened = (Addr<Session>, Vec<SocketAddr>, watch::Receiver<Option<PortReport>>);

/// Is this plugin well set up? A panic is the session's to deal with, as all of a plugin's are.
fn try_out(Registered { build, settings, .. }: &Registered, means: &Means) -> Result<(), Error> {
    match catch_unwind(AssertUnwindSafe(|| build(means, settings))) {
        Ok(Err(error)) => Err(Error::Start(error.to_string())),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

async fn open(builder: EngineBuilder) -> Result<Opened, Error> {
    let start = |reason: String| Error::Start(reason);
    let Ways { transports, means, swarms } = Ways::of(&builder)?;
    let resume: Arc<dyn ResumeStore> = match (builder.resume, builder.state_folder) {
        (Some(resume), _) => resume,
        (None, Some(folder)) => Arc::new(FileResumeStore::new(folder.join("resume"))),
        (None, None) => Arc::new(MemoryResumeStore::new()),
    };
    for plugin in &builder.plugins {
        try_out(plugin, &means)?;
    }
    let mut opened = Err(String::new());
    for addrs in builder.listen.attempts() {
        opened = Listening::open(&transports, &addrs).await;
        if opened.is_ok() {
            break;
        }
    }
    let opened = opened.map_err(start)?;
    let disk = DiskPool::new(builder.disk_threads, builder.hasher)
        .map_err(|error| start(format!("cannot start the disk threads: {error}")))?;
    let seed = means.seed;
    let placement = if builder.in_place { Placement::here() } else { Placement::threads(builder.torrent_threads) };
    // In a network of one's own nobody is there to be asked.
    let default = || builder.transports.is_none().then(PortMapping::default);
    let port_mapping = builder.port_mapping.clone().unwrap_or_else(default);
    let shared = Shared::new(Parts {
        web: castanet_plugins::web::build(&means),
        disk: Arc::new(disk),
        storage: builder.storage,
        resume,
        transports,
        means,
        config: Config { port_mapping, ..builder.config },
        swarms,
        seed,
    });
    let listening = opened.addresses();
    let port_reports = shared.port_report.subscribe();
    let session = Session::new(shared, placement, opened, builder.plugins).start();
    Ok((session, listening, port_reports))
}
