//! A small tracker, for the demo, the tests and the lab: HTTP with `announce` and `scrape` (BEP 3, 7, 23, 24, 48) and UDP
//! (BEP 15), on real sockets or in a simulated network. It runs until [`Tracker`] is dropped.
//!
//! It believes the sender's address and nothing else, forgets peers that have not been heard of for two intervals, and
//! holds no more than [`MOST_TORRENTS`] × [`TrackerConfig::most_peers`] of them. What it knows is a machine without a clock
//! (`swarms.rs`); all time is tokio's, and everything drawn is drawn from one seed.

mod http;
mod swarms;
mod udp;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use castanet_core::{
    Moment,
    seams::{
        datagrams::{DatagramFactory, Datagrams},
        transport::{Listener, Transport, TransportError},
    },
};
use castanet_transports::{tcp::Tcp, udp::Udp};
use tokio::{task::JoinSet, time::Instant};

use self::swarms::Swarms;
pub use self::swarms::{Counts, MOST_TORRENTS};

/// How long the head of a request may take to arrive, and how much later than told a peer may come.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Peers given to who does not say how many.
const USUAL_PEERS: u32 = 50;
/// Peers given at most, usually.
const MOST_GIVEN: usize = 200;

/// How a tracker behaves.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// After which time peers should announce again. Ten seconds by default: a demo has no half hour.
    pub interval: Duration,
    /// Before which time they should not. Five seconds by default.
    pub min_interval: Duration,
    /// The most peers of one torrent: 2000 by default. Those who come later are given peers and not given to any.
    pub most_peers: usize,
    /// The most connections at once: 256 by default, since sockets are few. Those of a simulated network are not.
    pub most_connections: usize,
    /// The most peers in an answer, whatever is asked for: 200 by default. More than the 2000 that are believed are never
    /// given.
    pub given: usize,
    /// How long it thinks about each answer: not at all by default. Over UDP that is twice for an announce, as a connection
    /// id has to be asked for before. The announce counts from when it arrives.
    pub answers_after: Duration,
    /// With any number but 0, the default, it lies: every answer has so many addresses out of 198.18.0.0/15, where nobody
    /// is (RFC 2544), and no peers.
    pub made_up: usize,
    /// The reason for which it refuses every announce, if it does.
    pub refuses: Option<String>,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_interval: Duration::from_secs(5),
            most_peers: 2000,
            most_connections: 256,
            given: MOST_GIVEN,
            answers_after: Duration::ZERO,
            made_up: 0,
            refuses: None,
        }
    }
}

/// A running tracker. Dropping it stops it and closes its sockets.
#[derive(Debug)]
pub struct Tracker {
    http: SocketAddr,
    udp: SocketAddr,
    desk: Arc<Desk>,
    _tasks: JoinSet<()>,
}

impl Tracker {
    /// Starts a tracker on real sockets; port 0 finds a free one. An IPv6 address is for IPv6 only.
    pub async fn start(on: SocketAddr) -> io::Result<Self> {
        Self::start_with(on, TrackerConfig::default()).await
    }

    /// Starts a tracker that behaves otherwise.
    pub async fn start_with(on: SocketAddr, config: TrackerConfig) -> io::Result<Self> {
        let (http, datagrams) = bind(on).await?;
        Ok(Self::serve(http, datagrams, config, fastrand::u64(..)))
    }

    /// Serves whoever comes by these, real or simulated: the same seed and the same announces give the same answers.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(http: Listener, datagrams: Arc<dyn Datagrams>, config: TrackerConfig, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut secret = [0; 16];
        random.fill(&mut secret);
        let (tcp, udp) = (http.local, datagrams.local_addr());
        let swarms = Mutex::new(Swarms::new(config.clone(), random));
        let desk = Arc::new(Desk { config, started: Instant::now(), swarms });
        let mut tasks = JoinSet::new();
        tasks.spawn(http::serve(http, desk.clone()));
        tasks.spawn(udp::serve(datagrams, desk.clone(), secret));
        Self { http: tcp, udp, desk, _tasks: tasks }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.http
    }
    /// The announce URL for HTTP.
    pub fn url(&self) -> String {
        format!("http://{}/announce", self.http)
    }
    /// The announce URL for UDP.
    pub fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.udp)
    }
    /// How a torrent is doing.
    pub fn counts(&self, info_hash: [u8; 20]) -> Counts {
        self.desk.with(|swarms, now| swarms.counts(now, info_hash))
    }
}

/// One port for both protocols. With port 0 the one that TCP got may be taken for UDP: then another is tried.
async fn bind(on: SocketAddr) -> io::Result<(Listener, Arc<dyn Datagrams>)> {
    let (tcp, udp) = (Tcp::default(), Udp::default());
    let mut tries = if on.port() == 0 { 16 } else { 1 };
    loop {
        let http = tcp.listen(on).await.map_err(|error| match error {
            TransportError::Io(error) => error,
            error => io::Error::other(error),
        })?;
        tries -= 1;
        match udp.bind(http.local).await {
            Ok(datagrams) => return Ok((http, datagrams)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// Where both protocols ask.
#[derive(Debug)]
struct Desk {
    config: TrackerConfig,
    started: Instant,
    swarms: Mutex<Swarms>,
}

impl Desk {
    fn now(&self) -> Moment {
        Moment::ZERO + self.started.elapsed()
    }
    fn with<R>(&self, f: impl FnOnce(&mut Swarms, Moment) -> R) -> R {
        f(&mut self.swarms.lock().unwrap_or_else(PoisonError::into_inner), self.now())
    }
}
