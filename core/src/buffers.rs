//! Recycled read buffers, so that a block costs no allocation and no page fault.
//!
//! A [`BytesMut`] whose slices are all dropped can be used again from its start. The pool keeps the empty
//! remainder of every buffer it handed out ("husk") and looks for one that is free before it allocates.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;

/// A pool of buffers of one size, shared by cloning.
#[derive(Debug, Clone)]
pub struct BufferPool {
    husks: Arc<Mutex<VecDeque<BytesMut>>>,
    size: usize,
    most: usize,
}

/// How many husks are looked at before a new buffer is made.
const LOOKS: usize = 4;

impl BufferPool {
    /// Buffers of `size` bytes; at most `most` are kept for reuse.
    pub fn new(size: usize, most: usize) -> Self {
        Self { husks: Arc::default(), size, most }
    }
    /// The size of this pool's buffers in bytes.
    pub fn size(&self) -> usize {
        self.size
    }
    /// An empty buffer with room for [`BufferPool::size`] bytes.
    pub fn take(&self) -> BytesMut {
        let mut husks = self.husks.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..LOOKS.min(husks.len()) {
            let Some(mut husk) = husks.pop_front() else { break };
            if husk.try_reclaim(self.size) {
                return husk;
            }
            husks.push_back(husk);
        }
        BytesMut::with_capacity(self.size)
    }
    /// Gives a buffer back. Slices of it may still be alive; it is handed out again after the last is dropped.
    pub fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut husks = self.husks.lock().unwrap_or_else(PoisonError::into_inner);
        if husks.len() < self.most {
            husks.push_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_only_after_its_last_slice() {
        let pool = BufferPool::new(1024, 4);
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[7; 1000]);
        let address = buffer.as_ptr();
        let slice = buffer.split_to(500).freeze();
        pool.give(buffer);
        let other = pool.take();
        assert_ne!(other.as_ptr(), address);
        assert_eq!(slice[..], [7; 500]);
        drop(slice);
        assert_eq!(pool.take().as_ptr(), address);
    }
}
