//! The machine: bounds, expiry, who is given to whom, and the same as a model that is too simple to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet_core::{Moment, PeerId};
use castanet_protocol::tracker::{Announce, Answer, Event, MOST_PEERS};
use fastrand::Rng;

use super::HASH;
use crate::tracker::{
    Counts, MOST_TORRENTS, REQUEST_LIMIT, TrackerConfig,
    swarms::{Refusal, Swarms},
};

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn swarms(config: &TrackerConfig, seed: u64) -> Swarms {
    Swarms::new(config.clone(), Rng::with_seed(seed))
}

fn announce(port: u16, left: u64, wanted: u32) -> Announce {
    Announce {
        info_hash: HASH,
        peer_id: PeerId([b'p'; 20]),
        port,
        key: 0,
        uploaded: 0,
        downloaded: 0,
        left,
        wanted,
        event: Event::Regular,
    }
}

fn ports(answer: &Answer) -> Vec<u16> {
    answer.peers.iter().map(|(addr, _)| addr.port()).collect()
}

#[test]
fn memory_is_bounded_and_the_silent_are_forgotten() {
    let config = TrackerConfig::default();
    let mut state = swarms(&config, 1);
    let mut tell = |at, announce: &Announce| state.announce(Moment::from_secs(at), IP, announce);
    for port in 1..=config.most_peers as u16 + 9 {
        tell(0, &announce(port, 1, 0)).unwrap();
    }
    let answer = tell(0, &announce(1, 1, u32::MAX)).unwrap();
    assert_eq!((answer.leeches, answer.peers.len()), (Some(config.most_peers as u32), config.given));
    let late = config.most_peers as u16 + 1;
    assert!(!tell(0, &announce(late, 1, 50)).unwrap().peers.is_empty(), "who is too many is given peers");
    for n in 0..MOST_TORRENTS as u32 {
        let mut other = announce(1, 1, 0);
        other.info_hash[..4].copy_from_slice(&n.to_be_bytes());
        let _ = tell(0, &other);
    }
    let other = Announce { info_hash: [0xff; 20], ..announce(1, 1, 50) };
    assert_eq!(tell(0, &other), Err(Refusal::from("too many torrents")));
    let later = (config.interval * 2 + REQUEST_LIMIT).as_secs();
    assert_eq!(tell(later - 1, &other), Err(Refusal::from("too many torrents")));
    assert!(tell(later, &other).unwrap().peers.is_empty());
    assert_eq!(state.torrents(), 1);
}

#[test]
fn who_announces_again_is_kept_and_who_waits_for_a_slow_answer_too() {
    let config = TrackerConfig { answers_after: Duration::from_secs(50), ..TrackerConfig::default() };
    let mut state = swarms(&config, 1);
    let mut leeches = |at, port| state.announce(Moment::from_secs(at), IP, &announce(port, 1, 0)).unwrap().leeches;
    assert_eq!((leeches(0, 1), leeches(0, 2), leeches(100, 1)), (Some(1), Some(2), Some(2)));
    assert_eq!(leeches(129, 1), Some(2));
    assert_eq!(leeches(130, 3), Some(2), "the second has been silent for twice an interval and a wait");
    assert_eq!(state.counts(Moment::from_secs(500), HASH), Counts::default(), "also when nobody announces any more");
}

#[test]
fn a_change_of_sides_is_counted_once() {
    let mut state = swarms(&TrackerConfig { most_peers: 2, ..TrackerConfig::default() }, 1);
    for (port, left) in [(1, 5), (2, 5), (3, 5), (1, 0), (1, 0), (2, 0), (2, 9)] {
        state.announce(Moment::ZERO, IP, &announce(port, left, 0)).unwrap();
    }
    assert_eq!(state.counts(Moment::ZERO, HASH), Counts { seeds: 1, leeches: 1, completed: 0 });
    let gone = Announce { event: Event::Stopped, ..announce(1, 0, 50) };
    assert!(state.announce(Moment::ZERO, IP, &gone).unwrap().peers.is_empty(), "who leaves wants no peers");
    let finished = Announce { event: Event::Completed, ..announce(3, 0, 0) };
    state.announce(Moment::ZERO, IP, &finished).unwrap();
    assert_eq!(state.counts(Moment::ZERO, HASH), Counts { seeds: 1, leeches: 1, completed: 1 });
}

