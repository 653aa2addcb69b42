//! Each fault alone, seen and repeated.

use castanet_core::seams::{
    datagrams::{DatagramFactory as _, Datagrams},
    transport::Duplex,
};
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep},
};

use super::*;
use crate::memory::{self, MemoryNet};

const MS: Duration = Duration::from_millis(1);
/// What is measured is the wrapper.
const PERFECT: Link = Link::FLAWLESS;

/// What one end reads of 10,000 zeros that the other, faultless one writes.
async fn transfer(faults: Faults, seed: u64) -> Result<(Vec<u8>, Option<io::Error>), TransportError> {
    let net = MemoryNet::new(1);
    let (plain, listening) = (net.host([10, 0, 0, 1].into()), net.host([10, 0, 0, 2].into()));
    let mut listener = listening.listen("10.0.0.2:1".parse().unwrap()).await?;
    let faulty = Faulty::new(Arc::new(plain), faults, seed);
    let dialled = faulty.dial(listener.local, DialOptions::default()).await?;
    let (mut read, write) = dialled.io.split();
    let mut other = listener.incoming.next().await.unwrap()?.io;
    drop(write);
    other.write_all(&[0; 10_000]).await?;
    drop(other);
    let mut bytes = Vec::new();
    let error = read.read_to_end(&mut bytes).await.err();
    Ok((bytes, error))
}

#[tokio::test(start_paused = true)]
async fn without_faults_nothing_changes() {
    let (bytes, error) = transfer(Faults::default(), 1).await.unwrap();
    assert!(bytes == [0; 10_000] && error.is_none());
    let (bytes, error) = transfer(Faults { trickle: Some(3), ..Faults::default() }, 1).await.unwrap();
    assert!(bytes == [0; 10_000] && error.is_none());
}

#[tokio::test(start_paused = true)]
async fn each_fault_shows_and_repeats() {
    let (bytes, error) = transfer(Faults { lifetime: Some(50..60), ..Faults::default() }, 1).await.unwrap();
    assert!((50..60).contains(&bytes.len()));
    assert_eq!(error.unwrap().kind(), io::ErrorKind::ConnectionReset);

    let flipping = Faults { flipped: 0.5, trickle: Some(100), ..Faults::default() };
    let (bytes, _) = transfer(flipping.clone(), 1).await.unwrap();
    assert!(bytes.len() == 10_000 && bytes.iter().any(|byte| *byte != 0));
    assert_eq!(transfer(flipping.clone(), 1).await.unwrap().0, bytes);
    assert_ne!(transfer(flipping, 2).await.unwrap().0, bytes);

    let error = transfer(Faults { refused: 1.0, ..Faults::default() }, 1).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused));
    let start = Instant::now();
    let error = transfer(Faults { silent: 1.0, ..Faults::default() }, 1).await.unwrap_err();
    assert!(matches!(error, TransportError::Timeout(_)));
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

/// A plain end that dialled, and the end that accepted it through `faults`, on a network that adds no time.
async fn accepted(faults: Faults, seed: u64) -> (Box<dyn Duplex>, Box<dyn Duplex>) {
    let net = MemoryNet::new(1);
    net.set_default_link(PERFECT);
    let (plain, listening) = (net.host([10, 0, 0, 1].into()), net.host([10, 0, 0, 2].into()));
    let faulty = Faulty::new(Arc::new(listening), faults, seed);
    let mut listener = faulty.listen("10.0.0.2:1".parse().unwrap()).await.unwrap();
    let dialled = plain.dial(listener.local, DialOptions::default()).await.unwrap();
    (dialled.io, listener.incoming.next().await.unwrap().unwrap().io)
}

