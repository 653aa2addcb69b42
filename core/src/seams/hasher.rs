//! The hashing seam: SHA-1 over blocks of many pieces at a time.
//!
//! The unit is a batch, so that an implementation may hash several pieces at once (one in each lane of a vector
//! unit); the built-in one takes them one after another.

use std::fmt;

use bytes::Bytes;
use sha1::{Digest as _, Sha1};

use crate::digest::Sha1Digest;

/// A SHA-1 under way.
#[derive(Clone, Default)]
pub struct RunningSha1 {
    state: Sha1,
    length: u64,
}

impl RunningSha1 {
    /// Bytes hashed so far.
    pub fn length(&self) -> u64 {
        self.length
    }
    /// Hashes more bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.state.update(data);
        self.length += data.len() as u64;
    }
    /// The digest of everything hashed.
    pub fn finish(self) -> Sha1Digest {
        Sha1Digest(self.state.finalize().into())
    }
}

impl fmt::Debug for RunningSha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunningSha1({} bytes)", self.length)
    }
}

/// One piece's share of a batch: its running hash and the blocks that come next, in order.
#[derive(Debug)]
pub struct HashJob<'a> {
    /// The hash to go on with.
    pub state: &'a mut RunningSha1,
    /// What to feed it.
    pub blocks: &'a [Bytes],
}

/// Hashes batches of blocks.
pub trait Hasher: fmt::Debug + Send + Sync + 'static {
    /// Feeds every job's blocks to its running hash.
    fn update(&self, batch: &mut [HashJob<'_>]);
}

/// The `sha1` crate, which uses the processor's SHA instructions where there are any.
#[derive(Debug, Clone, Copy, Default)]
pub struct SoftwareHasher;

impl Hasher for SoftwareHasher {
    fn update(&self, batch: &mut [HashJob<'_>]) {
        for job in batch {
            for block in job.blocks {
                job.state.update(block);
            }
        }
    }
}
