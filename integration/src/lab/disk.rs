//! A disk that holds no bytes: what is written is compared with the payload, which all peers share, and noted.
//!
//! So a thousand peers hold a torrent at the cost of one, and whatever was written wrongly is kept as it is. The disk of a
//! liar gives wrong bytes from the moment it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use castanet::seams::storage::{FileStamp, Layout, Storage, StorageError, StorageFactory};

/// Bytes that are noted together: a block, or a piece where those are shorter.
const BLOCK: usize = 16 << 10;

/// One peer's disk, shared by cloning.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    payload: Arc<[u8]>,
    unit: usize,
    lies: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// Units that hold what they should.
    right: BTreeSet<usize>,
    /// Units that hold something else.
    wrong: BTreeMap<usize, Vec<u8>>,
    writes: i128,
}

impl Disk {
    /// An empty disk for this payload, or one that has all of it.
    pub(super) fn new(payload: Arc<[u8]>, piece: usize, full: bool) -> Self {
        let unit = piece.min(BLOCK);
        let right = if full { (0..payload.len().div_ceil(unit)).collect() } else { BTreeSet::new() };
        let notes = Mutex::new(Notes { right, wrong: BTreeMap::new(), writes: 1 });
        Self(Arc::new(Inner { payload, unit, lies: AtomicBool::new(false), notes }))
    }

    /// From now on it gives wrong bytes.
    pub(super) fn lie(&self) {
        self.0.lies.store(true, Ordering::Relaxed);
    }

    /// Does it hold the whole payload, and nothing that is wrong?
    pub(super) fn is_full(&self) -> bool {
        let notes = self.0.notes();
        notes.wrong.is_empty() && notes.right.len() == self.0.payload.len().div_ceil(self.0.unit)
    }
}

impl Inner {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The units of a range of bytes: each with its number and its own range.
    fn units(
        &self,
        offset: u64,
        length: usize,
    ) -> Result<impl Iterator<Item = (usize, usize, usize)> + use<>, StorageError> {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = begin.saturating_add(length);
        if end > self.payload.len() {
            return Err(StorageError::OutOfRange { offset, length });
        }
        let (unit, all) = (self.unit, self.payload.len());
        Ok((begin / unit..end.div_ceil(unit))
            .map(move |number| (number, number * unit, ((number + 1) * unit).min(all))))
    }
}

impl StorageFactory for Disk {
    fn open(&self, _: &Layout) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Storage for Disk {
    fn prepare(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let (begin, notes) = (offset as usize, self.0.notes());
        for (number, from, to) in self.0.units(offset, into.len())? {
            let unit = match notes.wrong.get(&number) {
                Some(wrong) => &wrong[..],
                None if notes.right.contains(&number) => &self.0.payload[from..to],
                None => return Err(StorageError::Missing { path: PathBuf::from("payload") }),
            };
            let (first, last) = (from.max(begin), to.min(begin + into.len()));
            into[first - begin..last - begin].copy_from_slice(&unit[first - from..last - from]);
        }
        if self.0.lies.load(Ordering::Relaxed) {
            into.iter_mut().for_each(|byte| *byte ^= 1);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[IoSlice<'_>]) -> Result<(), StorageError> {
        let mut notes = self.0.notes();
        let mut at = offset;
        for slice in from {
            for (number, begin, end) in self.0.units(at, slice.len())? {
                let (first, last) = (begin.max(at as usize), end.min(at as usize + slice.len()));
                let written = &slice[first - at as usize..last - at as usize];
                notes.write(number, &self.0.payload[begin..end], first - begin, written);
            }
            at += slice.len() as u64;
        }
        notes.writes += 1;
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn stamps(&self) -> Result<Vec<FileStamp>, StorageError> {
        let notes = self.0.notes();
        let last = notes.right.last().max(notes.wrong.keys().last());
        let length = last.map(|last| ((last + 1) * self.0.unit).min(self.0.payload.len()) as u64);
        Ok(vec![FileStamp { length, modified: notes.writes, inode: 1 }])
    }
}

impl Notes {
    /// A part of a unit is written, which should be `right` as a whole.
    fn write(&mut self, number: usize, right: &[u8], at: usize, written: &[u8]) {
        let fits = right[at..at + written.len()] == *written;
        let was_right = self.right.contains(&number);
        if fits && (was_right || written.len() == right.len()) {
            self.right.insert(number);
            self.wrong.remove(&number);
            return;
        }
        let before = if was_right { right.to_vec() } else { vec![0; right.len()] };
        let unit = self.wrong.entry(number).or_insert(before);
        unit[at..at + written.len()].copy_from_slice(written);
        if unit == right {
            self.wrong.remove(&number);
            self.right.insert(number);
        } else {
            self.right.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(full: bool) -> (Vec<u8>, Disk) {
        let payload = crate::payload::bytes(100_000, 1);
        (payload.clone(), Disk::new(payload.into(), 32 << 10, full))
    }

    fn write(disk: &Disk, at: usize, bytes: &[u8]) {
        let (one, other) = bytes.split_at(bytes.len() / 3);
        disk.write_at(at as u64, &[IoSlice::new(one), IoSlice::new(other)]).unwrap();
    }

    fn read(disk: &Disk, at: usize, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        disk.read_at(at as u64, &mut bytes).ok().map(|()| bytes)
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let (payload, disk) = disk(false);
        assert_eq!((read(&disk, 0, 1), disk.stamps().unwrap()[0].length), (None, None));
        write(&disk, 0, &payload[..40_000]);
        assert_eq!(read(&disk, 10, 39_990).as_deref(), Some(&payload[10..40_000]));
        assert!(read(&disk, 50_000, 1).is_none() && !disk.is_full());
        write(&disk, 40_000, &payload[40_000..]);
        assert_eq!(read(&disk, 0, 100_000), Some(payload));
        assert!(disk.is_full() && disk.stamps().unwrap()[0].length == Some(100_000));
        assert!(read(&disk, 99_999, 2).is_none(), "beyond its end there is nothing");
    }

    #[test]
    fn wrong_bytes_are_kept_until_right_ones_come() {
        let (payload, disk) = disk(true);
        write(&disk, 70_000, b"wrong");
        assert_eq!(read(&disk, 69_999, 7).unwrap()[1..6], *b"wrong");
        assert!(!disk.is_full());
        write(&disk, 70_000, &payload[70_000..70_005]);
        assert!(disk.is_full());
    }

    #[test]
    fn a_liar_gives_wrong_bytes() {
        let (payload, disk) = disk(true);
        disk.lie();
        assert!(read(&disk, 0, 100).unwrap().iter().zip(&payload).all(|(read, right)| read != right));
    }
}
