//! Opening a file below a root without ever following a symbolic link out of it.
//!
//! Every symbolic link below the root is refused, also one that would stay inside: that is simple to state and cannot be
//! raced. The root itself may be a link, that is the user's choice. On Unix each component is opened relative to the one
//! before it; elsewhere each is examined before the file is opened.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use castanet_core::seams::storage::{FileStamp, StorageError};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading; the file must exist.
    Read,
    /// Reading and writing; file and folders are created if need be.
    Write,
}

/// An open file, and whether this call created it.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) created: bool,
}

const LINK: &str = "a part of it is a symbolic link";
const NOT_A_FILE: &str = "it is not a regular file";

/// Opens files below one root, one after another. It keeps the folder of the last file open, so that a run of files in
/// one folder costs one look-up each.
#[derive(Debug)]
pub(super) struct Walker<'a> {
    root: &'a Path,
    last: Option<(PathBuf, imp::Folder)>,
}

impl<'a> Walker<'a> {
    /// Nothing is opened yet.
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, last: None }
    }

    /// Opens `path`, which is relative to the root and free of `..`.
    pub(super) fn open(&mut self, path: &Path, access: Access) -> Result<Opened, StorageError> {
        let action = if access == Access::Read { "cannot open" } else { "cannot open for writing" };
        let opened = self.folder(path, access).and_then(|folder| imp::open(folder, path, access));
        let opened = opened.map_err(|refusal| self.explain(refusal, action, path))?;
        match opened.file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(opened),
            Ok(_) => Err(self.explain(Refusal::Unsafe(NOT_A_FILE), action, path)),
            Err(error) => Err(self.explain(error.into(), action, path)),
        }
    }

    /// What there is at `path`; the default stamp if there is no regular file.
    pub(super) fn stamp(&mut self, path: &Path) -> Result<FileStamp, StorageError> {
        match self.folder(path, Access::Read).and_then(|folder| imp::stamp(folder, path)) {
            Ok(stamp) => Ok(stamp),
            Err(Refusal::Unsafe(_)) => Ok(FileStamp::default()),
            Err(Refusal::Io(error)) if is_absence(&error) => Ok(FileStamp::default()),
            Err(refusal) => Err(self.explain(refusal, "cannot examine", path)),
        }
    }

    /// Makes the entries of the folder `path` (relative to the root, which is the empty path) survive a power cut.
    pub(super) fn sync_folder(&mut self, path: &Path) -> Result<(), StorageError> {
        // The folder of an entry in it is the folder itself.
        let folder = self.folder(&path.join("entry"), Access::Read).and_then(imp::sync);
        folder.map_err(|refusal| self.explain(refusal, "cannot flush", path))
    }

    /// The folder that holds `path`.
    fn folder(&mut self, path: &Path, access: Access) -> Result<&imp::Folder, Refusal> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let known = match self.last.take() {
            Some(known) if known.0 == parent => known,
            _ => {
                if access == Access::Write {
                    fs::create_dir_all(self.root)?;
                }
                (parent.to_owned(), imp::folder(self.root, parent, access)?)
            }
        };
        Ok(&self.last.insert(known).1)
    }

    fn explain(&self, refusal: Refusal, action: &'static str, path: &Path) -> StorageError {
        let path = self.root.join(path);
        match refusal {
            Refusal::Unsafe(reason) => StorageError::Unsafe { path, reason },
            Refusal::Io(error) if error.kind() == io::ErrorKind::NotFound => StorageError::Missing { path },
            Refusal::Io(source) => StorageError::Io { action, path, source },
        }
    }
}

/// Why a path was not opened.
enum Refusal {
    Unsafe(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(unix)]
mod imp {
    use std::os::fd::OwnedFd;

    use rustix::{
        fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fsync, mkdirat, openat, statat},
        io::Errno,
    };

    use super::*;

    pub(super) type Folder = OwnedFd;

    const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

    impl From<Errno> for Refusal {
        fn from(errno: Errno) -> Self {
            Self::Io(errno.into())
        }
    }

