//! The transport seam: byte streams to and from peers.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::digest::sha1;

/// A stream that anything may own.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send + 'static>>;
/// The reading half of a connection.
pub type ReadHalf = Box<dyn AsyncRead + Unpin + Send>;
/// The writing half of a connection. Vectored writes go through to the socket.
pub type WriteHalf = Box<dyn AsyncWrite + Unpin + Send>;

/// A way of reaching peers: TCP, uTP, memory, or a wrapper around one of them.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// `tcp`, `utp`, ...
    fn name(&self) -> &'static str;
    /// Can it dial by the transport of this name? One that is itself such a way compares the name with its own; what holds
    /// several, or wraps one, asks those.
    fn includes(&self, name: &str) -> bool;
    /// Connects. Does nothing before it is first polled, so that dials may be raced.
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError>;
    /// Listens. Dropping the listener closes it.
    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError>;
}

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Splits into halves that do not share a lock.
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf);
    /// Moves the stream to the reactor of the calling thread; a socket is woken where it was registered.
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>>;
}

/// An open connection.
pub struct Connection {
    /// The bytes.
    pub io: Box<dyn Duplex>,
    /// The other end, canonical (no IPv4-mapped IPv6).
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// The transport's name.
    pub via: &'static str,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} via {})", self.remote, self.via)
    }
}

/// A listening socket.
pub struct Listener {
    /// Where it listens; the port is real even if 0 was asked for.
    pub local: SocketAddr,
    /// Connections as they are accepted. An error is about one connection; the stream goes on.
    pub incoming: BoxStream<Result<Connection, TransportError>>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.local)
    }
}

/// What a dial may need to know.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// How long it may take.
    pub timeout: Duration,
    /// The 20 wire bytes of the swarm that is dialled, for wrappers that derive keys from it (MSE).
    pub swarm: Option<[u8; 20]>,
    /// The name of the one transport to dial by, for what holds several; wrappers pass it on. Whoever asks for it looks at
    /// [`Transport::includes`] before.
    pub only: Option<&'static str>,
}

impl Default for DialOptions {
    fn default() -> Self {
        // Long enough for three SYN retransmissions, short enough not to hold a half-open slot for a minute.
        Self { timeout: Duration::from_secs(10), swarm: None, only: None }
    }
}

/// The swarms that are served here, shared by cloning: for listeners that must know them before the peer names one (MSE).
#[derive(Debug, Clone, Default)]
pub struct Swarms(Arc<RwLock<BTreeMap<[u8; 20], [u8; 20]>>>);

impl Swarms {
    /// Serves this swarm, given by its 20 wire bytes.
    pub fn insert(&self, swarm: [u8; 20]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(Self::mark(&swarm), swarm);
    }
    /// Serves it no more.
    pub fn remove(&self, swarm: &[u8; 20]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&Self::mark(swarm));
    }
    /// The swarm with this mark: SHA-1 of `req2` and its 20 bytes, by which MSE names it.
    pub fn by_mark(&self, mark: &[u8; 20]) -> Option<[u8; 20]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(mark).copied()
    }
    fn mark(swarm: &[u8; 20]) -> [u8; 20] {
        sha1(&[b"req2".as_slice(), swarm].concat()).0
    }
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// This transport cannot reach such an address.
    #[error("{transport} cannot reach {to}")]
    Unsupported {
        /// The transport's name.
        transport: &'static str,
        /// The address.
        to: SocketAddr,
    },
    /// The system's reason.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Somebody is there, but what was said leads to no connection. The text is for users.
    #[error("{0}")]
    Handshake(String),
    /// Nobody answered.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}
