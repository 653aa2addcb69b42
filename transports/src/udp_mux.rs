//! The one owner of the session's UDP sockets: DHT, UDP trackers and uTP share a port, as everyone expects of a client.
//!
//! Datagrams are told apart by their first bytes. There is no reading task: the reading is one future per socket, kept in
//! it, and whoever waits for a datagram drives it for all. So nobody who pauses, or gives up, holds up or loses anything
//! of the others'. A protocol that does not read loses its own newest datagrams.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::poll_fn,
    io, mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
};

use async_trait::async_trait;
use castanet_core::seams::datagrams::{DatagramFactory, Datagrams, Protocol, WaysOut};

/// Bytes that may wait for one protocol at one socket, each datagram counted with [`OVERHEAD`] more.
const MOST_WAITING: usize = 1024 * 1024;
/// What keeping a datagram costs besides its payload, in bytes.
const OVERHEAD: usize = 64;
/// The largest datagram there is.
const LARGEST: usize = 65_535;
/// The header of uTP (BEP 29); what is shorter is none of it.
const UTP_HEADER: usize = 20;
/// The last type of a uTP packet, `ST_SYN`.
const LAST_UTP_TYPE: u8 = 4;

/// Whose datagram this is, `None` if nobody's.
pub fn protocol_of(datagram: &[u8]) -> Option<Protocol> {
    match *datagram {
        [b'd', ..] => Some(Protocol::Dht),
        [0, 0, 0, 0..=3, _, _, _, _, ..] => Some(Protocol::Tracker),
        [first, ..] if first & 0x0f == 1 && first >> 4 <= LAST_UTP_TYPE && datagram.len() >= UTP_HEADER => {
            Some(Protocol::Utp)
        }
        _ => None,
    }
}

/// Shares the sockets that another factory makes.
#[derive(Debug)]
pub struct UdpMux {
    inner: Arc<dyn DatagramFactory>,
    /// The shared sockets, each kept by those who use it. The lock is held while one is bound.
    open: tokio::sync::Mutex<Vec<Weak<Socket>>>,
}

impl UdpMux {
    /// Shares the sockets of `inner`.
    pub fn new(inner: Arc<dyn DatagramFactory>) -> Self {
        Self { inner, open: tokio::sync::Mutex::default() }
    }
}

#[async_trait]
impl DatagramFactory for UdpMux {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        self.inner.bind(local).await
    }

    async fn shared(&self, local: SocketAddr, protocol: Protocol) -> io::Result<Arc<dyn Datagrams>> {
        let mut open = self.open.lock().await;
        open.retain(|socket| socket.upgrade().is_some_and(|socket| !socket.datagrams.is_lost()));
        let there = open.iter().filter_map(Weak::upgrade).find(|socket| socket.is_at(local));
        let socket = match there {
            Some(socket) => socket,
            None => {
                let socket = Arc::new(Socket::new(local, self.inner.bind(local).await?));
                open.push(Arc::downgrade(&socket));
                socket
            }
        };
        Ok(Arc::new(Part::new(socket, protocol)))
    }

    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        self.inner.join(group, interface).await
    }

    fn ways_out(&self) -> WaysOut {
        self.inner.ways_out()
    }
    fn is_neighbour(&self, ip: IpAddr) -> bool {
        self.inner.is_neighbour(ip)
    }

    fn gateway(&self, from: Ipv4Addr) -> Option<Ipv4Addr> {
        self.inner.gateway(from)
    }
}

/// A socket that several protocols share.
struct Socket {
    /// The address that was asked for: with port 0, those who ask for the same get the same port.
    asked: SocketAddr,
    datagrams: Arc<dyn Datagrams>,
    sorted: Arc<Sorted>,
    /// Reads and sorts for ever.
    reading: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("datagrams", &self.datagrams).field("sorted", &self.sorted).finish()
    }
}

impl Socket {
    fn new(asked: SocketAddr, datagrams: Arc<dyn Datagrams>) -> Self {
        let sorted = Arc::<Sorted>::default();
        let reading = read(datagrams.clone(), sorted.clone());
        Self { asked, datagrams, sorted, reading: Mutex::new(Box::pin(reading)) }
    }

    fn is_at(&self, local: SocketAddr) -> bool {
        local == self.asked || local == self.datagrams.local_addr()
    }

    /// Reads on for everyone, unless another thread does in this moment: it wakes us if something was ours.
    fn drive(&self) {
        if let Ok(mut reading) = self.reading.try_lock() {
            let everyone = Waker::from(self.sorted.clone());
            let _never_ready = reading.as_mut().poll(&mut Context::from_waker(&everyone));
        }
    }
}