/// Ten thousand peers that come every interval: were every announce to look at all of them, nobody would
/// wait for this.
#[test]
fn a_large_swarm_is_mixed_well() {
    const PEERS: u16 = 10_000;
    let config = TrackerConfig { most_peers: PEERS.into(), ..TrackerConfig::default() };
    let mut state = swarms(&config, 7);
    let mut given = BTreeMap::<u16, u32>::new();
    for round in 0..4 {
        for port in 1..=PEERS {
            let left = u64::from(!port.is_multiple_of(2));
            let answer = state.announce(Moment::from_secs(round * 10), IP, &announce(port, left, 50)).unwrap();
            let ports = ports(&answer);
            let different: BTreeSet<_> = ports.iter().collect();
            assert!(different.len() == ports.len() && !different.contains(&port));
            if round > 0 {
                assert_eq!(ports.len(), 50);
                assert!(left > 0 || ports.iter().all(|port| port % 2 == 1), "a seed needs no seed");
                ports.iter().for_each(|port| *given.entry(*port).or_default() += 1);
            }
        }
    }
    assert_eq!(state.counts(Moment::from_secs(30), HASH), Counts { seeds: 5000, leeches: 5000, completed: 0 });
    // A leech is given to leeches and seeds, 50 * (1/2 + 1) times a round, and a seed to leeches, 50 / 2 times.
    let (mut leeches, mut seeds) = ((u32::MAX, 0), (u32::MAX, 0));
    for port in 1..=PEERS {
        let times = given.get(&port).copied().unwrap_or(0);
        let range = if port % 2 == 1 { &mut leeches } else { &mut seeds };
        *range = (range.0.min(times), range.1.max(times));
    }
    assert!(
        leeches.0 > 225 / 2 && leeches.1 < 225 * 2 && seeds.0 > 75 / 3 && seeds.1 < 75 * 2,
        "{leeches:?} {seeds:?}"
    );
}

#[test]
fn a_seed_decides_who_is_given() {
    let round = |seed| -> Vec<_> {
        let mut state = swarms(&TrackerConfig::default(), seed);
        let mut tell = |port| ports(&state.announce(Moment::ZERO, IP, &announce(port, 1, 9)).unwrap());
        (1..200).map(&mut tell).collect()
    };
    let first = round(1);
    assert_eq!(first, round(1));
    assert_ne!(first, round(2));
    assert_ne!(first[150], first[151], "all come at the same moment, and not all meet the same");
}

#[test]
fn no_more_are_given_than_set() {
    let given = |given| {
        let mut state = swarms(&TrackerConfig { given, most_peers: 5000, ..TrackerConfig::default() }, 1);
        let told = (1..=3000).map(|port| state.announce(Moment::ZERO, IP, &announce(port, 1, u32::MAX)).unwrap());
        told.last().unwrap().peers.len()
    };
    assert_eq!([given(0), given(7), given(usize::MAX)], [0, 7, MOST_PEERS]);
}

#[test]
fn a_liar_gives_nobody_that_is_there() {
    let lies = |seed| {
        let mut state = swarms(&TrackerConfig { made_up: 30, ..TrackerConfig::default() }, seed);
        let answers = (1..=20).map(|port| state.announce(Moment::ZERO, IP, &announce(port, 1, 9)).unwrap());
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers[19].leeches, Some(20), "it lies about who, not about how many");
        answers.into_iter().flat_map(|answer| answer.peers).collect::<Vec<_>>()
    };
    let peers = lies(3);
    assert_eq!(peers.len(), 30 * 20);
    let is_nobody = |addr: &SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => ip.octets()[0] == 198 && ip.octets()[1] & !1 == 18 && addr.port() > 0,
        IpAddr::V6(_) => false,
    };
    assert!(peers.iter().all(|(addr, _)| is_nobody(addr)), "{peers:?}");
    assert!(peers == lies(3) && peers != lies(4));
}

