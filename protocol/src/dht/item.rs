//! Items that the DHT keeps for anyone: immutable ones lie where their hash says, mutable ones are signed (BEP 44).
//!
//! A mutable item may name the current info-hash of a torrent that changes (BEP 46).

use castanet_core::{
    bencode::{Limits, scan},
    digest::sha1,
};
use ed25519_compact::{KeyPair, PublicKey, Seed, Signature};

use super::{NodeId, krpc::error_code};

/// The longest value that is stored, in bytes of bencode.
pub const LONGEST_VALUE: usize = 1000;
/// The longest salt, in bytes.
pub const LONGEST_SALT: usize = 64;

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A value that cannot change, in canonical bencode.
    Immutable(Box<[u8]>),
    /// A value that the holder of a secret key can replace.
    Mutable {
        /// The public key (ed25519).
        key: [u8; 32],
        /// Tells apart the items of one key; empty: none. Not part of a response.
        salt: Box<[u8]>,
        /// The version, from 0; only a higher one replaces it.
        seq: i64,
        /// Of salt, version and value.
        signature: [u8; 64],
        /// The value in canonical bencode.
        value: Box<[u8]>,
    },
}

/// Why an item is not valid, or not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Its value is longer than [`LONGEST_VALUE`].
    #[error("the value is longer than 1000 bytes")]
    ValueTooBig,
    /// Its salt is longer than [`LONGEST_SALT`].
    #[error("the salt is longer than 64 bytes")]
    SaltTooBig,
    /// Its value is not canonical bencode.
    #[error("the value is not valid bencode")]
    NotBencode,
    /// Its version is below 0.
    #[error("the sequence number is negative")]
    NegativeSequence,
    /// The holder of its key has not signed it so.
    #[error("invalid signature")]
    BadSignature,
    /// The key to sign it with is nothing but zeros.
    #[error("the secret key is empty")]
    NoSecret,
    /// It belongs to another place.
    #[error("the item does not belong to the target")]
    WrongTarget,
    /// It was to replace another version than the stored one.
    #[error("another version is stored: read again and retry")]
    CasMismatch,
    /// A newer version is stored, or another value under the same version.
    #[error("the sequence number is not newer than the stored one")]
    OldSequence,
    /// Who brings it has brought as many as we keep of one host.
    #[error("too many items from your address")]
    ShareUsedUp,
}

impl ItemError {
    /// The code under which a node reports it (BEP 44).
    pub fn code(self) -> i64 {
        match self {
            Self::ValueTooBig => error_code::VALUE_TOO_BIG,
            Self::SaltTooBig => error_code::SALT_TOO_BIG,
            Self::BadSignature => error_code::BAD_SIGNATURE,
            Self::CasMismatch => error_code::CAS_MISMATCH,
            Self::OldSequence => error_code::OLD_SEQUENCE,
            Self::ShareUsedUp => error_code::SERVER,
            Self::NotBencode | Self::NegativeSequence | Self::NoSecret | Self::WrongTarget => error_code::PROTOCOL,
        }
    }
}

impl Item {
    /// An item that lies where the hash of its bencoded value says.
    ///
    /// # Errors
    /// If the value is too long or not bencoded.
    pub fn immutable(bencoded: &[u8]) -> Result<Self, ItemError> {
        let item = Self::Immutable(bencoded.into());
        item.check().map(|()| item)
    }

    /// Version `seq` of an item that belongs to a secret key (the 32 bytes that ed25519 calls its seed).
    ///
    /// # Errors
    /// If the secret is all zeros, something is too long, `seq` is negative or the value not bencoded.
    pub fn signed(secret: [u8; 32], salt: &[u8], seq: i64, bencoded: &[u8]) -> Result<Self, ItemError> {
        let pair = pair(secret)?;
        let signature = pair.sk.sign(signed_bytes(salt, seq, bencoded), None);
        let item =
            Self::Mutable { key: *pair.pk, salt: salt.into(), seq, signature: *signature, value: bencoded.into() };
        item.check().map(|()| item)
    }

