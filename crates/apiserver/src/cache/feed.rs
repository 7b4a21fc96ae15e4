//! From the store's changes to the caches of the kinds, in order, on the store's thread.

use super::entry::{Entry, EventType};
use super::kind::Change;
use crate::storage::{KindStore, REGISTRY};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use store::{Error, Event, Observer, Range, Store};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How many keys are read at once when the caches are filled.
const LOAD_CHUNK: usize = 1000;

/// How far the caches are.
#[derive(Default)]
pub(crate) struct Progress {
    applied: AtomicU64,
    waiters: Mutex<Vec<(u64, oneshot::Sender<()>)>>,
    ended: AtomicBool,
}

impl Progress {
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until the caches show `revision`. False when they never will, because the feed has ended.
    pub(crate) async fn wait(&self, revision: u64) -> bool {
        if self.applied() >= revision {
            return true;
        }
        let receiver = {
            let mut waiters = self.waiters.lock();
            if self.applied() >= revision || self.ended() {
                return self.applied() >= revision;
            }
            let (sender, receiver) = oneshot::channel();
            waiters.push((revision, sender));
            receiver
        };
        receiver.await.is_ok()
    }

    fn advance(&self, revision: u64) {
        let ready: Vec<_> = {
            let mut waiters = self.waiters.lock();
            self.applied.fetch_max(revision, Ordering::AcqRel);
            waiters.extract_if(.., |(wanted, _)| *wanted <= revision).collect()
        };
        for (_, waiter) in ready {
            // A writer that went away does not need to know.
            let _ = waiter.send(());
        }
    }

    fn end(&self) {
        let mut waiters = self.waiters.lock();
        self.ended.store(true, Ordering::Release);
        waiters.clear();
    }

    /// Whether nothing will be applied any more.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// The kinds by what follows `/registry/` in their keys: `core/pods`. Only the feed adds to them.
pub(crate) type Kinds = RwLock<HashMap<Box<str>, Arc<KindStore>>>;

/// A kind that is to be followed from now on.
pub(crate) struct Joining {
    /// What follows `/registry/` in its keys.
    pub(crate) path: Box<str>,
    /// Its empty cache.
    pub(crate) kind: Arc<KindStore>,
    /// Told when the cache is filled.
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

/// Splits a store key into the kind's part and the object's.
fn split(key: &[u8]) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(REGISTRY)?;
    let group = rest.find('/')?;
    let resource = group + 1 + rest[group + 1..].find('/')?;
    Some((&rest[..resource], &rest[resource + 1..]))
}

/// What keeps the caches: changes are applied on the store's thread, before whoever made them is answered; a task reads the present and
/// lets kinds join.
#[derive(Clone)]
pub(crate) struct Feed {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) progress: Arc<Progress>,
    /// Held while a revision is applied: what is known of it then belongs together.
    pub(crate) turn: Arc<Mutex<Arriving>>,
}

/// Kinds whose caches are being filled, with the changes since their filling began.
type Arriving = HashMap<Box<str>, Vec<Event>>;

/// The feed's eye on the store.
struct Applying {
    feed: Feed,
    stop: CancellationToken,
    lost: mpsc::Sender<Error>,
}

impl Observer for Applying {
    fn changed(&mut self, events: &[Event]) -> bool {
        let mut arriving = self.feed.turn.lock();
        for event in events {
            self.feed.apply(event, &mut arriving);
        }
        if let Some(last) = events.last() {
            self.feed.progress.advance(last.kv.mod_revision);
        }
        !self.stop.is_cancelled()
    }

    fn lost(&mut self, error: Error) {
        // One place is kept for it; the task may have ended.
        let _ = self.lost.try_send(error);
    }
}

impl Feed {
    /// Fills the caches with the present; the revision they then show.
    pub(crate) async fn load(&self) -> Result<u64, Error> {
        let mut range =
            Range { prefix: Bytes::from_static(REGISTRY.as_bytes()), limit: LOAD_CHUNK, ..Range::default() };
        loop {
            let result = self.store.range(range.clone()).await?;
            range.revision.get_or_insert(result.revision);
            for kv in &result.kvs {
                let Some((kind, key)) = split(&kv.key) else { continue };
                if let Some(kind) = self.kinds.read().get(kind) {
                    kind.cache().load(Arc::new(kind.parse(EventType::Added, key, &kv.value, kv.mod_revision)));
                }
            }
            let Some(last) = result.kvs.last().filter(|_| result.more) else { break };
            range.start = [&last.key[..], &[0]].concat().into();
        }
        let revision = range.revision.unwrap_or_default();
        for kind in self.kinds.read().values() {
            kind.cache().set_floor(revision);
        }
        self.progress.advance(revision);
        Ok(revision)
    }

