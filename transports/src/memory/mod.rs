//! A network in memory: hosts, [links](crate::link), streams and datagrams, for the simulated universe.
//!
//! All time is tokio's, so a paused clock runs it; it is driven by events, without ticks; and the same seed and the same
//! calls give the same run. Everything lies behind one lock (`state.rs`), held for moments and never while waking.
//!
//! Streams behave as TCP does where peers can tell: in order, with a window of [`WINDOW`] bytes in flight and unread,
//! refused where nobody listens, silent where a host is unplugged, on another island or behind a [NAT](Nat), reset where it
//! was killed.

mod datagrams;
mod downlinks;
mod nat;
mod places;
mod state;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::{
        datagrams::{DatagramFactory, Datagrams, WaysOut},
        transport::{Connection, DialOptions, Listener, Transport, TransportError},
    },
};
use futures_util::stream::unfold;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

pub use self::{datagrams::LARGEST_DATAGRAM, nat::Nat, stream::WINDOW};
use self::{
    datagrams::MemoryDatagrams,
    state::{Shared, State},
    stream::MemoryStream,
};
pub use crate::link::Link;

const NAME: &str = "memory";

/// Connections that wait to be accepted; more are refused.
const BACKLOG: usize = 1024;

/// The network, shared by cloning.
#[derive(Debug, Clone)]
pub struct MemoryNet(Shared);

impl MemoryNet {
    /// A network without hosts; `seed` decides what links leave to chance.
    pub fn new(seed: u64) -> Self {
        Self(Shared::new(seed))
    }

    /// A host at this address: its transport and its datagrams. The same address gives the same host again.
    pub fn host(&self, ip: IpAddr) -> MemoryTransport {
        let ip = ip.to_canonical();
        self.0.with(|state| state.hosts.insert(ip));
        MemoryTransport { net: self.0.clone(), ip }
    }

    /// The link between hosts that have none of their own.
    pub fn set_default_link(&self, link: Link) {
        self.0.with(|state| state.default_link = link);
    }

    /// The link from one host to another, in this direction only.
    pub fn set_link(&self, from: IpAddr, to: IpAddr, link: Link) {
        self.0.with(|state| state.links.insert((from, to), link));
    }

    /// Bytes a second that a host can send in all, over all its links; `None` for no limit.
    pub fn set_uplink(&self, host: IpAddr, bandwidth: Option<u64>) {
        self.0.with(|state| match bandwidth {
            Some(bandwidth) => state.uplinks.insert(host, bandwidth),
            None => state.uplinks.remove(&host),
        });
    }

    /// Bytes a second that a host can receive in all, over all its links; `None` for no limit. What waits for its turn
    /// keeps it when that changes.
    pub fn set_downlink(&self, host: IpAddr, bandwidth: Option<u64>) {
        self.0.with(|state| state.downlinks.set(host, bandwidth));
    }

    /// Puts a host behind a NAT, which begins without mappings, or out of it.
    pub fn set_nat(&self, host: IpAddr, nat: Option<Nat>) {
        self.0.with(|state| state.nats.set(host, nat));
    }

    /// Moves a host to a LAN: its multicast reaches no other, and between the hosts of one there is no NAT. All begin in
    /// LAN 0, which is for those that have none: they hear each other's multicast, but their NATs are between them.
    pub fn set_lan(&self, host: IpAddr, lan: u32) {
        self.0.with(|state| state.places.set_lan(host, lan));
    }

    /// Moves a host to an island; all begin on island 0. Between islands nothing passes, and nobody is told. Streams go on
    /// when their ends are together again.
    pub fn set_island(&self, host: IpAddr, island: u32) {
        self.set_islands([(host, island)]);
    }

    /// Moves many hosts to islands at once, which takes as long as to move one.
    pub fn set_islands(&self, islands: impl IntoIterator<Item = (IpAddr, u32)>) {
        let moves = islands.into_iter().collect();
        self.0.with(|state| state.set_islands(moves));
    }

    /// Pulls a host's cable: nothing arrives from or at it, and nobody is told. Streams go on after [`MemoryNet::plug`].
    pub fn unplug(&self, host: IpAddr) {
        self.0.with(|state| state.places.unplugged.insert(host));
    }

    /// Puts the cable back.
    pub fn plug(&self, host: IpAddr) {
        self.0.with(|state| state.plug(host));
    }

    /// Resets every connection of a host, at both ends, at once.
    pub fn cut(&self, host: IpAddr) {
        self.0.with(|state| state.reset(|a, b| a == host || b == host));
    }

    /// Resets every connection between two hosts.
    pub fn cut_between(&self, one: IpAddr, other: IpAddr) {
        self.0.with(|state| state.reset(|a, b| (a, b) == (one, other) || (a, b) == (other, one)));
    }

