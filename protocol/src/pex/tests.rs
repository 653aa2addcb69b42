//! Neighbours who come, go, gossip and lie.

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Moment {
    Moment::from_secs(seconds)
}
fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
/// A peer that speaks PEX and that we dialled.
fn neighbour(remote: SocketAddr) -> Neighbour {
    Neighbour {
        remote,
        listens: Some(remote),
        speaks: true,
        reachable: true,
        seed: false,
        utp: false,
        encrypts: false,
        holepunch: false,
    }
}
fn nth(n: u16) -> SocketAddr {
    SocketAddr::from(([9, 9, (n >> 8) as u8, n as u8], 6881))
}
fn meet(pex: &mut Pex, peers: &[&str], now: Moment) {
    peers.iter().for_each(|peer| pex.joined(neighbour(addr(peer)), now));
}
/// What is due, by whom it is for: `+` whom it is told of, `-` whom not any more.
fn said(pex: &mut Pex, now: Moment) -> BTreeMap<SocketAddr, Vec<String>> {
    let mut out = BTreeMap::new();
    while let Some((to, message)) = pex.poll(now) {
        pex.check_invariants();
        let added = message.added.iter().map(|contact| format!("+{}", contact.addr));
        let told = added.chain(message.dropped.iter().map(|addr| format!("-{addr}"))).collect();
        assert!(out.insert(to, told).is_none(), "two messages to {to}");
    }
    out
}
fn telling(addrs: impl IntoIterator<Item = SocketAddr>) -> Vec<u8> {
    let added = addrs.into_iter().map(|addr| Contact { addr, flags: Flags::default() }).collect();
    PexMessage { added, dropped: Vec::new() }.encode()
}

#[test]
fn what_stands_in_for_a_name_is_not_told() {
    let mut pex = Pex::new();
    meet(&mut pex, &["1.1.1.1:1", "240.2.2.2:2"], at(0));
    let told = said(&mut pex, at(2));
    assert_eq!(told.into_values().flatten().collect::<Vec<_>>(), ["+1.1.1.1:1"]);
}

#[test]
fn differences_are_told_once_a_minute() {
    let mut pex = Pex::new();
    meet(&mut pex, &["1.1.1.1:1", "2.2.2.2:2"], at(0));
    assert_eq!((said(&mut pex, at(1)).len(), pex.deadline()), (0, at(2)));
    let (one, two) = (addr("1.1.1.1:1"), addr("2.2.2.2:2"));
    let first = said(&mut pex, at(2));
    assert_eq!(first, [(one, vec!["+2.2.2.2:2".into()]), (two, vec!["+1.1.1.1:1".into()])].into(), "never itself");
    assert!(said(&mut pex, at(62)).is_empty(), "no news, no message");
    assert_eq!(pex.deadline(), Moment::NEVER);
    meet(&mut pex, &["3.3.3.3:3"], at(70));
    pex.left(two, at(71));
    let news = said(&mut pex, at(72));
    assert_eq!(news[&one], ["+3.3.3.3:3", "-2.2.2.2:2"]);
    assert_eq!(news[&addr("3.3.3.3:3")], ["+1.1.1.1:1"]);
    // Whoever comes and goes within the minute, or goes and comes back, is not mentioned.
    meet(&mut pex, &["4.4.4.4:4"], at(80));
    pex.left(addr("4.4.4.4:4"), at(90));
    pex.left(addr("3.3.3.3:3"), at(100));
    assert_eq!(pex.deadline(), at(132));
    meet(&mut pex, &["3.3.3.3:3"], at(110));
    assert!(!said(&mut pex, at(140)).contains_key(&one));
}

