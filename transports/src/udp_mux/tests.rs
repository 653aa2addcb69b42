//! The shared socket in the network in memory, under a paused clock.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join3};
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::memory::MemoryNet;

const KINDS: [Protocol; 3] = [Protocol::Dht, Protocol::Tracker, Protocol::Utp];

/// A datagram of this protocol that carries a number.
fn datagram(protocol: Protocol, number: u16) -> Vec<u8> {
    let mut datagram = match protocol {
        Protocol::Dht => b"d1:xi".to_vec(),
        Protocol::Tracker => vec![0, 0, 0, 1, 9, 9, 9, 9],
        _ => vec![0x41; UTP_HEADER],
    };
    datagram.extend(number.to_be_bytes());
    datagram
}

/// A socket that all protocols share, and one that sends to it.
struct World {
    mux: UdpMux,
    parts: [Arc<dyn Datagrams>; 3],
    sender: Arc<dyn Datagrams>,
}

async fn world() -> World {
    let net = MemoryNet::new(1);
    let mux = UdpMux::new(Arc::new(net.host([10, 0, 0, 1].into())));
    let local = "10.0.0.1:6881".parse().unwrap();
    let mut parts = Vec::new();
    for protocol in KINDS {
        parts.push(mux.shared(local, protocol).await.unwrap());
    }
    let sender = net.host([10, 0, 0, 2].into()).bind("0.0.0.0:0".parse().unwrap()).await.unwrap();
    World { mux, parts: parts.try_into().unwrap(), sender }
}

impl World {
    async fn send(&self, protocol: Protocol, numbers: impl IntoIterator<Item = u16>) {
        for number in numbers {
            self.sender.send_to(&datagram(protocol, number), self.parts[0].local_addr()).await.unwrap();
        }
    }
}

/// The number of the next datagram of this protocol, and of no other.
async fn number(part: &Arc<dyn Datagrams>, protocol: Protocol) -> u16 {
    let mut buffer = [0; 64];
    let (length, _) = part.recv_from(&mut buffer).await.unwrap();
    let number = u16::from_be_bytes(buffer[length - 2..length].try_into().unwrap());
    assert_eq!(&buffer[..length], datagram(protocol, number));
    number
}

async fn numbers(part: &Arc<dyn Datagrams>, protocol: Protocol, count: usize) -> Vec<u16> {
    let mut numbers_read = Vec::new();
    for _ in 0..count {
        numbers_read.push(number(part, protocol).await);
    }
    numbers_read
}