    /// A link shows as different errors on different systems, so the entry itself is asked.
    fn refusal(at: &OwnedFd, name: &Path, errno: Errno) -> Refusal {
        match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == FileType::Symlink => Refusal::Unsafe(LINK),
            _ => errno.into(),
        }
    }

    fn kind(stat: &Stat) -> FileType {
        FileType::from_raw_mode(stat.st_mode)
    }

    /// Opens every component of `parent` in turn, following no link; creates what is absent if it is to be written.
    pub(super) fn folder(root: &Path, parent: &Path, access: Access) -> Result<Folder, Refusal> {
        let mut at = openat(CWD, root, FOLDER, Mode::empty())?;
        for name in parent.components().map(|part| Path::new(part.as_os_str())) {
            let open = || openat(&at, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
            let next = match open() {
                Err(Errno::NOENT) if access == Access::Write => match mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(errno) => Err(errno),
                },
                other => other,
            };
            at = next.map_err(|errno| refusal(&at, name, errno))?;
        }
        Ok(at)
    }

    pub(super) fn open(folder: &Folder, path: &Path, access: Access) -> Result<Opened, Refusal> {
        let name = Path::new(path.file_name().unwrap_or_default());
        let mode = if access == Access::Read { OFlags::RDONLY } else { OFlags::RDWR };
        // Not to wait for the other end, should it be a pipe.
        let flags = mode | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let create = || openat(folder, name, flags | OFlags::CREATE, Mode::from_raw_mode(0o666));
        let (opened, created) = match openat(folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if access == Access::Write => (create(), true),
            other => (other, false),
        };
        let fd = opened.map_err(|errno| refusal(folder, name, errno))?;
        Ok(Opened { file: fd.into(), created })
    }

    pub(super) fn stamp(folder: &Folder, path: &Path) -> Result<FileStamp, Refusal> {
        let name = Path::new(path.file_name().unwrap_or_default());
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(Refusal::Unsafe(NOT_A_FILE));
        }
        // The types of these fields differ between systems.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let modified = i128::from(stat.st_mtime) * 1_000_000_000 + stat.st_mtime_nsec as i128;
        #[allow(clippy::unnecessary_cast)]
        Ok(FileStamp { length: u64::try_from(stat.st_size).ok(), modified, inode: stat.st_ino as u64 })
    }

    pub(super) fn sync(folder: &Folder) -> Result<(), Refusal> {
        match fsync(folder) {
            // Some file systems have nothing to flush in a folder and say so.
            Ok(()) | Err(Errno::INVAL | Errno::BADF) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::time::UNIX_EPOCH;

    use super::*;

    pub(super) type Folder = PathBuf;

    /// Refuses a link; what is absent is fine.
    fn refuse_link(path: &Path) -> Result<(), Refusal> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => Err(Refusal::Unsafe(LINK)),
            Err(error) if !is_absence(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn folder(root: &Path, parent: &Path, access: Access) -> Result<Folder, Refusal> {
        let mut at = root.to_owned();
        for name in parent.components() {
            at.push(name);
            refuse_link(&at)?;
            if access == Access::Write && !at.is_dir() {
                fs::create_dir(&at)?;
            }
        }
        Ok(at)
    }

    pub(super) fn open(folder: &Folder, path: &Path, access: Access) -> Result<Opened, Refusal> {
        let path = folder.join(path.file_name().unwrap_or_default());
        refuse_link(&path)?;
        let write = access == Access::Write;
        let created = write && !path.exists();
        let file = fs::OpenOptions::new().read(true).write(write).create(write).truncate(false).open(&path)?;
        Ok(Opened { file, created })
    }

    pub(super) fn stamp(folder: &Folder, path: &Path) -> Result<FileStamp, Refusal> {
        let metadata = fs::symlink_metadata(folder.join(path.file_name().unwrap_or_default()))?;
        if !metadata.is_file() {
            return Err(Refusal::Unsafe(NOT_A_FILE));
        }
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |time| time.as_nanos() as i128);
        Ok(FileStamp { length: Some(metadata.len()), modified, inode: 0 })
    }

    pub(super) fn sync(_: &Folder) -> Result<(), Refusal> {
        // There is no portable way to flush a folder here.
        Ok(())
    }
}