#[test]
fn one_that_refuses_says_why_and_remembers_nobody() {
    let mut state = swarms(&TrackerConfig { refuses: Some("closed today".into()), ..TrackerConfig::default() }, 1);
    assert_eq!(state.announce(Moment::ZERO, IP, &announce(1, 1, 9)), Err(Refusal::from("closed today")));
    assert_eq!(state.torrents(), 0);
}

/// What a tracker should know, looked up the long way.
#[derive(Default)]
struct Model {
    peers: BTreeMap<([u8; 20], u16), (Moment, bool)>,
    completed: BTreeMap<[u8; 20], u32>,
}

impl Model {
    fn announce(&mut self, config: &TrackerConfig, now: Moment, announce: &Announce) {
        let patience = config.interval * 2 + REQUEST_LIMIT;
        self.peers.retain(|_, (seen, _)| now.since(*seen) < patience);
        let me = (announce.info_hash, announce.port);
        let others = self.peers.keys().filter(|peer| peer.0 == me.0 && **peer != me).count();
        let is_known = self.peers.remove(&me).is_some();
        if announce.event != Event::Stopped && (is_known || others < config.most_peers) {
            self.peers.insert(me, (now, announce.left == 0));
        }
        *self.completed.entry(me.0).or_default() += u32::from(announce.event == Event::Completed);
    }

    fn count(&self, info_hash: [u8; 20], complete: bool) -> u32 {
        self.peers.iter().filter(|((hash, _), (_, whole))| *hash == info_hash && *whole == complete).count() as u32
    }

    fn counts(&self, info_hash: [u8; 20]) -> Counts {
        let completed = self.completed.get(&info_hash).copied().unwrap_or(0);
        Counts { seeds: self.count(info_hash, true), leeches: self.count(info_hash, false), completed }
    }

    /// How many it can be given.
    fn useful(&self, announce: &Announce) -> usize {
        let me = (announce.info_hash, announce.port);
        let is_useful = |(peer, (_, whole)): &(&([u8; 20], u16), &(Moment, bool))| {
            peer.0 == me.0 && **peer != me && !(announce.left == 0 && *whole)
        };
        self.peers.iter().filter(is_useful).count()
    }
}

#[test]
fn it_knows_what_the_model_knows() {
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let config = TrackerConfig { most_peers: random.usize(1..30), given: 12, ..TrackerConfig::default() };
        let (mut state, mut model, mut now) = (swarms(&config, seed), Model::default(), Moment::ZERO);
        for step in 0..300 {
            let longest = [1, 900, 9000][random.usize(..3)];
            now += Duration::from_millis(random.u64(..longest));
            let mut announce = announce(random.u16(1..40), random.u64(0..2), random.u32(0..20));
            announce.info_hash = [random.u8(0..3); 20];
            announce.event = match random.u8(0..9) {
                0 => Event::Stopped,
                1 => Event::Completed,
                _ => Event::Regular,
            };
            let answer = state.announce(now, IP, &announce).unwrap();
            model.announce(&config, now, &announce);
            let place = format!("seed {seed}, step {step}");
            for hash in (0..3).map(|n| [n; 20]) {
                assert_eq!(state.counts(now, hash), model.counts(hash), "{place}");
            }
            let useful = if announce.event == Event::Stopped { 0 } else { model.useful(&announce) };
            assert_eq!(answer.peers.len(), useful.min(announce.wanted as usize).min(config.given), "{place}");
            let different: BTreeSet<_> = ports(&answer).into_iter().collect();
            assert_eq!(different.len(), answer.peers.len(), "{place}");
            for port in different {
                let known = model.peers.get(&(announce.info_hash, port));
                let is_useful = known.is_some_and(|(_, whole)| announce.left > 0 || !whole);
                assert!(is_useful && port != announce.port, "{place}: {port}");
            }
        }
    }
}
