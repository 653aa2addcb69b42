//! Datagrams over UDP: under UDP trackers, the DHT and local discovery.

use std::{
    io,
    net::{IpAddr, SocketAddr},
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

    #[tokio::test]
    async fn both_families_may_have_one_port() {
        let v6 = Udp.bind("[::]:0".parse().unwrap()).await.unwrap();
        let v4 = SocketAddr::new("0.0.0.0".parse().unwrap(), v6.local_addr().port());
        assert_eq!(Udp.bind(v4).await.unwrap().local_addr(), v4);
    }
}
