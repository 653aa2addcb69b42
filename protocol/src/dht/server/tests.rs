use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::dht::{Item, krpc::LARGEST_READ, limits::SAVED_UP, peers};

const US: NodeId = NodeId([0xee; 20]);
const SWARM: NodeId = NodeId([1; 20]);

/// A server, and a clock that only the test moves.
struct World {
    server: Server,
    now: Moment,
}

fn world() -> World {
    World { server: Server::new(1, ServerConfig::default()), now: Moment::ZERO }
}
fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
fn query(ask: Ask) -> Query {
    Query { from: NodeId([2; 20]), read_only: false, want: Want::default(), ask }
}
fn get_peers() -> Query {
    query(Ask::GetPeers { info_hash: SWARM, noseed: false, scrape: false })
}
fn announce(token: &[u8], port: Option<u16>) -> Query {
    query(Ask::AnnouncePeer { info_hash: SWARM, port, token: token.into(), seed: false })
}
/// A full bucket of each family that is wanted.
fn two_buckets(target: NodeId, want: Want) -> (Vec<Node>, Vec<Node>) {
    let some =
        |wanted: bool, addr: &str| vec![Node { id: target, addr: addr.parse().unwrap() }; if wanted { 20 } else { 0 }];
    (some(want.v4, "9.9.9.9:9"), some(want.v6, "[2001:db8::9]:9"))
}
fn datagram(body: Body, from: SocketAddr) -> Vec<u8> {
    let mut message = Message::new(vec![b'x'; 16], body);
    message.version = Some(*b"Cn\x01\0");
    message.your_addr = Some(from);
    message.encode()
}

