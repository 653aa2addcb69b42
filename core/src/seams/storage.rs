//! The storage seam. Blocking on purpose: the storage actor owns the threads and the order of jobs.
//!
//! A storage sees a torrent as one run of bytes; how that is cut into files is its own affair.

use std::{fmt, io, io::IoSlice, path::PathBuf, sync::Arc};

/// How a torrent lies on disk.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The folder under which every file of the torrent stays.
    pub root: PathBuf,
    /// The files in the torrent's order.
    pub files: Arc<[LayoutFile]>,
    /// Whether space is reserved beforehand.
    pub allocation: Allocation,
}

impl Layout {
    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }
}

/// One file of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutFile {
    /// Path under the root: relative, free of `..`, made safe by [`crate::paths`].
    pub path: PathBuf,
    /// Length in bytes.
    pub length: u64,
    /// A pad file (BEP 47): reads as zeros, is never written to disk.
    pub pad: bool,
}

/// Whether disk space is reserved before data arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allocation {
    /// Files grow as pieces arrive; holes take no space.
    #[default]
    Sparse,
    /// Every byte is reserved at the start, so that a full disk shows at once.
    Full,
}

/// What a storage can say of a file without reading it: resume data vouches for pieces by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStamp {
    /// Length on disk; `None` if there is no such file.
    pub length: Option<u64>,
    /// Time of the last change, in nanoseconds since 1970 (0 where unknown).
    pub modified: i128,
    /// The file's identity on its file system (0 where unknown), so that a replaced file is noticed.
    pub inode: u64,
}

/// Opens storages.
pub trait StorageFactory: fmt::Debug + Send + Sync + 'static {
    /// Opens a torrent's files. Nothing is created before [`Storage::prepare`] or the first write.
    fn open(&self, layout: &Layout) -> Result<Arc<dyn Storage>, StorageError>;
}

/// A torrent's bytes at rest. Called from several threads at once; ranges under way never overlap.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Creates what must exist whatever arrives (empty files, reserved space).
    fn prepare(&self) -> Result<(), StorageError>;
    /// Fills `into` from `offset` on. [`StorageError::Missing`] if a file is absent or too short.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError>;
    /// Writes all of `from` at `offset`.
    fn write_at(&self, offset: u64, from: &[IoSlice<'_>]) -> Result<(), StorageError>;
    /// Returns once everything written so far survives a power cut.
    fn flush(&self) -> Result<(), StorageError>;
    /// What there is of each file, in the layout's order.
    fn stamps(&self) -> Result<Vec<FileStamp>, StorageError>;
}

/// Why a storage could not do it. The text is for users.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The file system refused.
    #[error("{action} {}: {}", path.display(), plain(source))]
    Io {
        /// What was tried: "cannot write", "cannot open", ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Data that was never written, or that someone else removed.
    #[error("{} is missing or too short", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path leads out of the download folder, by a symbolic link for example.
    #[error("{} leads out of the download folder: {reason}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// How.
        reason: &'static str,
    },
    /// A range beyond the torrent's end: a defect in the caller.
    #[error("{length} bytes at {offset} lie beyond the end of the torrent")]
    OutOfRange {
        /// The first byte.
        offset: u64,
        /// Number of bytes.
        length: usize,
    },
}

impl StorageError {
    /// Is the disk full (or the quota used up)?
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// The system's reason in words a person can act on.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full".into(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up".into(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
