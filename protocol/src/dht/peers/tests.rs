use super::*;

const SWARM: NodeId = NodeId([1; 20]);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
fn v4(n: usize) -> SocketAddr {
    SocketAddr::new((0x0100_0000 + n as u32).to_be_bytes().into(), 6881)
}
fn swarm(n: usize) -> NodeId {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    NodeId(id)
}
fn announce(peers: &mut Peers, info_hash: NodeId, peer: SocketAddr, now: Moment) -> bool {
    peers.announce(info_hash, peer, false, Host::of(peer), now).is_ok()
}
fn minute(minutes: u64) -> Moment {
    Moment::from_secs(minutes * 60)
}
fn some(peers: &Peers, v6: bool, most: usize, now: Moment) -> Vec<SocketAddr> {
    let mut found = peers.some(SWARM, (v6, false), most, &mut Rng::with_seed(1), now);
    found.sort();
    found
}

#[test]
fn a_peer_is_known_by_its_address_for_half_an_hour() {
    let mut peers = Peers::default();
    assert!(announce(&mut peers, SWARM, addr("1.2.3.4:5"), minute(0)));
    assert!(announce(&mut peers, SWARM, addr("1.2.3.4:6"), minute(20)), "the port changed");
    assert!(announce(&mut peers, SWARM, addr("[2001:db8::1]:7"), minute(0)));
    assert_eq!(some(&peers, false, 9, minute(49)), [addr("1.2.3.4:6")]);
    assert_eq!(some(&peers, true, 9, minute(29)), [addr("[2001:db8::1]:7")]);
    assert_eq!(some(&peers, true, 9, minute(30)), []);
    assert_eq!(some(&peers, false, 9, minute(50)), []);
    peers.expire(minute(50));
    assert_eq!(peers.counts(), (0, 0));
    assert!(peers.shares.is_empty());
    peers.check_invariants();
}

#[test]
fn on_this_machine_each_port_is_a_peer() {
    let mut peers = Peers::default();
    assert!(announce(&mut peers, SWARM, addr("127.0.0.1:5"), minute(0)));
    assert!(announce(&mut peers, SWARM, addr("127.0.0.1:6"), minute(0)));
    assert_eq!(some(&peers, false, 9, minute(0)).len(), 2);
}

#[test]
fn a_sample_is_drawn_by_lot_and_without_seeds_if_so_wished() {
    let mut peers = Peers::default();
    for n in 0..100 {
        peers.announce(SWARM, v4(n), n % 2 == 0, Host::of(v4(n)), minute(0)).unwrap();
    }
    let mut rng = Rng::with_seed(7);
    let mut drawn = |noseed| peers.some(SWARM, (false, noseed), 40, &mut rng, minute(0));
    let (first, second) = (drawn(false), drawn(false));
    assert!(first.len() == 40 && first != second);
    let (leeches, more) = (drawn(true), drawn(true));
    assert!(leeches.iter().all(|peer| (0..100).any(|n| n % 2 == 1 && v4(n) == *peer)));
    assert_eq!((leeches.len(), more.len()), (40, 40));
    assert_eq!(peers.some(SWARM, (false, true), 90, &mut rng, minute(0)).len(), 50);
    let (seeds, others) = peers.filters(SWARM, minute(0)).unwrap();
    assert!(seeds.contains(v4(0).ip()) && others.contains(v4(1).ip()));
    assert!((45.0..55.0).contains(&seeds.estimate()) && (45.0..55.0).contains(&others.estimate()));
    assert_eq!(peers.filters(SWARM, minute(30)), None);
}

#[test]
fn one_host_gets_its_share_and_no_more() {
    let mut peers = Peers::default();
    let greedy = addr("1.2.3.4:5");
    let taken = (0..1000).filter(|n| announce(&mut peers, swarm(*n), greedy, minute(0))).count();
    assert_eq!(taken, MOST_SWARMS_OF_A_HOST);
    assert!(announce(&mut peers, swarm(0), greedy, minute(1)), "what it has it may refresh");
    assert!(announce(&mut peers, swarm(0), addr("1.2.3.5:5"), minute(1)), "another one is not hindered");
    peers.check_invariants();
    assert!(announce(&mut peers, swarm(2000), greedy, minute(40)), "the share comes back with time");
    let mut crowd = Peers::default();
    let network = |n: u16| SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into(), 1);
    assert_eq!(
        (0..100).filter(|n| announce(&mut crowd, SWARM, network(*n), minute(0))).count(),
        MOST_PEERS_OF_A_NETWORK
    );
    assert!(announce(&mut crowd, SWARM, network(0), minute(1)));
    // On this machine the share is the sender's, whatever ports it announces, and whosever they were.
    let mut local = Peers::default();
    let port = |port| SocketAddr::new([127, 0, 0, 1].into(), port);
    assert!(local.announce(SWARM, port(1), false, Host::of(port(9)), minute(0)).is_ok());
    let taken =
        (1..1000).filter(|n| local.announce(SWARM, port(*n), false, Host::of(port(8)), minute(0)).is_ok()).count();
    assert_eq!(taken, MOST_SWARMS_OF_A_HOST);
    local.check_invariants();
}

#[test]
fn a_large_swarm_keeps_its_newest() {
    let mut peers = Peers::default();
    for n in 0..MOST_PEERS_OF_A_SWARM + 50 {
        assert!(announce(&mut peers, SWARM, v4(n), Moment(n as u64)));
    }
    assert_eq!(peers.counts(), (1, MOST_PEERS_OF_A_SWARM));
    let all = peers.all(SWARM, false);
    assert!(!all.contains(&v4(49)) && all.contains(&v4(50)));
    peers.check_invariants();
}

#[test]
fn a_flood_of_swarms_and_peers_is_bounded() {
    let mut peers = Peers::default();
    for n in 0..MOST_SWARMS + 100 {
        announce(&mut peers, swarm(n), v4(n), Moment(n as u64));
    }
    assert_eq!(peers.counts(), (MOST_SWARMS, MOST_SWARMS));
    peers.check_invariants();
    // A hundred swarms of 800 peers are more than the store holds: the swarms of old go, then the oldest peers.
    for n in 0..80_000 {
        announce(&mut peers, swarm(1_000_000 + n % 100), v4(n), minute(1) + Duration::from_nanos(n as u64));
    }
    assert_eq!(peers.counts(), (100, MOST_STORED_PEERS));
    peers.check_invariants();
}

#[test]
fn a_sample_of_swarms_lasts_its_interval() {
    let mut peers = Peers::default();
    let mut rng = Rng::with_seed(3);
    assert_eq!(peers.sample(&mut rng, minute(0)), Samples { interval: SAMPLE_LIFE, ..Samples::default() });
    for n in 0..100 {
        announce(&mut peers, swarm(n), v4(n), minute(1));
    }
    let first = peers.sample(&mut rng, minute(1));
    assert_eq!(
        (first.hashes.len(), first.total, first.interval),
        (SAMPLE_SIZE, 100, SAMPLE_LIFE),
        "no sample was full"
    );
    let later = peers.sample(&mut rng, minute(10));
    assert_eq!((&later.hashes, later.interval), (&first.hashes, Duration::from_secs(60)));
    assert_ne!(peers.sample(&mut rng, minute(11)).hashes, first.hashes);
}
