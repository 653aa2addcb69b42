//! The datagram seam: under UDP trackers, the DHT, LSD and uTP.
//!
//! The engine hands it out, so a bound interface, a proxy or a simulated network holds for every plugin.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;

/// A bound datagram socket.
#[async_trait]
pub trait Datagrams: fmt::Debug + Send + Sync + 'static {
    /// Where others reach it.
    fn local_addr(&self) -> SocketAddr;
    /// Sends one datagram.
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize>;
    /// Receives one datagram; what does not fit into `buffer` is cut off.
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
}

/// Makes datagram sockets.
#[async_trait]
pub trait DatagramFactory: fmt::Debug + Send + Sync + 'static {
    /// Binds a socket that can speak to addresses of `local`'s family.
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>>;
    /// A protocol's part of the session's one socket, by default a socket of its own.
    async fn shared(&self, local: SocketAddr, _protocol: Protocol) -> io::Result<Arc<dyn Datagrams>> {
        self.bind(local).await
    }
    /// A socket that hears what is sent to the multicast `group`, on `interface` (unspecified: on all), and can send to it.
    async fn join(&self, _group: SocketAddr, _interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there is no multicast here"))
    }
    /// From which of our addresses the world would be spoken to now, by IPv4 and by IPv6; `None` where there is no way, or
    /// it is not known. When this changes, the network has. Must not block, and sends nothing.
    fn ways_out(&self) -> [Option<IpAddr>; 2] {
        [None; 2]
    }
}

/// The protocols that share the session's UDP socket; a datagram's first bytes tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protocol {
    /// A bencoded dictionary: `d` (BEP 5).
    Dht,
    /// Answers of UDP trackers: an action of 0 to 3 in four bytes (BEP 15).
    Tracker,
    /// uTP: version 1 in the low half of the first byte (BEP 29).
    Utp,
}
