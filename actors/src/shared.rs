//! What a session's actors share: the seams' implementations and the session-wide budgets and limits.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};

use actix::Recipient;
use castanet_core::{
    PeerId,
    buffers::BufferPool,
    seams::{
        means::{Clock, Means},
        resume::ResumeStore,
        storage::StorageFactory,
        transport::{Swarms, Transport},
        web::Web,
    },
};

use castanet_protocol::portmap::{PortMapping, Report};
use tokio::sync::watch;

use crate::{budget::Budget, disk::DiskPool, messages::torrent::PeerArrived, throttle::Throttle};

/// Rate limits in bytes per second; `None` is unlimited. They count every byte of the streams to and from peers (and of the
/// files of web servers), blocks and messages alike, and nothing below the streams. Trackers and the DHT are not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Download of all connections together.
    pub down: Option<u64>,
    /// Upload of all connections together.
    pub up: Option<u64>,
    /// Download of each connection.
    pub down_per_peer: Option<u64>,
    /// Upload to each connection.
    pub up_per_peer: Option<u64>,
}

/// The session's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that may wait between sockets and disk. 8 MiB keeps two gigabit links busy with a 30 ms disk.
    pub memory: usize,
    /// Bytes of a large read buffer: what a fast sender fills in one wake-up.
    pub read_buffer: usize,
    /// Events of a torrent that wait for a slow observer; it misses older ones. Each takes some 150 bytes, used or not.
    pub most_events: usize,
    /// Open connections of one torrent.
    pub most_connections: usize,
    /// Most peers that a torrent serves at once; 0: it serves nobody. `None`: as many as the line feeds well.
    pub upload_slots: Option<usize>,
    /// The limits of the whole session; a torrent may have its own besides.
    pub limits: Limits,
    /// The local network neither counts towards limits nor waits for them.
    pub exempt_lan: bool,
    /// How often the resume data are saved while pieces arrive.
    pub save_every: Duration,
    /// How routers are asked to let peers in; `None`: they are not.
    pub port_mapping: Option<PortMapping>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory: 8 << 20,
            read_buffer: 128 << 10,
            most_events: 4096,
            most_connections: 200,
            upload_slots: None,
            limits: Limits::default(),
            exempt_lan: false,
            save_every: Duration::from_secs(30),
            port_mapping: None,
        }
    }
}

/// A torrent as connections that come in find it.
#[derive(Debug, Clone)]
pub struct Door {
    /// What we call ourselves there.
    pub peer_id: PeerId,
    /// Whether peers may tell us of DHT nodes there (BEP 5): not if the torrent is private.
    pub dht: bool,
    /// Takes the connection.
    pub arrived: Recipient<PeerArrived>,
}

/// The torrents that connections may ask for, by the 20 bytes of their handshake.
pub type Doors = Arc<RwLock<BTreeMap<[u8; 20], Door>>>;

/// What a session's actors share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The engine's clock.
    pub clock: Clock,
    /// The disk threads.
    pub disk: Arc<DiskPool>,
    /// Opens files.
    pub storage: Arc<dyn StorageFactory>,
    /// Keeps resume data.
    pub resume: Arc<dyn ResumeStore>,
    /// Ways to peers, in order of preference.
    pub transports: Arc<[Arc<dyn Transport>]>,
    /// What plugins get.
    pub means: Means,
    /// Fetches from web seeds.
    pub web: Arc<dyn Web>,
    /// The settings.
    pub config: Config,
    /// Memory for received blocks.
    pub budget: Budget,
    /// Large read buffers.
    pub buffers: BufferPool,
    /// The download limits.
    pub down: Throttle,
    /// The upload limits.
    pub up: Throttle,
    /// Torrents that connections may ask for.
    pub doors: Doors,
    /// The same torrents, for listeners that must know them before.
    pub swarms: Swarms,
    /// Seed of all randomness.
    pub seed: u64,
    /// Where the session listens, once it does.
    pub listening: Arc<RwLock<Vec<SocketAddr>>>,
    /// What the port mapper said last.
    pub port_report: watch::Sender<Option<Report>>,
    /// Why nothing can be reached, while the interface that is never left is gone.
    pub away: Arc<RwLock<Option<Arc<str>>>>,
}

/// What [`Shared::new`] needs from outside.
#[derive(Debug)]
pub struct Parts {
    /// The disk threads.
    pub disk: Arc<DiskPool>,
    /// Opens files.
    pub storage: Arc<dyn StorageFactory>,
    /// Keeps resume data.
    pub resume: Arc<dyn ResumeStore>,
    /// Ways to peers, in order of preference.
    pub transports: Vec<Arc<dyn Transport>>,
    /// What plugins get; holds the clock.
    pub means: Means,
    /// Fetches from web seeds.
    pub web: Arc<dyn Web>,
    /// The settings.
    pub config: Config,
    /// Where the transports look which swarms are served.
    pub swarms: Swarms,
    /// Seed of all randomness.
    pub seed: u64,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts { disk, storage, resume, transports, means, web, config, swarms, seed } = parts;
        let clock = means.clock.clone();
        Self {
            budget: Budget::new(config.memory),
            buffers: BufferPool::new(config.read_buffer, 1 + config.memory / config.read_buffer.max(1)),
            down: Throttle::new(config.limits.down, config.limits.down_per_peer, clock.clone()),
            up: Throttle::new(config.limits.up, config.limits.up_per_peer, clock.clone()),
            doors: Doors::default(),
            listening: means.listening.clone(),
            port_report: watch::Sender::new(None),
            away: Arc::default(),
            transports: transports.into(),
            clock,
            disk,
            storage,
            resume,
            means,
            web,
            config,
            swarms,
            seed,
        }
    }
    /// Where the session listens.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.read().map(|all| all.clone()).unwrap_or_default()
    }
    /// Why nothing can be reached, while that is so.
    pub fn away(&self) -> Option<Arc<str>> {
        self.away.read().ok().and_then(|away| away.clone())
    }
    /// The port where we listen: the first, 0 if there is none.
    pub fn port(&self) -> u16 {
        self.listening().first().map_or(0, SocketAddr::port)
    }
    /// The port that this peer is told: another one if a router stands between us and has opened that for us.
    pub fn port_for(&self, peer: IpAddr) -> u16 {
        self.means.port_for(peer, self.port())
    }
}
