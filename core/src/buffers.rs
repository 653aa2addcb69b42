//! Recycled read buffers, so that a block costs no allocation and no page fault.
//!
//! A [`BytesMut`] whose slices are all dropped can be used again from its start. The pool keeps the empty
//! remainder of every buffer it handed out ("husk") and looks for one that is free before it allocates.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};

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

/// Recycled buffers for reading from disk: always initialised, so that nothing is zeroed twice.
#[derive(Debug, Clone)]
pub struct ReadBuffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    size: usize,
    most: usize,
}

impl ReadBuffers {
    /// Buffers of `size` bytes; at most `most` idle ones are kept.
    pub fn new(size: usize, most: usize) -> Self {
        Self { free: Arc::default(), size, most }
    }
    /// The size of this pool's buffers in bytes.
    pub fn size(&self) -> usize {
        self.size
    }
    /// A buffer of exactly `size` bytes with arbitrary contents.
    pub fn take(&self) -> ReadBuffer {
        let idle = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        ReadBuffer { bytes: idle.unwrap_or_else(|| vec![0; self.size]), home: Some(self.clone()) }
    }
}

/// A buffer to read into; goes back to its pool when it, or the last [`Bytes`] made of it, is dropped.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    home: Option<ReadBuffers>,
}

impl ReadBuffer {
    /// A buffer of `size` zeros that belongs to no pool.
    pub fn unpooled(size: usize) -> Self {
        Self { bytes: vec![0; size], home: None }
    }
    /// The first `length` bytes (at most all), shared from now on.
    pub fn freeze(self, length: usize) -> Bytes {
        let mut bytes = Bytes::from_owner(self);
        bytes.truncate(length);
        bytes
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
impl std::ops::Deref for ReadBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
impl std::ops::DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            let mut free = home.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < home.most {
                free.push(std::mem::take(&mut self.bytes));
            }
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

    #[test]
    fn a_read_buffer_comes_home_after_its_last_slice() {
        let pool = ReadBuffers::new(64, 2);
        let mut buffer = pool.take();
        buffer[0] = 9;
        let bytes = buffer.freeze(10);
        let slice = bytes.slice(..1);
        drop(bytes);
        assert_eq!(pool.free.lock().unwrap().len(), 0);
        assert_eq!(slice[..], [9]);
        drop(slice);
        assert_eq!(pool.take()[0], 9);
    }
}
