//! SHA-1 and SHA-256 digests of whole buffers; running hashes belong to [`crate::seams::hasher`].

use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// A SHA-1 digest: what `pieces` holds for each piece (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha1Digest(pub [u8; 20]);

/// SHA-1 of `data`.
pub fn sha1(data: &[u8]) -> Sha1Digest {
    Sha1Digest(Sha1::digest(data).into())
}

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}
