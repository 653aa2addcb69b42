//! The extension protocol: which extensions there are, and the handshake in which each side says which of them it
//! understands under which id (BEP 10).
//!
//! Everything in the handshake is optional, repeated handshakes update what was said, and what a stranger says is cut
//! to sane sizes. `upload_only` is BEP 21, `metadata_size` BEP 9.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bendy::encoding::{AsString, Encoder, Error};
use castanet_core::bencode::{self, BencodeError};

/// The id of the extended handshake among extended messages.
pub const HANDSHAKE_ID: u8 = 0;
/// What Castanet calls itself.
pub const CLIENT: &str = concat!("Castanet ", env!("CARGO_PKG_VERSION"));
/// The longest handshake that is read, in bytes.
pub const LONGEST_HANDSHAKE: usize = 64 * 1024;
/// Extensions of a peer that are remembered.
pub const MOST_EXTENSIONS: usize = 64;
/// The longest name of an extension that is remembered, in bytes.
const LONGEST_NAME: usize = 64;
/// The longest client name that is kept, in characters.
const LONGEST_CLIENT: usize = 64;
/// The largest metadata that is believed, in bytes: that of three million pieces.
pub const LARGEST_METADATA: u32 = 64 << 20;

/// An extension that Castanet speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Extension {
    /// The info dictionary from peers (BEP 9).
    Metadata,
    /// Peers from peers (BEP 11).
    Pex,
    /// Two peers dial each other at once because a third says so (BEP 55).
    Holepunch,
}

impl Extension {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Metadata, Self::Pex, Self::Holepunch];

    /// Its name in the extended handshake.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "ut_metadata",
            Self::Pex => "ut_pex",
            Self::Holepunch => "ut_holepunch",
        }
    }
    /// The id under which we want its messages: not 0, and the same on every connection.
    pub fn id(self) -> u8 {
        match self {
            Self::Metadata => 1,
            Self::Pex => 2,
            Self::Holepunch => 3,
        }
    }
    /// The extension that we gave this id.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|extension| extension.id() == id)
    }
}

/// What a peer says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtendedHandshake {
    /// `m`: extensions by name and the sender's id for each; 0 takes one back. At most [`MOST_EXTENSIONS`].
    pub messages: Vec<(Box<str>, u8)>,
    /// `v`: the client's name and version, printable; empty if it does not say.
    pub client: Box<str>,
    /// `p`: the port on which it listens.
    pub port: Option<u16>,
    /// `yourip`: the receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// `reqq`: how many requests it holds.
    pub queue: Option<usize>,
    /// `metadata_size`: bytes of the info dictionary, 1 to 64 MiB.
    pub metadata_size: Option<u32>,
    /// `upload_only`: it wants nothing.
    pub upload_only: bool,
}

/// Why an extended handshake cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionError {
    /// It is not well-formed.
    #[error("the extended handshake is malformed: {0}")]
    Bencode(#[from] BencodeError),
    /// It is something else.
    #[error("the extended handshake is not a dictionary")]
    NoDictionary,
}

impl ExtendedHandshake {
    /// The sender's id for an extension: 0 if it takes it back, `None` if it does not mention it.
    pub fn id_of(&self, extension: Extension) -> Option<u8> {
        self.messages.iter().find(|(known, _)| **known == *extension.name()).map(|(_, id)| *id)
    }

    /// As the payload of the extended message [`HANDSHAKE_ID`].
    pub fn encode(&self) -> Vec<u8> {
        self.try_encode().expect("a dictionary of distinct sorted keys always encodes")
    }