    /// An item as a response brings it, if it is what lies at `target` under `salt`: with the salt put in.
    ///
    /// # Errors
    /// If it belongs elsewhere, is not valid or not signed by its key.
    pub fn received(mut self, target: NodeId, expected_salt: &[u8]) -> Result<Self, ItemError> {
        if let Self::Mutable { salt, .. } = &mut self {
            *salt = expected_salt.into();
        }
        if self.target() != target {
            return Err(ItemError::WrongTarget);
        }
        self.check().map(|()| self)
    }

    /// Is it well formed, within limits, and signed?
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), ItemError> {
        let value = self.value();
        if value.len() > LONGEST_VALUE {
            return Err(ItemError::ValueTooBig);
        }
        if !scan(value, Limits::MESSAGE).is_ok_and(|scanned| scanned.oddities.is_empty()) {
            return Err(ItemError::NotBencode);
        }
        let Self::Mutable { key, salt, seq, signature, value } = self else { return Ok(()) };
        if salt.len() > LONGEST_SALT {
            return Err(ItemError::SaltTooBig);
        }
        if *seq < 0 {
            return Err(ItemError::NegativeSequence);
        }
        let signed = signed_bytes(salt, *seq, value);
        let verified = PublicKey::new(*key).verify(signed, &Signature::new(*signature));
        verified.map_err(|_| ItemError::BadSignature)
    }

    /// The bencoded value.
    pub fn value(&self) -> &[u8] {
        match self {
            Self::Immutable(value) | Self::Mutable { value, .. } => value,
        }
    }

    /// The version; `None` if it cannot change.
    pub fn seq(&self) -> Option<i64> {
        match self {
            Self::Immutable(_) => None,
            Self::Mutable { seq, .. } => Some(*seq),
        }
    }

    /// Where it lies.
    pub fn target(&self) -> NodeId {
        match self {
            Self::Immutable(value) => NodeId(sha1(value).0),
            Self::Mutable { key, salt, .. } => target_of(key, salt),
        }
    }

    /// The info-hash that it names, if it tells of a torrent (BEP 46).
    pub fn torrent(&self) -> Option<NodeId> {
        let value = scan(self.value(), Limits::MESSAGE).ok()?.root;
        value.as_dict()?.bytes("ih")?.try_into().ok().map(NodeId)
    }
}

/// Where the items of a public key lie: what a link with `urn:btpk:` means (BEP 44, 46).
pub fn target_of(key: &[u8; 32], salt: &[u8]) -> NodeId {
    NodeId(sha1(&[key, salt].concat()).0)
}

/// The public key that belongs to a secret one.
///
/// # Errors
/// If the secret is nothing but zeros.
pub fn public_key(secret: [u8; 32]) -> Result<[u8; 32], ItemError> {
    Ok(*pair(secret)?.pk)
}

fn pair(secret: [u8; 32]) -> Result<KeyPair, ItemError> {
    KeyPair::try_from_seed(Seed::new(secret)).map_err(|_| ItemError::NoSecret)
}

/// The value of an item that names a torrent (BEP 46).
pub fn torrent_value(info_hash: NodeId) -> Vec<u8> {
    [b"d2:ih20:", &info_hash.0[..], b"e"].concat()
}

