//! Storage in memory: a small disk within the process, for the simulated universe and for tests.
//!
//! A factory is the disk: what one storage wrote another opened later finds again, as after a restart. Its time is a
//! counter, so stamps replay. It can be told to be full or read-only, and others may change files behind one's back.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use castanet_core::seams::storage::{Allocation, FileStamp, Layout, LayoutFile, Storage, StorageError, StorageFactory};

use crate::segments::{Segment, Segments};

/// Bytes that are taken from the disk at once; holes take none.
const CHUNK: usize = 16 * 1024;

/// A disk in memory, shared by cloning.
#[derive(Debug, Clone, Default)]
pub struct MemoryFactory {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryFactory {
    /// An empty disk without bounds.
    pub fn new() -> Self {
        Self::default()
    }
    /// Bytes the disk holds in all (counted in chunks of 16 KiB); `None` for no bound. What is there stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }
    /// Refuses every write from now on, or allows them again.
    pub fn set_read_only(&self, read_only: bool) {
        self.disk().read_only = read_only;
    }
    /// All bytes of a file, holes as zeros; `None` if there is no such file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        let file = disk.files.get(path)?;
        let mut contents = vec![0; usize::try_from(file.length).ok()?];
        file.read(0, &mut contents).then_some(contents)
    }
    /// Replaces a file, as another program would: it gets another identity. Bounds do not hold here.
    pub fn replace(&self, path: &Path, contents: &[u8]) {
        let mut disk = self.disk();
        disk.files.remove(path);
        let (capacity, read_only) = (disk.capacity.take(), std::mem::take(&mut disk.read_only));
        // It cannot fail without bounds.
        disk.write(path, 0, contents).ok();
        (disk.capacity, disk.read_only) = (capacity, read_only);
    }
    /// Removes a file, as another program would.
    pub fn remove(&self, path: &Path) {
        self.disk().files.remove(path);
    }
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageFactory for MemoryFactory {
    fn open(&self, layout: &Layout) -> Result<Arc<dyn Storage>, StorageError> {
        let paths = layout.files.iter().map(|file| layout.root.join(&file.path)).collect();
        let segments = Segments::new(layout)?;
        Ok(Arc::new(Memory { paths, segments, allocation: layout.allocation, factory: self.clone() }))
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<PathBuf, MemoryFile>,
    /// Counts changes: it is the time and the source of identities.
    ticks: u64,
    capacity: Option<u64>,
    read_only: bool,
}

#[derive(Debug, Default)]
struct MemoryFile {
    chunks: BTreeMap<u64, Box<[u8]>>,
    length: u64,
    modified: u64,
    inode: u64,
}

impl MemoryFile {
    /// False if the file is too short.
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> bool {
        if at.checked_add(into.len() as u64).is_none_or(|end| end > self.length) {
            return false;
        }
        while !into.is_empty() {
            let (chunk, begin) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
            let (part, rest) = into.split_at_mut(into.len().min(CHUNK - begin));
            match self.chunks.get(&chunk) {
                Some(chunk) => part.copy_from_slice(&chunk[begin..begin + part.len()]),
                None => part.fill(0),
            }
            at += part.len() as u64;
            into = rest;
        }
        true
    }
}

impl Disk {
    fn room_for_a_chunk(&self) -> bool {
        self.capacity.is_none_or(|capacity| {
            let used: usize = self.files.values().map(|file| file.chunks.len()).sum();
            (used as u64 + 1) * CHUNK as u64 <= capacity
        })
    }

    /// The file, created if need be, its time of change renewed.
    fn touch(&mut self, path: &Path) -> io::Result<&mut MemoryFile> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.ticks += 1;
        let ticks = self.ticks;
        let file =
            self.files.entry(path.to_owned()).or_insert_with(|| MemoryFile { inode: ticks, ..Default::default() });
        file.modified = ticks;
        Ok(file)
    }

    fn chunk(&mut self, path: &Path, chunk: u64) -> io::Result<&mut [u8]> {
        let is_there = self.files.get(path).is_some_and(|file| file.chunks.contains_key(&chunk));
        if !is_there && !self.room_for_a_chunk() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.touch(path)?.chunks.entry(chunk).or_insert_with(|| vec![0; CHUNK].into()))
    }

