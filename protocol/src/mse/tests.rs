//! Both ends against each other, in every cut; and against whoever sends something else.

use proptest::prelude::*;

use super::*;

const SWARM: [u8; 20] = *b"a swarm of 20 bytes.";

fn served(mark: &[u8; 20]) -> Option<[u8; 20]> {
    (*mark == hash(&[b"req2", &SWARM])).then_some(SWARM)
}

/// One end's view of the other, and what is under way.
struct Pair {
    initiator: Initiator,
    responder: Responder,
    to_responder: Vec<u8>,
    to_initiator: Vec<u8>,
}

impl Pair {
    fn new(seed: u64, offer: Payloads, accept: Payloads, initial: &[u8]) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut to_responder = Vec::new();
        let initiator = Initiator::new(SWARM, offer, initial, &mut random, &mut to_responder);
        let responder = Responder::new(accept, &mut random);
        Self { initiator, responder, to_responder, to_initiator: Vec::new() }
    }

    /// Lets them talk, `cut` bytes at a time.
    fn talk(&mut self, cut: usize) -> Result<[Agreed; 2], Refused> {
        let (mut ours, mut theirs) = (None, None);
        for _ in 0..20_000 {
            let part: Vec<_> = self.to_responder.drain(..cut.min(self.to_responder.len())).collect();
            if theirs.is_none() {
                theirs = self.responder.hear(&part, served, &mut self.to_initiator)?;
            }
            let part: Vec<_> = self.to_initiator.drain(..cut.min(self.to_initiator.len())).collect();
            if ours.is_none() {
                ours = self.initiator.hear(&part, &mut self.to_responder)?;
            }
            if ours.is_some() && theirs.is_some() {
                return Ok([ours, theirs].map(|agreed| agreed.expect("both are there")));
            }
        }
        panic!("they talk for ever");
    }
}

#[test]
fn both_ends_agree_whatever_the_cut_and_who_offers_what() {
    for (offer, accept, is_rc4) in [
        (Payloads::ANY, Payloads::ANY, false),
        (Payloads::ANY, Payloads::RC4, true),
        (Payloads::RC4, Payloads::ANY, true),
        (Payloads::RC4, Payloads::RC4, true),
    ] {
        for (seed, cut) in [(1, 1), (2, 7), (3, 100), (4, 5000)] {
            let mut pair = Pair::new(seed, offer, accept, b"hello");
            let [mut ours, mut theirs] = pair.talk(cut).unwrap();
            assert_eq!((ours.swarm, theirs.swarm), (SWARM, SWARM));
            assert_eq!(theirs.early, b"hello");
            assert!(ours.early.is_empty());
            assert_eq!((ours.read.is_some(), theirs.write.is_some()), (is_rc4, is_rc4));
            if let (Some(write), Some(read)) = (&mut ours.write, &mut theirs.read) {
                let mut sent = *b"and so on";
                write.apply(&mut sent);
                assert_ne!(&sent, b"and so on");
                read.apply(&mut sent);
                assert_eq!(&sent, b"and so on");
            }
        }
    }
}

#[test]
fn what_follows_at_once_is_heard_too() {
    let mut pair = Pair::new(5, Payloads::RC4, Payloads::ANY, b"");
    // The responder's whole answer with more behind it arrives in one go.
    let mut say = Vec::new();
    assert!(pair.responder.hear(&pair.to_responder, served, &mut say).unwrap().is_none());
    let mut answer = Vec::new();
    assert!(pair.initiator.hear(&say, &mut answer).unwrap().is_none());
    say.clear();
    let mut theirs = pair.responder.hear(&answer, served, &mut say).unwrap().unwrap();
    let mut more = b"more".to_vec();
    theirs.write.as_mut().unwrap().apply(&mut more);
    say.extend(more);
    let ours = pair.initiator.hear(&say, &mut Vec::new()).unwrap().unwrap();
    assert_eq!(ours.early, b"more");
}

#[test]
fn who_has_nothing_in_common_is_refused() {
    let plain = Payloads { plain: true, rc4: false };
    assert_eq!(Pair::new(1, plain, Payloads::RC4, b"").talk(100).unwrap_err(), Refused::NoPayload);
}

#[test]
fn an_unknown_swarm_is_refused() {
    let mut pair = Pair::new(1, Payloads::ANY, Payloads::ANY, b"");
    let (mut say, mut answer) = (Vec::new(), Vec::new());
    pair.responder.hear(&pair.to_responder, |_| None, &mut say).unwrap();
    pair.initiator.hear(&say, &mut answer).unwrap();
    assert_eq!(pair.responder.hear(&answer, |_| None, &mut say).unwrap_err(), Refused::UnknownSwarm);
}

