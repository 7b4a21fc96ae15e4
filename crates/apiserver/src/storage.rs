//! Objects by resource: what stands between the handlers and the store.
//!
//! [`Storage`] knows every kind that is stored; a [`KindStore`] reads from its part of the watch cache and writes guarded by
//! revision. Nothing here authorizes, admits, defaults or validates: handlers do, and internal users (bootstrap objects,
//! allocators) go around it on purpose. A write returns only when the watch cache shows it, so a reader sees every write that was
//! acknowledged before it asked.

pub use crate::cache::Delivery;
pub use crate::cache::entry::{Entry, EventType, Object, WatchEvent};
pub use crate::cache::selection::Selection;

use crate::cache::entry::SelectableFields;
use crate::cache::feed::{self, Feed, Joining, Kinds, Progress};
use crate::cache::kind::{KindCache, Page, TooOld};
use crate::encode;
use crate::metrics::{Bounds, Histogram};
use bytes::Bytes;
use machinery::Status;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use store::{Error, Guard, Op, Range, Store, Txn, TxnResult};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What all our keys begin with.
pub(crate) const REGISTRY: &str = "/registry/";

/// Bounds of the time of writes.
const WRITES: Bounds = &[
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (5_000_000, "0.005"),
    (25_000_000, "0.025"),
    (100_000_000, "0.1"),
    (400_000_000, "0.4"),
    (1_000_000_000, "1"),
    (5_000_000_000, "5"),
    (30_000_000_000, "30"),
];

/// How often a read-modify-write is tried before it gives up.
const UPDATE_TRIES: usize = 10_000;

/// What is stored, and how.
pub struct KindInfo {
    /// API group, empty for the core group.
    pub group: String,
    /// The version objects are stored in.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Kind.
    pub kind: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// May be lost with the machine's power: leases and events.
    pub relaxed: bool,
    /// Reads the selectable fields; none for kinds that have no more than name and namespace.
    pub(crate) fields: Option<SelectableFields>,
}

impl KindInfo {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    fn path(&self) -> String {
        path(&self.group, &self.resource)
    }
}

/// What follows `/registry/` in the keys of a kind's objects.
fn path(group: &str, resource: &str) -> String {
    format!("{}/{resource}", if group.is_empty() { "core" } else { group })
}

/// All stored kinds: those it is opened with, and those that join and leave while it runs.
pub struct Storage {
    store: Arc<dyn Store>,
    kinds: Arc<Kinds>,
    progress: Arc<Progress>,
    joining: mpsc::Sender<Joining>,
}

/// Kinds on their way into the watch cache at one time.
const JOINING_MAX: usize = 16;

