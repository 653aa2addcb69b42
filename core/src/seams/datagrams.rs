//! The datagram seam: under UDP trackers, the DHT, LSD and uTP.
//!
//! The engine hands it out, so a bound interface, a proxy or a simulated network holds for every plugin.

use std::{fmt, io, net::SocketAddr, sync::Arc};

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
}
