//! The cache of one kind: current objects, recent changes, and who watches.
//!
//! Lock order: `state`, then `watchers`. The feed holds both only long enough to hand over from one to the other, so a
//! registration sees a change either in its snapshot or in its stream, never in both or neither. Sending never waits.

use super::entry::{Entry, EventType, WatchEvent};
use super::selection::Selection;
use parking_lot::{Mutex, RwLock};
use std::borrow::Borrow;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Changes kept a kind for watchers that come late: at most this many, and only for [`HISTORY_AGE`].
const HISTORY_EVENTS_MAX: usize = 4096;
/// … and no more than this together,
const HISTORY_BYTES_MAX: usize = 4 << 20;
/// As far as they fit, a kind's newest changes are kept whatever their age.
const HISTORY_EVENTS_MIN: usize = 128;
const HISTORY_AGE: Duration = Duration::from_secs(300);
/// A watcher may be this many changes behind before it is dropped;
const WATCHER_QUEUE: usize = 4096;
/// fewer when they are large, so that one who never reads does not keep the past of large objects in memory,
const WATCHER_BYTES_MAX: usize = 64 << 20;
/// but never fewer than these.
const WATCHER_QUEUE_MIN: usize = 128;

struct ByKey(Arc<Entry>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// A change as one watcher sees it: by its selector it may be an arrival or a departure.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What it means to this watcher.
    pub kind: EventType,
    /// The change.
    pub event: Arc<WatchEvent>,
}

struct Watcher {
    selection: Selection,
    sender: mpsc::Sender<Delivery>,
}

#[derive(Default)]
struct State {
    objects: BTreeSet<ByKey>,
    history: VecDeque<(Instant, Arc<WatchEvent>)>,
    history_bytes: usize,
    /// Watches can start at this revision or later.
    floor: u64,
}

/// Why a watch cannot start where it was asked to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooOld {
    /// The oldest revision that can be served.
    pub(crate) floor: u64,
}

/// A page of objects.
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The key of the last object looked at, when more may follow.
    pub(crate) next: Option<Box<str>>,
    /// How many objects follow, when no selector makes it unknown.
    pub(crate) remaining: Option<usize>,
    /// What it shows.
    pub(crate) revision: u64,
}

/// The cache of one kind.
#[derive(Default)]
pub(crate) struct KindCache {
    state: RwLock<State>,
    watchers: Mutex<Vec<Watcher>>,
    /// Nothing is applied any more.
    closed: AtomicBool,
    last_change: AtomicU64,
    /// Events handed to watchers.
    delivered: AtomicU64,
}

impl KindCache {
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).map(|found| Arc::clone(&found.0))
    }

    pub(crate) fn last_change(&self) -> u64 {
        self.last_change.load(Ordering::Acquire)
    }

    pub(crate) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// All objects wanted.
    pub(crate) fn list(&self, selection: &Selection) -> Vec<Arc<Entry>> {
        select(&self.state.read(), selection)
    }

    /// At most `limit` objects wanted after the key `after`, as of `at`; none when the kind changed since. Without `at`: now, and
    /// `applied` is a revision that the caches have reached.
    pub(crate) fn page(
        &self,
        selection: &Selection,
        after: Option<&str>,
        limit: usize,
        at: Option<u64>,
        applied: u64,
    ) -> Option<Page> {
        let state = self.state.read();
        let changed = self.last_change();
        if at.is_some_and(|at| changed > at) {
            return None;
        }
        let revision = at.unwrap_or_else(|| applied.max(changed));
        if limit == usize::MAX && after.is_none() {
            return Some(Page { entries: select(&state, selection), next: None, remaining: None, revision });
        }
        let mut entries = Vec::new();
        let mut range = range(&state, selection, after);
        let mut next = None;
        for found in range.by_ref() {
            if selection.matches(&found.0) {
                entries.push(Arc::clone(&found.0));
            }
            if entries.len() == limit {
                next = Some(found.0.key.clone());
                break;
            }
        }
        // Counting is for pages that end early only.
        let left = if next.is_some() { range.count() } else { 0 };
        let remaining = (left > 0 && !selection.is_selective()).then_some(left);
        Some(Page { entries, next: next.filter(|_| left > 0), remaining, revision })
    }

    /// Fills the cache at start.
    pub(crate) fn load(&self, entry: Arc<Entry>) {
        self.last_change.fetch_max(entry.object.revision, Ordering::AcqRel);
        self.state.write().objects.insert(ByKey(entry));
    }

    /// Watches can start at `revision` or later, and not before.
    pub(crate) fn set_floor(&self, revision: u64) {
        self.state.write().floor = revision;
    }

    /// Applies a change and hands it to its watchers. The caller is the only writer and applies in order of revisions.
    pub(crate) fn apply(&self, change: Change) {
        let mut state = self.state.write();
        let Some(event) = state.apply(change) else {
            return;
        };
        self.last_change.store(event.revision(), Ordering::Release);
        let mut watchers = self.watchers.lock();
        drop(state);
        let mut sent = 0;
        let behind_max = (WATCHER_BYTES_MAX / event.entry.line.len().max(1)).clamp(WATCHER_QUEUE_MIN, WATCHER_QUEUE);
        watchers.retain(|watcher| match perceive(&watcher.selection, &event) {
            Some(_) if WATCHER_QUEUE - watcher.sender.capacity() >= behind_max => false,
            Some(kind) => {
                sent += 1;
                watcher.sender.try_send(Delivery { kind, event: Arc::clone(&event) }).is_ok()
            }
            None => !watcher.sender.is_closed(),
        });
        self.delivered.fetch_add(sent, Ordering::Relaxed);
    }

    /// Current objects, the revision they show (at least `applied`), and everything after them.
    pub(crate) fn subscribe(
        &self,
        selection: Selection,
        applied: u64,
    ) -> (Vec<Arc<Entry>>, u64, mpsc::Receiver<Delivery>) {
        let state = self.state.read();
        let entries = select(&state, &selection);
        (entries, applied.max(self.last_change()), self.register(selection))
    }

    /// Everything after `revision`: what history holds of it, and what comes.
    pub(crate) fn watch(
        &self,
        selection: Selection,
        revision: u64,
    ) -> Result<(VecDeque<Delivery>, mpsc::Receiver<Delivery>), TooOld> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(TooOld { floor: state.floor });
        }
        let start = state.history.partition_point(|(_, event)| event.revision() <= revision);
        let missed = state.history.range(start..).filter_map(|(_, event)| {
            let kind = perceive(&selection, event)?;
            Some(Delivery { kind, event: Arc::clone(event) })
        });
        Ok((missed.collect(), self.register(selection)))
    }

    fn register(&self, selection: Selection) -> mpsc::Receiver<Delivery> {
        let (sender, receiver) = mpsc::channel(WATCHER_QUEUE);
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| !watcher.sender.is_closed());
        if !self.closed.load(Ordering::Relaxed) {
            watchers.push(Watcher { selection, sender });
        }
        receiver
    }

    /// Ends all watches, so that clients come back and start anew.
    pub(crate) fn drop_watchers(&self) {
        self.watchers.lock().clear();
    }

    /// Ends all watches, also those that are still to begin: the kind is followed no more.
    pub(crate) fn close(&self) {
        let mut watchers = self.watchers.lock();
        self.closed.store(true, Ordering::Relaxed);
        watchers.clear();
    }

    /// Forgets everything, watchers too.
    pub(crate) fn clear(&self) {
        let mut state = self.state.write();
        *state = State { floor: u64::MAX, ..State::default() };
        self.drop_watchers();
    }

    /// Events handed to watchers so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(crate) fn watchers(&self) -> usize {
        self.watchers.lock().iter().filter(|watcher| !watcher.sender.is_closed()).count()
    }
}