impl Storage {
    /// Reads what is stored and follows the store until `stop`.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        infos: Vec<KindInfo>,
        stop: CancellationToken,
    ) -> Result<Storage, Error> {
        let (joining, requests) = mpsc::channel(JOINING_MAX);
        let storage = Storage { store, kinds: Arc::default(), progress: Arc::default(), joining };
        let kinds = infos.into_iter().map(|info| (info.path().into_boxed_str(), Arc::new(storage.empty(info))));
        storage.kinds.write().extend(kinds);
        let feed = Feed {
            store: Arc::clone(&storage.store),
            kinds: Arc::clone(&storage.kinds),
            progress: Arc::clone(&storage.progress),
            turn: Arc::default(),
        };
        let revision = feed.load().await?;
        tokio::spawn(feed.run(revision, requests, stop));
        Ok(storage)
    }

    fn empty(&self, info: KindInfo) -> KindStore {
        KindStore {
            prefix: format!("{REGISTRY}{}/", info.path()),
            info,
            cache: KindCache::default(),
            store: Arc::clone(&self.store),
            progress: Arc::clone(&self.progress),
            writes: Default::default(),
        }
    }

    /// Makes a kind known, with the objects it has in the store already; it takes the place of one that is known by the same
    /// resource, whose watches end. Once this returns, the kind's cache follows the store as all others do.
    pub(crate) async fn join(&self, info: KindInfo) -> Result<Arc<KindStore>, Status> {
        let gone = || Status::service_unavailable("the server is shutting down");
        let path = info.path();
        let (sender, done) = tokio::sync::oneshot::channel();
        let joining = Joining { path: path.into(), kind: Arc::new(self.empty(info)), done: sender };
        let kind = Arc::clone(&joining.kind);
        self.joining.send(joining).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?.map_err(|error| store_status(&error))?;
        Ok(kind)
    }

    /// Forgets a kind and ends its watches. What the store still has of it stays there.
    pub(crate) fn leave(&self, kind: &Arc<KindStore>) {
        let path = kind.info.path();
        let mut kinds = self.kinds.write();
        if kinds.get(&*path).is_some_and(|known| Arc::ptr_eq(known, kind)) {
            kinds.remove(&*path);
        }
        kind.cache.close();
    }

    /// The kind behind a resource (`("rbac.authorization.k8s.io", "roles")`, `("", "pods")`); 404 when there is none.
    pub fn kind(&self, group: &str, resource: &str) -> Result<Arc<KindStore>, Status> {
        self.kinds.read().get(&*path(group, resource)).cloned().ok_or_else(Status::no_such_path)
    }

    /// All kinds as they are now.
    pub(crate) fn kinds(&self) -> Vec<Arc<KindStore>> {
        self.kinds.read().values().cloned().collect()
    }

    /// The revision up to which the cache has seen everything.
    pub fn revision(&self) -> u64 {
        self.progress.applied()
    }

    /// Whether the store is gone, so that nothing can be read or written any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.progress.ended()
    }
}

