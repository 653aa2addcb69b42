//! Datagrams over UDP: under UDP trackers, the DHT and local discovery.
//!
//! A socket that is held to an interface fails for ever once that is gone or another one: whoever uses it binds anew.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::datagrams::{DatagramFactory, Datagrams, WaysOut},
};
use if_addrs::IfAddr;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::{
    interface::{Interface, Place},
    multicast::Multicast,
    routes,
};

/// Addresses that are everywhere out in the world, being reserved for documentation, each with where to speak from.
const WORLD: [(SocketAddr, SocketAddr); 2] = [
    (v4(Ipv4Addr::UNSPECIFIED), v4(Ipv4Addr::new(192, 0, 2, 1))),
    (v6(Ipv6Addr::UNSPECIFIED), v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
];

const fn v4(ip: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), 9)
}

const fn v6(ip: Ipv6Addr) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(ip), 9)
}

/// Which of our addresses the system would choose on the way to `to`. Connecting a datagram socket sends nothing.
fn way(from: SocketAddr, to: SocketAddr) -> io::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(from.ip(), 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Makes UDP sockets.
#[derive(Debug, Clone, Default)]
pub struct Udp {
    /// What they hear and leave by. `None`: the system chooses.
    pub interface: Option<Arc<Interface>>,
}

#[async_trait]
impl DatagramFactory for Udp {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            // So that the IPv4 socket may have the same port.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        let place = match &self.interface {
            Some(interface) => Some(interface.hold(&socket, local)?),
            None => {
                socket.bind(&local.into())?;
                None
            }
        };
        let socket = UdpSocket::from_std(socket.into())?;
        let local = socket.local_addr()?;
        Ok(match place {
            Some(place) => Arc::new(HeldDatagrams { inner: UdpDatagrams { local, socket }, place }),
            None => Arc::new(UdpDatagrams { local, socket }),
        })
    }
    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        let (group, at) = (canonical(group), interface.to_canonical());
        Ok(Arc::new(Multicast::join(group, at, self.interface.as_deref())?))
    }
    fn ways_out(&self) -> WaysOut {
        match &self.interface {
            Some(interface) => interface.ways_out(),
            None => WaysOut { from: WORLD.map(|(from, to)| way(from, to).ok()), only: None },
        }
    }
    fn is_neighbour(&self, ip: IpAddr) -> bool {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        interfaces.iter().any(|interface| shares_subnet(&interface.addr, ip.to_canonical()))
    }
    fn gateway(&self, from: Ipv4Addr) -> Option<Ipv4Addr> {
        routes::gateway(from)
    }
}

/// Is the address in the subnet of this interface? A mask of nothing means no subnet.
fn shares_subnet(interface: &IfAddr, ip: IpAddr) -> bool {
    match (interface, ip) {
        (IfAddr::V4(ours), IpAddr::V4(ip)) => {
            let mask = ours.netmask.to_bits();
            mask != 0 && (ours.ip.to_bits() ^ ip.to_bits()) & mask == 0
        }
        (IfAddr::V6(ours), IpAddr::V6(ip)) => {
            let mask = ours.netmask.to_bits();
            mask != 0 && (ours.ip.to_bits() ^ ip.to_bits()) & mask == 0
        }
        _ => false,
    }
}

#[derive(Debug)]
struct UdpDatagrams {
    local: SocketAddr,
    socket: UdpSocket,
}

#[async_trait]
impl Datagrams for UdpDatagrams {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(payload, canonical(to)).await
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        receive(&self.socket, buffer).await
    }
}

/// A socket that is held to an interface.
#[derive(Debug)]
struct HeldDatagrams {
    inner: UdpDatagrams,
    place: Place,
}

#[async_trait]
impl Datagrams for HeldDatagrams {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        if self.is_lost() {
            return Err(self.place.why_lost());
        }
        // A device other than the loopback one would carry it away.
        if to.ip().to_canonical().is_loopback() && !self.inner.local.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{to} is on this machine alone")));
        }
        self.inner.send_to(payload, to).await
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        tokio::select! {
            biased;
            error = self.place.lost() => Err(error),
            received = receive(&self.inner.socket, buffer) => received,
        }
    }
    fn is_lost(&self) -> bool {
        self.place.is_lost()
    }
}