#[test]
fn only_speakers_are_told_and_only_of_those_who_listen() {
    let mut pex = Pex::new();
    meet(&mut pex, &["1.1.1.1:1"], at(0));
    let mute = Neighbour { speaks: false, seed: true, utp: true, ..neighbour(addr("2.2.2.2:2")) };
    let deaf = Neighbour { listens: None, ..neighbour(addr("3.3.3.3:3333")) };
    let incoming = Neighbour { listens: Some(addr("4.4.4.4:4")), reachable: false, ..neighbour(addr("4.4.4.4:4444")) };
    [mute, deaf, incoming].into_iter().for_each(|who| pex.joined(who, at(0)));
    assert_eq!(pex.speakers(), 3);
    let flags = Flags::SEED.with(Flags::UTP, true).with(Flags::REACHABLE, true);
    let messages: Vec<_> = std::iter::from_fn(|| pex.poll(at(2))).collect();
    assert_eq!(messages.iter().map(|(to, _)| to.port()).collect::<Vec<_>>(), [1, 3333, 4444]);
    assert_eq!(
        messages[0].1.added,
        [Contact { addr: addr("2.2.2.2:2"), flags }, Contact { addr: addr("4.4.4.4:4"), flags: Flags::default() }]
    );
    assert_eq!(messages[2].1.added.len(), 2, "not of itself under its listening address");
}

#[test]
fn crowds_are_told_by_and_by_the_preferred_first() {
    let mut pex = Pex::new();
    let reader = addr("1.1.1.1:1");
    pex.joined(neighbour(reader), at(0));
    (0..300).for_each(|n| pex.joined(Neighbour { speaks: false, ..neighbour(nth(n)) }, at(0)));
    let mut told = Vec::new();
    for (minute, count) in [100, 50, 50].into_iter().enumerate() {
        let (to, message) = pex.poll(at(2 + 60 * minute as u64)).unwrap();
        assert_eq!((to, message.added.len(), message.dropped.len()), (reader, count, 0));
        told.extend(message.added.iter().map(|contact| priority(reader, contact.addr).unwrap()));
    }
    assert!(told.is_sorted_by(|a, b| a >= b), "the best first");
    assert_eq!((pex.poll(at(200)), pex.deadline()), (None, Moment::NEVER), "enough from one source");
    (0..300).for_each(|n| pex.left(nth(n), at(210)));
    for minute in 0..4 {
        let (_, message) = pex.poll(at(220 + 60 * minute)).unwrap();
        assert_eq!((message.added.len(), message.dropped.len()), (0, MOST_LATER));
    }
    assert_eq!(pex.poll(at(600)), None, "everyone told of is taken back");
}

#[test]
fn near_addresses_stay_near() {
    let mut pex = Pex::new();
    let near = ["127.0.0.1:1", "192.168.0.2:2", "[fd00::3]:3", "100.64.0.4:4", "[::1]:5"];
    meet(&mut pex, &near, at(0));
    meet(&mut pex, &["8.8.8.8:8", "[2001:db8::9]:9"], at(0));
    let said = said(&mut pex, at(2));
    assert_eq!(said[&addr("8.8.8.8:8")], ["+[2001:db8::9]:9"]);
    assert_eq!(said[&addr("192.168.0.2:2")].len(), 4, "no loopback");
    assert_eq!(said[&addr("127.0.0.1:1")].len(), 6, "who is near hears of all");
    // And who is far does not make us dial our own network.
    let all = telling(near.iter().map(|near| addr(near)).chain([addr("7.7.7.7:7"), addr("8.8.8.8:8")]));
    let heard = |pex: &mut Pex, from: &str| pex.heard(addr(from), &all, at(3)).unwrap().added.len();
    assert_eq!(heard(&mut pex, "8.8.8.8:8"), 1, "nor itself");
    assert_eq!((heard(&mut pex, "192.168.0.2:2"), heard(&mut pex, "127.0.0.1:1")), (4, 6));
}

#[test]
fn messages_that_come_too_often_are_ignored() {
    let mut pex = Pex::new();
    meet(&mut pex, &["1.1.1.1:1"], at(0));
    let mut hear =
        |seconds| pex.heard(addr("1.1.1.1:1"), &telling([nth(1)]), at(seconds)).map(|heard| heard.added.len());
    assert_eq!([hear(0), hear(1), hear(2)], [Ok(1), Ok(1), Ok(1)]);
    assert_eq!(hear(3), Err(Ignored::TooSoon));
    let taken = (4..=1000).filter(|second| hear(*second).is_ok()).count();
    assert_eq!(taken, 1000 / 45);
    assert_eq!(pex.heard(addr("6.6.6.6:6"), &telling([nth(1)]), at(5)), Err(Ignored::Stranger));
    let nonsense = pex.heard(addr("1.1.1.1:1"), b"le", at(2000));
    assert_eq!(nonsense, Err(Ignored::Unreadable(PexError::NoDictionary)));
}

