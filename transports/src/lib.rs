//! Floor 3: ways of reaching peers. Implementations of the transport, datagram and resolver seams.
//!
//! [`tcp`] and [`udp`] use the operating system, [`utp`] speaks over what [`udp_mux`] lets protocols share, [`resolver`] asks
//! the domain name system; [`memory`] is a network within the process, for tests and simulations. Wrappers: [`race`] joins
//! several transports, [`encrypted`] hides what is said, [`faulty`] spoils it.

use std::{net::SocketAddr, sync::Arc};

use castanet_core::seams::{
    datagrams::DatagramFactory,
    transport::{Transport, TransportError},
};

pub mod encrypted;
pub mod faulty;
pub mod memory;
mod multicast;
pub mod race;
pub mod resolver;
pub mod tcp;
pub mod udp;
pub mod udp_mux;
pub mod utp;

/// What every transport is built with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where outgoing sockets bind: at most one address for each family. Empty: the system chooses. Where there is none
    /// for a family, that family is not spoken, so that a bound interface is never left.
    pub bind: Vec<SocketAddr>,
    /// Datagram sockets, shared with the DHT and UDP trackers: under uTP.
    pub datagrams: Arc<dyn DatagramFactory>,
    /// Where random choices come from.
    pub seed: u64,
}

impl Default for Settings {
    /// The system's sockets, bound by the system.
    fn default() -> Self {
        let datagrams = Arc::new(udp_mux::UdpMux::new(Arc::new(udp::Udp)));
        Self { bind: Vec::new(), datagrams, seed: 0 }
    }
}

/// Makes a transport.
pub type Build = fn(&Settings) -> Result<Arc<dyn Transport>, TransportError>;

/// The transports that come with Castanet, by name, in order of preference. (The memory network is made by whoever simulates one.)
pub const BUILTIN: &[(&str, Build)] = &[("tcp", tcp::build), ("utp", utp::build)];

/// The address to bind for speaking to `to`: `None` if the system may choose.
///
/// Errors if addresses were named, but none of this family.
fn bind_for(
    bind: &[SocketAddr],
    to: SocketAddr,
    transport: &'static str,
) -> Result<Option<SocketAddr>, TransportError> {
    match bind.iter().find(|addr| addr.is_ipv4() == to.is_ipv4()) {
        None if !bind.is_empty() => Err(TransportError::Unsupported { transport, to }),
        found => Ok(found.copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_interface_is_never_left() {
        let v4 = "127.0.0.1:0".parse().unwrap();
        let (to4, to6) = ("1.2.3.4:5".parse().unwrap(), "[::1]:5".parse().unwrap());
        assert_eq!(bind_for(&[], to6, "tcp").unwrap(), None);
        assert_eq!(bind_for(&[v4], to4, "tcp").unwrap(), Some(v4));
        assert!(bind_for(&[v4], to6, "tcp").is_err());
    }

    #[test]
    fn every_builtin_is_named_as_it_calls_itself() {
        for (name, build) in BUILTIN {
            assert_eq!(build(&Settings::default()).unwrap().name(), *name);
        }
    }
}
