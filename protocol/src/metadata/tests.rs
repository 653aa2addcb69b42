//! Metadata from honest peers, from liars, and from both.

use castanet_core::InfoHashV1;
use proptest::prelude::*;

use super::*;

fn info(length: usize) -> Bytes {
    (0..length).map(|at| (at * 7 % 251) as u8).collect::<Vec<_>>().into()
}

fn hashes(info: &Bytes) -> InfoHashes {
    InfoHashes::v1(InfoHashV1(sha1(info).0))
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Sends other bytes.
    Lies,
    /// Sends other bytes, one piece in ten seconds.
    Drips,
    /// Never answers.
    Silent,
    Refuses,
}

struct Peers {
    info: Bytes,
    manners: Vec<(Manner, u32)>,
    given: Given,
}

/// Lets everyone talk for so many seconds; who is found to be bad is gone. Answers what came of it.
fn converse(machine: &mut Metadata, peers: &mut Peers, seconds: u64) -> (Option<Bytes>, Vec<PeerKey>) {
    let (mut bad, mut dripping) = (Vec::new(), VecDeque::new());
    let longest = peers.manners.iter().map(|(_, size)| *size as usize).max().unwrap_or_default();
    let junk = Bytes::from(vec![b'x'; longest]);
    for (at, (_, size)) in peers.manners.iter().enumerate() {
        machine.peer_ready(PeerKey(at as u64), Some(*size), Moment::ZERO);
    }
    for tick in 0..seconds * 4 {
        let now = Moment::ZERO + Duration::from_millis(250 * tick);
        machine.timeout(now);
        if tick % 40 == 0 {
            let drops: BTreeMap<PeerKey, Vec<u8>> = dripping.iter().rev().cloned().collect();
            for (peer, answer) in drops {
                dripping.retain(|other| *other != (peer, answer.clone()));
                machine.received(peer, &answer, now).unwrap();
            }
        }
        while let Some(output) = machine.poll() {
            machine.check_invariants();
            match output {
                MetadataOutput::Say { peer, payload } => {
                    let (manner, size) = peers.manners[peer.0 as usize];
                    let answer = match manner {
                        Manner::Honest => answer(&peers.info, &payload, &mut peers.given, now),
                        Manner::Lies => answer(&junk.slice(..size as usize), &payload, &mut Given::default(), now),
                        Manner::Drips => {
                            let false_one = junk.slice(..size as usize);
                            let say = answer(&false_one, &payload, &mut Given::default(), now);
                            dripping.extend(say.map(|say| (peer, say)));
                            None
                        }
                        Manner::Silent => None,
                        Manner::Refuses => {
                            let Some(Message::Request { piece }) = Message::read(&payload) else { panic!() };
                            Some(refusal(piece))
                        }
                    };
                    if let Some(answer) = answer {
                        machine.received(peer, &answer, now).unwrap();
                    }
                }
                MetadataOutput::Done(info) => return (Some(info), bad),
                MetadataOutput::Bad { peers } => {
                    peers.iter().for_each(|peer| machine.peer_gone(*peer));
                    bad.extend(peers);
                }
            }
        }
    }
    (None, bad)
}

fn fetch(length: usize, manners: &[Manner], seconds: u64) -> (Option<Bytes>, Vec<PeerKey>) {
    let info = info(length);
    let mut machine = Metadata::new(hashes(&info), 1);
    let manners = manners.iter().map(|manner| (*manner, length as u32)).collect();
    converse(&mut machine, &mut Peers { info, manners, given: Given::default() }, seconds)
}

#[test]
fn metadata_come_from_one_or_many() {
    use Manner::{Honest, Refuses, Silent};
    for length in [1, METADATA_PIECE, METADATA_PIECE + 1, 10 * METADATA_PIECE + 5] {
        for manners in [&[Honest][..], &[Honest, Honest, Honest], &[Silent, Silent, Honest], &[Refuses, Honest]] {
            assert_eq!(fetch(length, manners, 120), (Some(info(length)), vec![]), "{length}");
        }
    }
    assert_eq!(fetch(100, &[Silent, Refuses], 120).0, None);
}

#[test]
fn liars_are_named_and_the_honest_win() {
    use Manner::{Honest, Lies};
    let (found, bad) = fetch(20 * METADATA_PIECE, &[Lies, Honest, Lies, Honest], 300);
    assert_eq!(found, Some(info(20 * METADATA_PIECE)));
    assert!(bad.iter().all(|peer| [0, 2].contains(&peer.0)), "{bad:?}");
    assert_eq!(fetch(5, &[Lies], 60), (None, vec![PeerKey(0)]));
}

#[test]
fn a_false_size_delays_but_does_not_stop_us() {
    let info = info(3 * METADATA_PIECE);
    let mut machine = Metadata::new(hashes(&info), 3);
    let liars = [LARGEST_METADATA, 5, 2 * METADATA_PIECE as u32].map(|size| (Manner::Silent, size));
    let mut manners = liars.to_vec();
    manners.push((Manner::Honest, info.len() as u32));
    let (found, _) = converse(&mut machine, &mut Peers { info: info.clone(), manners, given: Given::default() }, 120);
    assert_eq!(found, Some(info));
    let mut machine = Metadata::new(hashes(&found_nothing()), 3);
    machine.peer_ready(PeerKey(1), Some(u32::MAX), Moment::ZERO);
    machine.peer_ready(PeerKey(2), Some(0), Moment::ZERO);
    assert_eq!(machine.poll(), None, "sizes that cannot be are not believed");
}