/// What is signed: not quite bencode, but unambiguous.
fn signed_bytes(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + salt.len() + 48);
    if !salt.is_empty() {
        bytes.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        bytes.extend_from_slice(salt);
    }
    bytes.extend_from_slice(format!("3:seqi{seq}e1:v").as_bytes());
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    const HELLO: &[u8] = b"12:Hello World!";

    fn vector(salt: &[u8], signature: &str) -> Item {
        Item::Mutable {
            key: hex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"),
            salt: salt.into(),
            seq: 1,
            signature: hex(signature),
            value: HELLO.into(),
        }
    }

    #[test]
    fn the_vectors_of_bep_44() {
        let plain = vector(
            b"",
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
             1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
        );
        assert_eq!(plain.target().to_string(), "4a533d47ec9c7d95b1ad75f576cffc641853b750");
        assert_eq!(plain.check(), Ok(()));
        let salted = vector(
            b"foobar",
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
             df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
        );
        assert_eq!(salted.target().to_string(), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
        assert_eq!(salted.check(), Ok(()));
        assert_eq!(signed_bytes(b"foobar", 1, HELLO), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
        let immutable = Item::immutable(HELLO).unwrap();
        assert_eq!(immutable.target().to_string(), "e5f96f6f38320f0f33959cb4d3d656452117aadb");
    }

    #[test]
    fn the_vectors_of_bep_46() {
        let key = hex("8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e");
        assert_eq!(target_of(&key, b"").to_string(), "cc3f9d90b572172053626f9980ce261a850d050b");
        assert_eq!(target_of(&key, &[0x6e]).to_string(), "59ee7c2cb9b4f7eb1986ee2d18fd2fdb8a56554f");
        let torrent = NodeId([7; 20]);
        let item = Item::signed([1; 32], b"n", 3, &torrent_value(torrent)).unwrap();
        assert_eq!(item.torrent(), Some(torrent));
        assert_eq!(item.target(), target_of(&public_key([1; 32]).unwrap(), b"n"));
        for none in [&b"d2:ih3:abce"[..], b"le", b"d2:ihi1ee"] {
            assert_eq!(Item::immutable(none).unwrap().torrent(), None);
        }
    }

    #[test]
    fn what_is_not_valid_is_named() {
        let (big, salt) = (vec![b'0'; 1001], [0; 65]);
        assert_eq!(Item::immutable(&big), Err(ItemError::ValueTooBig));
        let largest = [b"996:", &[b'x'; 996][..]].concat();
        assert!(Item::immutable(&largest).is_ok());
        for sloppy in [&b"d1:bi1e1:ai1ee"[..], b"i01e", b"01:a", b"i1ei2e", b"", b"d", b"d1:ai1e1:ai1ee"] {
            assert_eq!(Item::immutable(sloppy), Err(ItemError::NotBencode), "{sloppy:?}");
        }
        assert_eq!(Item::signed([1; 32], &salt, 1, HELLO), Err(ItemError::SaltTooBig));
        assert_eq!(Item::signed([1; 32], b"", -1, HELLO), Err(ItemError::NegativeSequence));
        assert_eq!(Item::signed([0; 32], b"", 1, HELLO), Err(ItemError::NoSecret));
    }

    #[test]
    fn a_response_is_believed_only_for_its_target_and_salt() {
        let item = Item::signed([2; 32], b"salt", 7, HELLO).unwrap();
        let target = item.target();
        let mut bare = item.clone();
        if let Item::Mutable { salt, .. } = &mut bare {
            *salt = [].into();
        }
        assert_eq!(bare.clone().received(target, b"salt"), Ok(item));
        assert_eq!(bare.clone().received(target, b"pepper"), Err(ItemError::WrongTarget));
        if let Item::Mutable { seq, .. } = &mut bare {
            *seq += 1;
        }
        assert_eq!(bare.received(target, b"salt"), Err(ItemError::BadSignature));
        assert_eq!(Item::immutable(HELLO).unwrap().received(target, b""), Err(ItemError::WrongTarget));
    }

    proptest! {
        #[test]
        fn no_key_or_signature_panics(key: [u8; 32], left: [u8; 32], right: [u8; 32], seq in 0..i64::MAX) {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&left);
            signature[32..].copy_from_slice(&right);
            let item = Item::Mutable { key, salt: [].into(), seq, signature, value: HELLO.into() };
            prop_assert_eq!(item.check(), Err(ItemError::BadSignature));
        }
    }
}
