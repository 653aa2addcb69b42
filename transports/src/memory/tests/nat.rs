//! Who hears whom through which NATs.

use super::{super::nat::MOST_MAPPINGS, *};

const KINDS: [Option<Nat>; 5] =
    [None, Some(Nat::FullCone), Some(Nat::Restricted), Some(Nat::PortRestricted), Some(Nat::Symmetric)];

/// Whom the socket hears within a second.
async fn heard(socket: &Arc<dyn Datagrams>) -> Option<SocketAddr> {
    let received = timeout(Duration::from_secs(1), socket.recv_from(&mut [0; 9])).await;
    received.ok().map(|received| received.unwrap().1)
}

/// Two hosts behind NATs, and where a third, which both wrote to, saw them.
struct Meeting {
    net: MemoryNet,
    sockets: [Arc<dyn Datagrams>; 2],
    third: Arc<dyn Datagrams>,
    outside: [SocketAddr; 2],
}

impl Meeting {
    async fn new(nats: [Option<Nat>; 2]) -> Self {
        let net = MemoryNet::new(1);
        let [a, b, third] = [1, 2, 3].map(|last| socket(&net, last));
        let sockets = [a, b];
        let mut outside = Vec::new();
        for (socket, nat) in sockets.iter().zip(nats) {
            net.set_nat(socket.local_addr().ip(), nat);
            socket.send_to(b"hello", third.local_addr()).await.unwrap();
            outside.push(heard(&third).await.unwrap());
        }
        Self { net, sockets, third, outside: [outside[0], outside[1]] }
    }

    /// Does the second hear the first, to whom it has not written?
    async fn knock(&self) -> bool {
        self.sockets[0].send_to(b"knock", self.outside[1]).await.unwrap();
        heard(&self.sockets[1]).await.is_some()
    }