#[test]
fn impossible_keys_are_refused() {
    let mut one = [0; 96];
    one[95] = 1;
    // 0, 1, and what is above the prime.
    for key in [[0; 96], one, [0xff; 96]] {
        let mut responder = Responder::new(Payloads::ANY, &mut fastrand::Rng::with_seed(1));
        assert_eq!(responder.hear(&key, served, &mut Vec::new()).unwrap_err(), Refused::Key);
    }
}

#[test]
fn plain_connections_are_known_by_their_first_bytes() {
    assert_eq!(is_plain(b""), None);
    assert_eq!(is_plain(b"\x13BitTorrent pro"), None);
    assert_eq!(is_plain(b"\x13BitTorrent protocol and more"), Some(true));
    assert_eq!(is_plain(b"\x13BitTorrent Protocol"), Some(false));
    assert_eq!(is_plain(b"x"), Some(false));
}

#[test]
fn what_is_encrypted_but_not_sent_is_encrypted_again_alike() {
    let cipher = || Cipher::new(b"keyA", &[7; 96], &SWARM);
    let mut whole = *b"a text of which the socket takes some bytes at a time";
    let plain = whole;
    cipher().apply(&mut whole);
    let (mut stutter, mut sent) = (cipher(), Vec::new());
    for portion in [0, 3, 1, 20, 0, 10, 100] {
        let mut rest = plain[sent.len()..].to_vec();
        stutter.preview(&mut rest);
        rest.truncate(portion);
        stutter.advance(rest.len());
        sent.extend(rest);
    }
    assert_eq!(sent, whole);
}

#[test]
fn two_keys_lead_to_one_secret() {
    let mut random = fastrand::Rng::with_seed(1);
    let (a, b) = (dh::Private::new(&mut random), dh::Private::new(&mut random));
    assert_eq!(a.secret(&b.public()).unwrap(), b.secret(&a.public()).unwrap());
    assert_ne!(a.public(), b.public());
}

/// Feeds `bytes` in portions; the machine must end or wait, and never hold more than a handshake can be long.
fn feed(bytes: &[u8], cut: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut say = Vec::new();
    let mut responder = Responder::new(Payloads::ANY, &mut random);
    for part in bytes.chunks(cut) {
        match responder.hear(part, served, &mut say) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => break,
        }
    }
    assert!(say.len() <= 96 + MOST_PADDING + 14 + MOST_PADDING);
    let mut initiator = Initiator::new(SWARM, Payloads::ANY, b"", &mut random, &mut say);
    say.clear();
    for part in bytes.chunks(cut) {
        match initiator.hear(part, &mut say) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => break,
        }
    }
    assert!(say.len() <= 40 + 16 + MOST_PADDING);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_ends_with_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..8192), cut in 1usize..2000, seed in any::<u64>()) {
        feed(&bytes, cut, seed);
        // So much noise never leaves an end waiting.
        if bytes.len() > 96 + MOST_PADDING + 20 {
            let mut responder = Responder::new(Payloads::ANY, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(responder.hear(&bytes, served, &mut Vec::new()).is_err());
        }
    }

    /// A real handshake with one change somewhere: it may still succeed (padding is free), but nothing panics, and who agrees
    /// agrees on one swarm.
    #[test]
    fn a_spoiled_handshake_ends(seed in any::<u64>(), at in 0usize..2000, change in 1u8.., kind in 0..4, cut in 1usize..700) {
        let mut pair = Pair::new(seed, Payloads::ANY, Payloads::ANY, b"first words");
        let (mut ours, mut theirs) = (None, None);
        let mut passed = 0;
        for _ in 0..200 {
            let mut part: Vec<_> = pair.to_responder.drain(..cut.min(pair.to_responder.len())).collect();
            if (passed..passed + part.len()).contains(&at) {
                let here = at - passed;
                match kind {
                    0 => part[here] ^= change,
                    1 => part.truncate(here),
                    2 => { part.remove(here); }
                    _ => { let copy = part.clone(); part.extend(copy); }
                }
            }
            passed += part.len();
            if theirs.is_none() {
                match pair.responder.hear(&part, served, &mut pair.to_initiator) {
                    Ok(agreed) => theirs = agreed,
                    Err(_) => return Ok(()),
                }
            }
            let part: Vec<_> = std::mem::take(&mut pair.to_initiator);
            if ours.is_none() {
                match pair.initiator.hear(&part, &mut pair.to_responder) {
                    Ok(agreed) => ours = agreed,
                    Err(_) => return Ok(()),
                }
            }
        }
        prop_assert!(theirs.is_none_or(|agreed| agreed.swarm == SWARM));
    }
}
