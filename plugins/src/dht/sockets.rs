//! The node's sockets: one of each address family in which the session listens, at the same port.

use std::{io, net::SocketAddr, sync::Arc};

use castanet_core::seams::{
    datagrams::{Datagrams, Protocol},
    means::Means,
};
use castanet_protocol::dht::Families;

use crate::sockets::shared;

/// The largest datagram that is read: more than any node sends.
const LARGEST: usize = 4096;

/// The sockets, at least one.
#[derive(Debug)]
pub(super) struct Sockets {
    all: Vec<Arc<dyn Datagrams>>,
    /// Where they were asked for.
    asked: Vec<SocketAddr>,
    /// What is not as it should be, in words.
    pub(super) trouble: Option<String>,
    buffers: [Vec<u8>; 2],
    /// Who is read first, in turns.
    turn: usize,
}

/// Where sockets should be: the first address of each family.
pub(super) fn wanted(means: &Means) -> Vec<SocketAddr> {
    let listening = means.listening();
    let addrs = if listening.is_empty() { &means.bind } else { &listening };
    [SocketAddr::is_ipv4, SocketAddr::is_ipv6]
        .iter()
        .filter_map(|family: &fn(&SocketAddr) -> bool| addrs.iter().copied().find(family))
        .collect()
}

impl Sockets {
    /// Opens them; a family that does not work is left out as long as another one does.
    ///
    /// # Errors
    /// In words, if there is none.
    pub(super) async fn open(means: &Means) -> Result<Self, String> {
        let (asked, mut all, mut trouble) = (wanted(means), Vec::new(), None);
        for addr in &asked {
            match shared(means, *addr, Protocol::Dht).await {
                Ok(socket) => {
                    let (asked, given) = (addr.port(), socket.local_addr().port());
                    if asked != 0 && asked != given {
                        trouble = Some(format!("another program has UDP port {asked}, so it uses {given}"));
                    }
                    all.push(socket);
                }
                Err(error) if trouble.is_none() => trouble = Some(format!("no UDP socket at {addr}: {error}")),
                Err(_) => {}
            }
        }
        if all.is_empty() {
            return Err(trouble.unwrap_or_else(|| "it has no address to listen on".to_owned()));
        }
        Ok(Self { all, asked, trouble, buffers: [vec![0; LARGEST], vec![0; LARGEST]], turn: 0 })
    }

    /// Are they where they should be?
    pub(super) fn are_right(&self, means: &Means) -> bool {
        self.asked == wanted(means)
    }

    pub(super) fn families(&self) -> Families {
        let has = |v6| self.all.iter().any(|socket| socket.local_addr().is_ipv6() == v6);
        Families { v4: has(false), v6: has(true) }
    }

    /// The IPv4 port, or else the IPv6 one; `None` behind a proxy, which has none for us.
    pub(super) fn port(&self) -> Option<u16> {
        self.all.first().map(|socket| socket.local_addr().port()).filter(|port| *port != 0)
    }

    /// Nothing but this machine can be reached.
    pub(super) fn are_lonely(&self) -> bool {
        self.all.iter().all(|socket| socket.local_addr().ip().is_loopback())
    }

    /// Sends through the socket of the family. What cannot be sent is lost, as any datagram may be.
    pub(super) async fn send(&self, to: SocketAddr, datagram: &[u8]) {
        if let Some(socket) = self.all.iter().find(|socket| socket.local_addr().is_ipv4() == to.is_ipv4())
            && let Err(error) = socket.send_to(datagram, to).await
        {
            tracing::trace!(%to, %error, "not sent");
        }
    }

    /// The next datagram of any of them; nobody is starved by the other.
    pub(super) async fn receive(&mut self) -> io::Result<(SocketAddr, &[u8])> {
        self.turn ^= 1;
        let [first, second] = [self.turn, self.turn ^ 1].map(|turn| self.all.get(turn));
        let [here, there] = &mut self.buffers;
        tokio::select! {
            biased;
            received = receive(first, here) => received,
            received = receive(second, there) => received,
        }
    }
}

async fn receive<'a>(socket: Option<&Arc<dyn Datagrams>>, buffer: &'a mut [u8]) -> io::Result<(SocketAddr, &'a [u8])> {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        match socket.recv_from(buffer).await {
            Ok((length, from)) => return Ok((from, &buffer[..length.min(LARGEST)])),
            // Some systems tell the socket that an earlier datagram found nobody.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) => {
            }
            Err(error) => return Err(error),
        }
    }
}
