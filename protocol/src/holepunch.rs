//! Holepunching: a peer that is connected to two others tells each of the other, so that both dial at once and each one's
//! NAT takes the other's packets for answers (BEP 55).
//!
//! One machine a torrent plays all three parts: it asks those who named a peer that could not be reached, it passes on what
//! others ask, and it dials when it is told to. A stranger who can make us dial could point us at a victim, so what we did
//! not ask for is bounded, and so is what is passed on. Who is further away does not get to name addresses of our own network.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use castanet_core::{
    Moment,
    addr::{is_dialable, is_stand_in},
};

use crate::{pex::reach, rate::TokenBucket};

/// Targets that may be asked for at a time.
pub const MOST_ASKED: usize = 64;
/// How long an answer is waited for, and how long the same target is not asked for again.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of one peer that are minded in a minute.
pub const MOST_A_MINUTE: u64 = 60;

/// What a message wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// "Tell this peer of me, and me of it."
    Rendezvous,
    /// "Dial this peer now, it dials you."
    Connect,
    /// "That cannot be done."
    Error(Trouble),
}

/// Why a rendezvous cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Not an address that could be a peer's.
    #[error("there can be no peer at this address")]
    NoSuchPeer,
    /// The relay is not connected to the target.
    #[error("the relay is not connected to this peer")]
    NotConnected,
    /// The target does not understand.
    #[error("this peer knows no holepunching")]
    NoSupport,
    /// The target is the relay.
    #[error("this is the relay itself")]
    NoSelf,
    /// A number that BEP 55 does not know.
    #[error("for an unknown reason")]
    Unknown(u32),
}

/// A message of `ut_holepunch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What is wanted.
    pub kind: Kind,
    /// The peer that it is about.
    pub about: SocketAddr,
}

impl Trouble {
    fn code(self) -> u32 {
        match self {
            Self::NoSuchPeer => 1,
            Self::NotConnected => 2,
            Self::NoSupport => 3,
            Self::NoSelf => 4,
            Self::Unknown(code) => code,
        }
    }
    fn of(code: u32) -> Self {
        let known = [Self::NoSuchPeer, Self::NotConnected, Self::NoSupport, Self::NoSelf];
        known.into_iter().find(|trouble| trouble.code() == code).unwrap_or(Self::Unknown(code))
    }
}

impl Message {
    /// As the payload of the extended message: type, family, address, port, and the error's number.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, code) = match self.kind {
            Kind::Rendezvous => (0, 0),
            Kind::Connect => (1, 0),
            Kind::Error(trouble) => (2, trouble.code()),
        };
        let mut payload = vec![kind, u8::from(self.about.is_ipv6())];
        castanet_core::addr::write_compact(self.about, &mut payload);
        payload.extend_from_slice(&u32::to_be_bytes(code));
        payload
    }

    /// Reads a message; `None` if it is none. The error's number may be missing where it says nothing.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (&[kind, family], rest) = payload.split_first_chunk()?;
        let (ip, rest): (IpAddr, _) = match family {
            0 => rest.split_first_chunk().map(|(octets, rest)| (Ipv4Addr::from(*octets).into(), rest))?,
            1 => rest.split_first_chunk().map(|(octets, rest)| (Ipv6Addr::from(*octets).to_canonical(), rest))?,
            _ => return None,
        };
        let (port, rest) = rest.split_first_chunk()?;
        let code = rest.first_chunk().map(|code| u32::from_be_bytes(*code));
        let kind = match kind {
            0 => Kind::Rendezvous,
            1 => Kind::Connect,
            2 => Kind::Error(Trouble::of(code?)),
            _ => return None,
        };
        Some(Self { kind, about: SocketAddr::new(ip, u16::from_be_bytes(*port)) })
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send this to the connected peer `to`.
    Say {
        /// The connection, by its remote address.
        to: SocketAddr,
        /// The message.
        message: Message,
    },
    /// Dial this peer at once, over uTP.
    Dial {
        /// Where.
        to: SocketAddr,
        /// Who arranged it.
        relay: SocketAddr,
    },
}

/// A connected peer that understands.
#[derive(Debug)]
struct Speaker {
    /// Where others may reach it: what a NAT has opened for it, or where it says it listens.
    contact: SocketAddr,
    heard: TokenBucket,
}

/// The machine. It is `Default`: a torrent without connections.
#[derive(Debug, Default)]
pub struct Holepunch {
    /// By the remote address of the connection.
    speakers: BTreeMap<SocketAddr, Speaker>,
    /// Connected peers that do not understand, by remote address, each with its contact.
    others: BTreeMap<SocketAddr, SocketAddr>,
    /// Targets and when they were asked for. They stay, whatever the answer, so that nobody asks again at once.
    asked: BTreeMap<SocketAddr, Moment>,
    output: VecDeque<Output>,
}

