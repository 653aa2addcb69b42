//! What the engine hands to plugins instead of letting them open sockets, read clocks or roll dice themselves.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use async_trait::async_trait;

use super::{datagrams::DatagramFactory, transport::Transport};
use crate::{addr::is_local, moment::Moment};

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

/// The largest page of a [`Notebook`] in bytes.
pub const LARGEST_PAGE: usize = 1024 * 1024;

/// What plugins remember between two runs, a page for each.
pub trait Notebook: fmt::Debug + Send + Sync + 'static {
    /// What was written under this name, if anything was. Names are plugins' names: letters, digits, `-` and `_`.
    /// It may be damaged, or have been written by another version: check it.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, page: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces what was written under this name, whole or not at all, by at most [`LARGEST_PAGE`] bytes. It may take as
    /// long as a disk does, so write seldom.
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
        if text.len() > LARGEST_PAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {LARGEST_PAGE} bytes")));
        }
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
    /// Where the world reaches that by IPv4, if a router has opened a port for us.
    pub mapped: Arc<RwLock<Option<SocketAddrV4>>>,
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
    /// The port at which we tell `whom` to reach us, where `port` is that where we listen: it is another one if a router
    /// has given it to us, but not for whom is on this side of the router, or speaks IPv6.
    pub fn port_for(&self, whom: IpAddr, port: u16) -> u16 {
        let whom = whom.to_canonical();
        let is_beyond = port != 0 && whom.is_ipv4() && !is_local(whom);
        self.mapped_port().filter(|_| is_beyond).unwrap_or(port)
    }
    /// The port that a router has opened for us.
    pub fn mapped_port(&self) -> Option<u16> {
        self.mapped.read().ok().and_then(|mapped| *mapped).map(|mapped| mapped.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::{
        datagrams::Datagrams,
        transport::{Connection, DialOptions, Listener, TransportError},
    };

    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl DatagramFactory for Nothing {
        async fn bind(&self, _: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
    #[async_trait]
    impl Transport for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }
        fn includes(&self, name: &str) -> bool {
            name == self.name()
        }
        async fn dial(&self, to: SocketAddr, _: DialOptions) -> Result<Connection, TransportError> {
            Err(TransportError::Unsupported { transport: "nothing", to })
        }
        async fn listen(&self, to: SocketAddr) -> Result<Listener, TransportError> {
            Err(TransportError::Unsupported { transport: "nothing", to })
        }
    }
    #[async_trait]
    impl Resolve for Nothing {
        async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
            Err(ResolveError { host: host.to_owned(), reason: "no such name".to_owned() })
        }
    }

    #[test]
    fn a_page_that_is_too_large_for_a_disk_is_too_large_for_memory() {
        let pad = Scratchpad::default();
        pad.write("page", &vec![0; LARGEST_PAGE]).unwrap();
        assert!(pad.write("page", &vec![1; LARGEST_PAGE + 1]).is_err());
        assert_eq!(pad.read("page").unwrap(), Some(vec![0; LARGEST_PAGE]), "what was there is still there");
    }

    #[test]
    fn the_world_is_told_the_port_of_the_router() {
        let means = Means {
            datagrams: Arc::new(Nothing),
            dialer: Arc::new(Nothing),
            resolver: Arc::new(Nothing),
            clock: Clock::new(|| Moment::ZERO),
            seed: 0,
            bind: Vec::new(),
            listening: Arc::default(),
            mapped: Arc::default(),
            notebook: Arc::new(Scratchpad::default()),
            user_agent: "test".into(),
        };
        let told = |whom: &str, port| means.port_for(whom.parse().unwrap(), port);
        assert_eq!(told("8.8.8.8", 6881), 6881, "no router has opened anything");
        *means.mapped.write().unwrap() = Some("5.6.7.8:1234".parse().unwrap());
        assert_eq!([told("8.8.8.8", 6881), told("::ffff:8.8.8.8", 6881)], [1234; 2]);
        assert_eq!([told("2001:db8::1", 6881), told("192.168.1.2", 6881), told("127.0.0.1", 6881)], [6881; 3]);
        assert_eq!(told("8.8.8.8", 0), 0, "who does not listen is not reached");
    }
}
