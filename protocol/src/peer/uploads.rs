//! What the remote asked us for: requests become reads of up to 256 KiB, and those become blocks to send.
//!
//! Reading is paced by what leaves for the socket, so that a slow remote holds little memory and a choke or a cancel
//! takes effect soon.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use castanet_core::{BlockRef, PieceIndex};

use crate::wire::{PIECE_HEADER, piece_header};

/// Requests of a remote that we hold; told to it as `reqq`.
pub const MOST_REMOTE_REQUESTS: usize = 2000;
/// Adjacent requests are read together up to so many bytes.
pub const LARGEST_READ: u32 = 256 * 1024;
/// So many bytes are being read or wait for the socket before more is read, for the fastest remotes.
pub const UNSENT_TARGET: u64 = 1024 * 1024;
/// The same for the slowest remotes.
pub const LEAST_UNSENT: u64 = 64 * 1024;
/// Headers are cut from pieces of memory of this size.
const HEADERS: usize = 4096;

/// The remote's requests.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// Not read yet, in the order of asking.
    queue: VecDeque<BlockRef>,
    /// Being read.
    reads: Vec<Reading>,
    reading: u64,
    /// Put out, and not yet gone for the socket.
    unsent: u64,
    headers: BytesMut,
}

#[derive(Debug)]
struct Reading {
    range: BlockRef,
    /// The requests within the range that are still wanted.
    blocks: Vec<BlockRef>,
}

impl Uploads {
    /// Requests that wait for a read.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that were put out and have not left.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Notes a request; `false` if there are too many.
    pub(super) fn ask(&mut self, block: BlockRef) -> bool {
        let fits =
            self.queue.len() + self.reads.iter().map(|read| read.blocks.len()).sum::<usize>() < MOST_REMOTE_REQUESTS;
        if fits {
            self.queue.push_back(block);
        }
        fits
    }

    /// Takes a request out; `false` if it is not there (it may have been answered).
    pub(super) fn cancel(&mut self, block: BlockRef) -> bool {
        if let Some(at) = self.queue.iter().position(|asked| *asked == block) {
            return self.queue.remove(at).is_some();
        }
        self.reads.iter_mut().any(|read| {
            let at = read.blocks.iter().position(|asked| *asked == block);
            at.map(|at| read.blocks.remove(at)).is_some()
        })
    }

    /// Drops every request but those for the pieces in `keep`, and tells each to `dropped`.
    pub(super) fn clear(&mut self, keep: &[PieceIndex], mut dropped: impl FnMut(BlockRef)) {
        let mut stays = |block: &BlockRef| {
            let stays = keep.contains(&block.piece);
            if !stays {
                dropped(*block);
            }
            stays
        };
        self.reads.iter_mut().for_each(|read| read.blocks.retain(&mut stays));
        self.queue.retain(stays);
    }

    /// The next range to read, while less than `target` bytes are under way; no longer than `target` if requests are not.
    pub(super) fn next_read(&mut self, target: u64) -> Option<BlockRef> {
        if self.reading + self.unsent >= target {
            return None;
        }
        let most = u64::from(LARGEST_READ).min(target);
        let first = self.queue.pop_front()?;
        let (mut range, mut blocks) = (first, vec![first]);
        while let Some(next) = self.queue.front()
            && next.piece == range.piece
            && u64::from(next.begin) == range.end()
            && u64::from(range.length + next.length) <= most
        {
            range.length += next.length;
            blocks.push(*next);
            self.queue.pop_front();
        }
        self.reading += u64::from(range.length);
        self.reads.push(Reading { range, blocks });
        Some(range)
    }

    /// A read ended; the requests within it that are still wanted. `None` if no such read is under way.
    pub(super) fn end_read(&mut self, range: BlockRef) -> Option<Vec<BlockRef>> {
        let at = self.reads.iter().position(|read| read.range == range)?;
        self.reading -= u64::from(range.length);
        Some(self.reads.remove(at).blocks)
    }

    /// The header of a piece message, cut from shared memory.
    pub(super) fn header(&mut self, block: BlockRef) -> Bytes {
        if self.headers.capacity() < PIECE_HEADER {
            self.headers = BytesMut::with_capacity(HEADERS);
        }
        self.headers.put_slice(&piece_header(block));
        self.headers.split().freeze()
    }

    /// So many bytes were put out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unsent += bytes as u64;
    }

    /// So many bytes left for the socket.
    pub(super) fn written(&mut self, bytes: usize) {
        self.unsent = self.unsent.saturating_sub(bytes as u64);
    }

    /// The bounds that hold at all times.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.reading, self.reads.iter().map(|read| u64::from(read.range.length)).sum::<u64>());
        assert!(self.reading <= UNSENT_TARGET + u64::from(LARGEST_READ));
        assert!(self.queue.len() <= MOST_REMOTE_REQUESTS);
        assert!(self.reads.iter().all(|read| read.range.length <= LARGEST_READ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(piece: u32, n: u32) -> BlockRef {
        BlockRef { piece: PieceIndex(piece), begin: n * 16_384, length: 16_384 }
    }

    #[test]
    fn adjacent_requests_are_read_together() {
        let mut uploads = Uploads::default();
        let asked = (0..20).map(|n| block(0, n)).chain([block(1, 20), block(1, 22), block(1, 21)]);
        asked.for_each(|block| assert!(uploads.ask(block)));
        let reads: Vec<_> = std::iter::from_fn(|| uploads.next_read(u64::MAX)).collect();
        let lengths: Vec<_> = reads.iter().map(|read| read.length / 16_384).collect();
        assert_eq!(lengths, [16, 4, 1, 1, 1]);
        assert_eq!(uploads.end_read(reads[1]), Some((16..20).map(|n| block(0, n)).collect()));
        assert_eq!(uploads.end_read(reads[1]), None);
    }

    #[test]
    fn reads_wait_for_the_socket() {
        let mut uploads = Uploads::default();
        (0..64).for_each(|n| assert!(uploads.ask(block(0, n))));
        let first = uploads.next_read(LEAST_UNSENT).unwrap();
        assert_eq!(uploads.next_read(LEAST_UNSENT), None, "a read is under way");
        uploads.end_read(first);
        uploads.sent(first.length as usize);
        assert_eq!(uploads.next_read(LEAST_UNSENT), None, "its bytes have not left");
        uploads.written(1);
        assert!(uploads.next_read(LEAST_UNSENT).is_some());
    }

    #[test]
    fn cancelled_and_cleared_requests_are_not_answered() {
        let mut uploads = Uploads::default();
        (0..20).for_each(|n| assert!(uploads.ask(block(n / 10, n % 10))));
        let read = uploads.next_read(u64::MAX).unwrap();
        assert!(uploads.cancel(block(0, 3)) && uploads.cancel(block(1, 5)) && !uploads.cancel(block(1, 5)));
        let mut dropped = 0;
        uploads.clear(&[PieceIndex(1)], |_| dropped += 1);
        assert_eq!((dropped, uploads.len()), (9, 9));
        assert_eq!(uploads.end_read(read), Some(Vec::new()));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut uploads = Uploads::default();
        let taken = (0..3000).filter(|n| uploads.ask(block(*n, 0))).count();
        assert_eq!(taken, MOST_REMOTE_REQUESTS);
        uploads.next_read(u64::MAX);
        assert!(!uploads.ask(block(0, 0)), "a request that is being read still counts");
    }
}
