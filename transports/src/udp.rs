//! Datagrams over UDP: under UDP trackers, the DHT and local discovery.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::datagrams::{DatagramFactory, Datagrams},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::multicast::Multicast;

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
#[derive(Debug, Clone, Copy, Default)]
pub struct Udp;

#[async_trait]
impl DatagramFactory for Udp {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            // So that the IPv4 socket may have the same port.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Arc::new(UdpDatagrams { local: socket.local_addr()?, socket }))
    }
    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(Arc::new(Multicast::join(canonical(group), interface.to_canonical())?))
    }
    fn ways_out(&self) -> [Option<IpAddr>; 2] {
        WORLD.map(|(from, to)| way(from, to).ok())
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
    use super::*;

    #[tokio::test]
    async fn datagrams_come_and_go_in_both_families() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let local = local.parse().unwrap();
            let (a, b) = (Udp.bind(local).await.unwrap(), Udp.bind(local).await.unwrap());
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
        let [v4, v6] = Udp.ways_out();
        assert!(v4.is_none_or(|ip| ip.is_ipv4()) && v6.is_none_or(|ip| ip.is_ipv6()));
    }

    #[tokio::test]
    async fn both_families_may_have_one_port() {
        let v6 = Udp.bind("[::]:0".parse().unwrap()).await.unwrap();
        let v4 = SocketAddr::new("0.0.0.0".parse().unwrap(), v6.local_addr().port());
        assert_eq!(Udp.bind(v4).await.unwrap().local_addr(), v4);
    }
}