#[tokio::test(start_paused = true)]
async fn each_protocol_gets_its_own_in_order() {
    let world = world().await;
    for n in 0..100 {
        for protocol in KINDS {
            world.send(protocol, [n]).await;
        }
        world.sender.send_to(b"noise of nobody", world.parts[0].local_addr()).await.unwrap();
        world.sender.send_to(b"", world.parts[0].local_addr()).await.unwrap();
    }
    let [dht, tracker, utp] = &world.parts;
    let (dht, tracker, utp) =
        join3(numbers(dht, KINDS[0], 100), numbers(tracker, KINDS[1], 100), numbers(utp, KINDS[2], 100)).await;
    let all: Vec<_> = (0..100).collect();
    assert_eq!((dht, tracker, utp), (all.clone(), all.clone(), all));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_not_polled_does_not_stop_the_others() {
    let world = world().await;
    let [slow, other, _] = &world.parts;
    let mut buffer = [0; 64];
    let mut waiting = Box::pin(slow.recv_from(&mut buffer));
    assert!((&mut waiting).now_or_never().is_none(), "it waits, and drives the reading");
    world.send(KINDS[1], 0..5).await;
    let read = timeout(Duration::from_secs(1), numbers(other, KINDS[1], 5)).await;
    assert_eq!(read.unwrap(), [0, 1, 2, 3, 4]);
    world.send(KINDS[0], [7]).await;
    assert!(timeout(Duration::from_secs(1), number(other, KINDS[1])).await.is_err());
    assert_eq!(waiting.await.unwrap().0, 7);
}

#[tokio::test(start_paused = true)]
async fn a_protocol_that_does_not_read_loses_its_own_newest() {
    let world = world().await;
    let [slow, quick, _] = &world.parts;
    let fits = (MOST_WAITING / (datagram(KINDS[0], 0).len() + OVERHEAD)) as u16;
    for n in 0..fits / 100 + 1 {
        world.send(KINDS[0], n * 100..(n + 1) * 100).await;
        world.send(KINDS[1], [n]).await;
        assert_eq!(number(quick, KINDS[1]).await, n);
    }
    assert_eq!(numbers(slow, KINDS[0], fits.into()).await, (0..fits).collect::<Vec<_>>());
    assert!(timeout(Duration::from_secs(1), number(slow, KINDS[0])).await.is_err());
    world.send(KINDS[0], [9]).await;
    assert_eq!(number(slow, KINDS[0]).await, 9);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_loses_nothing() {
    let world = world().await;
    let [dht, tracker, _] = &world.parts;
    let mut read = (Vec::new(), Vec::new());
    for n in 0..200 {
        world.send(KINDS[0], [n]).await;
        world.send(KINDS[1], [n]).await;
        // Half of them come too late for the readers, which try again.
        let within = Duration::from_millis(if n % 2 == 0 { 5 } else { 15 });
        tokio::select! {
            biased;
            n = number(dht, KINDS[0]) => read.0.push(n),
            n = number(tracker, KINDS[1]) => read.1.push(n),
            () = tokio::time::sleep(within) => {}
        }
    }
    let (missing, also) = (200 - read.0.len(), 200 - read.1.len());
    assert!(missing > 0 && also > 0, "someone gave up: {missing}, {also}");
    read.0.extend(numbers(dht, KINDS[0], missing).await);
    read.1.extend(numbers(tracker, KINDS[1], also).await);
    let all: Vec<_> = (0..200).collect();
    assert_eq!(read, (all.clone(), all));
    assert!(world.parts[0].recv_from(&mut []).now_or_never().is_none());
    assert!(waiting(&world).is_empty(), "whoever gave up is forgotten");
}

fn waiting(world: &World) -> Vec<u64> {
    let open = world.mux.open.try_lock().unwrap();
    let socket = open[0].upgrade().unwrap();
    let queues = socket.sorted.lock();
    queues.values().flat_map(|queue| queue.waiting.keys().copied()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_kept_as_long_as_someone_uses_it() {
    let world = world().await;
    let local = world.parts[0].local_addr();
    let again = world.mux.shared(local, KINDS[0]).await.unwrap();
    world.send(KINDS[0], [1, 2]).await;
    assert_eq!(number(&again, KINDS[0]).await, 1);
    assert!(world.mux.bind(local).await.is_err(), "the port is taken");
    let World { mux, parts, sender } = world;
    drop(parts);
    assert_eq!(number(&again, KINDS[0]).await, 2);
    sender.send_to(&datagram(KINDS[1], 1), local).await.unwrap();
    sender.send_to(&datagram(KINDS[0], 3), local).await.unwrap();
    assert_eq!(number(&again, KINDS[0]).await, 3, "nobody asks for the tracker's any more");
    drop(again);
    assert!(mux.bind(local).await.is_ok(), "the port is free");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_any_port_gets_the_same() {
    let mux = UdpMux::new(Arc::new(MemoryNet::new(1).host([10, 0, 0, 1].into())));
    let any = "0.0.0.0:0".parse().unwrap();
    let (one, other) = futures_util::join!(mux.shared(any, KINDS[0]), mux.shared(any, KINDS[1]));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.local_addr(), other.local_addr());
    let third = mux.shared(one.local_addr(), KINDS[2]).await.unwrap();
    assert_eq!(third.local_addr(), other.local_addr());
    assert_ne!(mux.bind(any).await.unwrap().local_addr(), one.local_addr());
}

#[derive(Debug)]
struct Broken {
    local: SocketAddr,
    is_lost: bool,
}

#[async_trait]
impl Datagrams for Broken {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }
    fn is_lost(&self) -> bool {
        self.is_lost
    }
    async fn send_to(&self, _: &[u8], _: SocketAddr) -> io::Result<usize> {
        Err(io::ErrorKind::NetworkDown.into())
    }
    async fn recv_from(&self, _: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Err(io::ErrorKind::NetworkDown.into())
    }
}
#[derive(Debug, Default)]
struct Breaks {
    are_lost: bool,
    bound: Arc<AtomicUsize>,
}

#[async_trait]
impl DatagramFactory for Breaks {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        self.bound.fetch_add(1, Relaxed);
        Ok(Arc::new(Broken { local, is_lost: self.are_lost }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_socket_tells_everyone() {
    let mux = UdpMux::new(Arc::new(Breaks::default()));
    let local = "10.0.0.1:1".parse().unwrap();
    let (one, other) = (mux.shared(local, KINDS[0]).await.unwrap(), mux.shared(local, KINDS[1]).await.unwrap());
    for _ in 0..3 {
        for part in [&one, &other] {
            assert_eq!(part.recv_from(&mut []).await.unwrap_err().kind(), io::ErrorKind::NetworkDown);
        }
    }
}

#[tokio::test]
async fn a_lost_socket_is_not_shared_any_more() {
    for (are_lost, expected) in [(false, 1), (true, 2)] {
        let bound = Arc::new(AtomicUsize::new(0));
        let mux = UdpMux::new(Arc::new(Breaks { are_lost, bound: bound.clone() }));
        let local = "10.0.0.1:1".parse().unwrap();
        let held = mux.shared(local, KINDS[0]).await.unwrap();
        let _again = mux.shared(local, KINDS[0]).await.unwrap();
        assert_eq!((held.is_lost(), bound.load(Relaxed)), (are_lost, expected));
    }
}

#[tokio::test]
async fn real_sockets_are_shared_across_threads() {
    let mux = UdpMux::new(Arc::new(crate::udp::Udp::default()));
    let local = "127.0.0.1:0".parse().unwrap();
    let mut readers = Vec::new();
    for protocol in KINDS {
        let part = mux.shared(local, protocol).await.unwrap();
        readers.push((protocol, part));
    }
    let to = readers[0].1.local_addr();
    let sender = crate::udp::Udp::default().bind(local).await.unwrap();
    let threads: Vec<_> = readers
        .into_iter()
        .map(|(protocol, part)| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(numbers(&part, protocol, 50))
            })
        })
        .collect();
    for n in 0..50 {
        for protocol in KINDS {
            sender.send_to(&datagram(protocol, n), to).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    let read = tokio::task::spawn_blocking(|| threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>());
    for numbers in read.await.unwrap() {
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn no_first_byte_belongs_to_two(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let of = protocol_of(&bytes);
        prop_assert_eq!(of == Some(Protocol::Dht), bytes.first() == Some(&b'd'));
        if of == Some(Protocol::Utp) {
            prop_assert!(bytes.len() >= UTP_HEADER && bytes[0] & 0x0f == 1);
        }
        if of == Some(Protocol::Tracker) {
            prop_assert!(bytes.len() >= 8 && u32::from_be_bytes(bytes[..4].try_into().unwrap()) <= 3);
        }
    }
}