/// One datagram, from whom it really is.
pub(crate) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer).await {
            // Windows reports here that an earlier datagram found nobody; it says nothing about this socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            received => return received.map(|(length, from)| (length, canonical(from))),
        }
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{Ifv4Addr, Ifv6Addr};

    use super::*;

    #[test]
    fn who_is_in_the_subnet_of_an_interface() {
        let v4 = |ip: &str, netmask: &str| {
            let (ip, netmask) = (ip.parse().unwrap(), netmask.parse().unwrap());
            IfAddr::V4(Ifv4Addr { ip, netmask, prefixlen: 0, broadcast: None })
        };
        let (ip, netmask) = ("2001:db8:1:2::3".parse().unwrap(), "ffff:ffff:ffff:ffff::".parse().unwrap());
        let v6 = IfAddr::V6(Ifv6Addr { ip, netmask, prefixlen: 64, broadcast: None });
        let there = |interface: &IfAddr, ip: &str| shares_subnet(interface, ip.parse().unwrap());
        let house = v4("203.0.113.5", "255.255.255.240");
        assert!(there(&house, "203.0.113.14") && !there(&house, "203.0.113.16") && !there(&house, "::1"));
        assert!(there(&v6, "2001:db8:1:2:ffff::1") && !there(&v6, "2001:db8:1:3::1"));
        assert!(!there(&v4("203.0.113.5", "0.0.0.0"), "198.51.100.1"), "that would be everybody");
        assert!(Udp::default().is_neighbour("127.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn datagrams_come_and_go_in_both_families() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let local = local.parse().unwrap();
            let udp = Udp::default();
            let (a, b) = (udp.bind(local).await.unwrap(), udp.bind(local).await.unwrap());
            a.send_to(b"hello", b.local_addr()).await.unwrap();
            let mut buffer = [0; 3];
            assert_eq!(b.recv_from(&mut buffer).await.unwrap(), (3, a.local_addr()), "what does not fit is cut off");
            assert_eq!(&buffer, b"hel");
        }
    }

    #[test]
    fn the_way_to_oneself_is_oneself_and_looking_for_ways_sends_nothing() {
        let there = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let lo = Ipv4Addr::LOCALHOST;
        assert_eq!(way(v4(Ipv4Addr::UNSPECIFIED), there.local_addr().unwrap()).unwrap(), IpAddr::V4(lo));
        there.set_nonblocking(true).unwrap();
        assert_eq!(there.recv_from(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let [v4, v6] = Udp::default().ways_out().from;
        assert!(v4.is_none_or(|ip| ip.is_ipv4()) && v6.is_none_or(|ip| ip.is_ipv6()));
    }

    #[tokio::test]
    async fn both_families_may_have_one_port() {
        let udp = Udp::default();
        let v6 = udp.bind("[::]:0".parse().unwrap()).await.unwrap();
        let v4 = SocketAddr::new("0.0.0.0".parse().unwrap(), v6.local_addr().port());
        assert_eq!(udp.bind(v4).await.unwrap().local_addr(), v4);
    }

    #[tokio::test]
    async fn a_socket_held_to_an_interface_is_there_and_speaks_to_it() {
        let udp = Udp { interface: Some(Arc::new("127.0.0.9".parse().unwrap())) };
        let anywhere = "0.0.0.0:0".parse().unwrap();
        let (a, b) = (udp.bind(anywhere).await.unwrap(), udp.bind(anywhere).await.unwrap());
        assert_eq!(a.local_addr().ip().to_string(), "127.0.0.9");
        a.send_to(b"hello", b.local_addr()).await.unwrap();
        let mut buffer = [0; 9];
        assert_eq!(b.recv_from(&mut buffer).await.unwrap(), (5, a.local_addr()));
        assert!(!a.is_lost());
        assert_eq!(udp.bind("[::]:0".parse().unwrap()).await.unwrap_err().to_string(), "127.0.0.9 has no IPv6 address");
        let ways = udp.ways_out();
        assert_eq!((ways.from, &*ways.only.unwrap().name), ([Some(a.local_addr().ip()), None], "127.0.0.9"));
        let gone = Udp { interface: Some(Arc::new("192.0.2.77".parse().unwrap())) };
        assert_eq!(gone.bind(anywhere).await.unwrap_err().kind(), io::ErrorKind::NetworkDown);
        assert!(!gone.ways_out().is_any());
    }
}