async fn read(datagrams: Arc<dyn Datagrams>, sorted: Arc<Sorted>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        match datagrams.recv_from(&mut buffer).await {
            Ok((length, from)) => sorted.put(&buffer[..length.min(LARGEST)], from),
            // Some systems tell the socket that an earlier datagram found nobody.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) => {
            }
            Err(error) => {
                sorted.fail(&error);
                // Everyone hears of it before it is tried again.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// What waits for each protocol, and who waits for it.
#[derive(Debug, Default)]
struct Sorted(Mutex<BTreeMap<Protocol, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// Parts that take from it; without any it does not exist.
    users: usize,
    datagrams: VecDeque<(Vec<u8>, SocketAddr)>,
    bytes: usize,
    error: Option<(io::ErrorKind, String)>,
    waiting: BTreeMap<u64, Waker>,
    next_key: u64,
}

impl Sorted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Protocol, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, datagram: &[u8], from: SocketAddr) {
        let Some(protocol) = protocol_of(datagram) else { return };
        let waiting = {
            let mut queues = self.lock();
            let Some(queue) = queues.get_mut(&protocol) else { return };
            let cost = datagram.len() + OVERHEAD;
            if queue.bytes + cost > MOST_WAITING {
                return;
            }
            queue.bytes += cost;
            queue.datagrams.push_back((datagram.to_vec(), from));
            mem::take(&mut queue.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    fn fail(&self, error: &io::Error) {
        self.lock().values_mut().for_each(|queue| queue.error = Some((error.kind(), error.to_string())));
    }

    fn with<T>(&self, protocol: Protocol, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(self.lock().entry(protocol).or_default())
    }
}

impl Queue {
    fn take(&mut self) -> Option<io::Result<(Vec<u8>, SocketAddr)>> {
        if let Some((datagram, from)) = self.datagrams.pop_front() {
            self.bytes -= datagram.len() + OVERHEAD;
            return Some(Ok((datagram, from)));
        }
        self.error.take().map(|(kind, reason)| Err(io::Error::new(kind, reason)))
    }
}

/// The socket has something to read: whoever is polled first will sort it.
impl Wake for Sorted {
    fn wake(self: Arc<Self>) {
        let waiting: Vec<_> = self.lock().values_mut().map(|queue| mem::take(&mut queue.waiting)).collect();
        waiting.into_iter().flatten().for_each(|(_, waker)| waker.wake());
    }
}

/// One protocol's part of a socket.
#[derive(Debug)]
struct Part {
    socket: Arc<Socket>,
    protocol: Protocol,
}

impl Part {
    fn new(socket: Arc<Socket>, protocol: Protocol) -> Self {
        socket.sorted.with(protocol, |queue| queue.users += 1);
        Self { socket, protocol }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut queues = self.socket.sorted.lock();
        if let Some(queue) = queues.get_mut(&self.protocol) {
            queue.users -= 1;
            if queue.users == 0 {
                queues.remove(&self.protocol);
            }
        }
    }
}

#[async_trait]
impl Datagrams for Part {
    fn local_addr(&self) -> SocketAddr {
        self.socket.datagrams.local_addr()
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.socket.datagrams.send_to(payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let waiter = Waiter::new(self);
        let (datagram, from) = poll_fn(|cx| waiter.poll(cx)).await?;
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok((length, from))
    }

    fn is_lost(&self) -> bool {
        self.socket.datagrams.is_lost()
    }
}

/// Someone who waits, forgotten when it gives up.
struct Waiter<'a> {
    part: &'a Part,
    key: u64,
}

impl<'a> Waiter<'a> {
    fn new(part: &'a Part) -> Self {
        let key = part.socket.sorted.with(part.protocol, |queue| {
            queue.next_key += 1;
            queue.next_key
        });
        Self { part, key }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let Part { socket, protocol } = self.part;
        let take = || {
            socket.sorted.with(*protocol, |queue| {
                let taken = queue.take();
                if taken.is_none() {
                    queue.waiting.insert(self.key, cx.waker().clone());
                }
                taken
            })
        };
        if let Some(taken) = take() {
            return Poll::Ready(taken);
        }
        // Registered by now: what arrives from here on wakes us, whoever sorts it.
        socket.drive();
        take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.part.socket.sorted.with(self.part.protocol, |queue| queue.waiting.remove(&self.key));
    }
}

#[cfg(test)]
mod tests;
