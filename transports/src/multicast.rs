//! Multicast over UDP: a socket that hears a group and speaks to it, on one interface or on all of them.
//!
//! Several programs of one machine may join at once, and hear each other as well as the neighbours. What is sent stays
//! within a few hops.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use castanet_core::seams::datagrams::Datagrams;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::{interface::Interface as Only, udp::receive};

/// Routers that a datagram may pass: a building, not a continent.
const HOPS: u32 = 4;

/// Interfaces that are joined at most.
const MOST_INTERFACES: usize = 64;

/// The socket.
#[derive(Debug)]
pub(crate) struct Multicast {
    socket: UdpSocket,
    local: SocketAddr,
    interfaces: Vec<Interface>,
    /// Held while the interface is chosen by which the next datagram leaves.
    sending: Mutex<()>,
}

/// How the system calls an interface: by an address in IPv4, by its number in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Interface {
    V4(Ipv4Addr),
    V6(u32),
}

impl Multicast {
    /// Joins `group` on the interface with that address; if it is unspecified, on all of them, or on the only one that
    /// may be used.
    ///
    /// # Errors
    /// If no interface can be joined, or the port is taken by a program that does not share it.
    pub(crate) fn join(group: SocketAddr, mut interface: IpAddr, only: Option<&Only>) -> io::Result<Self> {
        let other_family = !interface.is_unspecified() && interface.is_ipv4() != group.is_ipv4();
        if !group.ip().is_multicast() || other_family {
            let reason = format!("{interface} cannot join {}", group.ip());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let socket = open(group)?;
        if let Some(only) = only {
            interface = only.hold_group(&socket, interface)?;
        }
        socket.bind(&at(group).into())?;
        let mut joined = Vec::new();
        let mut trouble = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no interface joins {}", group.ip()));
        for interface in interfaces(group.ip(), interface)? {
            let result = match (group.ip(), interface) {
                (IpAddr::V4(group), Interface::V4(interface)) => socket.join_multicast_v4(&group, &interface),
                (IpAddr::V6(group), Interface::V6(interface)) => socket.join_multicast_v6(&group, interface),
                _ => continue,
            };
            match result {
                Ok(()) => joined.push(interface),
                Err(error) => trouble = error,
            }
        }
        if joined.is_empty() {
            return Err(trouble);
        }
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { local: socket.local_addr()?, socket, interfaces: joined, sending: Mutex::default() })
    }

    fn send_by(&self, interface: Interface, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        match interface {
            Interface::V4(interface) => SockRef::from(&self.socket).set_multicast_if_v4(&interface)?,
            Interface::V6(interface) => SockRef::from(&self.socket).set_multicast_if_v6(interface)?,
        }
        self.socket.try_io(Interest::WRITABLE, || SockRef::from(&self.socket).send_to(payload, &to.into()))
    }
}

#[async_trait]
impl Datagrams for Multicast {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends by every interface; fails if it left by none.
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for interface in &self.interfaces {
            self.socket.writable().await?;
            // A full buffer loses the datagram, as the network might.
            let sent = self.send_by(*interface, payload, to);
            if result.is_err() {
                result = sent;
            }
        }
        result
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        receive(&self.socket, buffer).await
    }
}

/// A socket for the group's port, which others may use as well.
fn open(group: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    match group {
        SocketAddr::V4(_) => {
            socket.set_multicast_loop_v4(true)?;
            socket.set_multicast_ttl_v4(HOPS)?;
            // Linux passes on what any program of the machine has joined, unless it is told not to.
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v4(false)?;
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_loop_v6(true)?;
            socket.set_multicast_hops_v6(HOPS)?;
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v6(false)?;
        }
    }
    Ok(socket)
}

/// Where a socket hears a group.
fn at(group: SocketAddr) -> SocketAddr {
    let any = if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(any, group.port())
}

/// The interface with this address, or all that lead to neighbours; the loopback one if there is no other.
fn interfaces(group: IpAddr, wanted: IpAddr) -> io::Result<Vec<Interface>> {
    let mut found: Vec<_> = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|there| there.ip().is_ipv4() == group.is_ipv4())
        .filter(|there| wanted.is_unspecified() || there.ip() == wanted)
        .collect();
    if found.iter().any(|there| !there.is_loopback()) {
        found.retain(|there| !there.is_loopback());
    }
    let mut interfaces: Vec<_> = found
        .into_iter()
        .filter_map(|there| match there.ip() {
            IpAddr::V4(ip) => Some(Interface::V4(ip)),
            IpAddr::V6(_) => there.index.map(Interface::V6),
        })
        .collect();
    // Any address of 127.0.0.0/8 is the machine's own, listed or not.
    if let IpAddr::V4(ip) = wanted
        && ip.is_loopback()
        && interfaces.is_empty()
    {
        interfaces.push(Interface::V4(ip));
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    interfaces.truncate(MOST_INTERFACES);
    Ok(interfaces)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn programs_of_one_machine_hear_each_other() {
        // A group of this test's own: its neighbours run at the same time.
        let group: SocketAddr = "239.255.77.1:26771".parse().unwrap();
        let lo = "127.0.0.1".parse().unwrap();
        let (a, b) = (Multicast::join(group, lo, None).unwrap(), Multicast::join(group, lo, None).unwrap());
        a.send_to(b"hello", group).await.unwrap();
        let mut buffer = [0; 9];
        for socket in [&a, &b] {
            let heard = timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(heard, (5, SocketAddr::new(lo, group.port())));
        }
    }

    #[tokio::test]
    async fn another_group_on_the_same_port_is_not_heard() {
        let (one, other) = ("239.255.77.2:26772".parse().unwrap(), "239.255.77.3:26772".parse().unwrap());
        let lo = "127.0.0.1".parse().unwrap();
        let (a, b) = (Multicast::join(one, lo, None).unwrap(), Multicast::join(other, lo, None).unwrap());
        a.send_to(b"to others", other).await.unwrap();
        a.send_to(b"mine", one).await.unwrap();
        let mut buffer = [0; 9];
        assert_eq!(timeout(Duration::from_secs(5), a.recv_from(&mut buffer)).await.unwrap().unwrap().0, 4);
        assert_eq!(timeout(Duration::from_secs(5), b.recv_from(&mut buffer)).await.unwrap().unwrap().0, 9);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        let group = "239.255.77.4:26774".parse().unwrap();
        assert!(Multicast::join("127.0.0.1:26774".parse().unwrap(), Ipv4Addr::UNSPECIFIED.into(), None).is_err());
        assert!(Multicast::join(group, "192.0.2.1".parse().unwrap(), None).is_err(), "nobody's address");
        assert!(Multicast::join(group, "::1".parse().unwrap(), None).is_err(), "another family");
    }
}