/// The objects of one resource.
pub struct KindStore {
    info: KindInfo,
    prefix: String,
    cache: KindCache,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    /// How long writes took: new objects, changes, deletions. Made with the first.
    writes: [OnceLock<Histogram>; 3],
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
    /// How long writes of each kind took.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let named = ["create", "update", "delete"].into_iter().zip(&self.writes);
        named.filter_map(|(name, histogram)| Some((name, histogram.get()?)))
    }

    /// What is stored here.
    pub fn info(&self) -> &KindInfo {
        &self.info
    }

    pub(crate) fn cache(&self) -> &KindCache {
        &self.cache
    }

    pub(crate) fn parse(&self, kind: EventType, key: &str, stored: &[u8], revision: u64) -> Entry {
        Entry::parse(kind, key, stored, revision, self.info.fields.as_ref())
    }

    fn key(&self, namespace: &str, name: &str) -> String {
        if self.info.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    fn store_key(&self, key: &str) -> Bytes {
        format!("{}{key}", self.prefix).into()
    }

    /// One object (namespace empty for kinds of the whole cluster). Reads the cache only.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        if self.info.namespaced { self.cache.get(&self.key(namespace, name)) } else { self.cache.get(name) }
    }

    /// One object; 404 when there is none.
    pub fn find(&self, namespace: &str, name: &str) -> Result<Arc<Entry>, Status> {
        self.get(namespace, name).ok_or_else(|| Status::not_found(&self.info.group, &self.info.resource, name))
    }

    /// All objects, or those of one namespace, ordered by key. Reads the cache only.
    pub fn list(&self, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        self.cache.list(&Selection { namespace: namespace.map(str::to_owned), ..Selection::default() })
    }

    /// The objects of a selection. Reads the cache only.
    pub fn select(&self, selection: &Selection) -> Vec<Arc<Entry>> {
        self.cache.list(selection)
    }

    /// The revision of the kind's last change: cheap, to know whether something derived is out of date.
    pub fn last_change(&self) -> u64 {
        self.cache.last_change()
    }

    /// The revision up to which the cache has seen everything.
    pub fn revision(&self) -> u64 {
        self.progress.applied()
    }

    /// Waits until the cache shows a revision; 504 when it does not within a few seconds.
    pub(crate) async fn reach(&self, revision: u64) -> Result<(), Status> {
        if self.revision() >= revision {
            return Ok(());
        }
        let wait = tokio::time::timeout(std::time::Duration::from_secs(3), self.progress.wait(revision));
        if wait.await.unwrap_or(false) {
            return Ok(());
        }
        let current = self.revision();
        let mut status = Status::timeout(format!("Too large resource version: {revision}, current: {current}"));
        status.details.get_or_insert_default().retry_after_seconds = Some(1);
        Err(status.with_cause("ResourceVersionTooLarge", "", "Too large resource version"))
    }

    /// A page of a list as it is now.
    pub(crate) fn page_now(&self, selection: &Selection, after: Option<&str>, limit: usize) -> Page {
        let page = self.cache.page(selection, after, limit, None, self.revision());
        page.unwrap_or(Page { entries: Vec::new(), next: None, remaining: None, revision: self.revision() })
    }

    /// The objects of a selection, the revision they show, and every change after.
    pub(crate) fn watch_all(&self, selection: Selection) -> (Vec<Arc<Entry>>, u64, mpsc::Receiver<Delivery>) {
        self.cache.subscribe(selection, self.revision())
    }

    /// Every change after a revision: those already there, and those to come. 410 when history does not go back so far.
    pub(crate) fn watch_from(
        &self,
        selection: Selection,
        revision: u64,
    ) -> Result<(VecDeque<Delivery>, mpsc::Receiver<Delivery>), Status> {
        self.cache
            .watch(selection, revision)
            .map_err(|TooOld { floor }| Status::expired(format!("too old resource version: {revision} ({floor})")))
    }

    /// A page of a list as of `revision`: out of the cache when the kind has not changed since, else from the store's past.
    pub(crate) async fn page(
        &self,
        selection: &Selection,
        after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<Page, Error> {
        if let Some(page) = self.cache.page(selection, after, limit, Some(revision), self.revision()) {
            return Ok(page);
        }
        let namespace = selection.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let prefix = namespace.map_or_else(|| self.prefix.clone(), |namespace| format!("{}{namespace}/", self.prefix));
        let mut range = Range {
            prefix: prefix.into(),
            limit: limit.saturating_add(1),
            revision: Some(revision),
            ..Range::default()
        };
        if let Some(after) = after {
            range.start = format!("{}{after}\0", self.prefix).into();
        }
        let mut page = Page { entries: Vec::new(), next: None, remaining: None, revision };
        loop {
            let found = self.store.range(range.clone()).await?;
            for kv in &found.kvs {
                let Some(entry) = feed::past(self, &kv.key, &kv.value, kv.mod_revision) else { continue };
                if page.entries.len() == limit {
                    page.next = page.entries.last().map(|last: &Arc<Entry>| last.key.clone());
                    return Ok(page);
                }
                if selection.matches(&entry) {
                    page.entries.push(Arc::new(entry));
                }
            }
            let Some(last) = found.kvs.last().filter(|_| found.more) else { return Ok(page) };
            range.start = [&last.key[..], &[0]].concat().into();
        }
    }

    /// All objects now, and every change after.
    pub fn subscribe(&self) -> (Vec<Arc<Entry>>, Subscription) {
        let (entries, _, receiver) = self.cache.subscribe(Selection::default(), 0);
        (entries, Subscription { receiver })
    }

    /// Stores a new object. Fills in `apiVersion`, `kind`, `metadata.uid` and `creationTimestamp` when absent; 409 `AlreadyExists`.
    pub async fn create(&self, mut object: Value) -> Result<Object, Status> {
        complete(&mut object, &self.info);
        self.insert(&object).await
    }

    /// Stores a new object as it is.
    pub(crate) async fn insert(&self, object: &Value) -> Result<Object, Status> {
        let name = text(object, "name");
        let key = self.key(text(object, "namespace"), name);
        let value = encode::encode(object);
        let put = Op::Put { key: self.store_key(&key), value: value.clone(), guard: Guard::Absent };
        match self.commit(put).await? {
            Some(revision) => Ok(self.shown(&key, &value, revision)),
            None => Err(Status::already_exists(&self.info.group, &self.info.resource, name)),
        }
    }

    /// Replaces an object, unless it is no longer the one read (then none, and the cache shows the new one). Writes nothing when
    /// nothing changed.
    pub(crate) async fn replace(&self, entry: &Entry, object: &Value) -> Result<Option<Object>, Status> {
        let value = encode::encode(object);
        if encode::splice(&value, entry.object.revision) == entry.object.body {
            return Ok(Some(entry.object.clone()));
        }
        let guard = Guard::Revision(entry.object.revision);
        let put = Op::Put { key: self.store_key(&entry.key), value: value.clone(), guard };
        let done = self.commit(put).await?;
        Ok(done.map(|revision| self.shown(&entry.key, &value, revision)))
    }

    /// What was written at a revision: as the cache shows it, unless somebody wrote since.
    fn shown(&self, key: &str, value: &[u8], revision: u64) -> Object {
        match self.cache.get(key) {
            Some(entry) if entry.object.revision == revision => entry.object.clone(),
            _ => Object { revision, body: encode::splice(value, revision) },
        }
    }

    /// Removes an object, unless it is no longer the one read; its last state.
    pub(crate) async fn remove(&self, entry: &Entry) -> Result<Option<Object>, Status> {
        let guard = Guard::Revision(entry.object.revision);
        let done = self.commit(Op::Delete { key: self.store_key(&entry.key), guard }).await?;
        Ok(done.map(|revision| Object { revision, body: encode::splice(&entry.object.body, revision) }))
    }

    /// The revision of the change, once the cache shows it; none when its guard did not hold.
    async fn commit(&self, op: Op) -> Result<Option<u64>, Status> {
        let kind = match &op {
            Op::Put { guard: Guard::Absent, .. } => 0,
            Op::Put { .. } => 1,
            Op::Delete { .. } => 2,
        };
        let txn = Txn { ops: vec![op], relaxed: self.info.relaxed };
        let began = Instant::now();
        let written = self.store.txn(txn).await;
        self.writes[kind].get_or_init(|| Histogram::new(WRITES)).observe(began.elapsed());
        let (shown, done) = match written.map_err(|error| store_status(&error))? {
            TxnResult::Done { revision, .. } => (revision, Some(revision)),
            TxnResult::GuardFailed { current: Some(current), .. } => (current.mod_revision, None),
            TxnResult::GuardFailed { .. } => (self.store.revision().await.map_err(|error| store_status(&error))?, None),
        };
        if self.progress.wait(shown).await {
            return Ok(done);
        }
        Err(Status::service_unavailable("the server is shutting down"))
    }

    /// Reads, changes, writes; again when somebody else wrote in between. `change` may run several times; when it leaves the object
    /// as it was, nothing is written. 404 when there is no such object.
    pub async fn update<F>(&self, namespace: &str, name: &str, mut change: F) -> Result<Object, Status>
    where
        F: FnMut(&mut Value) -> Result<(), Status> + Send,
    {
        for _ in 0..UPDATE_TRIES {
            let entry = self.find(namespace, name)?;
            let mut object = entry.object.to_change();
            change(&mut object)?;
            if let Some(done) = self.replace(&entry, &object).await? {
                return Ok(done);
            }
        }
        Err(Status::modified(&self.info.group, &self.info.resource, name))
    }

    /// Removes an object at once (no grace, no finalizers: those are the delete handler's) and returns its last state.
    pub async fn delete(&self, namespace: &str, name: &str, preconditions: &Preconditions) -> Result<Object, Status> {
        for _ in 0..UPDATE_TRIES {
            let entry = self.find(namespace, name)?;
            preconditions.check(&self.info, &entry)?;
            if let Some(done) = self.remove(&entry).await? {
                return Ok(done);
            }
        }
        Err(Status::modified(&self.info.group, &self.info.resource, name))
    }
}

