//! A transport that counts the bytes of an engine's streams: what rate limits are measured by.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use async_trait::async_trait;
use castanet_core::seams::transport::{
    Connection, DialOptions, Duplex, Listener, ReadHalf, Transport, TransportError, WriteHalf,
};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that an engine has received and sent over its streams, by whom it spoke to.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<Mutex<BTreeMap<IpAddr, [u64; 2]>>>);

impl Count {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, [u64; 2]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, remote: IpAddr, way: usize, bytes: usize) {
        self.lock().entry(remote).or_default()[way] += bytes as u64;
    }

    /// Received from and sent to this address.
    pub fn of(&self, remote: IpAddr) -> [u64; 2] {
        self.lock().get(&remote).copied().unwrap_or_default()
    }

    /// Received and sent in all.
    pub fn all(&self) -> [u64; 2] {
        self.lock().values().fold([0; 2], |sum, of| [sum[0] + of[0], sum[1] + of[1]])
    }
}

/// A transport that counts.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Transport>,
    count: Count,
}

impl Counted {
    /// Counts what goes over `inner`.
    pub fn new(inner: Arc<dyn Transport>, count: Count) -> Self {
        Self { inner, count }
    }

    fn count(connection: Connection, count: &Count) -> Connection {
        let (remote, count) = (connection.remote.ip(), count.clone());
        Connection { io: Box::new(CountedIo { inner: connection.io, remote, count }), ..connection }
    }
}

#[async_trait]
impl Transport for Counted {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn includes(&self, name: &str) -> bool {
        self.inner.includes(name)
    }
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        Ok(Self::count(self.inner.dial(to, options).await?, &self.count))
    }
    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let (listener, count) = (self.inner.listen(on).await?, self.count.clone());
        let incoming = listener.incoming.map(move |found| found.map(|connection| Self::count(connection, &count)));
        Ok(Listener { incoming: Box::pin(incoming), ..listener })
    }
}

struct CountedIo<T> {
    inner: T,
    remote: IpAddr,
    count: Count,
}

impl<T: AsyncRead + Unpin> AsyncRead for CountedIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        self.count.add(self.remote, 0, into.filled().len() - before);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CountedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(from)])
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, from);
        if let Poll::Ready(Ok(written)) = &written {
            self.count.add(self.remote, 1, *written);
        }
        written
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

impl Duplex for CountedIo<Box<dyn Duplex>> {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let Self { inner, remote, count } = *self;
        let (reader, writer) = inner.split();
        let reader = CountedIo { inner: reader, remote, count: count.clone() };
        (Box::new(reader), Box::new(CountedIo { inner: writer, remote, count }))
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        let Self { inner, remote, count } = *self;
        Ok(Box::new(Self { inner: inner.rehome()?, remote, count }))
    }
}