/// The time of a bucket that counts minutes where it says seconds.
fn in_minutes(now: Moment) -> Moment {
    Moment(now.0 / 60)
}

/// Is this an address under which others can mean somebody?
fn is_meant(addr: SocketAddr) -> bool {
    is_dialable(addr) && !is_stand_in(addr.ip())
}

impl Holepunch {
    /// A connection is introduced. `contact` is the address under which others may know the peer.
    pub fn joined(&mut self, remote: SocketAddr, contact: SocketAddr, understands: bool, now: Moment) {
        // A stand-in means nothing to anybody else.
        if understands && is_meant(contact) {
            let a_minute = TokenBucket::full(Some(MOST_A_MINUTE), in_minutes(now));
            self.speakers.insert(remote, Speaker { contact, heard: a_minute });
        } else {
            self.others.insert(remote, contact);
        }
    }

    /// A connection is gone.
    pub fn left(&mut self, remote: SocketAddr) {
        self.speakers.remove(&remote);
        self.others.remove(&remote);
    }

    /// A peer could not be reached, which `named_by` had named: connected ones among these are asked to arrange it.
    pub fn failed(&mut self, target: SocketAddr, named_by: impl Iterator<Item = SocketAddr>, now: Moment) {
        self.asked.retain(|_, since| now.since(*since) < PATIENCE);
        if !is_meant(target) || self.asked.contains_key(&target) || self.asked.len() >= MOST_ASKED {
            return;
        }
        let relay = { named_by }.find(|relay| self.speakers.contains_key(relay));
        if let Some(to) = relay {
            self.asked.insert(target, now);
            self.say(to, Kind::Rendezvous, target);
        }
    }

    /// A peer said something. Too much of it is not minded.
    pub fn heard(&mut self, from: SocketAddr, payload: &[u8], now: Moment) {
        let Some(message) = Message::decode(payload) else { return };
        let Some(speaker) = self.speakers.get_mut(&from) else { return };
        if speaker.heard.take(1, in_minutes(now)).is_err() {
            return;
        }
        let contact = speaker.contact;
        match message.kind {
            Kind::Rendezvous => match self.find(from, message.about) {
                Ok(target) => {
                    let about = self.speakers[&target].contact;
                    self.say(target, Kind::Connect, contact);
                    self.say(from, Kind::Connect, about);
                }
                Err(trouble) => self.say(from, Kind::Error(trouble), message.about),
            },
            Kind::Connect if is_meant(message.about) && reach(message.about.ip()) >= reach(from.ip()) => {
                self.output.push_back(Output::Dial { to: message.about, relay: from });
            }
            Kind::Connect | Kind::Error(_) => {}
        }
    }

    /// The connection to the peer that `from` asks for.
    fn find(&self, from: SocketAddr, target: SocketAddr) -> Result<SocketAddr, Trouble> {
        let is_it = |remote: SocketAddr, contact: SocketAddr| remote == target || contact == target;
        if !is_meant(target) {
            return Err(Trouble::NoSuchPeer);
        }
        let found = self.speakers.iter().find(|(remote, speaker)| is_it(**remote, speaker.contact));
        match found {
            Some((remote, _)) if *remote == from => Err(Trouble::NoSuchPeer),
            Some((remote, _)) => Ok(*remote),
            None if self.others.iter().any(|(remote, contact)| is_it(*remote, *contact)) => Err(Trouble::NoSupport),
            None => Err(Trouble::NotConnected),
        }
    }