    /// What fits is written, as on any disk.
    fn write(&mut self, path: &Path, mut at: u64, mut from: &[u8]) -> io::Result<()> {
        self.touch(path)?;
        while !from.is_empty() {
            let begin = (at % CHUNK as u64) as usize;
            let (part, rest) = from.split_at(from.len().min(CHUNK - begin));
            self.chunk(path, at / CHUNK as u64)?[begin..begin + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            let file = self.touch(path)?;
            file.length = file.length.max(at);
            from = rest;
        }
        Ok(())
    }

    fn reserve(&mut self, path: &Path, length: u64) -> io::Result<()> {
        for chunk in 0..length.div_ceil(CHUNK as u64) {
            self.chunk(path, chunk)?;
        }
        let file = self.touch(path)?;
        file.length = file.length.max(length);
        Ok(())
    }
}

/// A torrent on a disk in memory.
#[derive(Debug)]
struct Memory {
    paths: Vec<PathBuf>,
    segments: Segments,
    allocation: Allocation,
    factory: MemoryFactory,
}

impl Memory {
    fn file(&self, segment: Segment) -> (&LayoutFile, &Path) {
        (&self.segments.files()[segment.file], &self.paths[segment.file])
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::Io { action, path: path.to_owned(), source }
}

impl Storage for Memory {
    fn prepare(&self) -> Result<(), StorageError> {
        let mut disk = self.factory.disk();
        for (file, path) in self.segments.files().iter().zip(&self.paths) {
            let must_exist = file.length == 0 || self.allocation == Allocation::Full;
            let is_there = disk.files.get(path).is_some_and(|there| there.length >= file.length);
            if must_exist && !file.pad && !is_there {
                disk.reserve(path, file.length).map_err(error("cannot reserve space for", path))?;
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let disk = self.factory.disk();
        let mut next = 0;
        for segment in self.segments.cut(offset, into.len())? {
            let part = &mut into[next..next + segment.length];
            next += segment.length;
            let (file, path) = self.file(segment);
            if file.pad {
                part.fill(0);
            } else if !disk.files.get(path).is_some_and(|file| file.read(segment.at, part)) {
                return Err(StorageError::Missing { path: path.to_owned() });
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[IoSlice<'_>]) -> Result<(), StorageError> {
        let mut disk = self.factory.disk();
        let length = from.iter().map(|slice| slice.len()).sum();
        // All of it is within the torrent, or nothing is written.
        self.segments.cut(offset, length).map(drop)?;
        let mut next = offset;
        for slice in from {
            let mut rest = &slice[..];
            for segment in self.segments.cut(next, slice.len())? {
                let (part, after) = rest.split_at(segment.length);
                rest = after;
                let (file, path) = self.file(segment);
                if !file.pad {
                    disk.write(path, segment.at, part).map_err(error("cannot write", path))?;
                }
            }
            next += slice.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn stamps(&self) -> Result<Vec<FileStamp>, StorageError> {
        let disk = self.factory.disk();
        let stamp = |(file, path): (&LayoutFile, &PathBuf)| {
            let there = disk.files.get(path).filter(|_| !file.pad);
            there.map_or(FileStamp::default(), |there| FileStamp {
                length: Some(there.length),
                modified: there.modified.into(),
                inode: there.inode,
            })
        };
        Ok(self.segments.files().iter().zip(&self.paths).map(stamp).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(allocation: Allocation) -> Layout {
        let file = |(path, length, pad): (&str, u64, bool)| LayoutFile { path: path.into(), length, pad };
        let files = [("a", 40_000, false), ("e", 0, false), (".pad/1", 5, true), ("b", 10, false)].map(file);
        Layout { root: "/r".into(), files: files.into(), allocation }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let disk = MemoryFactory::new();
        let storage = disk.open(&layout(Allocation::Sparse)).unwrap();
        assert!(matches!(storage.read_at(0, &mut [0]), Err(StorageError::Missing { .. })));
        storage.prepare().unwrap();
        let data: Vec<u8> = (0..40_015u32).map(|n| (n % 250 + 1) as u8).collect();
        storage.write_at(0, &[IoSlice::new(&data[..7]), IoSlice::new(&[]), IoSlice::new(&data[7..])]).unwrap();
        drop(storage);
        let storage = disk.open(&layout(Allocation::Sparse)).unwrap();
        let mut back = vec![1; 40_015];
        storage.read_at(0, &mut back).unwrap();
        assert_eq!(back[..40_000], data[..40_000]);
        assert_eq!(back[40_000..40_005], [0; 5], "pads are zero");
        assert_eq!(back[40_005..], data[40_005..]);
        assert_eq!(disk.contents(Path::new("/r/b")).unwrap(), data[40_005..]);
        assert_eq!(disk.contents(Path::new("/r/e")).unwrap(), []);
        assert!(storage.write_at(40_015, &[IoSlice::new(b"x")]).is_err());
    }

    #[test]
    fn stamps_notice_what_others_do() {
        let disk = MemoryFactory::new();
        let storage = disk.open(&layout(Allocation::Sparse)).unwrap();
        storage.write_at(0, &[IoSlice::new(b"abc")]).unwrap();
        let before = storage.stamps().unwrap();
        assert_eq!(storage.stamps().unwrap(), before);
        disk.replace(Path::new("/r/a"), b"abc");
        let after = storage.stamps().unwrap();
        assert!(after[0].length == before[0].length && after[0].inode != before[0].inode);
        disk.remove(Path::new("/r/a"));
        assert_eq!(storage.stamps().unwrap()[0], FileStamp::default());
    }

    #[test]
    fn a_full_and_a_read_only_disk_say_so() {
        let disk = MemoryFactory::new();
        disk.set_capacity(Some(2 * CHUNK as u64));
        let storage = disk.open(&layout(Allocation::Sparse)).unwrap();
        storage.write_at(0, &[IoSlice::new(&[1; 2 * CHUNK])]).unwrap();
        let error = storage.write_at(2 * CHUNK as u64, &[IoSlice::new(b"x")]).unwrap_err();
        assert!(error.is_full(), "{error}");
        storage.write_at(5, &[IoSlice::new(b"x")]).unwrap();
        assert!(disk.open(&layout(Allocation::Full)).unwrap().prepare().unwrap_err().is_full());
        disk.set_capacity(None);
        disk.open(&layout(Allocation::Full)).unwrap().prepare().unwrap();
        disk.set_read_only(true);
        let error = storage.write_at(0, &[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(error.to_string(), "cannot write /r/a: the file system is read-only");
    }
}
