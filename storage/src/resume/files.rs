//! Resume records in a folder: one file for each torrent and download folder.
//!
//! A record is written under another name, flushed, renamed over the old one, and the folder flushed: after a crash at any
//! moment there is the old record or the new one. A lock file beside it keeps other instances out; the system lets the lock
//! go when the process ends, however it ends. The empty lock file stays, since removing it would race.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use castanet_core::{
    InfoHashV1,
    digest::sha1,
    seams::resume::{ResumeError, ResumeKey, ResumeLock, ResumeRecord, ResumeStore},
};
use tracing::warn;

use super::record::{decode, encode};

/// The largest record in bytes, written or read: a million files, a million pieces and 16 MiB of metadata fit.
pub const LARGEST_RECORD: usize = 64 * 1024 * 1024;

/// A store in a folder.
#[derive(Debug, Clone)]
pub struct FileResumeStore {
    folder: PathBuf,
}

impl FileResumeStore {
    /// Records live in `folder`, which is created when it is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The file `extension` of this torrent in this folder, both told apart by hashes.
    fn path(&self, key: &ResumeKey, extension: &str) -> PathBuf {
        let root = InfoHashV1(sha1(key.root.as_os_str().as_encoded_bytes()).0).to_hex();
        let torrent = InfoHashV1(key.info_hashes.wire());
        self.folder.join(format!("{torrent}-{}.{extension}", &root[..16]))
    }

    fn make_folder(&self) -> Result<(), ResumeError> {
        fs::create_dir_all(&self.folder).map_err(error("cannot create", &self.folder))
    }
}

impl ResumeStore for FileResumeStore {
    fn load(&self, key: &ResumeKey) -> Result<Option<ResumeRecord>, ResumeError> {
        let key = &settled(key);
        let path = self.path(key, "resume");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error("cannot open", &path)(source)),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST_RECORD as u64 + 1).read_to_end(&mut bytes).map_err(error("cannot read", &path))?;
        let record = if bytes.len() > LARGEST_RECORD { Err("it is too large") } else { decode(&bytes, key) };
        match record {
            Ok(record) => Ok(Some(record)),
            Err(reason) => {
                warn!("the resume record {} is ignored: {reason}; the files will be checked", path.display());
                Ok(None)
            }
        }
    }

    fn save(&self, key: &ResumeKey, record: &ResumeRecord) -> Result<(), ResumeError> {
        let key = &settled(key);
        let (path, fresh) = (self.path(key, "resume"), self.path(key, "new"));
        let too_large = |length| ResumeError::TooLarge { length, most: LARGEST_RECORD };
        let bytes = encode(key, record).ok_or(too_large(usize::MAX))?;
        if bytes.len() > LARGEST_RECORD {
            return Err(too_large(bytes.len()));
        }
        self.make_folder()?;
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        if let Err(source) = written {
            // Half a record is of no use and would keep a full disk full.
            fs::remove_file(&fresh).ok();
            return Err(error("cannot write", &fresh)(source));
        }
        fs::rename(&fresh, &path).map_err(error("cannot replace", &path))?;
        sync_folder(&self.folder).map_err(error("cannot flush", &self.folder))
    }

    fn remove(&self, key: &ResumeKey) -> Result<(), ResumeError> {
        let path = self.path(&settled(key), "resume");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error("cannot remove", &path)(source)),
            _ => Ok(()),
        }
    }

    fn lock(&self, key: &ResumeKey) -> Result<Box<dyn ResumeLock>, ResumeError> {
        let key = &settled(key);
        self.make_folder()?;
        let path = self.path(key, "lock");
        let options = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(error("cannot open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ResumeError::Locked { root: key.root.clone() }),
            Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Unsupported => {
                warn!("{} lies on a file system without locks: nothing keeps another instance out", path.display());
            }
            Err(TryLockError::Error(source)) => return Err(error("cannot lock", &path)(source)),
        }
        Ok(Box::new(FileLock { _file: file }))
    }
}

/// Held by the open file.
#[derive(Debug)]
struct FileLock {
    _file: File,
}

impl ResumeLock for FileLock {}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResumeError {
    move |source| ResumeError::Io { action, path: path.to_owned(), source }
}

