//! Storage in files: one file per file of the torrent, under one root.
//!
//! - Files are created at the first write and grow as pieces arrive, so a hole takes no space and a missing tail shows as
//!   [`StorageError::Missing`]. [`Allocation::Full`] reserves every byte in `prepare`.
//! - A file that is longer than the torrent says is cut when it is opened for writing, never when it is only read.
//! - Pad files (BEP 47) read as zeros and are never written.
//! - No symbolic link below the root is followed (`beneath.rs`). Open files are pooled (`pool.rs`), and no lock is held
//!   during I/O.

mod beneath;
mod flush;
mod pool;
mod vectored;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, IoSlice},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use castanet_core::seams::storage::{Allocation, FileStamp, Layout, LayoutFile, Storage, StorageError, StorageFactory};

use self::{
    beneath::{Access, Walker},
    flush::Flusher,
    pool::{FileKey, OpenFiles},
};
use crate::segments::Segments;

/// Opens torrents on disk. All that one factory opens share its pool of open files.
#[derive(Debug)]
pub struct FilesFactory {
    pool: Arc<OpenFiles>,
}

impl FilesFactory {
    /// At most `most_open` files stay open at once (plus one for each thread that is just using one).
    pub fn new(most_open: usize) -> Self {
        Self { pool: Arc::new(OpenFiles::new(most_open)) }
    }
}

impl Default for FilesFactory {
    /// 128 open files: far below the usual limit of 1024 descriptors, which peers share; opening one again is cheap.
    fn default() -> Self {
        Self::new(128)
    }
}

impl StorageFactory for FilesFactory {
    fn open(&self, layout: &Layout) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(Files {
            segments: Segments::new(layout)?,
            root: layout.root.clone(),
            allocation: layout.allocation,
            storage: self.pool.next_storage(),
            pool: self.pool.clone(),
            unflushed: Mutex::default(),
            flushing: Mutex::default(),
        }))
    }
}

/// What a file must be open for to be flushed. Reading creates nothing, so that a file someone removed stays removed.
const FLUSH_ACCESS: Access = if cfg!(unix) { Access::Read } else { Access::Write };

/// A torrent's files.
#[derive(Debug)]
struct Files {
    segments: Segments,
    root: PathBuf,
    allocation: Allocation,
    storage: u64,
    pool: Arc<OpenFiles>,
    unflushed: Mutex<Unflushed>,
    /// Held while flushing: who comes second may not return before what the first took is safe.
    flushing: Mutex<()>,
}

/// What a power cut might lose.
#[derive(Debug, Default)]
struct Unflushed {
    /// Files written, by index.
    files: BTreeSet<usize>,
    /// Folders with new entries, relative to the root.
    folders: BTreeSet<PathBuf>,
}

impl Files {
    fn file(&self, index: usize) -> &LayoutFile {
        &self.segments.files()[index]
    }

    fn error(&self, action: &'static str, index: usize, source: io::Error) -> StorageError {
        StorageError::Io { action, path: self.root.join(&self.file(index).path), source }
    }

    /// The file from the pool, or opened.
    fn open(&self, walker: &mut Walker<'_>, index: usize, access: Access) -> Result<Arc<File>, StorageError> {
        match self.pool.get(FileKey { storage: self.storage, file: index }, access) {
            Some(file) => Ok(file),
            None => self.open_anew(walker, index, access),
        }
    }

    fn open_anew(&self, walker: &mut Walker<'_>, index: usize, access: Access) -> Result<Arc<File>, StorageError> {
        let LayoutFile { path, length, .. } = self.file(index);
        let opened = match walker.open(path, access) {
            Err(StorageError::Io { source, .. }) if is_too_many_open(&source) => {
                self.pool.clear();
                walker.open(path, access)?
            }
            other => other?,
        };
        if opened.created {
            let mut unflushed = self.unflushed();
            unflushed.files.insert(index);
            let known = |folder: &Path| !unflushed.folders.contains(folder);
            let fresh: Vec<_> =
                path.ancestors().skip(1).take_while(|folder| known(folder)).map(Path::to_owned).collect();
            unflushed.folders.extend(fresh);
        } else if access == Access::Write && opened.file.metadata().is_ok_and(|metadata| metadata.len() > *length) {
            opened.file.set_len(*length).map_err(|error| self.error("cannot shorten", index, error))?;
        }
        let file = Arc::new(opened.file);
        self.pool.put(FileKey { storage: self.storage, file: index }, file.clone(), access);
        Ok(file)
    }

