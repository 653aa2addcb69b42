//! A world for the tests: names, web servers and UDP trackers in memory, and a torrent to find peers for.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use async_trait::async_trait;
use castanet_core::{
    InfoHashV1, InfoHashes, Moment, PeerId,
    seams::{
        datagrams::{DatagramFactory, Datagrams},
        discovery::{Me, Progress, Swarm, SwarmEvent, SwarmInfo},
        means::{Clock, Means, Resolve, ResolveError, Scratchpad},
        transport::{Connection, DialOptions, Duplex, Listener, ReadHalf, Transport, TransportError, WriteHalf},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{mpsc, watch},
    time::Instant,
};

type OnConnect = Arc<dyn Fn(DuplexStream) + Send + Sync>;
type OnDatagram = Arc<dyn Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync>;

/// Everything there is. Whoever is not listed does not exist.
#[derive(Clone)]
pub(crate) struct World {
    start: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Vec<IpAddr>>,
    streams: BTreeMap<SocketAddr, OnConnect>,
    datagrams: BTreeMap<SocketAddr, OnDatagram>,
    sockets: Vec<Inbox>,
    /// Who has joined which group.
    groups: Vec<(SocketAddr, Inbox)>,
    groupless: bool,
}

type Inbox = mpsc::UnboundedSender<(Vec<u8>, SocketAddr)>;

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), state: Arc::default() }
    }
    pub(crate) fn now(&self) -> Moment {
        Moment::ZERO + self.start.elapsed()
    }
    pub(crate) fn means(&self) -> Means {
        let world = self.clone();
        Means {
            datagrams: Arc::new(self.clone()),
            dialer: Arc::new(self.clone()),
            resolver: Arc::new(self.clone()),
            clock: Clock::new(move || world.now()),
            seed: 7,
            bind: vec!["0.0.0.0:0".parse().unwrap(), "[::]:0".parse().unwrap()],
            listening: Arc::default(),
            mapped: Arc::default(),
            notebook: Arc::new(Scratchpad::default()),
            user_agent: "Castanet/test".into(),
        }
    }
    /// A name with addresses.
    pub(crate) fn name(&self, name: &str, ips: &[&str]) {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.state.lock().unwrap().names.insert(name.to_owned(), ips);
    }
    /// A name whose look-up never ends.
    pub(crate) fn silent_name(&self, name: &str) {
        self.name(name, &[]);
    }
    /// Hands connections to `addr` over.
    pub(crate) fn listen(&self, addr: &str, on_connect: impl Fn(DuplexStream) + Send + Sync + 'static) {
        self.state.lock().unwrap().streams.insert(addr.parse().unwrap(), Arc::new(on_connect));
    }
    /// Answers each datagram to `addr` with any number of others.
    pub(crate) fn datagrams(&self, addr: &str, on_datagram: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        self.state.lock().unwrap().datagrams.insert(addr.parse().unwrap(), Arc::new(on_datagram));
    }
    /// Sends to every socket that was ever bound.
    pub(crate) fn inject(&self, from: &str, datagram: &[u8]) {
        for socket in &self.state.lock().unwrap().sockets {
            let _ = socket.send((datagram.to_vec(), from.parse().unwrap()));
        }
    }
    /// No IPv6 group can be joined from now on.
    pub(crate) fn without_ipv6_groups(&self) {
        self.state.lock().unwrap().groupless = true;
    }
    /// Sends to a multicast group from this address; returns how many heard it.
    pub(crate) fn multicast(&self, group: SocketAddr, from: SocketAddr, datagram: &[u8]) -> usize {
        let mut state = self.state.lock().unwrap();
        state.groups.retain(|(_, inbox)| !inbox.is_closed());
        let members = state.groups.iter().filter(|(joined, _)| *joined == group);
        members.map(|(_, inbox)| drop(inbox.send((datagram.to_vec(), from)))).count()
    }
    pub(crate) fn sockets(&self) -> usize {
        self.state.lock().unwrap().sockets.len()
    }
}