fn over(link: Link) -> Faults {
    Faults { link: Some(link), ..Faults::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_accepted_comes_late_at_the_bandwidth_and_in_full() {
    let link = Link { latency: MS * 100, bandwidth: Some(40_960), ..PERFECT };
    let (mut plain, mut late) = accepted(over(link), 1).await;
    let start = Instant::now();
    plain.write_all(&[7; 40_960]).await.unwrap();
    drop(plain);
    let mut first = [0];
    late.read_exact(&mut first).await.unwrap();
    assert_eq!(start.elapsed(), MS * 200, "the first of ten segments");
    let (mut read, _write) = late.split();
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    assert_eq!((rest.len(), start.elapsed()), (40_959, MS * 1100));
}

#[tokio::test(start_paused = true)]
async fn what_is_written_by_a_wrapped_end_survives_it() {
    let (mut plain, mut late) = accepted(over(Link { latency: MS * 100, ..PERFECT }), 1).await;
    late.write_all(b"good-bye").await.unwrap();
    drop(late);
    let mut read = Vec::new();
    plain.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"good-bye");
}

#[tokio::test(start_paused = true)]
async fn jitter_changes_times_but_not_the_order() {
    async fn arrivals(seed: u64) -> Vec<Duration> {
        let (mut plain, mut late) = accepted(over(Link { latency: MS * 50, jitter: MS * 20, ..PERFECT }), seed).await;
        let start = Instant::now();
        tokio::spawn(async move {
            for byte in 0..100 {
                plain.write_all(&[byte]).await.unwrap();
                sleep(MS * 5).await;
            }
        });
        let mut times = Vec::new();
        for expected in 0..100 {
            let mut byte = [0];
            late.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte, [expected]);
            let delay = start.elapsed() - MS * 5 * u32::from(expected);
            // Timers are late by up to a millisecond.
            assert!((MS * 50..=MS * 72).contains(&delay), "{delay:?}");
            times.push(delay);
        }
        times
    }
    let first = arrivals(1).await;
    assert!(first.iter().max() > first.iter().min());
    assert_eq!(first, arrivals(1).await);
    assert_ne!(first, arrivals(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_stalls_and_goes_on() {
    let stalls = Outages::At(vec![MS * 100..MS * 900]);
    let (mut plain, mut late) = accepted(Faults { stalls, ..over(PERFECT) }, 1).await;
    let start = Instant::now();
    let mut times = Vec::new();
    for _ in 0..4 {
        plain.write_all(b"x").await.unwrap();
        late.read_exact(&mut [0]).await.unwrap();
        times.push(start.elapsed().as_millis());
        sleep(MS * 60).await;
    }
    assert_eq!(times, [0, 60, 900, 960]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_cut_at_its_time() {
    async fn when(seed: u64) -> Duration {
        let faults = Faults { cut: Some(MS * 500..MS * 1000), ..Faults::default() };
        let (_plain, faulty) = accepted(faults, seed).await;
        let start = Instant::now();
        let (mut read, mut write) = faulty.split();
        let reading = read.read(&mut [0]).await;
        assert_eq!(reading.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(write.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        start.elapsed()
    }
    let first = when(1).await;
    assert!((MS * 500..=MS * 1001).contains(&first));
    assert_eq!(first, when(1).await);
    assert_ne!(first, when(2).await);
    // Also who waits until he may write.
    let (mut plain, _unread) = accepted(Faults::default(), 1).await;
    plain.write_all(&vec![0; memory::WINDOW]).await.unwrap();
    let random = fastrand::Rng::with_seed(1);
    let mut stuck = Spoiled::new(plain, Faults { cut: Some(MS..MS * 2), ..Faults::default() }, random);
    assert_eq!(stuck.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_holds_no_more_than_its_window() {
    let (mut plain, mut late) = accepted(over(Link { latency: MS * 1000, ..PERFECT }), 1).await;
    let written = Arc::new(Mutex::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        while let Ok(length) = plain.write(&[0; 4096]).await {
            *count.lock().unwrap() += length;
        }
    });
    // What is read at once is nothing, but it keeps the line going.
    assert!(timeout(MS * 999, late.read(&mut [0])).await.is_err());
    let written = *written.lock().unwrap();
    assert!((WINDOW..=WINDOW + 4096 + memory::WINDOW).contains(&written), "{written}");
}

/// A plain socket, and one behind `link` with `outages`, on a network that adds no time.
async fn sockets(link: Link, outages: Outages, seed: u64) -> (Arc<dyn Datagrams>, Arc<dyn Datagrams>) {
    let net = MemoryNet::new(1);
    net.set_default_link(PERFECT);
    let faulty = FaultyDatagrams::new(Arc::new(net.host([10, 0, 0, 2].into())), link, outages, seed);
    let plain = net.host([10, 0, 0, 1].into()).bind("10.0.0.1:1".parse().unwrap()).await.unwrap();
    (plain, faulty.bind("10.0.0.2:2".parse().unwrap()).await.unwrap())
}

/// What arrives of 100 datagrams of 100 bytes, one each millisecond: its number and when.
async fn arrivals(link: Link, outages: Outages, seed: u64) -> Vec<(u8, u128)> {
    let (plain, faulty) = sockets(link, outages, seed).await;
    let start = Instant::now();
    let to = faulty.local_addr();
    tokio::spawn(async move {
        for number in 0..100 {
            plain.send_to(&[number; 100], to).await.unwrap();
            sleep(MS).await;
        }
        // The socket stays until nothing is under way.
        sleep(MS * 10_000).await;
    });
    let (mut seen, mut buffer) = (Vec::new(), [0; 100]);
    while let Ok(received) = timeout(MS * 1000, faulty.recv_from(&mut buffer)).await {
        let (length, from) = received.unwrap();
        assert_eq!((length, from), (100, "10.0.0.1:1".parse().unwrap()));
        seen.push((buffer[0], start.elapsed().as_millis()));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_late_lost_doubled_and_overtaken() {
    let numbers = |seen: &[(u8, u128)]| seen.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let late = arrivals(Link { latency: MS * 50, ..PERFECT }, Outages::Never, 1).await;
    assert_eq!(late, (0..100).map(|number| (number, 50 + u128::from(number))).collect::<Vec<_>>());

    let lossy = arrivals(Link { loss: 0.3, ..PERFECT }, Outages::Never, 1).await;
    assert!((50..90).contains(&lossy.len()) && numbers(&lossy).is_sorted(), "{lossy:?}");

    let doubled = arrivals(Link { doubled: 0.3, ..PERFECT }, Outages::Never, 1).await;
    assert!((110..150).contains(&doubled.len()), "{doubled:?}");

    let link = Link { latency: MS * 20, overtaken: 0.2, ..PERFECT };
    let overtaken = arrivals(link, Outages::Never, 1).await;
    assert!(overtaken.len() == 100 && !numbers(&overtaken).is_sorted(), "{overtaken:?}");

    let jittery = arrivals(Link { jitter: MS * 20, ..PERFECT }, Outages::Never, 1).await;
    assert!(numbers(&jittery) == (0..100).collect::<Vec<_>>() && jittery.iter().any(|(n, at)| *at > u128::from(*n)));

    let everything = Link { loss: 0.1, doubled: 0.1, jitter: MS * 5, ..link };
    let first = arrivals(everything, Outages::Never, 1).await;
    assert_eq!(first, arrivals(everything, Outages::Never, 1).await);
    assert_ne!(first, arrivals(everything, Outages::Never, 2).await);
}

#[tokio::test(start_paused = true)]
async fn datagrams_find_queues_full_and_networks_parted() {
    // 100 kB/s come, 10 kB/s go, 1 kB waits.
    let narrow = Link { bandwidth: Some(10_000), queue: 1_000, ..PERFECT };
    let seen = arrivals(narrow, Outages::Never, 1).await;
    assert!((19..=21).contains(&seen.len()), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[1].1 - pair[0].1 >= 9), "{seen:?}");

    let parted = arrivals(PERFECT, Outages::At(vec![MS * 20..MS * 40]), 1).await;
    assert_eq!(parted.len(), 80);
    assert!(!parted.iter().any(|(number, _)| (20..40).contains(number)));

    let (plain, faulty) = sockets(Link { largest: 1400, ..PERFECT }, Outages::Never, 1).await;
    plain.send_to(&[1; 1401], faulty.local_addr()).await.unwrap();
    plain.send_to(&[2; 1400], faulty.local_addr()).await.unwrap();
    let mut buffer = [0; 2000];
    assert_eq!(faulty.recv_from(&mut buffer).await.unwrap().0, 1400);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_gives_up_leaves_datagrams_to_the_others() {
    let (plain, faulty) = sockets(Link { latency: MS * 50, ..PERFECT }, Outages::Never, 1).await;
    let mut buffer = [0; 9];
    let other = {
        let faulty = faulty.clone();
        tokio::spawn(async move { faulty.recv_from(&mut [0; 9]).await.map(|found| found.0) })
    };
    let mut impatient = faulty.recv_from(&mut buffer);
    assert!((&mut impatient).now_or_never().is_none());
    plain.send_to(b"hello", faulty.local_addr()).await.unwrap();
    assert!((&mut impatient).now_or_never().is_none(), "taken in, not there yet");
    drop(impatient);
    assert_eq!(timeout(MS * 51, other).await.unwrap().unwrap().unwrap(), 5);
}