    /// Kills what runs on a host: connections are reset, listeners end, datagram sockets fall silent. The host stays, and
    /// may listen again.
    pub fn kill(&self, host: IpAddr) {
        self.cut(host);
        self.0.with(|state| state.silence(host));
    }

    /// Connections of which some half is still held somewhere: 0 at the end of a test that leaks none.
    pub fn open_connections(&self) -> usize {
        self.0.with(|state| state.wires.len())
    }
}

/// One host's access to the network.
#[derive(Debug, Clone)]
pub struct MemoryTransport {
    net: Shared,
    ip: IpAddr,
}

impl MemoryTransport {
    /// The host's address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Waits as long as a packet travels: forever unless it `arrives`.
    async fn travel(&self, from: IpAddr, to: IpAddr, arrives: fn(&State, IpAddr, IpAddr) -> bool) {
        match self.net.with(|state| arrives(state, from, to).then(|| state.link(from, to).latency)) {
            Some(latency) => sleep(latency).await,
            None => future::pending().await,
        }
    }

    async fn connect(&self, to: SocketAddr) -> Result<Connection, TransportError> {
        let from = self.local(SocketAddr::new(self.ip, 0))?;
        self.travel(self.ip, to.ip(), State::is_open).await;
        let listener = self.net.with(|state| state.listeners.get(&to).cloned());
        let answer = listener.and_then(|listener| {
            let (ours, theirs) = MemoryStream::pair(&self.net, from, to);
            let theirs = Connection { io: Box::new(theirs), remote: from, local: to, via: NAME };
            listener.try_send(theirs).ok().map(|()| ours)
        });
        self.travel(to.ip(), self.ip, State::is_connected).await;
        match answer {
            Some(ours) => Ok(Connection { io: Box::new(ours), remote: to, local: from, via: NAME }),
            None => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
        }
    }

    /// An address of this host to bind: unspecified means any, port 0 a free one.
    fn local(&self, asked: SocketAddr) -> io::Result<SocketAddr> {
        let asked = canonical(asked);
        let is_ours = asked.is_ipv4() == self.ip.is_ipv4() && (asked.ip().is_unspecified() || asked.ip() == self.ip);
        if !is_ours {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        self.net.with(|state| match asked.port() {
            0 => state.free_port(self.ip),
            port => Ok(SocketAddr::new(self.ip, port)),
        })
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn includes(&self, name: &str) -> bool {
        name == self.name()
    }
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let to = canonical(to);
        if to.is_ipv4() != self.ip.is_ipv4() {
            return Err(TransportError::Unsupported { transport: NAME, to });
        }
        let connecting = timeout(options.timeout, self.connect(to));
        connecting.await.map_err(|_| TransportError::Timeout(options.timeout))?
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let local = self.local(on)?;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.net.with(|state| state.claim(local, |state| &mut state.listeners, sender.clone()))?;
        let open = Open { net: self.net.clone(), local, sender: sender.downgrade(), receiver };
        let incoming = unfold(open, |mut open| async { open.receiver.recv().await.map(|found| (Ok(found), open)) });
        Ok(Listener { local, incoming: Box::pin(incoming) })
    }
}

#[async_trait]
impl DatagramFactory for MemoryTransport {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let local = self.local(local)?;
        Ok(Arc::new(MemoryDatagrams::bind(&self.net, local, None)?))
    }
    fn ways_out(&self) -> WaysOut {
        let is_up = self.net.with(|state| !state.places.unplugged.contains(&self.ip));
        WaysOut { from: [false, true].map(|v6| Some(self.ip).filter(|ip| is_up && ip.is_ipv6() == v6)), only: None }
    }
    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        let group = canonical(group);
        if !group.ip().is_multicast() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no multicast group", group.ip())));
        }
        // Several programs of a host may join: each has a port of its own, and the group has one for all.
        let local = self.local(SocketAddr::new(interface, 0))?;
        if group.is_ipv4() != local.is_ipv4() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(Arc::new(MemoryDatagrams::bind(&self.net, local, Some(group))?))
    }
}

/// A listener that leaves the network when it is dropped.
struct Open {
    net: Shared,
    local: SocketAddr,
    /// Weak, so that the stream ends when the network forgets the listener.
    sender: mpsc::WeakSender<Connection>,
    receiver: mpsc::Receiver<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let ours = self.sender.upgrade();
        self.net.with(|state| {
            // Another may listen there by now, after this host was killed.
            if state
                .listeners
                .get(&self.local)
                .is_some_and(|there| ours.as_ref().is_some_and(|ours| there.same_channel(ours)))
            {
                state.ended.extend(state.listeners.remove(&self.local));
            }
        });
    }
}

/// Listeners or sockets by address.
type ByAddr<T> = BTreeMap<SocketAddr, T>;