#[async_trait]
impl Resolve for World {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let found = self.state.lock().unwrap().names.get(host).cloned();
        match found {
            Some(ips) if ips.is_empty() => std::future::pending().await,
            Some(ips) => Ok(ips),
            None => Err(ResolveError { host: host.to_owned(), reason: "no such name".to_owned() }),
        }
    }
}

#[async_trait]
impl Transport for World {
    fn name(&self) -> &'static str {
        "test"
    }
    fn includes(&self, name: &str) -> bool {
        name == Transport::name(self)
    }
    async fn dial(&self, to: SocketAddr, _: DialOptions) -> Result<Connection, TransportError> {
        let server = self.state.lock().unwrap().streams.get(&to).cloned();
        let server = server.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        server(theirs);
        Ok(Connection { io: Box::new(Stream(ours)), remote: to, local: to, via: "test" })
    }
    async fn listen(&self, _: SocketAddr) -> Result<Listener, TransportError> {
        unreachable!("plugins do not listen")
    }
}

#[async_trait]
impl DatagramFactory for World {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let (inbox, incoming) = mpsc::unbounded_channel();
        self.state.lock().unwrap().sockets.push(inbox.clone());
        Ok(Arc::new(Socket { world: self.clone(), local, inbox, incoming: incoming.into() }))
    }
    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        assert_eq!(group.is_ipv4(), interface.is_ipv4(), "the wrong interface for {group}");
        let (inbox, incoming) = mpsc::unbounded_channel();
        let local = SocketAddr::new(interface, group.port());
        let mut state = self.state.lock().unwrap();
        if state.groupless && group.is_ipv6() {
            return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "no route"));
        }
        state.groups.push((group, inbox.clone()));
        Ok(Arc::new(Socket { world: self.clone(), local, inbox, incoming: incoming.into() }))
    }
}

#[derive(Debug)]
struct Socket {
    world: World,
    local: SocketAddr,
    inbox: mpsc::UnboundedSender<(Vec<u8>, SocketAddr)>,
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<(Vec<u8>, SocketAddr)>>,
}

#[async_trait]
impl Datagrams for Socket {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }
    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        assert_eq!(self.local.is_ipv4(), to.is_ipv4(), "the wrong socket for {to}");
        if to.ip().is_multicast() {
            self.world.multicast(to, self.local, payload);
            return Ok(payload.len());
        }
        let server = self.world.state.lock().unwrap().datagrams.get(&to).cloned();
        for reply in server.map(|server| server(payload)).unwrap_or_default() {
            let _ = self.inbox.send((reply, to));
        }
        Ok(payload.len())
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (payload, from) = self.incoming.lock().await.recv().await.expect("we hold a sender");
        let length = payload.len().min(buffer.len());
        buffer[..length].copy_from_slice(&payload[..length]);
        Ok((length, from))
    }
}

struct Stream(DuplexStream);

impl Duplex for Stream {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(self.0);
        (Box::new(read), Box::new(write))
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        Ok(self)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A torrent as a plugin sees it.
pub(crate) struct Torrent {
    pub(crate) info: SwarmInfo,
    pub(crate) me: Me,
    pub(crate) progress: Progress,
}

/// The engine's ends of a swarm's channels.
pub(crate) struct Engine {
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) events: mpsc::Sender<SwarmEvent>,
}

impl Torrent {
    /// A torrent with each tracker in a tier of its own, that wants one peer and is not complete.
    pub(crate) fn new(trackers: &[&str]) -> Self {
        Self {
            info: SwarmInfo {
                trackers: trackers.iter().map(|url| vec![url.to_string()]).collect::<Vec<_>>().into(),
                ..SwarmInfo::new(InfoHashes::v1(InfoHashV1([0xab; 20])))
            },
            me: Me { peer_id: PeerId([b'p'; 20]), port: 6881, key: 0xbeef },
            progress: Progress { uploaded: 1, downloaded: 2, left: Some(3), wanted: 1 },
        }
    }
    pub(crate) fn swarm(&self) -> (Swarm, Engine) {
        let (progress, watched) = watch::channel(self.progress.clone());
        let (events, received) = mpsc::channel(8);
        let swarm =
            Swarm { info: self.info.clone(), me: self.me.clone(), progress: watched, events: received, gossip: None };
        (swarm, Engine { progress, events })
    }
}
