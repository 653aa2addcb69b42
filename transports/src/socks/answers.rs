//! Whose answer it is: datagrams sent to a name are answered from an address that nobody here knows.
//!
//! Each protocol marks an answer by what was in the question: a transaction (BEP 5, BEP 15) or a connection id (BEP 29). So
//! marks of what is said to stand-ins are remembered; who answers with one, from the port that was spoken to, is taken
//! for the stand-in, the first one alone. Nobody else's datagrams are touched.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use castanet_core::{
    bencode::{Limits, scan},
    seams::datagrams::Protocol,
};

use crate::udp_mux::protocol_of;

/// Questions that are remembered; the oldest are forgotten.
const MOST_QUESTIONS: usize = 1024;
/// The longest transaction of a DHT query of ours, in bytes.
const LONGEST_TRANSACTION: usize = 32;
/// A message of the DHT is not larger (BEP 5 over UDP), or it is none of ours.
const LARGEST_DHT: usize = 4096;
/// The first byte of a uTP packet that opens a connection: `ST_SYN`, version 1.
const UTP_SYN: u8 = 0x41;
const UTP_HEADER: usize = 20;
/// Bytes of a UDP tracker's shortest question, and its last action.
const TRACKER_HEADER: usize = 16;
const SCRAPE: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Dht(Vec<u8>),
    Tracker([u8; 4]),
    Utp([u8; 2]),
}

impl Mark {
    /// Which marks an answer to this may have. A tracker's question begins with anything, so it may look like another.
    fn of_question(payload: &[u8]) -> impl Iterator<Item = Self> {
        let utp = (payload.len() >= UTP_HEADER && payload[0] == UTP_SYN).then(|| Self::Utp([payload[2], payload[3]]));
        let tracker = payload.first_chunk::<TRACKER_HEADER>().and_then(|head| {
            let [.., a, b, c, d, t0, t1, t2, t3] = *head;
            (u32::from_be_bytes([a, b, c, d]) <= SCRAPE).then_some(Self::Tracker([t0, t1, t2, t3]))
        });
        [utp, tracker, Self::of_dht(payload)].into_iter().flatten()
    }

    /// The mark of an answer, and its protocol.
    fn of_answer(payload: &[u8]) -> Option<Self> {
        match protocol_of(payload)? {
            Protocol::Dht => Self::of_dht(payload),
            Protocol::Tracker => payload.get(4..8)?.try_into().ok().map(Self::Tracker),
            Protocol::Utp => payload.get(2..4)?.try_into().ok().map(Self::Utp),
            _ => None,
        }
    }

    fn of_dht(payload: &[u8]) -> Option<Self> {
        if payload.first() != Some(&b'd') {
            return None;
        }
        let scanned = scan(payload, Limits { size: LARGEST_DHT, ..Limits::MESSAGE }).ok()?;
        let transaction = scanned.root.as_dict()?.bytes("t")?;
        (transaction.len() <= LONGEST_TRANSACTION).then(|| Self::Dht(transaction.to_vec()))
    }
}

#[derive(Debug)]
struct Question {
    stand_in: SocketAddr,
    /// Who answered first.
    answered: Option<SocketAddr>,
}

/// Questions to stand-ins, of one socket.
#[derive(Debug, Default)]
pub(super) struct Answers {
    asked: BTreeMap<Mark, Question>,
    order: VecDeque<Mark>,
}

/// The name behind this stand-in is reached over the other family, where a tracker's answer means something else (BEP 15):
/// it cannot be passed on as one over that of the stand-in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OtherFamily(pub(super) IpAddr);

impl Answers {
    /// This is sent to a stand-in.
    pub(super) fn asked(&mut self, payload: &[u8], stand_in: SocketAddr) {
        for mark in Mark::of_question(payload) {
            if let Some(question) = self.asked.get_mut(&mark) {
                // The same once more, or an old mark used again.
                if question.stand_in != stand_in {
                    *question = Question { stand_in, answered: None };
                }
                continue;
            }
            if self.order.len() >= MOST_QUESTIONS
                && let Some(oldest) = self.order.pop_front()
            {
                self.asked.remove(&oldest);
            }
            self.order.push_back(mark.clone());
            self.asked.insert(mark, Question { stand_in, answered: None });
        }
    }

    /// From whom this is that came from `from`: a stand-in, if it is the answer to what was asked of one.
    pub(super) fn whose(&mut self, payload: &[u8], from: SocketAddr) -> Result<SocketAddr, OtherFamily> {
        if self.asked.is_empty() {
            return Ok(from);
        }
        let Some(mark) = Mark::of_answer(payload) else { return Ok(from) };
        let Some(question) = self.asked.get_mut(&mark) else { return Ok(from) };
        if question.stand_in.port() != from.port() || *question.answered.get_or_insert(from) != from {
            return Ok(from);
        }
        let stand_in = question.stand_in;
        let is_other = stand_in.is_ipv4() != from.is_ipv4() && matches!(mark, Mark::Tracker(_));
        if is_other { Err(OtherFamily(stand_in.ip())) } else { Ok(stand_in) }
    }
}