fn found_nothing() -> Bytes {
    Bytes::from_static(b"de")
}

#[test]
fn what_was_not_asked_for_is_refused_in_the_end() {
    let info = info(2 * METADATA_PIECE);
    let mut machine = Metadata::new(hashes(&info), 1);
    let peer = PeerKey(1);
    machine.peer_ready(peer, Some(info.len() as u32), Moment::ZERO);
    let mut given = Given::default();
    let data = answer(&info, &request(0), &mut given, Moment::ZERO).unwrap();
    assert_eq!(machine.received(peer, &data, Moment::ZERO), Ok(()));
    let verdicts: Vec<_> = (0..100).map(|_| machine.received(peer, &data, Moment::ZERO)).collect();
    assert_eq!(verdicts.last(), Some(&Err(MetadataError::Unasked)));
    let short = &data[..data.len() - 1];
    assert_eq!(machine.received(peer, short, Moment::ZERO), Err(MetadataError::WrongSize));
    assert_eq!(machine.received(peer, b"d8:msg_type", Moment::ZERO), Err(MetadataError::Malformed));
    assert_eq!(machine.received(peer, b"d8:msg_typei77ee", Moment::ZERO), Ok(()), "from the future");
}

#[test]
fn giving_has_its_bounds() {
    let info = info(3 * METADATA_PIECE / 2);
    let mut given = Given::default();
    let ask = |payload: &[u8], given: &mut Given, now| answer(&info, payload, given, now);
    let now = Moment::from_secs(100);
    let first = ask(&request(1), &mut given, now).unwrap();
    assert!(
        first.starts_with(b"d8:msg_typei1e5:piecei1e10:total_sizei24576ee") && first.ends_with(&info[METADATA_PIECE..])
    );
    for absurd in [2, u32::MAX] {
        assert_eq!(ask(&request(absurd), &mut given, now), Some(refusal(absurd)));
    }
    assert_eq!(ask(&refusal(0), &mut given, now), None);
    let bytes: usize = (0..1000).filter_map(|_| ask(&request(0), &mut given, now)).map(|answer| answer.len()).sum();
    assert!(bytes < 6 * info.len() + 1000 * refusal(0).len());
    assert_ne!(ask(&request(0), &mut given, now + MINUTE), Some(refusal(0)), "a minute later it is given again");
}

#[test]
fn who_trickles_cannot_hold_the_others_up() {
    use Manner::{Drips, Honest};
    let info = info(3 * METADATA_PIECE);
    for seed in 0..8 {
        let mut machine = Metadata::new(hashes(&info), seed);
        let manners = vec![(Drips, LARGEST_METADATA), (Drips, LARGEST_METADATA / 2), (Honest, info.len() as u32)];
        let (found, _) =
            converse(&mut machine, &mut Peers { info: info.clone(), manners, given: Given::default() }, 3600);
        assert_eq!(found, Some(info.clone()), "seed {seed}");
    }
}

#[test]
fn who_trickles_on_trial_is_left_for_another() {
    use Manner::{Drips, Honest};
    let length = 60 * METADATA_PIECE;
    for seed in 0..8 {
        let info = info(length);
        let mut machine = Metadata::new(hashes(&info), seed);
        let manners = [Drips, Drips, Honest].map(|manner| (manner, length as u32)).to_vec();
        let (found, bad) =
            converse(&mut machine, &mut Peers { info: info.clone(), manners, given: Given::default() }, 3600);
        assert_eq!(found, Some(info), "seed {seed}");
        assert!(!bad.contains(&PeerKey(2)), "seed {seed}");
    }
}

#[test]
fn the_work_is_shared_and_done_twice_only_at_the_end() {
    let info = info(40 * METADATA_PIECE);
    let mut machine = Metadata::new(hashes(&info), 1);
    (0..5).for_each(|peer| machine.peer_ready(PeerKey(peer), Some(info.len() as u32), Moment::ZERO));
    let asked: Vec<_> = std::iter::from_fn(|| machine.poll()).collect();
    let mut pieces: Vec<_> = asked
        .iter()
        .map(|output| match output {
            MetadataOutput::Say { payload, .. } => payload,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pieces.len(), 5 * MOST_ASKED);
    pieces.sort();
    pieces.dedup();
    assert_eq!(pieces.len(), 5 * MOST_ASKED, "each was asked of one");
    machine.timeout(Moment::ZERO + PATIENCE);
    assert_eq!(machine.poll(), None, "all are busy");
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(payload in prop::collection::vec(any::<u8>(), 0..200), size in any::<u32>()) {
        let mut machine = Metadata::new(hashes(&info(10)), 1);
        machine.peer_ready(PeerKey(1), Some(size), Moment::ZERO);
        let _ = machine.received(PeerKey(1), &payload, Moment::ZERO);
        let _ = answer(&info(10), &payload, &mut Given::default(), Moment::ZERO);
        machine.check_invariants();
    }
}
