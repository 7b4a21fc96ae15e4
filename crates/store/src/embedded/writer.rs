//! The one writer: gathers transactions that wait into one batch, syncs it, then tells everybody.

use super::disk::{Batch, Disk};
use super::{Hub, Request, holds};
use crate::{Error, Event, Events, KeyValue, Op, Revision, Txn, TxnResult};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Transactions in one batch at most, and about so many bytes.
const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Deletions are taken until so little is free: they are how room is made.
const FREE_BYTES_FOR_DELETES: u64 = 4 << 20;

type Reply = (oneshot::Sender<Result<TxnResult, Error>>, Result<TxnResult, Error>);

pub(super) struct Writer {
    disk: Arc<Disk>,
    hub: Arc<Hub>,
    free_bytes_min: u64,
    revision: Revision,
    /// The last commit failed: open the files anew before the next.
    failed: bool,
}

/// What the transactions of a batch do, on top of what is on disk.
#[derive(Default)]
struct Pending {
    keys: HashMap<Bytes, Option<KeyValue>>,
    published: Vec<(Revision, Events)>,
    replies: Vec<Reply>,
    durable: bool,
    bytes: usize,
}

impl Writer {
    pub(super) fn new(disk: Arc<Disk>, hub: Arc<Hub>, free_bytes_min: u64, revision: Revision) -> Writer {
        Writer { disk, hub, free_bytes_min, revision, failed: false }
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            if self.failed && !self.recover() {
                let _ = first
                    .reply
                    .send(Err(self.disk.broken("it could not be opened again after the disk failed".to_owned())));
                continue;
            }
            let mut pending = Pending::default();
            let free = self.disk.free_bytes().unwrap_or(u64::MAX);
            self.prepare(&mut pending, first, free);
            while pending.replies.len() < BATCH_MAX && pending.bytes < BATCH_BYTES_MAX {
                let Ok(next) = queue.try_recv() else { break };
                self.prepare(&mut pending, next, free);
            }
            self.commit(pending);
        }
        if let Err(error) = self.disk.close(self.revision) {
            tracing::warn!(%error, "closing the store");
        }
    }

    fn recover(&mut self) -> bool {
        match self.disk.reopen() {
            Ok(revision) => {
                self.revision = revision.max(self.revision);
                self.hub.reset(self.revision);
                self.failed = false;
                tracing::warn!(path = %self.disk.path().display(), "the store was opened again after a failed write");
                true
            }
            Err(error) => {
                tracing::error!(%error, "opening the store again");
                false
            }
        }
    }

    fn prepare(&mut self, pending: &mut Pending, request: Request, free_bytes: u64) {
        let result = self.apply(pending, &request.txn, free_bytes);
        pending.replies.push((request.reply, result));
    }

    /// Checks one transaction against the disk and those before it in the batch, and adds it.
    fn apply(&mut self, pending: &mut Pending, txn: &Txn, free_bytes: u64) -> Result<TxnResult, Error> {
        self.check_room(txn, free_bytes)?;
        let mut previous = Vec::with_capacity(txn.ops.len());
        for (index, op) in txn.ops.iter().enumerate() {
            let current = match pending.keys.get(op.key()) {
                Some(current) => current.clone(),
                None => self.disk.get(op.key())?,
            };
            if !holds(op.guard(), current.as_ref()) {
                return Ok(TxnResult::GuardFailed { index, current });
            }
            previous.push(current);
        }
        let revision = self.revision + 1;
        let events: Events =
            txn.ops.iter().zip(&previous).filter_map(|(op, previous)| event(op, previous.as_ref(), revision)).collect();
        if events.is_empty() {
            return Ok(TxnResult::Done { revision: self.revision, previous });
        }
        for event in events.iter() {
            pending.bytes += event.kv.key.len() + event.kv.value.len();
            pending.keys.insert(event.kv.key.clone(), (!event.deleted).then(|| event.kv.clone()));
        }
        pending.durable |= !txn.relaxed;
        pending.published.push((revision, events));
        self.revision = revision;
        Ok(TxnResult::Done { revision, previous })
    }

    fn check_room(&self, txn: &Txn, free_bytes: u64) -> Result<(), Error> {
        let puts = txn.ops.iter().any(|op| matches!(op, Op::Put { .. }));
        let needed_bytes = if puts { self.free_bytes_min } else { FREE_BYTES_FOR_DELETES.min(self.free_bytes_min) };
        if free_bytes < needed_bytes {
            return Err(Error::NoSpace { path: self.disk.path().to_owned(), free_bytes, needed_bytes });
        }
        Ok(())
    }

    fn commit(&mut self, pending: Pending) {
        let outcome = if pending.published.is_empty() {
            Ok(())
        } else {
            let changes = pending.keys.into_iter().collect();
            self.disk.commit(&Batch { changes, revision: self.revision, relaxed: !pending.durable })
        };
        match outcome {
            Ok(()) => {
                if !pending.published.is_empty() {
                    self.hub.publish(pending.published);
                }
                for (reply, result) in pending.replies {
                    let _ = reply.send(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, "writing to the store");
                self.failed = true;
                for (reply, _) in pending.replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// What an operation changes, if anything.
fn event(op: &Op, previous: Option<&KeyValue>, revision: Revision) -> Option<Event> {
    match op {
        Op::Put { key, value, .. } => {
            let create_revision = previous.map_or(revision, |p| p.create_revision);
            let kv = KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision };
            Some(Event { kv, deleted: false, previous: previous.cloned() })
        }
        Op::Delete { key, .. } => previous.map(|p| Event {
            kv: KeyValue {
                key: key.clone(),
                value: Bytes::new(),
                create_revision: p.create_revision,
                mod_revision: revision,
            },
            deleted: true,
            previous: Some(p.clone()),
        }),
    }
}
