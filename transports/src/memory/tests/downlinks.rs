//! What hosts can receive in all.

use super::*;

/// Is it so long, but for two in a hundred?
fn assert_about(took: Duration, expected: Duration) {
    assert!(took >= expected * 98 / 100 && took <= expected * 102 / 100, "{took:?} for {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_as_fast_as_the_downlink() {
    for bandwidth in [10_000, 1_000_000, 10_000_000] {
        let net = MemoryNet::new(1);
        let (mut one, mut other) = pair(&net).await;
        net.set_downlink(ip(2), Some(bandwidth));
        let total = bandwidth as usize * 10;
        let start = Instant::now();
        let writing = tokio::spawn(async move { one.write_all(&vec![7; total]).await.map(|()| one) });
        other.read_exact(&mut vec![0; total]).await.unwrap();
        assert_about(start.elapsed(), Duration::from_secs(10));
        let mut one = writing.await.unwrap().unwrap();
        let start = Instant::now();
        other.write_all(&[7; WINDOW]).await.unwrap();
        one.read_exact(&mut [0; WINDOW]).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(10), "the other direction has no limit");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_share_it_alike() {
    let net = MemoryNet::new(1);
    net.set_downlink(ip(2), Some(1_000_000));
    let mut pairs = Vec::new();
    for _ in 0..5 {
        pairs.push(pair(&net).await);
    }
    let (start, mut tasks) = (Instant::now(), Vec::new());
    for (n, (mut one, mut other)) in pairs.into_iter().enumerate() {
        tasks.push(tokio::spawn(async move { one.write_all(&[7; 1_000_000]).await.map(|()| Duration::ZERO) }));
        tasks.push(tokio::spawn(async move {
            // Some read it in small pieces.
            let mut buffer = vec![0; if n % 2 == 0 { 1_000 } else { 100_000 }];
            for _ in 0..1_000_000 / buffer.len() {
                other.read_exact(&mut buffer).await?;
            }
            Ok(start.elapsed())
        }));
    }
    for took in join_all(tasks).await {
        let took = took.unwrap().unwrap();
        if !took.is_zero() {
            assert_about(took, Duration::from_millis(5000));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_holds_nobody_up() {
    let net = MemoryNet::new(1);
    net.set_downlink(ip(2), Some(100_000));
    let (mut idle, mut unread) = pair(&net).await;
    let (mut one, mut other) = pair(&net).await;
    idle.write_all(&[1; WINDOW]).await.unwrap();
    one.write_all(&[1; 200_000]).await.unwrap();
    assert!(timeout(Duration::from_millis(50), unread.read(&mut [0])).await.is_err(), "it waits for its turn");
    let start = Instant::now();
    other.read_exact(&mut [0; 200_000]).await.unwrap();
    assert!((2000..2250).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    // What was not asked for did not come in meanwhile, but for a segment.
    let start = Instant::now();
    unread.read_exact(&mut [0; 116_384]).await.unwrap();
    assert_about(start.elapsed(), Duration::from_millis(1150));
    net.set_downlink(ip(2), None);
    let start = Instant::now();
    unread.read_exact(&mut [0; 140_000]).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(170), "what waits for its turn, then all: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn datagrams_pass_it_too() {
    let net = MemoryNet::new(1);
    let [a, b] = [1, 2].map(|last| socket(&net, last));
    net.set_downlink(ip(2), Some(100_000));
    let start = Instant::now();
    for n in 0..500u16 {
        let mut payload = [0; 1000];
        payload[..2].copy_from_slice(&n.to_be_bytes());
        a.send_to(&payload, b.local_addr()).await.unwrap();
    }
    let mut buffer = [0; 1000];
    for n in 0..500u16 {
        b.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..2], n.to_be_bytes(), "in order");
    }
    assert_about(start.elapsed(), Duration::from_secs(5));

    // A stream and a socket share it.
    let (mut one, mut other) = pair(&net).await;
    let start = Instant::now();
    one.write_all(&[7; 100_000]).await.unwrap();
    for _ in 0..500 {
        a.send_to(&buffer, b.local_addr()).await.unwrap();
    }
    let reading = tokio::spawn(async move { other.read_exact(&mut [0; 100_000]).await.map(|_| other) });
    for _ in 0..500 {
        b.recv_from(&mut buffer).await.unwrap();
    }
    reading.await.unwrap().unwrap();
    assert_about(start.elapsed(), Duration::from_secs(6));
}