    /// Applies changes until told to stop.
    pub(crate) async fn run(self, mut revision: u64, mut joining: mpsc::Receiver<Joining>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.follow(revision, &mut joining, &stop).await {
                Ok(()) => break,
                Err(Error::Slow | Error::Compacted { .. }) => {
                    tracing::warn!("the watch cache lost track of the store and is filled anew");
                    match self.reload().await {
                        Ok(present) => revision = present,
                        Err(error) => {
                            tracing::error!(%error, "the watch cache cannot be filled");
                            break;
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the watch cache has lost the store");
                    break;
                }
            }
        }
        for kind in self.kinds.read().values() {
            kind.cache().drop_watchers();
        }
        self.progress.end();
    }

    async fn follow(
        &self,
        revision: u64,
        joining: &mut mpsc::Receiver<Joining>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let prefix = Bytes::from_static(REGISTRY.as_bytes());
        let (lost, mut end) = mpsc::channel(1);
        let applying = Applying { feed: self.clone(), stop: stop.clone(), lost };
        self.store.observe(prefix, revision + 1, Box::new(applying)).await?;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                error = end.recv() => return error.map_or(Ok(()), Err),
                Some(Joining { path, kind, done }) = joining.recv() => {
                    let filled = self.join(path, kind).await;
                    // Whoever asked may have gone away; the kind is known all the same.
                    let _ = done.send(filled);
                }
            }
        }
    }

    /// Fills the cache of a kind with what the store had at some revision, and then with the changes since.
    async fn join(&self, path: Box<str>, kind: Arc<KindStore>) -> Result<(), Error> {
        let revision = {
            let mut arriving = self.turn.lock();
            arriving.insert(path.clone(), Vec::new());
            self.progress.applied()
        };
        let filled = self.fill(&path, &kind, revision).await;
        let mut arriving = self.turn.lock();
        let since = arriving.remove(&path).unwrap_or_default();
        filled?;
        since.iter().for_each(|event| apply_to(&kind, event));
        if let Some(replaced) = self.kinds.write().insert(path, kind) {
            replaced.cache().close();
        }
        Ok(())
    }

    async fn fill(&self, path: &str, kind: &KindStore, revision: u64) -> Result<(), Error> {
        let prefix = format!("{REGISTRY}{path}/").into();
        let mut range = Range { prefix, limit: LOAD_CHUNK, revision: Some(revision), ..Range::default() };
        loop {
            let result = self.store.range(range.clone()).await?;
            for kv in &result.kvs {
                let Some((_, key)) = split(&kv.key) else { continue };
                kind.cache().load(Arc::new(kind.parse(EventType::Added, key, &kv.value, kv.mod_revision)));
            }
            let Some(last) = result.kvs.last().filter(|_| result.more) else { break };
            range.start = [&last.key[..], &[0]].concat().into();
        }
        kind.cache().set_floor(revision);
        Ok(())
    }

    fn apply(&self, event: &Event, arriving: &mut Arriving) {
        let Some((path, _)) = split(&event.kv.key) else { return };
        if let Some(since) = arriving.get_mut(path) {
            since.push(event.clone());
        }
        if let Some(kind) = self.kinds.read().get(path) {
            apply_to(kind, event);
        }
    }

    /// Starts over: watchers are dropped, since what happened in between is unknown.
    async fn reload(&self) -> Result<u64, Error> {
        for kind in self.kinds.read().values() {
            kind.cache().clear();
        }
        self.load().await
    }
}

fn apply_to(kind: &KindStore, event: &Event) {
    let Some((_, key)) = split(&event.kv.key) else { return };
    let revision = event.kv.mod_revision;
    kind.cache().apply(if event.deleted {
        Change::Delete { key: key.into(), revision }
    } else {
        let change = if event.previous.is_some() { EventType::Modified } else { EventType::Added };
        Change::Put(Arc::new(kind.parse(change, key, &event.kv.value, revision)))
    });
}

/// A cached object of the past, as the store still knows it.
pub(crate) fn past(kind: &KindStore, key: &[u8], value: &[u8], revision: u64) -> Option<Entry> {
    let (_, key) = split(key)?;
    Some(kind.parse(EventType::Added, key, value, revision))
}
