//! The embedded store: `fjall` on disk, one writer, recent history in memory.
//!
//! Layout: keyspace `current` maps a key to its create and mod revision (8 bytes each, big endian) and its value;
//! keyspace `meta` has `format`, `revision` (of the last batch), `reserved` (no revision above it was ever given) and
//! `clean` (present only while the store is closed). After a crash revisions go on from `reserved`, so that a relaxed
//! transaction lost with the machine's power does not have its number given to another.

mod disk;
mod hub;
mod writer;

use crate::{
    Error, Event, Guard, KeyValue, Observer, Range, RangeResult, Revision, Store, Txn, TxnResult, WatchStream,
};
use async_trait::async_trait;
use bytes::Bytes;
use disk::Disk;
use hub::Hub;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How the embedded store is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its folder; made when missing.
    pub path: PathBuf,
    /// The past is kept for at most this long (upstream's etcd: 5 minutes).
    pub history_age: Duration,
    /// And at most so many bytes of values that are otherwise gone.
    pub history_bytes_max: usize,
    /// Bytes that must stay free on the disk for a put to be taken.
    pub free_bytes_min: u64,
}

impl Config {
    /// The defaults, in a folder.
    pub fn new(path: impl Into<PathBuf>) -> Config {
        Config {
            path: path.into(),
            history_age: Duration::from_secs(300),
            history_bytes_max: 16 << 20,
            free_bytes_min: 32 << 20,
        }
    }
}

/// Transactions that may wait for the writer before callers are held up.
const QUEUE_MAX: usize = 4096;

pub(crate) struct Request {
    txn: Txn,
    reply: oneshot::Sender<Result<TxnResult, Error>>,
}

/// The embedded store. Dropping the last handle closes it and waits until it is on disk.
pub struct Embedded {
    disk: Arc<Disk>,
    hub: Arc<Hub>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Embedded {
    /// Opens or makes the store. Blocks: recovery reads the journal.
    pub fn open(config: Config) -> Result<Embedded, Error> {
        let (disk, revision) = Disk::open(&config.path)?;
        let disk = Arc::new(disk);
        let hub = Arc::new(Hub::new(revision, config.history_age, config.history_bytes_max));
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let writer = writer::Writer::new(Arc::clone(&disk), Arc::clone(&hub), config.free_bytes_min, revision);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|e| disk.broken(format!("cannot start the writer: {e}")))?;
        Ok(Embedded { disk, hub, requests: Some(requests), writer: Some(thread) })
    }

    /// The past as of `revision`: the present of a snapshot, with later changes undone. Reads no more keys of the present than are asked for and
    /// were changed since.
    async fn range_past(&self, range: Range, revision: Revision) -> Result<RangeResult, Error> {
        self.hub.check_readable(revision)?;
        let mut changed = self.hub.changes_between(&range.prefix, revision, self.hub.revision())?.len();
        loop {
            // Each change since may have added a key that goes.
            let limit = if range.limit == 0 { 0 } else { range.limit.saturating_add(changed).saturating_add(1) };
            let (disk, now) = (Arc::clone(&self.disk), Range { limit, revision: None, ..range.clone() });
            let present = blocking(move || disk.range(&now)).await?;
            self.hub.wait_published(present.revision).await;
            let undo = self.hub.changes_between(&range.prefix, revision, present.revision)?;
            if limit == 0 || undo.len() <= changed {
                return Ok(undone(present, undo, &range, revision));
            }
            changed = undo.len();
        }
    }
}

/// What was read of the present as it was at `revision`.
fn undone(present: RangeResult, undo: Vec<Event>, range: &Range, revision: Revision) -> RangeResult {
    // What lies beyond the last key read is another page's.
    let end = present.kvs.last().filter(|_| present.more).map(|last| last.key.clone());
    let within = |key: &Bytes| *key >= range.start && end.as_ref().is_none_or(|end| key <= end);
    let mut kvs: BTreeMap<Bytes, KeyValue> = present.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    for event in undo.into_iter().rev().filter(|event| within(&event.kv.key)) {
        match event.previous {
            Some(previous) => kvs.insert(previous.key.clone(), previous),
            None => kvs.remove(&event.kv.key),
        };
    }
    let mut kvs: Vec<KeyValue> = kvs.into_values().collect();
    let more = range.limit > 0 && (present.more || kvs.len() > range.limit);
    if more {
        kvs.truncate(range.limit);
    }
    RangeResult { kvs, revision, more }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closed)?
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.hub.revision())
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        self.disk.get(key)
    }

    async fn range(&self, range: Range) -> Result<RangeResult, Error> {
        match range.revision {
            Some(revision) => self.range_past(range, revision).await,
            None => {
                let disk = Arc::clone(&self.disk);
                blocking(move || disk.range(&range)).await
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        let (reply, result) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(Error::Closed)?;
        requests.send(Request { txn, reply }).await.map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    async fn watch(&self, prefix: Bytes, from: Revision) -> Result<WatchStream, Error> {
        self.hub.watch(prefix, from)
    }

    async fn observe(&self, prefix: Bytes, from: Revision, observer: Box<dyn Observer>) -> Result<(), Error> {
        self.hub.observe(prefix, from, observer)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.hub.compact(revision)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Whether a guard holds for a key as it is.
fn holds(guard: Guard, current: Option<&KeyValue>) -> bool {
    match guard {
        Guard::None => true,
        Guard::Absent => current.is_none(),
        Guard::Revision(revision) => current.is_some_and(|kv| kv.mod_revision == revision),
    }
}
