//! Networks that misbehave on purpose: wrappers around a transport and around datagram sockets, for tests of everything
//! above.
//!
//! [`Faulty`] refuses dials or leaves them unanswered, breaks connections after some bytes or some time, flips bits, lets
//! bytes trickle in pieces of odd sizes, and puts a [`Link`] with its delays and stalls in the way; [`FaultyDatagrams`]
//! puts one in the way of datagrams. The same seed and the same calls give the same faults; all time is tokio's.
//!
//! A link is in the way of what is *received*: with both ends wrapped it has both directions, each at the end where it
//! is read. So a wrapper needs no task of its own, and what was written before a connection was dropped still arrives.

mod datagrams;
mod late;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::pending,
    io,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::seams::transport::{Connection, DialOptions, Listener, Transport, TransportError};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use self::stream::Spoiled;
pub use self::{datagrams::FaultyDatagrams, late::WINDOW};
use crate::link::{Link, Outages};

/// What goes wrong, and how often. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Share of dials that are refused, 0 to 1.
    pub refused: f64,
    /// Share of dials that nobody answers, 0 to 1.
    pub silent: f64,
    /// Each direction of a connection breaks after a number of bytes drawn from this range; `None` for never.
    pub lifetime: Option<Range<u64>>,
    /// A connection is cut after a time drawn from this range; `None` for never.
    pub cut: Option<Range<Duration>>,
    /// Share of reads in which one bit is flipped, 0 to 1.
    pub flipped: f64,
    /// Each read and write takes a random number of bytes up to this; `None` for as many as there are.
    pub trickle: Option<usize>,
    /// What is read comes over such a link, one for each connection; `None` for at once. [`WINDOW`] bytes are under way
    /// at most: as with TCP, the writer waits then.
    pub link: Option<Link>,
    /// When that link stalls, counted from the connection's beginning. Without a link there is nothing to stall.
    pub stalls: Outages,
}

/// The wrapper around a transport: what is dialled is spoiled, and what is accepted.
pub struct Faulty {
    inner: Arc<dyn Transport>,
    faults: Faults,
    random: Arc<Mutex<fastrand::Rng>>,
}

impl Faulty {
    /// `inner` with these faults, drawn by `seed`.
    pub fn new(inner: Arc<dyn Transport>, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))) }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?}, {:?})", self.inner, self.faults)
    }
}

fn fork(random: &Mutex<fastrand::Rng>) -> fastrand::Rng {
    random.lock().unwrap_or_else(PoisonError::into_inner).fork()
}

fn spoil(connection: Connection, faults: &Faults, random: fastrand::Rng) -> Connection {
    Connection { io: Box::new(Spoiled::new(connection.io, faults.clone(), random)), ..connection }
}

#[async_trait]
impl Transport for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn includes(&self, name: &str) -> bool {
        self.inner.includes(name)
    }

    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let mut random = fork(&self.random);
        if random.f64() < self.faults.refused {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        if random.f64() < self.faults.silent {
            timeout(options.timeout, pending::<()>()).await.map_err(|_| TransportError::Timeout(options.timeout))?;
        }
        Ok(spoil(self.inner.dial(to, options).await?, &self.faults, random))
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let Listener { local, incoming } = self.inner.listen(on).await?;
        let (faults, random) = (self.faults.clone(), self.random.clone());
        let spoiled = incoming.map(move |found| found.map(|connection| spoil(connection, &faults, fork(&random))));
        Ok(Listener { local, incoming: Box::pin(spoiled) })
    }
}
