//! The files: opening, reading, one batch at a time written, and reopening after the disk failed.

use crate::{Error, KeyValue, Range, RangeResult, Revision};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The newest layout this program writes and reads.
const FORMAT: u64 = 1;
/// How many revisions are reserved at a time.
const RESERVE: u64 = 10_000;
const CACHE_BYTES: u64 = 4 << 20;
const MEMTABLE_BYTES: u64 = 8 << 20;
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

struct Handles {
    current: Keyspace,
    meta: Keyspace,
    db: Database,
}

/// One batch: what to change, and the revision after it.
#[derive(Default)]
pub(super) struct Batch {
    /// `None` removes the key.
    pub(super) changes: Vec<(Bytes, Option<KeyValue>)>,
    pub(super) revision: Revision,
    pub(super) relaxed: bool,
}

pub(super) struct Disk {
    path: PathBuf,
    handles: RwLock<Option<Arc<Handles>>>,
    reserved: parking_lot::Mutex<Revision>,
}

impl Disk {
    /// Opens the files; gives the revision to go on from.
    pub(super) fn open(path: &Path) -> Result<(Disk, Revision), Error> {
        let (handles, revision) = open_handles(path)?;
        let disk = Disk {
            path: path.to_owned(),
            handles: RwLock::new(Some(Arc::new(handles))),
            reserved: parking_lot::Mutex::new(revision),
        };
        Ok((disk, revision))
    }

    /// Opens the files anew after a failed write; no write may be under way. Gives the revision to go on from.
    pub(super) fn reopen(&self) -> Result<Revision, Error> {
        let mut slot = self.handles.write();
        if let Some(old) = slot.take() {
            // Readers hold it for microseconds.
            while Arc::strong_count(&old) > 1 {
                std::thread::yield_now();
            }
        }
        let (handles, revision) = open_handles(&self.path)?;
        *slot = Some(Arc::new(handles));
        *self.reserved.lock() = revision;
        Ok(revision)
    }

    fn handles(&self) -> Result<Arc<Handles>, Error> {
        self.handles
            .read()
            .clone()
            .ok_or_else(|| self.broken("it could not be opened again after the disk failed".to_owned()))
    }

    pub(super) fn broken(&self, what: String) -> Error {
        Error::Broken { path: self.path.clone(), what }
    }

    fn engine(&self, error: fjall::Error) -> Error {
        self.broken(describe(&error))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        let found = self.handles()?.current.get(key).map_err(|e| self.engine(e))?;
        found.map(|value| self.decode(Bytes::copy_from_slice(key), &value)).transpose()
    }

    /// A range of the present; its `revision` is that of the snapshot read.
    pub(super) fn range(&self, range: &Range) -> Result<RangeResult, Error> {
        let handles = self.handles()?;
        let snapshot = handles.db.snapshot();
        let revision = read_number(&snapshot, &handles.meta, "revision").map_err(|e| self.engine(e))?.unwrap_or(0);
        let from = if range.start > range.prefix { &range.start } else { &range.prefix };
        let mut result = RangeResult { revision, ..RangeResult::default() };
        for guard in snapshot.range(&handles.current, from.as_ref()..) {
            let (key, value) = guard.into_inner().map_err(|e| self.engine(e))?;
            if !key.starts_with(&range.prefix) {
                break;
            }
            if range.limit > 0 && result.kvs.len() == range.limit {
                result.more = true;
                break;
            }
            result.kvs.push(self.decode(Bytes::copy_from_slice(&key), &value)?);
        }
        Ok(result)
    }

    fn decode(&self, key: Bytes, stored: &[u8]) -> Result<KeyValue, Error> {
        let number = |at: usize| stored.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        match (number(0), number(8)) {
            (Some(create_revision), Some(mod_revision)) => {
                Ok(KeyValue { key, value: Bytes::copy_from_slice(&stored[16..]), create_revision, mod_revision })
            }
            _ => Err(self.broken(format!("the value of {} is damaged", String::from_utf8_lossy(&key)))),
        }
    }