    /// Makes sure that a file exists and, on request, that its space is reserved.
    fn prepare_file(&self, walker: &mut Walker<'_>, index: usize) -> Result<(), StorageError> {
        let file = self.file(index);
        let stamp = walker.stamp(&file.path)?;
        if file.length == 0 && stamp.length == Some(0) {
            return Ok(());
        }
        let open = self.open_anew(walker, index, Access::Write)?;
        if file.length > 0 && !vectored::is_reserved(&open, file.length) {
            vectored::reserve(&open, file.length)
                .map_err(|error| self.error("cannot reserve space for", index, error))?;
            self.unflushed().files.insert(index);
        }
        Ok(())
    }

    fn flush_taken(&self, taken: &mut Unflushed) -> Result<(), StorageError> {
        let mut walker = Walker::new(&self.root);
        let mut flusher = Flusher::new(taken.files.len());
        while let Some(index) = taken.files.first().copied() {
            // Any descriptor of a file flushes all of it, so one that was closed meanwhile is simply opened again.
            match self.open(&mut walker, index, FLUSH_ACCESS) {
                Ok(file) => flusher.flush(&file).map_err(|error| self.error("cannot flush", index, error))?,
                // Removed by someone else: nothing is left to lose.
                Err(StorageError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
            taken.files.remove(&index);
        }
        while let Some(folder) = taken.folders.first().cloned() {
            match walker.sync_folder(&folder) {
                Ok(()) | Err(StorageError::Missing { .. }) => taken.folders.remove(&folder),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn unflushed(&self) -> std::sync::MutexGuard<'_, Unflushed> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Files {
    fn prepare(&self) -> Result<(), StorageError> {
        // A folder that cannot be is said now, not when the first peer has sent its first piece.
        std::fs::create_dir_all(&self.root).map_err(|source| StorageError::Io {
            action: "cannot create the folder",
            path: self.root.clone(),
            source,
        })?;
        let mut walker = Walker::new(&self.root);
        for (index, file) in self.segments.files().iter().enumerate() {
            let must_exist = file.length == 0 || self.allocation == Allocation::Full;
            if must_exist && !file.pad {
                self.prepare_file(&mut walker, index)?;
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let mut walker = Walker::new(&self.root);
        let mut rest = &mut *into;
        for segment in self.segments.cut(offset, rest.len())? {
            let (part, after) = mem::take(&mut rest).split_at_mut(segment.length);
            rest = after;
            if self.file(segment.file).pad {
                part.fill(0);
                continue;
            }
            let file = self.open(&mut walker, segment.file, Access::Read)?;
            vectored::read_exact_at(&file, part, segment.at).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    StorageError::Missing { path: self.root.join(&self.file(segment.file).path) }
                }
                _ => self.error("cannot read", segment.file, error),
            })?;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[IoSlice<'_>]) -> Result<(), StorageError> {
        let length = from.iter().map(|slice| slice.len()).sum();
        let mut walker = Walker::new(&self.root);
        let mut source = vectored::Source::new(from);
        let mut gathered = Vec::with_capacity(from.len());
        for segment in self.segments.cut(offset, length)? {
            source.gather(segment.length, &mut gathered);
            if self.file(segment.file).pad {
                continue;
            }
            let file = self.open(&mut walker, segment.file, Access::Write)?;
            // Noted first: a write that fails half-way has written something, too.
            self.unflushed().files.insert(segment.file);
            vectored::write_all_at(&file, &mut gathered, segment.at)
                .map_err(|error| self.error("cannot write", segment.file, error))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        let _turn = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = mem::take(&mut *self.unflushed());
        let result = self.flush_taken(&mut taken);
        let mut unflushed = self.unflushed();
        unflushed.files.append(&mut taken.files);
        unflushed.folders.append(&mut taken.folders);
        result
    }

    fn stamps(&self) -> Result<Vec<FileStamp>, StorageError> {
        let mut walker = Walker::new(&self.root);
        let stamp = |file: &LayoutFile| if file.pad { Ok(FileStamp::default()) } else { walker.stamp(&file.path) };
        self.segments.files().iter().map(stamp).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.pool.forget(self.storage);
    }
}

fn is_too_many_open(error: &io::Error) -> bool {
    #[cfg(unix)]
    let codes = [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];
    #[cfg(not(unix))]
    let codes = [4]; // ERROR_TOO_MANY_OPEN_FILES
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}
