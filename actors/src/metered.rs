//! What a plugin spends: its means of touching the world, with a counter on each.
//!
//! The wrappers stand between a plugin and the seams it is handed, so no plugin counts for itself and none can forget to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use castanet_core::seams::{
    datagrams::{DatagramFactory, Datagrams, Protocol, WaysOut},
    means::Means,
    transport::{Connection, DialOptions, Duplex, Listener, ReadHalf, Transport, TransportError, WriteHalf},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a plugin has spent since the session began, over all torrents and all its lives. Payloads alone are counted.
#[derive(Debug, Default)]
pub struct Meter {
    sent_packets: AtomicU64,
    received_packets: AtomicU64,
    sent_messages: AtomicU64,
    received_messages: AtomicU64,
    connections: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// A reading of a [`Meter`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Datagrams sent.
    pub sent_packets: u64,
    /// Datagrams received.
    pub received_packets: u64,
    /// Messages of its extension (BEP 10) to connected peers.
    pub sent_messages: u64,
    /// Messages of its extension from connected peers.
    pub received_messages: u64,
    /// Connections dialled.
    pub connections: u64,
    /// Bytes sent, in datagrams, messages and over connections.
    pub sent_bytes: u64,
    /// Bytes received, in datagrams, messages and over connections.
    pub received_bytes: u64,
}

impl Meter {
    /// What has been spent so far.
    pub fn read(&self) -> Cost {
        Cost {
            sent_packets: self.sent_packets.load(Relaxed),
            received_packets: self.received_packets.load(Relaxed),
            sent_messages: self.sent_messages.load(Relaxed),
            received_messages: self.received_messages.load(Relaxed),
            connections: self.connections.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
        }
    }

    /// The same means, counted.
    pub fn over(self: &Arc<Self>, means: &Means) -> Means {
        Means {
            datagrams: Arc::new(MeteredFactory { inner: means.datagrams.clone(), meter: self.clone() }),
            dialer: Arc::new(MeteredTransport { inner: means.dialer.clone(), meter: self.clone() }),
            ..means.clone()
        }
    }

    /// A connected peer was told something by an extension.
    pub fn message_sent(&self, bytes: usize) {
        self.sent_messages.fetch_add(1, Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }
    /// A connected peer said something by an extension.
    pub fn message_received(&self, bytes: usize) {
        self.received_messages.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn datagram_sent(&self, bytes: usize) {
        self.sent_packets.fetch_add(1, Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }
    fn datagram_received(&self, bytes: usize) {
        self.received_packets.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

#[derive(Debug)]
struct MeteredFactory {
    inner: Arc<dyn DatagramFactory>,
    meter: Arc<Meter>,
}

impl MeteredFactory {
    fn count(&self, inner: io::Result<Arc<dyn Datagrams>>) -> io::Result<Arc<dyn Datagrams>> {
        inner.map(|inner| Arc::new(MeteredDatagrams { inner, meter: self.meter.clone() }) as _)
    }
}

#[async_trait]
impl DatagramFactory for MeteredFactory {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        self.count(self.inner.bind(local).await)
    }
    async fn shared(&self, local: SocketAddr, protocol: Protocol) -> io::Result<Arc<dyn Datagrams>> {
        self.count(self.inner.shared(local, protocol).await)
    }
    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        self.count(self.inner.join(group, interface).await)
    }
    fn ways_out(&self) -> WaysOut {
        self.inner.ways_out()
    }
    fn is_neighbour(&self, ip: IpAddr) -> bool {
        self.inner.is_neighbour(ip)
    }
    fn gateway(&self, from: Ipv4Addr) -> Option<Ipv4Addr> {
        self.inner.gateway(from)
    }
}

#[derive(Debug)]
struct MeteredDatagrams {
    inner: Arc<dyn Datagrams>,
    meter: Arc<Meter>,
}

#[async_trait]
impl Datagrams for MeteredDatagrams {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        let sent = self.inner.send_to(payload, to).await?;
        self.meter.datagram_sent(sent);
        Ok(sent)
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, from) = self.inner.recv_from(buffer).await?;
        self.meter.datagram_received(length);
        Ok((length, from))
    }
    fn is_lost(&self) -> bool {
        self.inner.is_lost()
    }
}

#[derive(Debug)]
struct MeteredTransport {
    inner: Arc<dyn Transport>,
    meter: Arc<Meter>,
}

#[async_trait]
impl Transport for MeteredTransport {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn includes(&self, name: &str) -> bool {
        self.inner.includes(name)
    }
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        self.meter.connections.fetch_add(1, Relaxed);
        let mut connection = self.inner.dial(to, options).await?;
        connection.io = Box::new(MeteredIo { inner: connection.io, meter: self.meter.clone() });
        Ok(connection)
    }
    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        self.inner.listen(on).await
    }
}

/// A stream, or a half of one, with its bytes counted.
struct MeteredIo<T> {
    meter: Arc<Meter>,
    inner: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for MeteredIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.meter.received_bytes.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for MeteredIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &written {
            self.meter.sent_bytes.fetch_add(*written as u64, Relaxed);
        }
        written
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Duplex for MeteredIo<Box<dyn Duplex>> {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (reader, writer) = self.inner.split();
        let reader = MeteredIo { meter: self.meter.clone(), inner: reader };
        (Box::new(reader), Box::new(MeteredIo { meter: self.meter, inner: writer }))
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        Ok(Box::new(Self { meter: self.meter, inner: self.inner.rehome()? }))
    }
}