impl World {
    fn ask(&mut self, query: &Query, from: &str) -> Option<Body> {
        self.server.answer(query, addr(from), US, two_buckets, self.now)
    }
    fn response(&mut self, query: &Query, from: &str) -> Response {
        match self.ask(query, from) {
            Some(Body::Response(response)) => *response,
            other => panic!("{other:?}"),
        }
    }
    fn code(&mut self, query: &Query, from: &str) -> i64 {
        match self.ask(query, from) {
            Some(Body::Error { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }
    fn token(&mut self, from: &str) -> Box<[u8]> {
        self.response(&get_peers(), from).token.unwrap()
    }
}

#[test]
fn routes_of_the_families_that_are_wanted() {
    let mut world = world();
    let find = |v4, v6| Query { want: Want { v4, v6 }, ..query(Ask::FindNode { target: SWARM }) };
    let mut counts = |query: Query, from| {
        let answer = world.response(&query, from);
        (answer.nodes.len(), answer.nodes6.len())
    };
    assert_eq!(counts(find(false, false), "1.1.1.1:1"), (8, 0));
    assert_eq!(counts(find(false, false), "[2001:db8::1]:1"), (0, 8));
    assert_eq!(counts(find(false, false), "[::ffff:1.1.1.1]:1"), (8, 0));
    assert_eq!(counts(find(true, true), "1.1.1.1:1"), (8, 8));
    assert_eq!(counts(find(false, true), "1.1.1.1:1"), (0, 8));
    assert_eq!(counts(query(Ask::Ping), "1.1.1.1:1"), (0, 0));
    assert_eq!(counts(query(Ask::Other { method: "vote".to_owned(), target: Some(SWARM) }), "1.1.1.1:1"), (8, 0));
    let unknown = query(Ask::Other { method: "vote".to_owned(), target: None });
    assert_eq!(world.code(&unknown, "1.1.1.1:1"), error_code::UNKNOWN_METHOD);
}

#[test]
fn who_announced_is_found_by_its_family() {
    let mut world = world();
    for (from, port) in [("1.1.1.1:1", Some(6881)), ("1.1.1.2:2", None), ("[2001:db8::1]:3", Some(7))] {
        let token = world.token(from);
        assert_eq!(world.response(&announce(&token, port), from).from, US);
    }
    let mut v4 = world.response(&get_peers(), "5.5.5.5:5").values;
    v4.sort();
    assert_eq!(v4, [addr("1.1.1.1:6881"), addr("1.1.1.2:2")]);
    assert_eq!(world.response(&get_peers(), "[2001:db8::5]:5").values, [addr("[2001:db8::1]:7")]);
    assert_eq!(world.server.counts(), Counts { swarms: 1, peers: 3, items: 0 });
    assert_eq!(world.server.peers(SWARM, false).len(), 3);
    let sample = query(Ask::SampleInfohashes { target: SWARM });
    assert_eq!(world.response(&sample, "5.5.5.5:5").samples.unwrap().hashes, [SWARM]);
    world.now = Moment::from_secs(1800);
    assert_eq!(world.response(&get_peers(), "5.5.5.5:5").values, []);
    assert_eq!(world.server.counts(), Counts::default());
}

#[test]
fn forged_borrowed_and_expired_tokens_are_refused() {
    let mut world = world();
    let token = world.token("1.1.1.1:1");
    assert_eq!(world.code(&announce(b"forged!!", Some(1)), "1.1.1.1:1"), error_code::PROTOCOL);
    assert_eq!(world.code(&announce(&token, Some(1)), "1.1.1.2:1"), error_code::PROTOCOL, "borrowed");
    let item = Item::immutable(b"le").unwrap();
    let put = query(Ask::Put { token: token.clone(), item, cas: None });
    assert_eq!(world.code(&put, "1.1.1.2:1"), error_code::PROTOCOL, "borrowed");
    world.now = Moment::from_secs(600);
    assert_eq!(world.code(&announce(&token, Some(1)), "1.1.1.1:1"), error_code::PROTOCOL, "expired");
    assert_eq!(world.server.counts(), Counts::default());
}

#[test]
fn scrapes_and_wishes_of_seeds() {
    let mut world = world();
    for n in 0..60 {
        let from = format!("1.1.1.{n}:6881");
        let token = world.token(&from);
        let mut announce = announce(&token, None);
        if let Ask::AnnouncePeer { seed, .. } = &mut announce.ask {
            *seed = n < 40;
        }
        world.response(&announce, &from);
    }
    let ask = |noseed, scrape| Query {
        want: Want { v4: true, v6: true },
        ..query(Ask::GetPeers { info_hash: SWARM, noseed, scrape })
    };
    let answer = world.response(&ask(false, true), "5.5.5.5:5");
    let counted = [answer.seeds, answer.downloaders].map(|filter| filter.unwrap().estimate().round());
    assert!((38.0..=42.0).contains(&counted[0]) && (18.0..=22.0).contains(&counted[1]), "{counted:?}");
    assert_eq!((answer.nodes.len(), answer.nodes6.len()), (8, 8));
    assert!(answer.values.len() >= 15, "{}", answer.values.len());
    assert_eq!(world.response(&ask(true, false), "5.5.5.5:5").values.len(), 20);
    assert_eq!(world.response(&ask(false, false), "5.5.5.5:5").seeds, None);
}

#[test]
fn items_are_stored_and_refusals_have_codes() {
    let mut world = world();
    let from = "1.1.1.1:1";
    let get = |target, seq| query(Ask::Get { target, seq });
    let item = Item::signed([1; 32], b"salt", 2, b"d2:hii1ee").unwrap();
    let token = world.response(&get(item.target(), None), from).token.unwrap();
    let put = |item: &Item, cas| query(Ask::Put { token: token.clone(), item: item.clone(), cas });
    assert_eq!(world.response(&put(&item, None), from).from, US);

    // Over the wire and back, as another node sees it.
    let answer = world.ask(&get(item.target(), Some(1)), from).unwrap();
    let Body::Response(read) = Message::decode(&datagram(answer, addr(from))).unwrap().body else { panic!() };
    assert_eq!(read.item.unwrap().received(item.target(), b"salt"), Ok(item.clone()));
    let known = world.response(&get(item.target(), Some(2)), from);
    assert_eq!((known.item, known.seq), (None, Some(2)));

    let mut forged = Item::signed([1; 32], b"salt", 3, b"le").unwrap();
    assert_eq!(world.code(&put(&forged, Some(1)), from), error_code::CAS_MISMATCH);
    if let Item::Mutable { signature, .. } = &mut forged {
        signature[3] ^= 1;
    }
    assert_eq!(world.code(&put(&forged, None), from), error_code::BAD_SIGNATURE);
    let old = Item::signed([1; 32], b"salt", 1, b"le").unwrap();
    assert_eq!(world.code(&put(&old, None), from), error_code::OLD_SEQUENCE);
    let big = Item::Immutable([b"1000:", &[0; 1000][..]].concat().into());
    assert_eq!(world.code(&put(&big, None), from), error_code::VALUE_TOO_BIG);
    let (mut salty, long) = (old, vec![0; 65]);
    if let Item::Mutable { salt, .. } = &mut salty {
        *salt = long.into();
    }
    assert_eq!(world.code(&put(&salty, None), from), error_code::SALT_TOO_BIG);
    assert_eq!(world.code(&put(&Item::Immutable((*b"i01e").into()), None), from), error_code::PROTOCOL);
    assert_eq!(world.server.counts().items, 1);
}

#[test]
fn a_query_without_its_arguments_is_told_so() {
    let mut world = world();
    let error = Message::decode(b"d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe").unwrap_err();
    let reply = world.server.refuse(&error, addr("1.1.1.1:1"), world.now).unwrap();
    assert!(matches!(reply.body, Body::Error { code: error_code::PROTOCOL, .. }));
    let told = (0..2000).filter(|_| world.server.refuse(&error, addr("1.1.1.1:1"), world.now).is_some()).count();
    assert!(told < 1000, "{told}");
}

#[test]
fn a_spoofed_victim_gets_little_and_this_machine_all() {
    let mut world = world();
    let mut sent = |from: &str| {
        let mut bytes = 0;
        for tenth in 0..300 {
            world.now = Moment(tenth * 100_000_000);
            for _ in 0..20 {
                bytes += world.ask(&get_peers(), from).map_or(0, |body| datagram(body, addr(from)).len());
            }
        }
        bytes as u64
    };
    let most = HOST_RATE * (30 + SAVED_UP.as_secs()) + LARGEST_DATAGRAM as u64;
    let got = sent("6.6.6.6:6");
    assert!(got <= most && got > most / 2, "{got}");
    assert!(sent("127.0.0.1:6") > 10 * most);
}

#[test]
fn floods_of_honest_tokens_stay_bounded() {
    let mut world = world();
    world.server.limits = Limits::new(u64::MAX, u64::MAX);
    for n in 0..20_000_u32 {
        world.now += Duration::from_millis(1);
        let from = SocketAddr::new((0x0500_0000 + n % 50).to_be_bytes().into(), 9);
        let token = world.server.tokens.make(from.ip(), world.now);
        let mut info_hash = SWARM;
        info_hash.0[..4].copy_from_slice(&n.to_be_bytes());
        let ask = Ask::AnnouncePeer { info_hash, port: Some(9), token, seed: true };
        world.server.answer(&query(ask), from, US, two_buckets, world.now);
    }
    assert!(world.server.counts().swarms <= peers::MOST_SWARMS);
    assert_eq!(world.server.counts().swarms, (50 * peers::MOST_SWARMS_OF_A_HOST).min(peers::MOST_SWARMS));
    world.server.check_invariants();
}

fn some_ask(salt: u8, token: Box<[u8]>, item: Item) -> impl Strategy<Value = Ask> {
    let target = NodeId([salt % 4; 20]);
    let item_target = item.target();
    let token = Just(token);
    prop_oneof![
        Just(Ask::Ping),
        Just(Ask::FindNode { target }),
        any::<(bool, bool)>().prop_map(move |(noseed, scrape)| Ask::GetPeers { info_hash: target, noseed, scrape }),
        (token.clone(), any::<(Option<u16>, bool)>()).prop_map(move |(token, (port, seed))| Ask::AnnouncePeer {
            info_hash: target,
            port,
            token,
            seed
        }),
        any::<Option<i64>>().prop_map(move |seq| Ask::Get { target: item_target, seq }),
        (token, any::<Option<i64>>()).prop_map(move |(token, cas)| Ask::Put { token, item: item.clone(), cas }),
        Just(Ask::SampleInfohashes { target }),
        any::<bool>().prop_map(move |with| Ask::Other { method: "m".repeat(100), target: with.then_some(target) }),
    ]
}

proptest! {
    /// Full stores, full buckets, the largest items: no answer is cut into pieces on its way, and all can be read.
    #[test]
    fn every_answer_fits_a_datagram(
        (v6, want4, want6) in any::<(bool, bool, bool)>(),
        crowd in 0..300_usize,
        asks in (0..=996_usize, any::<u8>()).prop_flat_map(|(length, salt)| {
            let mut server = Server::new(1, ServerConfig::default());
            let ip = SocketAddr::new([7, 7, 7, salt].into(), 7);
            let token = server.tokens.make(ip.ip(), Moment::ZERO);
            let value = [format!("{length}:").as_bytes(), &vec![b'v'; length]].concat();
            let item = Item::signed([salt | 1; 32], b"s", 1 << 62, &value).unwrap();
            prop::collection::vec(some_ask(salt, token, item), 1..20).prop_map(move |asks| (ip, asks))
        }),
    ) {
        let (ip, asks) = asks;
        let mut world = world();
        world.server.limits = Limits::new(u64::MAX, u64::MAX);
        for n in 0..crowd {
            for salt in 0..4 {
                let high = (n as u16).to_be_bytes();
                let peer = [
                    SocketAddr::new([8, 8, high[0], high[1]].into(), 8),
                    SocketAddr::new([0x2001, 0xdb8, 0, n as u16, 0, 0, 0, 1].into(), 8),
                ][n % 2];
                // What a host has too much of is refused, which is all the same here.
                let _ = world.server.peers.announce(NodeId([salt; 20]), peer, n % 3 == 0, Host::of(peer), Moment::ZERO);
            }
        }
        let from = if v6 { addr("[2001:db8:7::7]:7") } else { ip };
        for ask in asks {
            let query = Query { want: Want { v4: want4, v6: want6 }, ..query(ask) };
            let body = world.server.answer(&query, from, US, two_buckets, Moment::ZERO).expect("no limits");
            let datagram = datagram(body, from);
            prop_assert!(datagram.len() <= LARGEST_DATAGRAM, "{} bytes", datagram.len());
            prop_assert!(Message::decode(&datagram).is_ok());
        }
        world.server.check_invariants();
    }

    /// Anything that arrives, through to the answer.
    #[test]
    fn noise_is_survived(datagrams in prop::collection::vec(prop::collection::vec(prop_oneof![
        any::<u8>(), Just(b'd'), Just(b'l'), Just(b'i'), Just(b'e'), Just(b':'), b'0'..=b'9'], 0..60), 1..10)) {
        let mut world = world();
        for noise in datagrams {
            for method in ["ping", "find_node", "get_peers", "announce_peer", "get", "put", "sample_infohashes", "x"] {
                let id = "abcdefghij0123456789";
                let head = format!("d1:ad2:id20:{id}9:info_hash20:{id}4:porti1e6:target20:{id}5:token1:x1:v");
                let tail = format!("e1:q{}:{method}1:t2:aa1:y1:qe", method.len());
                let bytes = [head.as_bytes(), &noise, tail.as_bytes()].concat();
                prop_assert!(bytes.len() < LARGEST_READ);
                match Message::decode(&bytes).map(|message| message.body) {
                    Ok(Body::Query(query)) => drop(world.ask(&query, "127.0.0.1:1")),
                    Ok(_) => {}
                    Err(error) => drop(world.server.refuse(&error, addr("127.0.0.1:1"), world.now)),
                }
            }
        }
        world.server.check_invariants();
    }
}