/// A change as it comes from the store.
pub(crate) enum Change {
    /// A new state.
    Put(Arc<Entry>),
    /// No more state.
    Delete { key: Box<str>, revision: u64 },
}

impl State {
    fn apply(&mut self, change: Change) -> Option<Arc<WatchEvent>> {
        let (kind, entry, previous) = match change {
            Change::Put(entry) => {
                let previous = self.objects.replace(ByKey(Arc::clone(&entry))).map(|found| found.0);
                let kind = if previous.is_some() { EventType::Modified } else { EventType::Added };
                (kind, entry, previous)
            }
            Change::Delete { key, revision } => {
                let last = self.objects.take(&*key)?.0;
                (EventType::Deleted, Arc::new(last.deleted(revision)), None)
            }
        };
        let event = Arc::new(WatchEvent { kind, entry, previous });
        self.remember(Arc::clone(&event));
        Some(event)
    }

    fn remember(&mut self, event: Arc<WatchEvent>) {
        let now = Instant::now();
        self.history_bytes += event.entry.line.len();
        while let Some((seen, oldest)) = self.history.front() {
            let len = self.history.len();
            let young = len < HISTORY_EVENTS_MAX && now.duration_since(*seen) < HISTORY_AGE;
            if self.history_bytes < HISTORY_BYTES_MAX && (len < HISTORY_EVENTS_MIN || young) {
                break;
            }
            self.floor = oldest.revision();
            self.history_bytes -= oldest.entry.line.len();
            self.history.pop_front();
        }
        self.history.push_back((now, event));
    }
}

/// What a change means to somebody who sees only a selection.
fn perceive(selection: &Selection, event: &WatchEvent) -> Option<EventType> {
    if !selection.in_scope(&event.entry) {
        return None;
    }
    let now = event.kind != EventType::Deleted && selection.matches(&event.entry);
    let before = match (event.kind, &event.previous) {
        (EventType::Deleted, _) => selection.matches(&event.entry),
        (_, Some(previous)) => selection.matches(previous),
        (_, None) => false,
    };
    match (before, now) {
        (false, false) => None,
        (false, true) => Some(EventType::Added),
        (true, true) => Some(EventType::Modified),
        (true, false) => Some(EventType::Deleted),
    }
}

fn select(state: &State, selection: &Selection) -> Vec<Arc<Entry>> {
    if let (Some(namespace), Some(name)) = (&selection.namespace, &selection.name) {
        let key = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
        let found = state.objects.get(&*key).filter(|found| selection.matches(&found.0));
        return found.map(|found| Arc::clone(&found.0)).into_iter().collect();
    }
    let all = range(state, selection, None);
    if selection.is_selective() {
        return all.filter(|found| selection.matches(&found.0)).map(|found| Arc::clone(&found.0)).collect();
    }
    all.map(|found| Arc::clone(&found.0)).collect()
}

fn range<'a>(
    state: &'a State,
    selection: &Selection,
    after: Option<&str>,
) -> impl Iterator<Item = &'a ByKey> + use<'a> {
    let prefix = selection.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let prefix = prefix.map(|namespace| format!("{namespace}/"));
    let lower = match (after, &prefix) {
        (Some(after), _) => Bound::Excluded(after),
        (None, Some(prefix)) => Bound::Included(prefix.as_str()),
        (None, None) => Bound::Unbounded,
    };
    let found = state.objects.range::<str, _>((lower, Bound::Unbounded));
    found.take_while(move |found| prefix.as_deref().is_none_or(|prefix| found.0.key.starts_with(prefix)))
}
