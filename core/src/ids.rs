//! The identifiers of BitTorrent and of the engine, one type each so that they cannot be mixed up.

use std::{fmt, sync::Arc};

use data_encoding::{BASE32, HEXLOWER, HEXLOWER_PERMISSIVE};

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Lower-case hexadecimal.
            pub fn to_hex(&self) -> String {
                HEXLOWER.encode(&self.0)
            }
            /// Parses hexadecimal of either case; `None` unless it is exactly the right length.
            pub fn from_hex(text: &str) -> Option<Self> {
                HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.to_hex())
            }
        }
    };
}

bytes_id!(
    /// SHA-1 of the raw `info` dictionary (BEP 3).
    InfoHashV1, 20
);
bytes_id!(
    /// SHA-256 of the raw `info` dictionary (BEP 52).
    InfoHashV2, 32
);

impl InfoHashV1 {
    /// Parses the 32-digit base32 form found in old magnet links.
    pub fn from_base32(text: &str) -> Option<Self> {
        BASE32.decode(text.to_ascii_uppercase().as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

/// The info-hash or info-hashes of a torrent: v1, v2, or both (hybrid). At least one is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashes {
    /// The SHA-1 hash, absent from v2-only torrents.
    pub v1: Option<InfoHashV1>,
    /// The SHA-256 hash, absent from v1-only torrents.
    pub v2: Option<InfoHashV2>,
}

impl InfoHashes {
    /// A v1-only torrent.
    pub fn v1(hash: InfoHashV1) -> Self {
        Self { v1: Some(hash), v2: None }
    }
    /// The 20 bytes that stand for the torrent on the wire: v1, or v2 cut to 20 bytes (BEP 52).
    pub fn wire(&self) -> [u8; 20] {
        self.wires().next().unwrap_or_default()
    }
    /// All names that the torrent has on the wire; a hybrid has two, v1 first (BEP 52).
    pub fn wires(&self) -> impl Iterator<Item = [u8; 20]> + use<> {
        let v2 = self.v2.and_then(|v2| v2.0.first_chunk::<20>().copied());
        self.v1.map(|v1| v1.0).into_iter().chain(v2)
    }
}

/// The 20 bytes a client calls itself in a swarm (BEP 3, BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

/// Castanet's peer-id prefix: Azureus style, `Cn`, which BEP 20 does not list, then the version.
pub const PEER_ID_PREFIX: &[u8; 8] = b"-Cn0100-";

impl PeerId {
    /// A peer id of ours: the prefix and 12 characters drawn from `random`.
    pub fn generate(mut random: impl FnMut() -> u8) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut id = [0; 20];
        id[..8].copy_from_slice(PEER_ID_PREFIX);
        for byte in &mut id[8..] {
            *byte = ALPHABET[usize::from(random() & 31)];
        }
        Self(id)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// The index of a piece in its torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

impl PieceIndex {
    /// The index as a `usize`, for slices.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One connection's name inside its torrent; never used twice in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// A torrent's name inside its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentId(pub u64);

impl fmt::Display for TorrentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a discovery plugin, such as `http-tracker`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(pub Arc<str>);

impl From<&str> for PluginName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}
impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_carries_the_prefix() {
        let mut n = 0;
        let id = PeerId::generate(|| {
            n += 1;
            n
        });
        assert!(id.0.starts_with(PEER_ID_PREFIX));
        assert!(id.0.is_ascii());
    }

    #[test]
    fn a_hybrid_has_two_names() {
        let (v1, v2) = (Some(InfoHashV1([1; 20])), Some(InfoHashV2([2; 32])));
        let wires = |v1, v2| InfoHashes { v1, v2 }.wires().map(|wire| wire[0]).collect::<Vec<_>>();
        assert_eq!((wires(v1, v2), wires(v1, None), wires(None, v2)), (vec![1, 2], vec![1], vec![2]));
        assert_eq!(InfoHashes { v1: None, v2 }.wire(), [2; 20]);
    }

    #[test]
    fn hex_and_base32_agree() {
        let hash = InfoHashV1([0xab; 20]);
        assert_eq!(InfoHashV1::from_hex(&hash.to_hex()), Some(hash));
        assert_eq!(InfoHashV1::from_base32(&BASE32.encode(&hash.0).to_lowercase()), Some(hash));
        assert_eq!(InfoHashV1::from_hex("abcd"), None);
    }
}
