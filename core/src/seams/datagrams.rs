//! The datagram seam: under UDP trackers, the DHT, LSD, uTP and port mapping.
//!
//! The engine hands it out, so a bound interface, a proxy or a simulated network holds for every plugin.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    /// Its interface is gone or has another address: every call fails, and a new socket must be bound.
    fn is_lost(&self) -> bool {
        false
    }
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
    /// How the world would be spoken to now. When this changes, the network has. Must not block, and sends nothing.
    fn ways_out(&self) -> WaysOut {
        WaysOut::default()
    }
    /// Is the address in a subnet of one of our own interfaces, as far as that is known? Must not block, and sends nothing.
    fn is_neighbour(&self, _ip: IpAddr) -> bool {
        false
    }
    /// The router that leads into the world for what is sent from this address of ours, if there is one and it is known.
    /// Must not block, and sends nothing.
    fn gateway(&self, _from: Ipv4Addr) -> Option<Ipv4Addr> {
        None
    }
}

/// How the world can be reached at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaysOut {
    /// From which of our addresses, by IPv4 and by IPv6; `None` where there is no way, or it is not known.
    pub from: [Option<IpAddr>; 2],
    /// The interface that everything leaves by, if the user named one.
    pub only: Option<Only>,
}

/// An interface that is never left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Only {
    /// As the user named it.
    pub name: Arc<str>,
    /// The system's number of the device, another one when it was gone in between; `None` while it is gone.
    pub device: Option<u32>,
    /// How often it has come or gone, so that an absence is noticed that was over before anybody looked.
    pub changes: u64,
}

impl WaysOut {
    /// Is there any?
    pub fn is_any(&self) -> bool {
        self.from.iter().any(Option::is_some)
    }
    /// Are connections over that were made while these were the ways out, now that they are others? Those that are bound
    /// to an interface are, if it or one of its addresses has gone.
    pub fn are_over(&self, now: &Self) -> bool {
        let device = |ways: &Self| ways.only.as_ref().map(|only| (only.device, only.changes));
        let has_lost = |(before, now): (&Option<IpAddr>, &Option<IpAddr>)| before.is_some() && before != now;
        self.only.is_some() && (device(self) != device(now) || self.from.iter().zip(&now.from).any(has_lost))
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