impl Preconditions {
    /// 409 when the object is not the one meant.
    pub(crate) fn check(&self, info: &KindInfo, entry: &Entry) -> Result<(), Status> {
        let conflict = |why: String| Err(Status::conflict(&info.group, &info.resource, entry.name(), why));
        if let Some(uid) = self.uid.as_deref().filter(|uid| *uid != &*entry.uid) {
            return conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                entry.uid
            ));
        }
        match self.revision {
            Some(wanted) if wanted != entry.object.revision => conflict(format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
                entry.object.revision
            )),
            _ => Ok(()),
        }
    }
}

/// What the client is told when the store fails.
pub(crate) fn store_status(error: &Error) -> Status {
    match error {
        Error::Compacted { .. } => Status::expired(EXPIRED),
        Error::NoSpace { .. } | Error::Closed => Status::service_unavailable(error.to_string()),
        _ => Status::internal(error),
    }
}

/// Upstream's wording for a continue token whose past is gone.
pub(crate) const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

fn complete(object: &mut Value, info: &KindInfo) {
    let Some(object) = object.as_object_mut() else { return };
    object.entry("apiVersion").or_insert_with(|| info.api_version().into());
    object.entry("kind").or_insert_with(|| info.kind.clone().into());
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else { return };
    metadata.entry("uid").or_insert_with(|| uuid::Uuid::new_v4().to_string().into());
    metadata.entry("creationTimestamp").or_insert_with(|| json!(machinery::time::now()));
}

