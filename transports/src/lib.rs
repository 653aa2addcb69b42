//! Floor 3: ways of reaching peers. Implementations of the transport, datagram and resolver seams.
//!
//! [`tcp`] and [`udp`] use the operating system, [`utp`] speaks over what [`udp_mux`] lets protocols share, [`resolver`] asks
//! the domain name system; [`memory`] is a network within the process, for tests and simulations. Wrappers: [`race`] joins
//! several transports, [`encrypted`] hides what is said, [`socks`] sends everything through a proxy, [`faulty`] spoils it.
//! What uses the operating system can be held to one [`interface`].

use std::sync::Arc;

use castanet_core::seams::{
    datagrams::DatagramFactory,
    transport::{Transport, TransportError},
};

use self::interface::Interface;

pub mod encrypted;
pub mod faulty;
pub mod interface;
pub mod link;
pub mod memory;
mod multicast;
pub mod race;
pub mod resolver;
mod routes;
pub mod socks;
pub mod tcp;
mod time;
pub mod udp;
pub mod udp_mux;
pub mod utp;

/// What every transport is built with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The interface that everything leaves by. `None`: the system chooses.
    pub interface: Option<Arc<Interface>>,
    /// Datagram sockets, shared with the DHT and UDP trackers: under uTP.
    pub datagrams: Arc<dyn DatagramFactory>,
    /// Where random choices come from.
    pub seed: u64,
}

impl Default for Settings {
    /// The system's sockets, bound by the system.
    fn default() -> Self {
        let datagrams = Arc::new(udp_mux::UdpMux::new(Arc::new(udp::Udp::default())));
        Self { interface: None, datagrams, seed: 0 }
    }
}

/// Makes a transport.
pub type Build = fn(&Settings) -> Result<Arc<dyn Transport>, TransportError>;

/// The transports that come with Castanet, by name, in order of preference. (The memory network is made by whoever simulates one.)
pub const BUILTIN: &[(&str, Build)] = &[("tcp", tcp::build), ("utp", utp::build)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_is_named_as_it_calls_itself() {
        for (name, build) in BUILTIN {
            assert_eq!(build(&Settings::default()).unwrap().name(), *name);
        }
    }
}