/// The key with one spelling of the root, whether it exists yet or not: a relative path and a link name the same folder.
fn settled(key: &ResumeKey) -> ResumeKey {
    let absolute = std::path::absolute(&key.root).unwrap_or_else(|_| key.root.clone());
    let settle = |known: &Path| {
        let rest = absolute.strip_prefix(known).ok()?;
        let known = fs::canonicalize(known).ok()?;
        // Joining nothing would add a separator.
        Some(if rest.as_os_str().is_empty() { known } else { known.join(rest) })
    };
    let root = absolute.ancestors().find_map(settle).unwrap_or_else(|| absolute.clone());
    ResumeKey { info_hashes: key.info_hashes, root }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems have nothing to flush in a folder and say so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::*, *};

    #[test]
    fn a_record_is_kept_for_each_torrent_and_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileResumeStore::new(folder.path().join("state/resume"));
        assert_eq!(store.load(&key("/a")).unwrap(), None);
        store.remove(&key("/a")).unwrap();
        let other = ResumeRecord { uploaded: 5, ..record() };
        store.save(&key("/a"), &other).unwrap();
        store.save(&key("/a"), &record()).unwrap();
        store.save(&key("/b"), &other).unwrap();
        assert_eq!(store.load(&key("/a")).unwrap(), Some(record()));
        assert_eq!(store.load(&key("/b")).unwrap(), Some(other));
        store.remove(&key("/a")).unwrap();
        assert_eq!(store.load(&key("/a")).unwrap(), None);
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileResumeStore::new(folder.path());
        store.save(&key("/a"), &record()).unwrap();
        let bytes = encode(&settled(&key("/a")), &ResumeRecord { uploaded: 9, ..record() }).unwrap();
        for length in [0, 1, bytes.len() / 2, bytes.len()] {
            fs::write(store.path(&settled(&key("/a")), "new"), &bytes[..length]).unwrap();
            assert_eq!(store.load(&key("/a")).unwrap(), Some(record()));
        }
        store.save(&key("/a"), &ResumeRecord { uploaded: 9, ..record() }).unwrap();
        assert_eq!(store.load(&key("/a")).unwrap().unwrap().uploaded, 9);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_gigantic_record_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileResumeStore::new(folder.path());
        store.save(&key("/a"), &record()).unwrap();
        let path = store.path(&settled(&key("/a")), "resume");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(store.load(&key("/a")).unwrap(), None);
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(store.load(&key("/a")).unwrap(), None);
    }

    #[test]
    fn an_unwritable_folder_is_an_error_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let store = FileResumeStore::new(file.join("state"));
        let error = store.save(&key("/a"), &record()).unwrap_err();
        assert!(error.to_string().starts_with("cannot create"), "{error}");
        assert!(store.lock(&key("/a")).is_err());
    }

    #[test]
    fn one_holder_at_a_time_whatever_the_folder_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileResumeStore::new(folder.path().join("state"));
        let named = |path: PathBuf| ResumeKey { root: path, ..key("") };
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).unwrap();
        let lock = store.lock(&named(real.join("sub"))).unwrap();
        let error = FileResumeStore::new(folder.path().join("state")).lock(&named(real.join("sub/."))).unwrap_err();
        assert!(error.to_string().contains("already open in"), "{error}");
        fs::create_dir(real.join("sub")).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&real, &link).unwrap();
            assert!(matches!(store.lock(&named(link.join("sub"))), Err(ResumeError::Locked { .. })));
        }
        store.lock(&named(folder.path().join("elsewhere"))).unwrap();
        drop((lock, link));
        store.lock(&named(real.join("sub"))).unwrap();
    }

    #[test]
    fn after_a_kill_only_files_that_changed_since_the_save_are_doubted() {
        use std::io::IoSlice;

        use castanet_core::{
            Bitfield, Geometry, PieceIndex,
            seams::{
                resume::vouched,
                storage::{Allocation, Layout, LayoutFile, Storage, StorageFactory as _},
            },
        };

        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("download");
        let files = ["a", "b"].map(|name| LayoutFile { path: name.into(), length: 100, pad: false });
        let layout = Layout { root: root.clone(), files: files.into(), allocation: Allocation::Sparse };
        let geometry = Geometry::new(200, 50).unwrap();
        let factory = crate::files::FilesFactory::default();
        let store = FileResumeStore::new(folder.path().join("state"));
        let key = ResumeKey { root: root.clone(), ..key("") };
        let write = |storage: &dyn Storage, piece| {
            storage.write_at(geometry.offset_of(PieceIndex(piece)), &[IoSlice::new(&[1; 50])]).unwrap();
        };

        // Pieces 0, 2 and 3 are verified and saved; then piece 1 is written, and the process is killed.
        let storage = factory.open(&layout).unwrap();
        let mut pieces = Bitfield::new(4);
        for piece in [0, 2, 3] {
            write(&*storage, piece);
            pieces.set(PieceIndex(piece));
        }
        storage.flush().unwrap();
        let stamps = storage.stamps().unwrap();
        store.save(&key, &ResumeRecord { pieces, stamps, ..record() }).unwrap();
        write(&*storage, 1);
        drop(storage);

        let believed = || {
            let record = store.load(&key).unwrap().unwrap();
            let now = factory.open(&layout).unwrap().stamps().unwrap();
            vouched(&record, &now, &layout, &geometry).iter().map(|piece| piece.0).collect::<Vec<_>>()
        };
        assert_eq!(believed(), [2, 3], "the file with piece 1 is read again");
        // The same bytes in a file with another time are not believed either.
        let b = File::options().write(true).open(root.join("b")).unwrap();
        b.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(5)).unwrap();
        assert!(believed().is_empty());
    }
}