    /// Do they hear each other if both write, and write again to where they heard the other from?
    async fn punch(&self) -> bool {
        let mut peers = [self.outside[1], self.outside[0]];
        let mut have_heard = [false; 2];
        for _ in 0..2 {
            have_heard = [false; 2];
            for (socket, peer) in self.sockets.iter().zip(peers) {
                socket.send_to(b"punch", peer).await.unwrap();
            }
            for (n, socket) in self.sockets.iter().enumerate() {
                while let Some(from) = heard(socket).await {
                    (peers[n], have_heard[n]) = (from, true);
                }
            }
        }
        have_heard == [true; 2]
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_before_each_other() {
    // By the kinds of the one and the other, both in the order of KINDS.
    let knocks = [[true, true, false, false, false]; 5];
    let punches = [
        [true, true, true, true, true],
        [true, true, true, true, true],
        [true, true, true, true, true],
        [true, true, true, true, false],
        [true, true, true, false, false],
    ];
    for (n, one) in KINDS.into_iter().enumerate() {
        for (m, other) in KINDS.into_iter().enumerate() {
            assert_eq!(Meeting::new([one, other]).await.knock().await, knocks[n][m], "{one:?} knocks at {other:?}");
            assert_eq!(Meeting::new([one, other]).await.punch().await, punches[n][m], "{one:?} and {other:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cones_hear_at_once_when_both_send() {
    let cone = Some(Nat::PortRestricted);
    let Meeting { net: _net, sockets: [a, b], .. } = Meeting::new([cone; 2]).await;
    a.send_to(b"first", b.local_addr()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    b.send_to(b"second", a.local_addr()).await.unwrap();
    assert_eq!(heard(&b).await, Some(a.local_addr()), "the hole was there when it came");
    assert_eq!(heard(&a).await, Some(b.local_addr()));
}

#[tokio::test(start_paused = true)]
async fn others_of_an_ip_are_told_apart_by_some() {
    for (nat, is_heard) in KINDS.into_iter().zip([true, true, true, false, false]) {
        let met = Meeting::new([None, nat]).await;
        let again = met.net.host(ip(3)).bind("0.0.0.0:7".parse().unwrap()).await.unwrap();
        again.send_to(b"x", met.outside[1]).await.unwrap();
        assert_eq!(heard(&met.sockets[1]).await.is_some(), is_heard, "{nat:?}");
        met.third.send_to(b"x", met.outside[1]).await.unwrap();
        assert!(heard(&met.sockets[1]).await.is_some(), "{nat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_symmetric_nat_has_a_port_for_each() {
    let Meeting { net, sockets: [a, b], third, outside } = Meeting::new([Some(Nat::Symmetric), None]).await;
    a.send_to(b"x", b.local_addr()).await.unwrap();
    let other = heard(&b).await.unwrap();
    assert!(outside[0] != other && outside[0] != a.local_addr() && other != a.local_addr());
    for (from, to) in [(&b, outside[0]), (&b, a.local_addr()), (&third, other), (&third, a.local_addr())] {
        from.send_to(b"x", to).await.unwrap();
        assert_eq!(heard(&a).await, None, "{} at {to}", from.local_addr());
    }
    a.send_to(b"x", b.local_addr()).await.unwrap();
    assert_eq!(heard(&b).await, Some(other), "and keeps it");
    b.send_to(b"x", other).await.unwrap();
    assert_eq!(heard(&a).await, Some(b.local_addr()));
    net.set_nat(ip(1), None);
    b.send_to(b"x", a.local_addr()).await.unwrap();
    assert_eq!(heard(&a).await, Some(b.local_addr()), "it is gone");
}

#[tokio::test(start_paused = true)]
async fn mappings_end() {
    for nat in KINDS.into_iter().flatten() {
        let Meeting { net, sockets: [a, _], third, outside: [outside, _] } = Meeting::new([Some(nat), None]).await;
        let after = async |seconds| {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            third.send_to(b"x", outside).await.unwrap();
            heard(&a).await.is_some()
        };
        assert!(after(110).await, "{nat:?}");
        a.send_to(b"x", third.local_addr()).await.unwrap();
        assert_eq!(heard(&third).await, Some(outside), "{nat:?}");
        assert!(after(110).await, "{nat:?} lasts anew");
        assert!(!after(11).await, "{nat:?}, what comes in does not count");
        a.send_to(b"x", third.local_addr()).await.unwrap();
        assert_eq!(heard(&third).await == Some(outside), nat != Nat::Symmetric);
        net.kill(ip(1));
        let a = socket(&net, 1);
        third.send_to(b"x", outside).await.unwrap();
        assert_eq!(heard(&a).await, None, "{nat:?} of a killed host");
    }
}

#[tokio::test(start_paused = true)]
async fn mappings_are_bounded() {
    let Meeting { net, sockets: [a, b], third, outside } = Meeting::new([Some(Nat::Symmetric), None]).await;
    let mappings = || net.0.with(|state| state.nats.mappings(ip(1)));
    a.send_to(b"x", b.local_addr()).await.unwrap();
    let known = heard(&b).await.unwrap();
    for port in 10_000..10_000 + MOST_MAPPINGS as u16 {
        a.send_to(b"x", SocketAddr::new(ip(9), port)).await.unwrap();
        a.send_to(b"x", b.local_addr()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(mappings(), MOST_MAPPINGS);
    third.send_to(b"x", outside[0]).await.unwrap();
    assert_eq!(heard(&a).await, None, "the oldest is gone");
    b.send_to(b"x", known).await.unwrap();
    assert_eq!(heard(&a).await, Some(b.local_addr()), "what is used stays");
    tokio::time::sleep(Duration::from_secs(130)).await;
    a.send_to(b"x", b.local_addr()).await.unwrap();
    assert_eq!(mappings(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_hears_itself() {
    for nat in KINDS {
        let net = MemoryNet::new(1);
        net.set_nat(ip(1), nat);
        let (a, again) = (socket(&net, 1), net.host(ip(1)).bind("0.0.0.0:7".parse().unwrap()).await.unwrap());
        a.send_to(b"x", again.local_addr()).await.unwrap();
        assert_eq!(heard(&again).await, Some(a.local_addr()));
    }
}

#[tokio::test(start_paused = true)]
async fn streams_only_go_out() {
    for nat in KINDS.into_iter().flatten() {
        let net = MemoryNet::new(1);
        net.set_nat(ip(1), Some(nat));
        let (mut one, mut other) = pair(&net).await;
        one.write_all(b"out").await.unwrap();
        other.write_all(b"in").await.unwrap();
        let mut buffer = [0; 3];
        other.read_exact(&mut buffer).await.unwrap();
        one.read_exact(&mut buffer[..2]).await.unwrap();
        assert_eq!(&buffer, b"int");

        let _listener = net.host(ip(1)).listen("0.0.0.0:80".parse().unwrap()).await.unwrap();
        let dial = async |last| {
            let dialled = net.host(ip(last)).dial(SocketAddr::new(ip(1), 80), DialOptions::default()).await;
            dialled.map(drop)
        };
        for port in [80, 81] {
            let dialled = net.host(ip(2)).dial(SocketAddr::new(ip(1), port), DialOptions::default()).await;
            assert!(matches!(dialled, Err(TransportError::Timeout(_))), "{nat:?}");
        }
        dial(1).await.unwrap();
        net.set_nat(ip(1), None);
        dial(2).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_run_is_the_same_again() {
    async fn run(seed: u64) -> Vec<(Duration, SocketAddr)> {
        let net = MemoryNet::new(seed);
        let link = Link { jitter: Duration::from_millis(20), loss: 0.2, overtaken: 0.1, ..Link::default() };
        net.set_default_link(link);
        net.set_downlink(ip(5), Some(1000));
        let sockets = [1, 2, 3, 4, 5].map(|last| socket(&net, last));
        for (n, nat) in KINDS.into_iter().enumerate() {
            net.set_nat(ip(n as u8 + 1), nat);
        }
        let (mut log, start) = (Vec::new(), Instant::now());
        for _ in 0..5 {
            for from in &sockets {
                for to in &sockets {
                    from.send_to(b"something", to.local_addr()).await.unwrap();
                }
            }
            for socket in &sockets {
                while let Some(from) = heard(socket).await {
                    log.push((start.elapsed(), from));
                    socket.send_to(b"else", from).await.unwrap();
                }
            }
        }
        log
    }
    let first = run(1).await;
    assert!(first.len() > 20, "{}", first.len());
    assert_eq!(first, run(1).await);
    assert_ne!(first, run(2).await);
}
