//! Resume records in memory, for the simulated universe: they outlive an engine, not the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use castanet_core::seams::resume::{ResumeError, ResumeKey, ResumeLock, ResumeRecord, ResumeStore};

/// A store in memory, shared by cloning: hand the same one to the engine that comes after a restart.
#[derive(Debug, Clone, Default)]
pub struct MemoryResumeStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<ResumeKey, ResumeRecord>,
    locked: BTreeSet<ResumeKey>,
}

impl MemoryResumeStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResumeStore for MemoryResumeStore {
    fn load(&self, key: &ResumeKey) -> Result<Option<ResumeRecord>, ResumeError> {
        Ok(self.state().records.get(key).cloned())
    }
    fn save(&self, key: &ResumeKey, record: &ResumeRecord) -> Result<(), ResumeError> {
        self.state().records.insert(key.clone(), record.clone());
        Ok(())
    }
    fn remove(&self, key: &ResumeKey) -> Result<(), ResumeError> {
        self.state().records.remove(key);
        Ok(())
    }
    fn lock(&self, key: &ResumeKey) -> Result<Box<dyn ResumeLock>, ResumeError> {
        if !self.state().locked.insert(key.clone()) {
            return Err(ResumeError::Locked { root: key.root.clone() });
        }
        Ok(Box::new(Lock { store: self.clone(), key: key.clone() }))
    }
}

#[derive(Debug)]
struct Lock {
    store: MemoryResumeStore,
    key: ResumeKey,
}

impl ResumeLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.store.state().locked.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::*, *};

    #[test]
    fn records_and_locks() {
        let store = MemoryResumeStore::new();
        assert_eq!(store.load(&key("/a")).unwrap(), None);
        store.save(&key("/a"), &record()).unwrap();
        assert_eq!(store.clone().load(&key("/a")).unwrap(), Some(record()));
        store.remove(&key("/a")).unwrap();
        assert_eq!(store.load(&key("/a")).unwrap(), None);
        let lock = store.lock(&key("/a")).unwrap();
        assert!(matches!(store.lock(&key("/a")), Err(ResumeError::Locked { .. })));
        let _other = store.lock(&key("/b")).unwrap();
        drop(lock);
        store.lock(&key("/a")).unwrap();
    }
}
