//! LANs and islands.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

async fn dial(net: &MemoryNet, from: u8, to: SocketAddr) -> Result<Connection, TransportError> {
    net.host(ip(from)).dial(to, DialOptions::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_group_is_heard_in_the_lan_only() {
    let net = MemoryNet::new(1);
    let group = "239.192.152.143:6771".parse().unwrap();
    let any = IpAddr::from([0, 0, 0, 0]);
    let members = [1, 2, 3, 4, 5, 6].map(|last| net.host(ip(last)).join(group, any).now_or_never().unwrap().unwrap());
    let _stranger = net.host(ip(2)).bind("0.0.0.0:6771".parse().unwrap()).await.unwrap();
    let lans = [0, 0, 7, 7, 7, 9];
    for (n, lan) in lans.into_iter().enumerate() {
        net.set_lan(ip(n as u8 + 1), lan);
        net.set_nat(ip(n as u8 + 1), Some(Nat::Symmetric));
    }
    let hearers = async |sender: usize| {
        members[sender].send_to(b"hello", group).await.unwrap();
        let mut hearers = Vec::new();
        for (n, member) in members.iter().enumerate() {
            if let Ok(received) = timeout(SECOND, member.recv_from(&mut [0; 9])).await {
                assert_eq!(received.unwrap().1, members[sender].local_addr(), "not translated");
                hearers.push(n);
            }
        }
        hearers
    };
    for sender in 0..6 {
        let expected: Vec<_> = (0..6).filter(|n| lans[*n] == lans[sender]).collect();
        assert_eq!(hearers(sender).await, expected);
    }
    net.set_lan(ip(3), 9);
    net.set_lan(ip(4), 0);
    assert_eq!(hearers(2).await, [2, 5]);
    assert_eq!(hearers(0).await, [0, 1, 3]);
    assert_eq!(hearers(4).await, [4]);
    net.set_island(ip(6), 1);
    assert_eq!(hearers(2).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn no_nat_is_between_hosts_of_a_lan() {
    for nat in [Nat::PortRestricted, Nat::Symmetric] {
        let net = MemoryNet::new(1);
        let [a, b, c] = [1, 2, 3].map(|last| socket(&net, last));
        let listener = net.host(ip(2)).listen("0.0.0.0:80".parse().unwrap()).await.unwrap();
        [1, 2].into_iter().for_each(|last| net.set_nat(ip(last), Some(nat)));
        for (lan, are_neighbours) in [(0, false), (4, true), (0, false)] {
            [1, 2].into_iter().for_each(|last| net.set_lan(ip(last), lan));
            a.send_to(b"x", b.local_addr()).await.unwrap();
            let heard = timeout(SECOND, b.recv_from(&mut [0; 9])).await;
            assert_eq!(heard.ok().map(Result::unwrap), are_neighbours.then(|| (1, a.local_addr())), "{nat:?}");
            c.send_to(b"x", b.local_addr()).await.unwrap();
            assert!(timeout(SECOND, b.recv_from(&mut [0; 9])).await.is_err(), "{nat:?}");
            assert_eq!(dial(&net, 1, listener.local).await.is_ok(), are_neighbours);
            assert!(dial(&net, 3, listener.local).await.is_err());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_between_islands_until_they_are_one() {
    let net = MemoryNet::new(1);
    let [a, b] = [1, 2].map(|last| socket(&net, last));
    let (mut one, mut other) = pair(&net).await;
    let mut listener = net.host(ip(2)).listen("0.0.0.0:80".parse().unwrap()).await.unwrap();
    net.set_island(ip(2), 1);
    one.write_all(b"hello").await.unwrap();
    one.shutdown().await.unwrap();
    a.send_to(b"lost", b.local_addr()).await.unwrap();
    let mut buffer = [0; 5];
    assert!(timeout(SECOND * 60, other.read_exact(&mut buffer)).await.is_err());
    assert!(timeout(SECOND, b.recv_from(&mut buffer)).await.is_err());
    assert!(matches!(dial(&net, 1, listener.local).await, Err(TransportError::Timeout(_))));
    dial(&net, 2, listener.local).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        other.read_to_end(&mut read).await.map(|_| read)
    });
    tokio::task::yield_now().await;
    net.set_island(ip(1), 2);
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    let start = Instant::now();
    net.set_island(ip(1), 1);
    assert_eq!(reading.await.unwrap().unwrap(), b"hello");
    assert_eq!(start.elapsed(), Duration::ZERO);
    a.send_to(b"heard", b.local_addr()).await.unwrap();
    assert!(timeout(SECOND, b.recv_from(&mut buffer)).await.is_ok());
    dial(&net, 1, listener.local).await.unwrap();
    listener.incoming.next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_move_at_once() {
    let net = MemoryNet::new(1);
    let mut listener = net.host(ip(0)).listen("0.0.0.0:80".parse().unwrap()).await.unwrap();
    let mut readers = Vec::new();
    for last in 1..=20 {
        let dialled = dial(&net, last, listener.local).await.unwrap();
        readers.push([dialled.io, listener.incoming.next().await.unwrap().unwrap().io]);
    }
    // The host 0 goes with half of the others.
    net.set_islands((0..=20).map(|last| (ip(last), u32::from(last % 2))));
    let tell = async |readers: &mut [[Box<dyn Duplex>; 2]]| {
        let mut told = Vec::new();
        for (n, [one, other]) in readers.iter_mut().enumerate() {
            other.write_all(b"x").await.unwrap();
            if timeout(SECOND, one.read_exact(&mut [0])).await.is_ok() {
                told.push(n + 1);
            }
        }
        told
    };
    assert_eq!(tell(&mut readers).await, (2..=20).step_by(2).collect::<Vec<_>>());
    let waiting = readers
        .into_iter()
        .map(|[mut one, other]| tokio::spawn(async move { one.read_exact(&mut [0]).await.map(|_| (one, other)) }));
    let waiting: Vec<_> = waiting.collect();
    tokio::task::yield_now().await;
    net.set_islands((0..=20).map(|last| (ip(last), 5)));
    tokio::task::yield_now().await;
    let is_told = |n: usize| waiting[n - 1].is_finished();
    assert!((1..=20).all(|n| is_told(n) == (n % 2 == 1)), "those that were apart have what was held up");
}
