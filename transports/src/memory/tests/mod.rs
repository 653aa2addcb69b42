//! The network in memory under a paused clock: what arrives when, and what does not.

mod downlinks;
mod nat;
mod places;

use std::time::Duration;

use castanet_core::seams::transport::Duplex;
use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::*;

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

async fn pair(net: &MemoryNet) -> (Box<dyn Duplex>, Box<dyn Duplex>) {
    let (one, other) = (net.host(ip(1)), net.host(ip(2)));
    let mut listener = other.listen("0.0.0.0:0".parse().unwrap()).await.unwrap();
    let dialled = one.dial(listener.local, DialOptions::default()).await.unwrap();
    let accepted = listener.incoming.next().await.unwrap().unwrap();
    assert_eq!((dialled.remote, dialled.local), (accepted.local, accepted.remote));
    (dialled.io, accepted.io)
}

/// A socket of a host, at the port 6881.
fn socket(net: &MemoryNet, last: u8) -> Arc<dyn Datagrams> {
    net.host(ip(last)).bind("0.0.0.0:6881".parse().unwrap()).now_or_never().unwrap().unwrap()
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_after_the_latency_and_at_the_bandwidth() {
    let net = MemoryNet::new(1);
    let link = Link { latency: Duration::from_millis(100), bandwidth: Some(64 * 1024), ..Link::default() };
    net.set_link(ip(1), ip(2), link);
    net.set_link(ip(2), ip(1), Link { latency: Duration::from_millis(50), ..Link::default() });
    let start = Instant::now();
    let (mut one, mut other) = pair(&net).await;
    assert_eq!(start.elapsed(), Duration::from_millis(150), "a round trip");
    let start = Instant::now();
    one.write_all(&[7; 64 * 1024]).await.unwrap();
    let mut buffer = vec![0; 64 * 1024];
    other.read_exact(&mut buffer[..1]).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(350), "the first segment of four");
    other.read_exact(&mut buffer[1..]).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(1100));
    assert_eq!(buffer, [7; 64 * 1024]);
    let start = Instant::now();
    other.write_all(b"back").await.unwrap();
    drop(other);
    buffer.clear();
    one.read_to_end(&mut buffer).await.unwrap();
    assert_eq!((start.elapsed(), &buffer[..]), (Duration::from_millis(50), &b"back"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_uplink_is_shared_by_all_links() {
    let net = MemoryNet::new(1);
    net.set_uplink(ip(1), Some(100_000));
    let (mut one, mut other) = pair(&net).await;
    let (mut again, mut third) = pair(&net).await;
    let start = Instant::now();
    one.write_all(&[1; 100_000]).await.unwrap();
    again.write_all(&[2; 100_000]).await.unwrap();
    let mut buffers = [vec![0; 100_000], vec![0; 100_000]];
    other.read_exact(&mut buffers[0]).await.unwrap();
    third.read_exact(&mut buffers[1]).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(2010));
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_the_reader() {
    let net = MemoryNet::new(1);
    let (mut one, mut other) = pair(&net).await;
    one.write_all(&[1; WINDOW]).await.unwrap();
    assert!(one.write(b"x").now_or_never().is_none());
    let mut buffer = vec![0; 10];
    other.read_exact(&mut buffer).await.unwrap();
    let slices = [io::IoSlice::new(b"abcdef"), io::IoSlice::new(b""), io::IoSlice::new(b"ghijkl")];
    assert_eq!(one.write_vectored(&slices).await.unwrap(), 10, "as much as was read");
    let task = tokio::spawn(async move { one.write_all(b"rest").await.map(|()| one) });
    let mut buffer = vec![0; WINDOW + 4];
    other.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer[WINDOW - 10..], b"abcdefghijrest");
    drop(task.await.unwrap().unwrap());
    drop(other);
    assert_eq!(net.open_connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn halves_end_apart() {
    let net = MemoryNet::new(1);
    let (mut one, other) = pair(&net).await;
    let (mut read, mut write) = other.split();
    one.write_all(b"last").await.unwrap();
    one.shutdown().await.unwrap();
    assert_eq!(kind(one.write(b"x").await), Some(io::ErrorKind::BrokenPipe));
    let mut buffer = Vec::new();
    read.read_to_end(&mut buffer).await.unwrap();
    assert_eq!(buffer, b"last");
    write.write_all(b"still").await.unwrap();
    drop(write);
    buffer.clear();
    one.read_to_end(&mut buffer).await.unwrap();
    assert_eq!(buffer, b"still");
    assert_eq!(net.open_connections(), 1);
    drop((one, read));
    assert_eq!(net.open_connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn refused_unreachable_and_of_another_family() {
    let net = MemoryNet::new(1);
    let (one, other) = (net.host(ip(1)), net.host(ip(2)));
    let options = DialOptions { timeout: Duration::from_secs(3), ..DialOptions::default() };
    let start = Instant::now();
    let error = one.dial(SocketAddr::new(ip(2), 80), options.clone()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused));
    assert_eq!(start.elapsed(), Duration::from_millis(20));
    for to in [ip(2), ip(99)] {
        net.unplug(ip(2));
        let error = one.dial(SocketAddr::new(to, 80), options.clone()).await.unwrap_err();
        assert!(matches!(error, TransportError::Timeout(_)), "{error}");
    }
    net.plug(ip(2));
    let error = one.dial("[::1]:80".parse().unwrap(), options.clone()).await.unwrap_err();
    assert!(matches!(error, TransportError::Unsupported { .. }));
    let listener = other.listen(SocketAddr::new(ip(2), 80)).await.unwrap();
    assert!(other.listen(SocketAddr::new(ip(2), 80)).await.is_err(), "it is taken");
    assert!(other.listen(SocketAddr::new(ip(1), 80)).await.is_err(), "it is another host's");
    let open = one.dial(listener.local, options.clone()).await.unwrap();
    drop((listener, open));
    assert_eq!(net.open_connections(), 0, "what nobody accepted is gone");
    assert!(one.dial(SocketAddr::new(ip(2), 80), options).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_and_death_is_told() {
    let net = MemoryNet::new(1);
    let (mut one, mut other) = pair(&net).await;
    net.unplug(ip(2));
    one.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    let waiting = timeout(Duration::from_secs(60), other.read_exact(&mut buffer)).await;
    assert!(waiting.is_err());
    let reading = tokio::spawn(async move { other.read_exact(&mut buffer).await.map(|_| (other, buffer)) });
    tokio::task::yield_now().await;
    net.plug(ip(2));
    let (mut other, buffer) = reading.await.unwrap().unwrap();
    assert_eq!(&buffer, b"hello");

    let mut listener = net.host(ip(2)).listen("0.0.0.0:80".parse().unwrap()).await.unwrap();
    let reading = tokio::spawn(async move { one.read(&mut [0]).await });
    tokio::task::yield_now().await;
    net.kill(ip(2));
    assert_eq!(kind(reading.await.unwrap()), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(kind(other.write(b"x").await), Some(io::ErrorKind::ConnectionReset));
    assert!(listener.incoming.next().await.is_none());
    let _again = net.host(ip(2)).listen(listener.local).await.unwrap();
    drop(listener);
    net.host(ip(1)).dial("10.0.0.2:80".parse().unwrap(), DialOptions::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn datagrams_arrive_in_time_or_not_at_all() {
    let net = MemoryNet::new(1);
    net.set_link(ip(3), ip(2), Link { latency: Duration::from_millis(1), ..Link::default() });
    let any = "0.0.0.0:0".parse().unwrap();
    let [a, b, c] = [1, 2, 3].map(|last| net.host(ip(last)).bind(any).now_or_never().unwrap().unwrap());
    a.send_to(b"slow", b.local_addr()).await.unwrap();
    c.send_to(b"fast", b.local_addr()).await.unwrap();
    let mut buffer = [0; 3];
    let start = Instant::now();
    assert_eq!(b.recv_from(&mut buffer).await.unwrap(), (3, c.local_addr()));
    assert_eq!((start.elapsed(), &buffer), (Duration::from_millis(1), b"fas"));
    assert_eq!(b.recv_from(&mut buffer).await.unwrap(), (3, a.local_addr()));
    assert_eq!(start.elapsed(), Duration::from_millis(10));
    assert!(a.send_to(&[0; LARGEST_DATAGRAM + 1], b.local_addr()).await.is_err());
    net.kill(ip(2));
    a.send_to(b"to nobody", b.local_addr()).await.unwrap();
    assert!(timeout(Duration::from_secs(9), b.recv_from(&mut buffer)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_loses_the_same_datagrams() {
    async fn arrivals(seed: u64) -> Vec<u8> {
        let net = MemoryNet::new(seed);
        net.set_default_link(Link { loss: 0.5, ..Link::default() });
        let (a, b) = (net.host(ip(1)), net.host(ip(2)));
        let a = a.bind("10.0.0.1:1".parse().unwrap()).await.unwrap();
        let b = b.bind("10.0.0.2:2".parse().unwrap()).await.unwrap();
        join_all((0..100u8).map(async |n| a.send_to(&[n], b.local_addr()).await.unwrap())).await;
        let (mut arrived, mut buffer) = (Vec::new(), [0]);
        while timeout(Duration::from_secs(1), b.recv_from(&mut buffer)).await.is_ok() {
            arrived.push(buffer[0]);
        }
        arrived
    }
    let first = arrivals(1).await;
    assert!((20..80).contains(&first.len()), "{} of 100", first.len());
    assert_eq!(first, arrivals(1).await);
    assert_ne!(first, arrivals(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_heard_by_all_who_joined() {
    let net = MemoryNet::new(1);
    let group = "239.192.152.143:6771".parse().unwrap();
    net.set_link(ip(1), ip(3), Link { loss: 1.0, ..Link::default() });
    let any = IpAddr::from([0, 0, 0, 0]);
    let [a, b, c, d] = [1, 2, 3, 2].map(|last| net.host(ip(last)).join(group, any).now_or_never().unwrap().unwrap());
    let stranger = net.host(ip(2)).bind("0.0.0.0:6771".parse().unwrap()).await.unwrap();
    a.send_to(b"hello", group).await.unwrap();
    let mut buffer = [0; 9];
    for member in [&a, &b, &d] {
        assert_eq!(member.recv_from(&mut buffer).await.unwrap(), (5, a.local_addr()));
    }
    for deaf in [&c, &stranger] {
        assert!(timeout(Duration::from_secs(1), deaf.recv_from(&mut buffer)).await.is_err());
    }
    drop(b);
    a.send_to(b"again", group).await.unwrap();
    assert_eq!(d.recv_from(&mut buffer).await.unwrap().0, 5);
    let host = net.host(ip(1));
    assert!(host.join("10.0.0.2:1".parse().unwrap(), any).await.is_err(), "no group");
    assert!(host.join(group, ip(2)).await.is_err(), "another host's interface");
    assert!(host.join("[ff15::efc0:988f]:6771".parse().unwrap(), any).await.is_err(), "another family");
}
