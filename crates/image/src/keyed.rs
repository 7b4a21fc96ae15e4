//! Locks by key: one operation at a time for each layer, blob or snapshot.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use tokio::sync::OwnedMutexGuard;

/// One asynchronous lock for each key in use.
#[derive(Debug)]
pub(crate) struct Keyed<K> {
    locks: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Hash + Eq> Keyed<K> {
    /// Waits for the key; it is free again when the guard is dropped.
    pub(crate) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(key, Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}
