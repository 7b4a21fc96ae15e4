//! Revisioned bytes: all that Kubernetes asks of etcd, as one trait, and the store embedded in the program.
//!
//! Every [`Store::txn`] that changes something gets the next *revision*, one number for the whole store. A key remembers
//! the revision that made it and the one that changed it last. Readers may ask for the present or for a recent past;
//! a watcher gets every change from a revision on, in order, without gaps, or is told that it cannot have them.
//!
//! Flow: callers → one writer that gathers concurrent transactions into one synced batch ([`embedded`]) → history → watchers.
//!
//! Invariants:
//! - what `txn` returned as done survives `kill -9` and, unless [`Txn::relaxed`], the loss of power;
//! - revisions never go back and are never given twice, over restarts and crashes too (numbers may be skipped);
//! - watchers see events of one revision together, and only those that `txn` acknowledges or is about to;
//! - the past is kept in memory, bounded by age and size: after a restart, reading it answers [`Error::Compacted`].
//!
//! Nothing here knows what the bytes mean.

use async_trait::async_trait;
use bytes::Bytes;
use std::path::PathBuf;
use tokio_stream::wrappers::ReceiverStream;

pub mod embedded;

/// A revision of the whole store; the first change makes 1.
pub type Revision = u64;

/// A key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that made it.
    pub create_revision: Revision,
    /// The revision that changed it last.
    pub mod_revision: Revision,
}

/// Which keys to read.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Keys that begin so; empty for all.
    pub prefix: Bytes,
    /// Skip keys before this one (it is itself included); empty for none.
    pub start: Bytes,
    /// At most so many; 0 for no limit.
    pub limit: usize,
    /// As of this revision; none for now.
    pub revision: Option<Revision>,
}

impl Range {
    /// All keys with a prefix, now.
    pub fn prefix(prefix: impl Into<Bytes>) -> Range {
        Range { prefix: prefix.into(), ..Range::default() }
    }
}

/// What a range read found.
#[derive(Clone, Debug, Default)]
pub struct RangeResult {
    /// In the order of keys.
    pub kvs: Vec<KeyValue>,
    /// The store's revision that this shows.
    pub revision: Revision,
    /// True when the limit cut it short.
    pub more: bool,
}

/// What must hold for an operation's key, or the whole transaction does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key exists and was changed last by this revision.
    Revision(Revision),
}

/// One change.
#[derive(Clone, Debug)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// What must hold.
        guard: Guard,
    },
    /// Removes a key; one that does not exist (and has no guard) is no change.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold.
        guard: Guard,
    },
}

impl Op {
    /// The key concerned.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    fn guard(&self) -> Guard {
        match self {
            Op::Put { guard, .. } | Op::Delete { guard, .. } => *guard,
        }
    }
}

/// Changes made together or not at all. A key may stand in it once.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The changes.
    pub ops: Vec<Op>,
    /// May be lost with the machine's power (not with the program): for leases and events.
    pub relaxed: bool,
}

impl Txn {
    /// A durable transaction.
    pub fn new(ops: Vec<Op>) -> Txn {
        Txn { ops, relaxed: false }
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// Done; the keys deleted or replaced are given as they were, in the order of the operations.
    Done {
        /// Its revision (the present one when nothing changed).
        revision: Revision,
        /// What stood there before.
        previous: Vec<Option<KeyValue>>,
    },
    /// Nothing was done: the guard of the operation with this index did not hold.
    GuardFailed {
        /// Which operation.
        index: usize,
        /// Its key as it is.
        current: Option<KeyValue>,
    },
}

/// A change as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key after the change; for a deletion the value is empty and `mod_revision` is that of the deletion.
    pub kv: KeyValue,
    /// True when the key was removed.
    pub deleted: bool,
    /// The key before the change.
    pub previous: Option<KeyValue>,
}

/// The events of one revision under a watched prefix, at least one.
pub type Events = std::sync::Arc<[Event]>;

/// Sees every change as it is made, on the store's own thread: it must be quick, and may not call the store.
pub trait Observer: Send {
    /// The events of one revision, in the order of revisions. Whoever made them is answered after this. False ends it.
    fn changed(&mut self, events: &[Event]) -> bool;
    /// Nothing more will come: what follows is unknown, read the present and observe anew.
    fn lost(&mut self, error: Error);
}

/// What a watcher receives; an error is the last item.
pub type WatchStream = ReceiverStream<Result<Events, Error>>;

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The past asked for is gone; read the present.
    #[error("revision {requested} is compacted, the oldest to be had is {oldest}")]
    Compacted {
        /// Asked for.
        requested: Revision,
        /// The oldest that can be read or watched from.
        oldest: Revision,
    },
    /// A revision that does not exist yet.
    #[error("revision {requested} is in the future, the store is at {current}")]
    Future {
        /// Asked for.
        requested: Revision,
        /// The store's.
        current: Revision,
    },
    /// The watcher did not keep up and was dropped; read the present and watch again.
    #[error("the watcher was too slow and was dropped")]
    Slow,
    /// Too little room to write durably; deletions still work. Nothing was written.
    #[error("no space left for the store in {}: {free_bytes} bytes free, {needed_bytes} wanted; free some and try again", path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What there is.
        free_bytes: u64,
        /// What it takes.
        needed_bytes: u64,
    },
    /// Another process has it open.
    #[error("the store in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Written by a newer version of this program.
    #[error("the store in {} has format {found}, this program knows up to {known}; use the newer version that wrote it", path.display())]
    NewerFormat {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest this program knows.
        known: u64,
    },
    /// The files are damaged or the disk fails. Whether a write under way was done is unknown.
    #[error("the store in {} cannot be used: {what}", path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// What the storage engine says.
        what: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Revisioned bytes. See the crate for the story.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The present revision: that of the last transaction acknowledged to anybody.
    async fn revision(&self) -> Result<Revision, Error>;
    /// One key, now.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error>;
    /// Many keys.
    async fn range(&self, range: Range) -> Result<RangeResult, Error>;
    /// Changes keys, all or none.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, Error>;
    /// All changes under a prefix with a revision of `from` or later.
    async fn watch(&self, prefix: Bytes, from: Revision) -> Result<WatchStream, Error>;
    /// Hands all changes under a prefix with a revision of `from` or later to an observer.
    async fn observe(&self, prefix: Bytes, from: Revision, observer: Box<dyn Observer>) -> Result<(), Error>;
    /// Forgets the past before a revision.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
}
