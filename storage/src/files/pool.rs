//! The bounded pool of open files that all torrents share.
//!
//! The lock covers only the look-up: files are opened, read and written outside of it, on clones of an `Arc`. A file that
//! is put out while a thread still uses it closes when that thread is done.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::beneath::Access;

/// One file of one storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileKey {
    /// The storage, by [`OpenFiles::next_storage`].
    pub(super) storage: u64,
    /// The index of the file in its layout.
    pub(super) file: usize,
}

/// The pool. The file that was not used for the longest time goes first.
#[derive(Debug)]
pub(super) struct OpenFiles {
    most: usize,
    storages: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<FileKey, Entry>,
    /// The keys of `open` by the time of their last use.
    by_use: BTreeMap<u64, FileKey>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    file: Arc<File>,
    access: Access,
    used: u64,
}

impl OpenFiles {
    /// At most `most` files stay open (at least one).
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), storages: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A number for a new storage.
    pub(super) fn next_storage(&self) -> u64 {
        self.storages.fetch_add(1, Ordering::Relaxed)
    }

    /// The file, if it is open for this.
    pub(super) fn get(&self, key: FileKey, access: Access) -> Option<Arc<File>> {
        let mut state = self.lock();
        let state = &mut *state;
        let entry = state.open.get_mut(&key).filter(|entry| access == Access::Read || entry.access == Access::Write)?;
        state.uses += 1;
        state.by_use.remove(&entry.used);
        state.by_use.insert(state.uses, key);
        entry.used = state.uses;
        Some(entry.file.clone())
    }

    /// Keeps a file open.
    pub(super) fn put(&self, key: FileKey, file: Arc<File>, access: Access) {
        let mut out = Vec::new();
        let mut state = self.lock();
        state.uses += 1;
        let used = state.uses;
        state.by_use.insert(used, key);
        if let Some(old) = state.open.insert(key, Entry { file, access, used }) {
            state.by_use.remove(&old.used);
            out.push(old);
        }
        while state.open.len() > self.most {
            let Some((_, oldest)) = state.by_use.pop_first() else { break };
            out.extend(state.open.remove(&oldest));
        }
        // Closing a file may take a while on some file systems: not under the lock.
        drop(state);
        drop(out);
    }

    /// Closes everything, after the system refused one more open file.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.by_use.clear();
        let out = std::mem::take(&mut state.open);
        drop(state);
        drop(out);
    }

    /// Closes a storage's files.
    pub(super) fn forget(&self, storage: u64) {
        let mut state = self.lock();
        let from = FileKey { storage, file: 0 };
        let mut out = state.open.split_off(&from);
        let mut kept = out.split_off(&FileKey { storage: storage + 1, file: 0 });
        state.open.append(&mut kept);
        for entry in out.values() {
            state.by_use.remove(&entry.used);
        }
        drop(state);
        drop(out);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<FileKey> {
        let state = self.lock();
        assert_eq!(state.open.len(), state.by_use.len());
        state.open.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_file_goes_first() {
        let pool = OpenFiles::new(2);
        let file = Arc::new(tempfile::tempfile().unwrap());
        let key = |storage, file| FileKey { storage, file };
        pool.put(key(0, 0), file.clone(), Access::Read);
        pool.put(key(1, 0), file.clone(), Access::Write);
        assert!(pool.get(key(0, 0), Access::Read).is_some());
        assert!(pool.get(key(0, 0), Access::Write).is_none(), "it is open for reading only");
        pool.put(key(2, 0), file.clone(), Access::Write);
        assert_eq!(pool.keys(), [key(0, 0), key(2, 0)]);
        pool.put(key(0, 0), file.clone(), Access::Write);
        assert!(pool.get(key(0, 0), Access::Write).is_some());
        pool.forget(0);
        assert_eq!(pool.keys(), [key(2, 0)]);
        pool.clear();
        assert_eq!(pool.keys(), []);
        assert_eq!(Arc::strong_count(&file), 1, "every clone is gone");
    }
}