#[test]
fn a_liar_gives_so_many_an_hour_however_often_it_comes_back() {
    let mut pex = Pex::new();
    let mut taken = 0;
    let hear = |pex: &mut Pex, n: u64, second| {
        let liar = SocketAddr::from(([1, 1, 1, 1], 1000 + n as u16));
        pex.joined(neighbour(liar), at(second));
        let lies = telling((0..200).map(|i| nth(n as u16 * 200 + i)));
        let heard = pex.heard(liar, &lies, at(second)).unwrap().added.len();
        pex.left(liar, at(second));
        pex.check_invariants();
        heard
    };
    for n in 0..100 {
        taken += hear(&mut pex, n, n);
    }
    assert_eq!(taken, MOST_TAKEN);
    assert_eq!(hear(&mut pex, 100, 3600), MOST_READ, "forgiven after an hour");
    let honest = addr("2.2.2.2:2");
    pex.joined(neighbour(honest), at(200));
    assert_eq!(pex.heard(honest, &telling([nth(7)]), at(200)).unwrap().added.len(), 1, "others do not suffer");
}

#[test]
fn everything_is_bounded() {
    let mut pex = Pex::new();
    for n in 0..=MOST_ACCOUNTS as u32 {
        let liar = SocketAddr::new(Ipv6Addr::new(0x2001, (n >> 8) as u16, n as u16 & 255, 0, 0, 0, 0, 1).into(), 1);
        pex.joined(neighbour(liar), at(0));
        let believed = pex.heard(liar, &telling([nth(1)]), at(0)).unwrap().added.len();
        assert_eq!(believed, usize::from((n as usize) < MOST_ACCOUNTS));
        pex.left(liar, at(0));
    }
    (0..=MOST_NEIGHBOURS as u16).for_each(|n| pex.joined(Neighbour { speaks: false, ..neighbour(nth(n)) }, at(0)));
    pex.check_invariants();
}

/// What a neighbour believes, as it follows from the messages it got.
#[derive(Default)]
struct Listener {
    believes: BTreeSet<SocketAddr>,
    last: Option<Moment>,
}

proptest! {
    #[test]
    fn every_neighbour_ends_up_with_the_truth(
        steps in prop::collection::vec((0u16..12, any::<bool>(), 0u64..30), 0..60),
    ) {
        let mut pex = Pex::new();
        let mut now = at(0);
        let mut listeners = BTreeMap::<SocketAddr, Listener>::new();
        let listen = |pex: &mut Pex, listeners: &mut BTreeMap<SocketAddr, Listener>, now: Moment| {
            while let Some((to, message)) = pex.poll(now) {
                let listener = listeners.get_mut(&to).expect("only who is there is told");
                assert!(listener.last.is_none_or(|last| now.since(last) >= PACE));
                listener.last = Some(now);
                for contact in &message.added {
                    assert!(contact.addr != to && listener.believes.insert(contact.addr), "told twice");
                }
                message.dropped.iter().for_each(|gone| assert!(listener.believes.remove(gone), "never told"));
            }
        };
        for (n, comes, pause) in steps {
            if comes {
                pex.joined(neighbour(nth(n)), now);
                listeners.entry(nth(n)).or_default();
            } else {
                pex.left(nth(n), now);
                listeners.remove(&nth(n));
            }
            now += Duration::from_secs(pause);
            listen(&mut pex, &mut listeners, now);
            pex.check_invariants();
        }
        now += PACE;
        listen(&mut pex, &mut listeners, now);
        prop_assert_eq!(pex.poll(now), None);
        for (who, listener) in &listeners {
            let others: BTreeSet<_> = listeners.keys().filter(|other| *other != who).copied().collect();
            prop_assert_eq!(&listener.believes, &others, "{}", who);
        }
    }
}
