//! What the engine hands to plugins instead of letting them open sockets, read clocks or roll dice themselves.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use async_trait::async_trait;

use super::{datagrams::DatagramFactory, transport::Transport};
use crate::moment::Moment;

/// Turns names into addresses.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// All addresses of `host` (a name, or an address in text), in no particular order; never an empty list.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Why a name has no address.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot resolve {host}: {reason}")]
pub struct ResolveError {
    /// The name.
    pub host: String,
    /// In plain words.
    pub reason: String,
}

/// The engine's clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }
    /// The time since the engine's start.
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.now())
    }
}

/// What plugins remember between two runs, a page for each.
pub trait Notebook: fmt::Debug + Send + Sync + 'static {
    /// What was written under this name, if anything was. Names are plugins' names.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, page: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces what was written under this name, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written; what was there before is still there then.
    fn write(&self, page: &str, text: &[u8]) -> io::Result<()>;
}

/// A notebook that lasts as long as the program.
#[derive(Debug, Default)]
pub struct Scratchpad(Mutex<BTreeMap<String, Vec<u8>>>);

impl Notebook for Scratchpad {
    fn read(&self, page: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(page).cloned())
    }
    fn write(&self, page: &str, text: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(page.to_owned(), text.to_vec());
        Ok(())
    }
}

/// A plugin's means of touching the world.
#[derive(Debug, Clone)]
pub struct Means {
    /// Datagram sockets.
    pub datagrams: Arc<dyn DatagramFactory>,
    /// Streams to trackers and web servers.
    pub dialer: Arc<dyn Transport>,
    /// Names.
    pub resolver: Arc<dyn Resolve>,
    /// Time.
    pub clock: Clock,
    /// Seed for the plugin's own random generator.
    pub seed: u64,
    /// Where sockets bind for each address family; the port is 0.
    pub bind: Vec<SocketAddr>,
    /// Where the session accepts peers; the shared UDP socket is there too. Empty if it only dials.
    pub listening: Arc<RwLock<Vec<SocketAddr>>>,
    /// What is remembered from run to run.
    pub notebook: Arc<dyn Notebook>,
    /// What programs call themselves in HTTP: `Castanet/0.1.0`.
    pub user_agent: Arc<str>,
}

impl Means {
    /// Where the session accepts peers.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.read().map(|all| all.clone()).unwrap_or_default()
    }
}