#[cfg(test)]
mod tests {
    use castanet_protocol::tracker::udp::connect_request;
    use proptest::prelude::*;

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const STAND_IN: &str = "240.9.9.9:6969";

    /// A connection id granted to this transaction.
    fn granted(transaction: u32) -> Vec<u8> {
        [&[0; 4][..], &transaction.to_be_bytes(), &[7; 8]].concat()
    }

    fn utp(kind: u8, id: u16) -> Vec<u8> {
        let mut packet = vec![kind << 4 | 1, 0];
        packet.extend(id.to_be_bytes());
        packet.resize(UTP_HEADER, 0);
        packet
    }

    #[test]
    fn answers_of_each_protocol_are_those_of_the_name() {
        let (real, other) = (addr("1.2.3.4:6969"), addr("5.6.7.8:6969"));
        for (question, answer) in [
            (connect_request(77), granted(77)),
            (b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:xy1:y1:qe".to_vec(), b"d1:rde1:t2:xy1:y1:re".to_vec()),
            (utp(4, 500), utp(2, 500)),
        ] {
            let mut answers = Answers::default();
            assert_eq!(answers.whose(&answer, real), Ok(real), "nothing was asked");
            answers.asked(&question, addr(STAND_IN));
            assert_eq!(answers.whose(&answer, addr("1.2.3.4:1")), Ok(addr("1.2.3.4:1")), "another port");
            assert_eq!(answers.whose(&answer, real), Ok(addr(STAND_IN)));
            assert_eq!(answers.whose(&answer, other), Ok(other), "the first who answers is the one");
            answers.asked(&question, addr(STAND_IN));
            assert_eq!(answers.whose(&answer, real), Ok(addr(STAND_IN)), "sent and answered once more");
        }
    }

    #[test]
    fn what_was_not_asked_stays_as_it_is() {
        let mut answers = Answers::default();
        answers.asked(&connect_request(1), addr(STAND_IN));
        let real = addr("1.2.3.4:6969");
        for other in [granted(2), utp(2, 1), b"d1:rde1:t1:a1:y1:re".to_vec(), b"?".to_vec(), Vec::new()] {
            assert_eq!(answers.whose(&other, real), Ok(real));
        }
    }

    #[test]
    fn several_names_at_one_port_are_told_apart() {
        let mut answers = Answers::default();
        let names = [addr("240.0.0.1:6881"), addr("240.0.0.2:6881")];
        for (number, name) in names.iter().enumerate() {
            answers.asked(format!("d1:q4:ping1:t1:{number}1:y1:qe").as_bytes(), *name);
        }
        for (number, name) in names.iter().enumerate().rev() {
            let answer = format!("d1:rde1:t1:{number}1:y1:re");
            assert_eq!(answers.whose(answer.as_bytes(), addr("9.9.9.9:6881")), Ok(*name));
        }
    }

    #[test]
    fn a_tracker_over_ipv6_cannot_be_one_over_ipv4() {
        let mut answers = Answers::default();
        let v6 = addr("[2001:db8::1]:6969");
        answers.asked(&connect_request(1), addr(STAND_IN));
        assert_eq!(answers.whose(&granted(1), v6), Err(OtherFamily(addr(STAND_IN).ip())));
        answers.asked(&connect_request(2), addr("[100::5]:6969"));
        assert_eq!(answers.whose(&granted(2), v6), Ok(addr("[100::5]:6969")));
    }

    #[test]
    fn questions_are_forgotten_in_time() {
        let mut answers = Answers::default();
        let last = MOST_QUESTIONS as u32 + 10;
        (0..=last).for_each(|number| answers.asked(&connect_request(number), addr(STAND_IN)));
        assert_eq!((answers.order.len(), answers.asked.len()), (MOST_QUESTIONS, MOST_QUESTIONS));
        let real = addr("1.2.3.4:6969");
        assert_eq!(answers.whose(&granted(0), real), Ok(real));
        assert_eq!(answers.whose(&granted(last), real), Ok(addr(STAND_IN)));
    }

    proptest! {
        #[test]
        fn anything_may_be_sent_and_heard(sent: Vec<Vec<u8>>, heard: Vec<Vec<u8>>) {
            let mut answers = Answers::default();
            sent.iter().for_each(|payload| answers.asked(payload, addr(STAND_IN)));
            for payload in heard.iter().chain(&sent) {
                let whose = answers.whose(payload, addr("1.2.3.4:6969")).unwrap();
                prop_assert!([addr("1.2.3.4:6969"), addr(STAND_IN)].contains(&whose));
            }
        }
    }
}
