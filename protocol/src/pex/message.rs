//! The message of `ut_pex` (BEP 11): who was added to the sender's connections and who was dropped.
//!
//! Reading is lenient about what is missing or too much and strict about lengths; writing is canonical: sorted keys, no
//! empty lists, and a flag byte for every contact.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use bendy::encoding::{AsString, Encoder, Error};
use castanet_core::{
    addr::{is_dialable, parse_compact_v4, parse_compact_v6, write_compact},
    bencode::{BencodeError, Limits, scan},
};

/// The longest message that is read, in bytes; a full one of ours has less than 2 KiB.
pub const LONGEST_MESSAGE: usize = 64 * 1024;
/// The most contacts of one list that are read. BEP 11 allows 50, and more in the first message.
pub const MOST_READ: usize = 100;

/// What a neighbour knows of a contact. Unknown bits are kept, and mean nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// It prefers encryption.
    pub const ENCRYPTS: Self = Self(0x01);
    /// It wants nothing (BEP 21).
    pub const SEED: Self = Self(0x02);
    /// It speaks uTP (BEP 29).
    pub const UTP: Self = Self(0x04);
    /// It understands holepunching (BEP 55).
    pub const HOLEPUNCH: Self = Self(0x08);
    /// It was reached by dialling.
    pub const REACHABLE: Self = Self(0x10);

    /// Are all of these bits set?
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// With these bits as well, if `yes`.
    #[must_use]
    pub fn with(self, other: Self, yes: bool) -> Self {
        if yes { Self(self.0 | other.0) } else { self }
    }
}