/// A stream of changes.
pub struct Subscription {
    receiver: mpsc::Receiver<Delivery>,
}

impl Subscription {
    /// The next change; none when this subscriber was too slow, or the server stops: subscribe again.
    pub async fn recv(&mut self) -> Option<Arc<WatchEvent>> {
        self.receiver.recv().await.map(|delivery| delivery.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::embedded;

    fn widgets() -> KindInfo {
        KindInfo {
            group: "x.io".to_owned(),
            version: "v1".to_owned(),
            resource: "widgets".to_owned(),
            kind: "Widget".to_owned(),
            namespaced: true,
            relaxed: false,
            fields: None,
        }
    }

    fn widget(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "a"}})
    }

    /// Kinds come and go while others write; nothing of what is stored is missed, and nothing seen twice.
    #[tokio::test]
    async fn kinds_join_and_leave() {
        let folder = tempfile::tempdir().unwrap();
        let store = embedded::Embedded::open(embedded::Config::new(folder.path())).unwrap();
        let stop = CancellationToken::new();
        let storage = Storage::open(Arc::new(store), Vec::new(), stop.clone()).await.unwrap();
        assert_eq!(storage.kind("x.io", "widgets").err().unwrap().code, 404);
        let first = storage.join(widgets()).await.unwrap();
        for name in 0..1500 {
            first.create(widget(&format!("w{name}"))).await.unwrap();
        }
        let (_, mut changes) = first.subscribe();
        let writer = {
            let first = Arc::clone(&first);
            tokio::spawn(async move {
                for name in 0..200 {
                    first.create(widget(&format!("late{name}"))).await.unwrap();
                }
            })
        };
        let second = storage.join(widgets()).await.unwrap();
        let (seen, mut later) = second.subscribe();
        writer.await.unwrap();
        let mut names: Vec<_> = seen.iter().map(|entry| entry.name().to_owned()).collect();
        while names.len() < 1700 {
            names.push(later.recv().await.unwrap().entry.name().to_owned());
        }
        names.sort();
        names.dedup();
        assert_eq!((names.len(), second.list(Some("a")).len()), (1700, 1700));
        // Who watched the one that was replaced is told to start anew.
        while changes.recv().await.is_some() {}
        storage.leave(&first);
        assert!(Arc::ptr_eq(&storage.kind("x.io", "widgets").unwrap(), &second));
        storage.leave(&second);
        assert!(storage.kind("x.io", "widgets").is_err() && later.recv().await.is_none());
        stop.cancel();
    }
}