    /// Writes one batch; on success it is as durable as it asks.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let handles = self.handles()?;
        let mut reserved = self.reserved.lock();
        let (mut mode, mut reserve) = (if batch.relaxed { PersistMode::Buffer } else { PersistMode::SyncData }, None);
        if batch.revision > *reserved {
            mode = PersistMode::SyncData;
            reserve = Some(batch.revision + RESERVE);
        }
        let mut write = handles.db.batch().durability(Some(mode));
        for (key, change) in &batch.changes {
            match change {
                Some(kv) => write.insert(&handles.current, key.as_ref(), encode(kv)),
                None => write.remove(&handles.current, key.as_ref()),
            }
        }
        write.insert(&handles.meta, "revision", batch.revision.to_be_bytes());
        if let Some(reserve) = reserve {
            write.insert(&handles.meta, "reserved", reserve.to_be_bytes());
        }
        write.commit().map_err(|e| self.engine(e))?;
        if let Some(reserve) = reserve {
            *reserved = reserve;
        }
        Ok(())
    }

    /// Says that all is written and the next open may go on from `revision` itself.
    pub(super) fn close(&self, revision: Revision) -> Result<(), Error> {
        let Some(handles) = self.handles.write().take() else { return Ok(()) };
        let mut write = handles.db.batch().durability(Some(PersistMode::SyncAll));
        write.insert(&handles.meta, "clean", revision.to_be_bytes());
        write.commit().map_err(|e| self.engine(e))
    }

    /// Bytes free where the store is.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        rustix::fs::statvfs(&self.path).ok().map(|s| s.f_bavail * s.f_frsize)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut stored = Vec::with_capacity(16 + kv.value.len());
    stored.extend_from_slice(&kv.create_revision.to_be_bytes());
    stored.extend_from_slice(&kv.mod_revision.to_be_bytes());
    stored.extend_from_slice(&kv.value);
    stored
}

fn read_number(reader: &impl Readable, meta: &Keyspace, name: &str) -> fjall::Result<Option<u64>> {
    let found = reader.get(meta, name)?;
    Ok(found.and_then(|b| b.as_ref().try_into().ok()).map(u64::from_be_bytes))
}

fn open_handles(path: &Path) -> Result<(Handles, Revision), Error> {
    let broken = |what: String| Error::Broken { path: path.to_owned(), what };
    let engine = |e: fjall::Error| match e {
        fjall::Error::Locked => Error::InUse(path.to_owned()),
        e => broken(describe(&e)),
    };
    std::fs::create_dir_all(path).map_err(|e| broken(e.to_string()))?;
    let db = Database::builder(path)
        .cache_size(CACHE_BYTES)
        .worker_threads(1)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .open()
        .map_err(engine)?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
    let current = db.keyspace("current", options).map_err(engine)?;
    let meta = db.keyspace("meta", options).map_err(engine)?;
    let number = |name| read_number(&db.snapshot(), &meta, name).map_err(engine);
    let found = number("format")?.unwrap_or(FORMAT);
    if found > FORMAT {
        return Err(Error::NewerFormat { path: path.to_owned(), found, known: FORMAT });
    }
    let last = number("revision")?.unwrap_or(0);
    let revision = match number("clean")? {
        Some(revision) => revision.max(last),
        None => number("reserved")?.unwrap_or(0).max(last),
    };
    let mut write = db.batch().durability(Some(PersistMode::SyncData));
    write.insert(&meta, "format", FORMAT.to_be_bytes());
    write.insert(&meta, "revision", revision.to_be_bytes());
    write.remove(&meta, "clean");
    write.commit().map_err(engine)?;
    Ok((Handles { current, meta, db }, revision))
}

/// The engine's error in words that say what to do.
fn describe(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Poisoned => {
            "an earlier write failed, the disk cannot be trusted until the store is opened again".to_owned()
        }
        fjall::Error::Io(e) => format!("input/output: {e}"),
        fjall::Error::Storage(e) => format!("{e:?}; restore a backup, or remove the folder to begin anew"),
        e => format!("{e:?}; restore a backup, or remove the folder to begin anew"),
    }
}
