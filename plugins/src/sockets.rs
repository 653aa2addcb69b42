//! A plugin's part of the session's UDP socket: who answers us sees the port at which peers reach us, too.

use std::{io, net::SocketAddr, sync::Arc};

use castanet_core::seams::{
    datagrams::{Datagrams, Protocol},
    means::Means,
};

/// Opens the part of `protocol` at an address. If another program has that port, any other will do, which is shared
/// just the same.
pub(crate) async fn shared(means: &Means, at: SocketAddr, protocol: Protocol) -> io::Result<Arc<dyn Datagrams>> {
    match means.datagrams.shared(at, protocol).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && at.port() != 0 => {
            means.datagrams.shared(SocketAddr::new(at.ip(), 0), protocol).await
        }
        opened => opened,
    }
}

/// From where to speak to `to`: where the session listens, if one can be reached from the other; else from anywhere.
///
/// # Errors
/// If we have no address of its family.
pub(crate) fn way_to(means: &Means, to: SocketAddr) -> io::Result<SocketAddr> {
    let is_way = |from: &SocketAddr| {
        let ip = from.ip();
        from.is_ipv4() == to.is_ipv4() && (ip.is_unspecified() || ip.is_loopback() == to.ip().is_loopback())
    };
    let (listening, bind) = (means.listening(), &means.bind);
    let from = listening.iter().chain(bind).copied().find(is_way);
    from.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "we have no such address family"))
}

#[cfg(test)]
mod tests {
    use castanet_transports::{memory::MemoryNet, udp_mux::UdpMux};

    use super::*;
    use crate::testing::World;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_way_is_where_we_listen_if_it_leads_there() {
        let means = World::new().means();
        let from = |to: &str| way_to(&means, addr(to)).map(|from| from.to_string()).unwrap_or_default();
        assert_eq!(from("192.0.2.9:80"), "0.0.0.0:0", "who only dials");
        *means.listening.write().unwrap() = vec![addr("127.0.0.1:6881"), addr("192.0.2.1:6882")];
        assert_eq!([from("127.0.0.9:80"), from("192.0.2.9:80")], ["127.0.0.1:6881", "192.0.2.1:6882"]);
        assert_eq!(from("[2001:db8::1]:80"), "[::]:0");
        *means.listening.write().unwrap() = vec![addr("0.0.0.0:6881")];
        assert_eq!([from("127.0.0.9:80"), from("192.0.2.9:80")], ["0.0.0.0:6881"; 2]);
        let lonely = Means { bind: Vec::new(), ..means.clone() };
        assert!(way_to(&lonely, addr("[::1]:80")).is_err());
    }

    #[tokio::test]
    async fn a_taken_port_is_given_up_by_all_parts_together() {
        let host = MemoryNet::new(1).host([10, 0, 0, 1].into());
        let taken = castanet_core::seams::datagrams::DatagramFactory::bind(&host, addr("10.0.0.1:6881")).await.unwrap();
        let means = Means { datagrams: Arc::new(UdpMux::new(Arc::new(host))), ..World::new().means() };
        let open = async |protocol| shared(&means, addr("10.0.0.1:6881"), protocol).await.unwrap();
        let (dht, tracker) = (open(Protocol::Dht).await, open(Protocol::Tracker).await);
        assert_eq!(dht.local_addr(), tracker.local_addr());
        assert_ne!(dht.local_addr(), taken.local_addr());
    }
}