    fn say(&mut self, to: SocketAddr, kind: Kind, about: SocketAddr) {
        self.output.push_back(Output::Say { to, message: Message { kind, about } });
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<Output> {
        self.output.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A relay between two NATs: one dialled from 192.0.2.1:50000 and listens at 6881, the other is known as it dialled.
    fn relay() -> (Holepunch, [SocketAddr; 2]) {
        let mut relay = Holepunch::default();
        let (one, other) = (at("192.0.2.1:50000"), at("198.51.100.7:6881"));
        relay.joined(one, at("192.0.2.1:6881"), true, Moment::ZERO);
        relay.joined(other, other, true, Moment::ZERO);
        (relay, [one, other])
    }

    fn all(machine: &mut Holepunch) -> Vec<Output> {
        std::iter::from_fn(|| machine.poll()).collect()
    }

    fn say(to: SocketAddr, kind: Kind, about: SocketAddr) -> Output {
        Output::Say { to, message: Message { kind, about } }
    }

    fn rendezvous(about: SocketAddr) -> Vec<u8> {
        Message { kind: Kind::Rendezvous, about }.encode()
    }

    #[test]
    fn the_layout_is_that_of_bep_55() {
        let message = Message { kind: Kind::Connect, about: at("1.2.3.4:258") };
        assert_eq!(message.encode(), [1, 0, 1, 2, 3, 4, 1, 2, 0, 0, 0, 0]);
        assert_eq!(Message::decode(&[1, 0, 1, 2, 3, 4, 1, 2]), Some(message), "without the error's number");
        let error = Message { kind: Kind::Error(Trouble::NoSupport), about: at("[2001:db8::1]:1") };
        assert_eq!(error.encode().len(), 2 + 16 + 2 + 4);
        assert_eq!(Message::decode(&error.encode()), Some(error));
        assert_eq!(Message::decode(&[2, 0, 1, 2, 3, 4, 1, 2]), None, "an error says which");
    }

    #[test]
    fn a_relay_tells_both_of_each_other() {
        let (mut relay, [one, other]) = relay();
        relay.heard(one, &rendezvous(other), Moment::ZERO);
        let expected = [say(other, Kind::Connect, at("192.0.2.1:6881")), say(one, Kind::Connect, other)];
        assert_eq!(all(&mut relay), expected);
    }

    #[test]
    fn who_comes_late_is_heard_at_once() {
        let (mut relay, [one, other]) = (Holepunch::default(), [at("192.0.2.1:6881"), at("198.51.100.7:6881")]);
        let now = Moment::from_secs(3600);
        [one, other].into_iter().for_each(|peer| relay.joined(peer, peer, true, now));
        relay.heard(one, &rendezvous(other), now);
        assert_eq!(all(&mut relay).len(), 2);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let (mut relay, [one, _]) = relay();
        relay.joined(at("203.0.113.1:7"), at("203.0.113.1:7"), false, Moment::ZERO);
        for (target, trouble) in [
            (at("203.0.113.1:7"), Trouble::NoSupport),
            (at("203.0.113.9:7"), Trouble::NotConnected),
            (at("0.0.0.0:7"), Trouble::NoSuchPeer),
            (at("192.0.2.1:6881"), Trouble::NoSuchPeer),
        ] {
            relay.heard(one, &rendezvous(target), Moment::ZERO);
            assert_eq!(all(&mut relay), [say(one, Kind::Error(trouble), target)], "{target}");
        }
    }

    #[test]
    fn who_named_a_peer_that_cannot_be_reached_is_asked_once_and_its_word_is_dialled() {
        let (mut machine, [one, other]) = relay();
        let target = at("203.0.113.5:6881");
        let strangers = [at("203.0.113.77:1"), other, one];
        machine.failed(target, strangers.into_iter(), Moment::ZERO);
        machine.failed(target, strangers.into_iter(), Moment::ZERO);
        assert_eq!(all(&mut machine), [say(other, Kind::Rendezvous, target)]);
        machine.heard(other, &Message { kind: Kind::Connect, about: target }.encode(), Moment::ZERO);
        assert_eq!(all(&mut machine), [Output::Dial { to: target, relay: other }]);
        machine.left(other);
        machine.failed(target, [other].into_iter(), Moment::from_secs(100));
        assert_eq!(all(&mut machine), [], "nobody is left to ask");
    }

    #[test]
    fn a_relay_out_there_cannot_make_us_knock_at_home() {
        let (mut machine, [one, _]) = relay();
        let at_home = at("192.168.1.7:6881");
        machine.joined(at_home, at_home, true, Moment::ZERO);
        let mut dials = |relay, about| {
            machine.heard(relay, &Message { kind: Kind::Connect, about: at(about) }.encode(), Moment::ZERO);
            all(&mut machine).len()
        };
        for about in ["192.168.1.1:80", "127.0.0.1:80", "[fe80::1]:80", "0.0.0.0:80"] {
            assert_eq!(dials(one, about), 0, "{about}");
        }
        assert_eq!((dials(at_home, "192.168.1.1:80"), dials(at_home, "127.0.0.1:80")), (1, 0));
    }

    #[test]
    fn a_relay_cannot_make_us_knock_everywhere() {
        let (mut machine, [one, _]) = relay();
        let mut knock = |second: u64| {
            for n in 0..1000u32 {
                let about = SocketAddr::new(Ipv4Addr::from(0xcb00_7100 + n).into(), 80);
                machine.heard(one, &Message { kind: Kind::Connect, about }.encode(), Moment::from_secs(second));
            }
            all(&mut machine).len() as u64
        };
        let minutes: Vec<u64> = (0..10).map(|minute| knock(60 * minute)).collect();
        assert!(minutes.iter().sum::<u64>() <= 11 * (MOST_A_MINUTE + 1), "{minutes:?}");
    }

    proptest! {
        #[test]
        fn noise_is_not_minded(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..50)) {
            let (mut machine, [one, _]) = relay();
            for payload in payloads {
                machine.heard(one, &payload, Moment::ZERO);
                machine.heard(at("203.0.113.99:1"), &payload, Moment::ZERO);
            }
            prop_assert!(all(&mut machine).len() <= 2 * (MOST_A_MINUTE as usize + 1));
        }
    }
}
