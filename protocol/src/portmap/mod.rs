//! Port mapping: asking the router at the edge of the local network to let peers in.
//!
//! [`Mapper`] decides for one of our addresses and its router: it tries PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP
//! (Internet Gateway Device 1 and 2) in turn, keeps up the first that works, and takes back at the end what it opened.
//! `control` and `igd` are its two ways of asking; `packet`, `ssdp`, `xml` and `soap` are their languages. It tells its
//! shell what to send and whom to ask, and ends when [`Mapper::is_over`].

mod control;
mod igd;
mod mapper;
mod packet;
mod soap;
mod ssdp;
mod xml;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

pub use mapper::{Input, Mapper, Output, Report};
pub use soap::Ask;

/// The longest answer of a router's web server that is read, in bytes.
pub const LARGEST_ANSWER: usize = 64 * 1024;
/// The largest datagram that is read, in bytes: PCP ends at 1100.
pub const LARGEST_DATAGRAM: usize = 2048;

/// A protocol for asking routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The Port Control Protocol (RFC 6887).
    Pcp,
    /// Its predecessor (RFC 6886).
    NatPmp,
    /// The Internet Gateway Device of UPnP.
    Upnp,
}

impl Method {
    /// All, in the order in which they are tried: what takes one datagram comes before what takes a web server.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// How mapping is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// What is tried, in this order. Default: all.
    pub methods: Vec<Method>,
    /// How long a mapping is asked for. Default: an hour, so that a crash leaves no door open for long, and a router is
    /// not bothered often: what is left after half of it is renewed.
    pub lifetime: Duration,
}

impl Default for PortMapping {
    fn default() -> Self {
        Self { methods: Method::ALL.to_vec(), lifetime: Duration::from_secs(3600) }
    }
}

/// What is to be mapped, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Our address in the local network.
    pub client: Ipv4Addr,
    /// The router, if it is known. Nobody else is believed then.
    pub gateway: Option<Ipv4Addr>,
    /// Where we listen, by TCP and UDP.
    pub port: u16,
}

/// A port that is open to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenPort {
    /// Where we listen.
    pub port: u16,
    /// Where the world reaches us there.
    pub external: SocketAddrV4,
    /// Who opened it.
    pub method: Method,
    /// UDP is let in as well as TCP.
    pub udp: bool,
}

impl fmt::Display for OpenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, external, method, udp } = self;
        write!(f, "Port {port} is open to the world as {external} by {method}")?;
        if !udp {
            f.write_str(", for TCP only")?;
        }
        if !is_global(*external.ip()) {
            write!(f, "; but {} is no address of the world: another router stands before this one", external.ip())?;
        }
        Ok(())
    }
}

/// The two protocols of a port, in the order in which they are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Tcp,
    Udp,
}

impl Layer {
    const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// Can an address be reached from anywhere in the world?
pub fn is_global(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    is_host(ip) && !ip.is_private() && !ip.is_link_local() && !is_shared
}

/// Can a single host have this address, not on loopback?
fn is_host(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    first != 0 && !ip.is_loopback() && !ip.is_multicast() && first < 240
}

/// How a way of asking stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Under way.
    Asking,
    /// The port is open, and kept so.
    Open(OpenPort),
    /// It does not work, for a reason that a user can read.
    Failed(String),
    /// What was opened has been taken back.
    Over,
}

/// What a router granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Granted {
    /// The address the world sees.
    address: Option<Ipv4Addr>,
    /// The port of TCP.
    tcp: Option<u16>,
    /// The port of UDP.
    udp: Option<u16>,
}

impl Granted {
    fn set(&mut self, layer: Layer, port: u16) {
        match layer {
            Layer::Tcp => self.tcp = Some(port),
            Layer::Udp => self.udp = Some(port),
        }
    }
    fn of(&self, layer: Layer) -> Option<u16> {
        match layer {
            Layer::Tcp => self.tcp,
            Layer::Udp => self.udp,
        }
    }
    /// The whole of it, once address and port of TCP are known.
    fn open(&self, port: u16, method: Method) -> Option<OpenPort> {
        let external = SocketAddrV4::new(self.address?, self.tcp?);
        Some(OpenPort { port, external, method, udp: self.udp == self.tcp })
    }
}
