//! Where the node's sockets are: taken ports, other networks, loopback alone, a socket shared, real ones.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_taken_port_is_told_and_another_one_used() {
    let net = Net::new();
    let hosts = net.hosts(5);
    sleep(Duration::from_secs(10)).await;
    let taken = net.net.host(ip(20)).bind(SocketAddr::new(ip(20), PORT)).await.unwrap();
    let host = net.host(20, &[("bootstrap", "10.0.1.1:6881")]);
    let mut watched = host.discover(&torrent(7, PORT)).await;
    assert!(watched.until(5, |found| *found == Found::Reached(Milestone::Bootstrapped)).await);
    watched.watch(5).await;
    let port = host.plugin.dht_port().unwrap();
    assert_ne!(port, PORT);
    let text = format!("nodes (another program has UDP port 6881, so it uses {port})");
    assert!(watched.conditions().last().unwrap().ends_with(&text), "{:?}", watched.conditions());
    drop((taken, hosts));
}

#[tokio::test(start_paused = true)]
async fn another_network_means_other_sockets_and_joining_anew() {
    let mut net = Net::new();
    let hosts = net.hosts(10);
    let six: IpAddr = "fd00::1".parse().unwrap();
    net.names.insert("six.example".into(), vec![six]);
    let (means, sent) = net.means(six);
    let _six = run(means, sent, &[("bootstrap", "")]);
    let host = net.host(20, &[("bootstrap", "10.0.1.1:6881")]);
    let mut watched = host.discover(&torrent(7, PORT)).await;
    watched.watch(30).await;
    *host.means.listening.write().unwrap() = vec![SocketAddr::new(ip(20), PORT + 1)];
    host.plugin.hear(&News::NetworkChanged);
    watched.engine.events.send(SwarmEvent::NetworkChanged).await.unwrap();
    watched.watch(5).await;
    assert_eq!(host.plugin.dht_port(), Some(PORT + 1));
    // An address that is not ours: the sockets cannot be opened, and it says why; then they can.
    *host.means.listening.write().unwrap() = vec![SocketAddr::new(ip(99), PORT)];
    host.plugin.hear(&News::NetworkChanged);
    watched.watch(5).await;
    assert!(watched.conditions().last().unwrap().starts_with("no UDP socket at 10.0.99.1:6881: "));
    assert_eq!(host.plugin.dht_port(), None);
    *host.means.listening.write().unwrap() = vec![SocketAddr::new(ip(20), PORT)];
    watched.watch(600).await;
    assert_eq!(host.plugin.dht_port(), Some(PORT), "without being told");
    assert!(watched.conditions().last().unwrap().starts_with("has "));
    drop(hosts);
}

#[tokio::test(start_paused = true)]
async fn a_loopback_session_asks_no_well_known_node() {
    let mut net = Net::new();
    net.names.insert("router.bittorrent.com".into(), vec![ip(1)]);
    let _router = net.hosts(1);
    let lo = "127.0.0.1".parse().unwrap();
    let (means, sent) = net.means(lo);
    let lonely = run(means, sent, &[]);
    let abroad = net.host(2, &[]);
    let (mut here, mut there) = (lonely.discover(&torrent(7, PORT)).await, abroad.discover(&torrent(7, PORT)).await);
    assert!(there.until(5, |found| *found == Found::Reached(Milestone::Bootstrapped)).await, "{:?}", there.seen);
    here.watch(3600).await;
    assert_eq!((lonely.sent(), here.reached()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_socket_is_shared_with_other_protocols() {
    let net = Net::new();
    let hosts = net.hosts(3);
    let trackers = hosts[1].means.datagrams.shared(SocketAddr::new(ip(2), PORT), Protocol::Tracker).await.unwrap();
    let other = net.net.host(ip(40)).bind(SocketAddr::new(ip(40), 1)).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    other.send_to(&[0, 0, 0, 1, 9, 9, 9, 9, 5], SocketAddr::new(ip(2), PORT)).await.unwrap();
    let mut buffer = [0; 100];
    let received = timeout(Duration::from_secs(1), trackers.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(received, (9, SocketAddr::new(ip(40), 1)));
    let mut watched = hosts[1].discover(&torrent(7, PORT)).await;
    assert!(watched.until(5, |found| matches!(found, Found::Condition(text) if text == "has 2 nodes")).await);
}

#[tokio::test]
async fn real_sockets_on_loopback_do_as_well() {
    let host = async |seed, bootstrap: &str| {
        let listening = Arc::new(vec!["127.0.0.1:0".parse().unwrap()].into());
        let datagrams = Arc::new(UdpMux::new(Arc::new(castanet_transports::udp::Udp::default())));
        let resolver = Arc::new(FixedResolver::default());
        let means = Means { datagrams, resolver, listening, seed, ..World::new().means() };
        let host = run(means, Arc::default(), &[("bootstrap", bootstrap), ("always", "true")]);
        while host.plugin.dht_port().is_none() {
            tokio::task::yield_now().await;
        }
        host
    };
    let first = host(1, "").await;
    let bootstrap = format!("127.0.0.1:{}", first.plugin.dht_port().unwrap());
    let (second, third) = (host(2, &bootstrap).await, host(3, &bootstrap).await);
    let mut seed = second.discover(&torrent(7, 1234)).await;
    let announced = |found: &Found| matches!(found, Found::Idle { retry_at: Some(_) });
    assert!(seed.until(20, announced).await, "{:?}", seed.seen);
    let mut leech = third.discover(&torrent(7, 0)).await;
    assert!(leech.finds(20, "127.0.0.1:1234".parse().unwrap()).await, "{:?}", leech.seen);
}
