//! A transport that misbehaves on purpose: a wrapper around another one, for tests of everything above.
//!
//! Refused and silent dials, connections that break after some bytes, flipped bits, and bytes that trickle in pieces of
//! odd sizes. The same seed and the same calls give the same faults.

use std::{
    fmt,
    future::pending,
    io::{self, IoSlice},
    net::SocketAddr,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use castanet_core::seams::transport::{
    Connection, DialOptions, Duplex, Listener, ReadHalf, Transport, TransportError, WriteHalf,
};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

/// What goes wrong, and how often. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Share of dials that are refused, 0 to 1.
    pub refused: f64,
    /// Share of dials that nobody answers, 0 to 1.
    pub silent: f64,
    /// Each direction of a connection breaks after a number of bytes drawn from this range; `None` for never.
    pub lifetime: Option<Range<u64>>,
    /// Share of reads in which one bit is flipped, 0 to 1.
    pub flipped: f64,
    /// Each read and write takes a random number of bytes up to this; `None` for as many as there are.
    pub trickle: Option<usize>,
}

/// The wrapper.
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

/// Most bytes read at once through the wrapper.
const MOST_READ: usize = 4096;

/// A stream, or half of one, with faults.
struct Spoiled<T> {
    inner: T,
    faults: Faults,
    random: fastrand::Rng,
    /// Bytes until reading and writing break.
    left_to_read: u64,
    left_to_write: u64,
}

impl<T> Spoiled<T> {
    fn new(inner: T, faults: Faults, mut random: fastrand::Rng) -> Self {
        let mut lifetime = || match &faults.lifetime {
            Some(range) if !range.is_empty() => random.u64(range.clone()),
            _ => u64::MAX,
        };
        let (left_to_read, left_to_write) = (lifetime(), lifetime());
        Self { inner, faults, random, left_to_read, left_to_write }
    }

    /// How many of `wanted` bytes are moved at once, at least one.
    fn portion(&mut self, wanted: usize, left: u64) -> io::Result<usize> {
        if left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let most = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(self.faults.trickle.map_or(most, |trickle| self.random.usize(1..=trickle.max(1)).min(most)))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Spoiled<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.left_to_read;
        let portion = self.portion(into.remaining().min(MOST_READ), left)?;
        let mut space = [0; MOST_READ];
        let mut part = ReadBuf::new(&mut space[..portion]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let bytes = part.filled_mut();
        if !bytes.is_empty() && self.random.f64() < self.faults.flipped {
            let at = self.random.usize(..bytes.len());
            bytes[at] ^= 1 << self.random.u8(..8);
        }
        into.put_slice(bytes);
        self.left_to_read -= bytes.len() as u64;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Spoiled<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.left_to_write;
        let portion = self.portion(from.len(), left)?;
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &from[..portion]))?;
        self.left_to_write -= written as u64;
        Poll::Ready(Ok(written))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One slice at a time: writers must cope with it.
        let first = from.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Duplex for Spoiled<Box<dyn Duplex>> {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let Self { inner, faults, mut random, left_to_read, left_to_write } = *self;
        let (read, write) = inner.split();
        let other = random.fork();
        (
            Box::new(Spoiled { inner: read, faults: faults.clone(), random, left_to_read, left_to_write }),
            Box::new(Spoiled { inner: write, faults, random: other, left_to_read, left_to_write }),
        )
    }
    fn rehome(mut self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        self.inner = self.inner.rehome()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::memory::MemoryNet;

    /// What one end reads of 10,000 zeros that the other, faultless one writes.
    async fn transfer(faults: Faults, seed: u64) -> Result<(Vec<u8>, Option<io::Error>), TransportError> {
        let net = MemoryNet::new(1);
        let (plain, listening) = (net.host([10, 0, 0, 1].into()), net.host([10, 0, 0, 2].into()));
        let mut listener = listening.listen("10.0.0.2:1".parse().unwrap()).await?;
        let faulty = Faulty::new(Arc::new(plain), faults, seed);
        let dialled = faulty.dial(listener.local, DialOptions::default()).await?;
        let (mut read, write) = dialled.io.split();
        let mut other = listener.incoming.next().await.unwrap()?.io;
        drop(write);
        other.write_all(&[0; 10_000]).await?;
        drop(other);
        let mut bytes = Vec::new();
        let error = read.read_to_end(&mut bytes).await.err();
        Ok((bytes, error))
    }

    #[tokio::test(start_paused = true)]
    async fn without_faults_nothing_changes() {
        let (bytes, error) = transfer(Faults::default(), 1).await.unwrap();
        assert!(bytes == [0; 10_000] && error.is_none());
        let (bytes, error) = transfer(Faults { trickle: Some(3), ..Faults::default() }, 1).await.unwrap();
        assert!(bytes == [0; 10_000] && error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_shows_and_repeats() {
        let (bytes, error) = transfer(Faults { lifetime: Some(50..60), ..Faults::default() }, 1).await.unwrap();
        assert!((50..60).contains(&bytes.len()));
        assert_eq!(error.unwrap().kind(), io::ErrorKind::ConnectionReset);

        let flipping = Faults { flipped: 0.5, trickle: Some(100), ..Faults::default() };
        let (bytes, _) = transfer(flipping.clone(), 1).await.unwrap();
        assert!(bytes.len() == 10_000 && bytes.iter().any(|byte| *byte != 0));
        assert_eq!(transfer(flipping.clone(), 1).await.unwrap().0, bytes);
        assert_ne!(transfer(flipping, 2).await.unwrap().0, bytes);

        let error = transfer(Faults { refused: 1.0, ..Faults::default() }, 1).await.unwrap_err();
        assert!(matches!(error, TransportError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused));
        let start = tokio::time::Instant::now();
        let error = transfer(Faults { silent: 1.0, ..Faults::default() }, 1).await.unwrap_err();
        assert!(matches!(error, TransportError::Timeout(_)));
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }
}
