//! Objects by resource: what stands between the handlers and the store.
//!
//! [`Storage`] knows every kind that is stored; a [`KindStore`] reads from its part of the watch cache and writes guarded by
//! revision. Nothing here authorizes, admits, defaults or validates: handlers do, and internal users (bootstrap objects,
//! allocators) go around it on purpose. A write returns only when the watch cache shows it, so a reader sees every write that was
//! acknowledged before it asked.

pub use crate::cache::entry::{Entry, EventType, Object, WatchEvent};

use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

/// All stored kinds.
pub struct Storage {
    _private: (),
}

impl Storage {
    /// The kind behind a resource (`("rbac.authorization.k8s.io", "roles")`, `("", "pods")`); 404 when there is none.
    pub fn kind(&self, group: &str, resource: &str) -> Result<&Arc<KindStore>, Status> {
        let _ = (group, resource);
        Err(Status::not_implemented("storage is being written"))
    }

    /// The revision up to which the cache has seen everything.
    pub fn revision(&self) -> u64 {
        0
    }
}

/// The objects of one resource.
pub struct KindStore {
    _private: (),
}

/// What must hold for a deletion.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    /// The object's uid.
    pub uid: Option<String>,
    /// The object's revision.
    pub revision: Option<u64>,
}

impl KindStore {
    /// One object (namespace empty for kinds of the whole cluster). Reads the cache only.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let _ = (namespace, name);
        None
    }

    /// All objects, or those of one namespace, ordered by key. Reads the cache only.
    pub fn list(&self, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        let _ = namespace;
        Vec::new()
    }

    /// The revision of the kind's last change: cheap, to know whether something derived is out of date.
    pub fn last_change(&self) -> u64 {
        0
    }

    /// All objects now, and every change after.
    pub fn subscribe(&self) -> (Vec<Arc<Entry>>, Subscription) {
        (Vec::new(), Subscription { _private: () })
    }

    /// Stores a new object. Fills in `apiVersion`, `kind`, `metadata.uid` and `creationTimestamp` when absent; 409 `AlreadyExists`.
    pub async fn create(&self, object: Value) -> Result<Object, Status> {
        let _ = object;
        Err(Status::not_implemented("storage is being written"))
    }

    /// Reads, changes, writes; again when somebody else wrote in between. `change` may run several times; when it leaves the object
    /// as it was, nothing is written. 404 when there is no such object.
    pub async fn update<F>(&self, namespace: &str, name: &str, change: F) -> Result<Object, Status>
    where
        F: FnMut(&mut Value) -> Result<(), Status> + Send,
    {
        let _ = (namespace, name, change);
        Err(Status::not_implemented("storage is being written"))
    }

    /// Removes an object at once (no grace, no finalizers: those are the delete handler's) and returns its last state.
    pub async fn delete(&self, namespace: &str, name: &str, preconditions: &Preconditions) -> Result<Object, Status> {
        let _ = (namespace, name, preconditions);
        Err(Status::not_implemented("storage is being written"))
    }
}

/// A stream of changes.
pub struct Subscription {
    _private: (),
}

impl Subscription {
    /// The next change; none when this subscriber was too slow and must subscribe again.
    pub async fn recv(&mut self) -> Option<Arc<WatchEvent>> {
        None
    }
}