/// Somebody in the swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Where it accepts connections.
    pub addr: SocketAddr,
    /// What is known of it.
    pub flags: Flags,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PexMessage {
    /// Connected since the last message.
    pub added: Vec<Contact>,
    /// Disconnected since.
    pub dropped: Vec<SocketAddr>,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PexError {
    /// It is not well-formed.
    #[error("the peer exchange is malformed: {0}")]
    Bencode(#[from] BencodeError),
    /// It is something else.
    #[error("the peer exchange is not a dictionary")]
    NoDictionary,
}

impl PexMessage {
    /// Does it say nothing?
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }

    /// As the payload of the extended message.
    pub fn encode(&self) -> Vec<u8> {
        self.try_encode().expect("a dictionary of sorted keys always encodes")
    }

    fn try_encode(&self) -> Result<Vec<u8>, Error> {
        let mut encoder = Encoder::new();
        encoder.emit_dict(|mut dict| {
            for (list, flags, v6) in [("added", "added.f", false), ("added6", "added6.f", true)] {
                let family: Vec<_> = self.added.iter().filter(|contact| contact.addr.is_ipv6() == v6).collect();
                if !family.is_empty() {
                    let bits: Vec<u8> = family.iter().map(|contact| contact.flags.0).collect();
                    dict.emit_pair(list.as_bytes(), AsString(compact(family.iter().map(|contact| contact.addr))))?;
                    dict.emit_pair(flags.as_bytes(), AsString(bits))?;
                }
            }
            for (list, v6) in [("dropped", false), ("dropped6", true)] {
                let family = compact(self.dropped.iter().copied().filter(|addr| addr.is_ipv6() == v6));
                if !family.is_empty() {
                    dict.emit_pair(list.as_bytes(), AsString(family))?;
                }
            }
            Ok(())
        })?;
        encoder.get_output()
    }

    /// Reads a message. Of each list [`MOST_READ`] contacts are kept that can be dialled, each host once (BEP 11: a host
    /// under many ports is a trap; on one machine it is a test). Missing flags are none.
    ///
    /// # Errors
    /// If it is longer than [`LONGEST_MESSAGE`], not well-formed, or no dictionary.
    pub fn decode(payload: &[u8]) -> Result<Self, PexError> {
        let limits = Limits { size: LONGEST_MESSAGE, items: 1000, depth: 8 };
        let dict = scan(payload, limits)?.root.as_dict().ok_or(PexError::NoDictionary)?;
        let bytes = |key: &str| dict.bytes(key).unwrap_or_default();
        let flagged = |key: &str| bytes(key).iter().map(|byte| Flags(*byte)).chain(std::iter::repeat(Flags::default()));
        let added4 = parse_compact_v4(bytes("added")).zip(flagged("added.f")).take(MOST_READ);
        let added6 = parse_compact_v6(bytes("added6")).zip(flagged("added6.f")).take(MOST_READ);
        let dropped4 = parse_compact_v4(bytes("dropped")).take(MOST_READ);
        let dropped6 = parse_compact_v6(bytes("dropped6")).take(MOST_READ);
        let mut hosts = BTreeSet::new();
        let added = added4.chain(added6).map(|(addr, flags)| Contact { addr, flags });
        Ok(Self {
            added: added.filter(|contact| is_dialable(contact.addr) && hosts.insert(host(contact.addr))).collect(),
            dropped: dropped4.chain(dropped6).collect(),
        })
    }
}

/// What counts as one host: an address, or on one's own machine an address and port.
fn host(addr: SocketAddr) -> (IpAddr, u16) {
    (addr.ip(), if addr.ip().is_loopback() { addr.port() } else { 0 })
}

fn compact(addrs: impl Iterator<Item = SocketAddr>) -> Vec<u8> {
    let mut out = Vec::new();
    addrs.for_each(|addr| write_compact(addr, &mut out));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contact(addr: &str, flags: Flags) -> Contact {
        Contact { addr: addr.parse().unwrap(), flags }
    }

    #[test]
    fn the_layout_is_that_of_bep_11() {
        let message = PexMessage {
            added: vec![
                contact("[2001:db8::1]:2", Flags::SEED),
                contact("1.2.3.4:258", Flags::default().with(Flags::UTP, true).with(Flags::REACHABLE, true)),
            ],
            dropped: vec!["5.6.7.8:9".parse().unwrap(), "[2001:db8::2]:3".parse().unwrap()],
        };
        let mut expected = b"d5:added6:\x01\x02\x03\x04\x01\x027:added.f1:\x146:added618:".to_vec();
        expected.extend(b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x028:added6.f1:\x02");
        expected.extend(b"7:dropped6:\x05\x06\x07\x08\0\x098:dropped618:");
        expected.extend(b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\0\x03e");
        assert_eq!(message.encode(), expected);
        let mut read = PexMessage::decode(&expected).unwrap();
        read.added.reverse();
        assert_eq!(read, message);
        assert_eq!(PexMessage::default().encode(), b"de");
    }

    #[test]
    fn sloppy_messages_are_read() {
        // No flags, a broken tail, an unknown key, a list of the wrong type, a mapped address.
        let read = PexMessage::decode(b"d5:added8:\x01\x02\x03\x04\0\x05xx6:added6i7e7:dropped0:1:zlee").unwrap();
        assert_eq!(read.added, [contact("1.2.3.4:5", Flags::default())]);
        let mapped = b"d6:added618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04\0\x058:added6.f3:\x01\x02\x03e";
        assert_eq!(PexMessage::decode(mapped).unwrap().added, [contact("1.2.3.4:5", Flags::ENCRYPTS)]);
        assert_eq!(PexMessage::decode(b"le"), Err(PexError::NoDictionary));
        assert!(matches!(PexMessage::decode(b"d5:added"), Err(PexError::Bencode(_))));
        assert!(PexMessage::decode(&vec![b'1'; LONGEST_MESSAGE + 1]).is_err());
    }

    #[test]
    fn what_cannot_be_dialled_and_many_ports_of_one_host_are_cut() {
        let mut body = b"d5:added30:".to_vec();
        body.extend(
            b"\x01\x02\x03\x04\0\x01\x01\x02\x03\x04\0\x02\x01\x02\x03\x05\0\0\0\0\0\0\0\x01\xff\xff\xff\xff\0\x01e",
        );
        assert_eq!(PexMessage::decode(&body).unwrap().added, [contact("1.2.3.4:1", Flags::default())]);
        let local = PexMessage::decode(b"d5:added12:\x7f\0\0\x01\0\x01\x7f\0\0\x01\0\x02e").unwrap();
        assert_eq!(local.added.len(), 2, "on one machine ports tell peers apart");
        let mut flood = b"d5:added6000:".to_vec();
        (0..1000u16).for_each(|n| flood.extend([1, 1, (n >> 8) as u8, n as u8, 0, 9]));
        flood.push(b'e');
        assert_eq!(PexMessage::decode(&flood).unwrap().added.len(), MOST_READ);
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = PexMessage::decode(&noise);
            let mut wrapped = format!("d5:added{}:", noise.len()).into_bytes();
            wrapped.extend(&noise);
            wrapped.extend(format!("7:added.f{}:", noise.len() / 7).as_bytes());
            wrapped.extend(&noise[..noise.len() / 7]);
            wrapped.push(b'e');
            let _ = PexMessage::decode(&wrapped);
        }
    }
}
