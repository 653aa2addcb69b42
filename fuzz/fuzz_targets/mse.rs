//! The encrypted handshake (MSE/PE) between two ends and whoever sits between them: portions of any size, cut, doubled,
//! changed, or noise from the first byte on.
//!
//! As long as nobody changes anything the two agree, on one swarm and one way of going on. Else they end with a reason or
//! wait; nothing panics, and neither says more than a handshake can be long.
#![no_main]

use arbitrary::Arbitrary;
use castanet_core::digest::sha1;
use castanet_protocol::mse::{Agreed, Initiator, MOST_INITIAL, Payloads, Refused, Responder, is_plain};
use libfuzzer_sys::fuzz_target;

const SWARM: [u8; 20] = *b"a swarm of 20 bytes.";
/// More than either can say: key, two paddings, marks, offer, first words.
const MOST_SAID: usize = 96 + 2 * 512 + 100 + MOST_INITIAL;

/// What becomes of the next portion of what one end says to the other.
#[derive(Arbitrary, Debug)]
enum Portion {
    Passed { to_responder: bool, length: u16 },
    Lost { to_responder: bool, length: u16 },
    Doubled { to_responder: bool, length: u16 },
    Changed { to_responder: bool, length: u16, at: u16, by: u8 },
    MadeUp { to_responder: bool, bytes: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Story {
    seed: u64,
    /// The payloads that the initiator offers, and those that the responder takes: plain, RC4.
    payloads: [[bool; 2]; 2],
    initial: Vec<u8>,
    portions: Vec<Portion>,
}

/// One end: what was said to it and not heard yet, and what became of it.
#[derive(Default)]
struct End {
    to_hear: Vec<u8>,
    said: usize,
    outcome: Option<Result<Agreed, Refused>>,
}

impl End {
    fn take(&mut self, length: usize) -> Vec<u8> {
        let length = length.min(self.to_hear.len());
        self.to_hear.drain(..length).collect()
    }
}

struct Pair {
    initiator: Initiator,
    responder: Responder,
    /// The initiator, the responder.
    ends: [End; 2],
}

fn served(mark: &[u8; 20]) -> Option<[u8; 20]> {
    (*mark == sha1(&[&b"req2"[..], &SWARM].concat()).0).then_some(SWARM)
}

impl Pair {
    fn hear(&mut self, end: usize, bytes: &[u8]) {
        if self.ends[end].outcome.is_some() {
            return;
        }
        let mut say = Vec::new();
        let heard = match end {
            0 => self.initiator.hear(bytes, &mut say),
            _ => self.responder.hear(bytes, served, &mut say),
        };
        self.ends[end].outcome = heard.transpose();
        self.ends[end].said += say.len();
        assert!(self.ends[end].said <= MOST_SAID, "an end says too much");
        self.ends[1 - end].to_hear.extend(say);
    }
}

fuzz_target!(|story: Story| {
    let [offer, accept] = story.payloads.map(|[plain, rc4]| Payloads { plain, rc4 });
    let mut random = fastrand::Rng::with_seed(story.seed);
    let mut said = Vec::new();
    let initiator = Initiator::new(SWARM, offer, &story.initial, &mut random, &mut said);
    let mut pair = Pair { initiator, responder: Responder::new(accept, &mut random), ends: Default::default() };
    pair.ends[0].said = said.len();
    pair.ends[1].to_hear = said;

    let mut is_honest = true;
    for portion in story.portions {
        is_honest &= matches!(portion, Portion::Passed { .. });
        match portion {
            Portion::Passed { to_responder, length } => {
                let end = usize::from(to_responder);
                let part = pair.ends[end].take(length.into());
                pair.hear(end, &part);
            }
            Portion::Lost { to_responder, length } => drop(pair.ends[usize::from(to_responder)].take(length.into())),
            Portion::Doubled { to_responder, length } => {
                let end = usize::from(to_responder);
                let part = pair.ends[end].take(length.into());
                pair.hear(end, &part);
                pair.hear(end, &part);
            }
            Portion::Changed { to_responder, length, at, by } => {
                let end = usize::from(to_responder);
                let mut part = pair.ends[end].take(length.into());
                if let Some(byte) = part.get_mut(usize::from(at)) {
                    *byte ^= by;
                }
                pair.hear(end, &part);
            }
            Portion::MadeUp { to_responder, bytes } => {
                is_plain(&bytes);
                pair.hear(usize::from(to_responder), &bytes);
            }
        }
    }
    // The rest arrives as it is.
    for _ in 0..8 {
        for end in 0..2 {
            let part = pair.ends[end].take(usize::MAX);
            pair.hear(end, &part);
        }
    }
    let [ours, theirs] = pair.ends.map(|end| end.outcome);
    for agreed in [&ours, &theirs].into_iter().flatten().flatten() {
        assert_eq!(agreed.swarm, SWARM);
    }
    if is_honest {
        let is_possible = (offer.plain && accept.plain) || (offer.rc4 && accept.rc4);
        match (ours, theirs) {
            (Some(Ok(ours)), Some(Ok(theirs))) => {
                assert!(is_possible);
                assert_eq!(
                    (ours.read.is_some(), ours.write.is_some()),
                    (theirs.write.is_some(), theirs.read.is_some())
                );
                assert_eq!(theirs.early, story.initial[..story.initial.len().min(MOST_INITIAL)]);
            }
            (_, theirs) => assert!(!is_possible && matches!(theirs, Some(Err(Refused::NoPayload)))),
        }
    }
});