    fn try_encode(&self) -> Result<Vec<u8>, Error> {
        let mut messages = self.messages.clone();
        messages.sort();
        messages.dedup_by(|a, b| a.0 == b.0);
        let mut encoder = Encoder::new();
        encoder.emit_dict(|mut dict| {
            dict.emit_pair_with(b"m", |m| {
                m.emit_dict(|mut m| messages.iter().try_for_each(|(name, id)| m.emit_pair(name.as_bytes(), *id)))
            })?;
            if let Some(size) = self.metadata_size {
                dict.emit_pair(b"metadata_size", size)?;
            }
            if let Some(port) = self.port {
                dict.emit_pair(b"p", port)?;
            }
            if let Some(queue) = self.queue {
                dict.emit_pair(b"reqq", queue)?;
            }
            if self.upload_only {
                dict.emit_pair(b"upload_only", 1)?;
            }
            if !self.client.is_empty() {
                dict.emit_pair(b"v", &*self.client)?;
            }
            match self.your_ip.map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(ip)) => dict.emit_pair(b"yourip", AsString(ip.octets())),
                Some(IpAddr::V6(ip)) => dict.emit_pair(b"yourip", AsString(ip.octets())),
                None => Ok(()),
            }
        })?;
        encoder.get_output()
    }

    /// Reads a handshake. Fields of the wrong type or out of range count as absent.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        let limits = bencode::Limits { size: LONGEST_HANDSHAKE, ..bencode::Limits::MESSAGE };
        let dict = bencode::scan(payload, limits)?.root.as_dict().ok_or(ExtensionError::NoDictionary)?;
        let messages = dict.dict("m").into_iter().flatten().filter_map(|(name, id)| {
            let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= LONGEST_NAME)?;
            let id = u8::try_from(id.as_int()?).ok()?;
            Some((name.into(), id))
        });
        Ok(Self {
            messages: messages.take(MOST_EXTENSIONS).collect(),
            client: printable(dict.bytes("v").unwrap_or_default()),
            port: dict.int("p").and_then(|port| port.try_into().ok()).filter(|port| *port != 0),
            your_ip: dict.bytes("yourip").and_then(address),
            queue: dict.int("reqq").and_then(|queue| queue.try_into().ok()).filter(|queue| *queue != 0),
            metadata_size: dict
                .int("metadata_size")
                .and_then(|size| size.try_into().ok())
                .filter(|size| (1..=LARGEST_METADATA).contains(size)),
            upload_only: dict.int("upload_only").is_some_and(|flag| flag != 0),
        })
    }
}

fn printable(bytes: &[u8]) -> Box<str> {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).take(LONGEST_CLIENT).collect::<String>().into()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut ours = ExtendedHandshake {
            messages: vec![("ut_pex".into(), 1), ("ut_metadata".into(), 2)],
            client: CLIENT.into(),
            port: Some(6881),
            your_ip: Some("1.2.3.4".parse().unwrap()),
            queue: Some(2000),
            metadata_size: Some(31_235),
            upload_only: true,
        };
        let bytes = ours.encode();
        let text = "d1:md11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi2000e\
                    11:upload_onlyi1e1:v14:Castanet 0.1.06:yourip4:\x01\x02\x03\x04e";
        assert_eq!(String::from_utf8_lossy(&bytes), text);
        ours.messages.sort();
        assert_eq!(ExtendedHandshake::decode(&bytes), Ok(ours.clone()));
        assert_eq!((ours.id_of(Extension::Metadata), ours.id_of(Extension::Pex)), (Some(2), Some(1)));
        let empty = ExtendedHandshake::default();
        assert_eq!(ExtendedHandshake::decode(&empty.encode()), Ok(empty.clone()));
        assert_eq!(empty.id_of(Extension::Pex), None);
    }

    #[test]
    fn every_extension_has_a_name_and_an_id_of_its_own() {
        for extension in Extension::ALL {
            assert_eq!(Extension::from_id(extension.id()), Some(extension));
            assert_ne!(extension.id(), HANDSHAKE_ID);
            assert!(Extension::ALL.iter().all(|other| *other == extension || other.name() != extension.name()));
        }
        assert_eq!(Extension::from_id(HANDSHAKE_ID), None);
    }

    #[test]
    fn nonsense_counts_as_absent() {
        let lies =
            b"d1:md1:ai0e1:bi256e1:ci-1e1:d1:x1:ei7ee13:metadata_sizei0e1:pi70000e4:reqqi-5e1:v3:a\nb6:yourip3:abce";
        let read = ExtendedHandshake::decode(lies).unwrap();
        let expected = ExtendedHandshake {
            messages: vec![("a".into(), 0), ("e".into(), 7)],
            client: "ab".into(),
            ..ExtendedHandshake::default()
        };
        assert_eq!(read, expected);
        assert_eq!(ExtendedHandshake::decode(b"le"), Err(ExtensionError::NoDictionary));
        assert!(matches!(ExtendedHandshake::decode(b"d1:m"), Err(ExtensionError::Bencode(_))));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut text = "d1:md".to_owned();
        (100..200).for_each(|n| text.push_str(&format!("3:{n}i9e")));
        text.push_str(&format!("e1:v500:{}e", "v".repeat(500)));
        let read = ExtendedHandshake::decode(text.as_bytes()).unwrap();
        assert_eq!((read.messages.len(), read.client.len()), (MOST_EXTENSIONS, LONGEST_CLIENT));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ExtendedHandshake::decode(&bytes);
        }
    }
}
