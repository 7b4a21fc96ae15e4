//! A work queue: what must be done, each thing once, failures later and later.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first delay after a failure, as upstream's controllers.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest.
const LAST_DELAY: Duration = Duration::from_secs(1000);

struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be put there when done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    later: BinaryHeap<Reverse<(Instant, u64)>>,
    later_items: HashMap<u64, T>,
    failures: HashMap<T, u32>,
    sequence: u64,
    closed: bool,
}

/// A queue of keys. One that is added while it waits is not added again; one that is added while it is worked on comes
/// again after [`WorkQueue::done`]; so no key is worked on twice at a time. Cost: a few words for each key in it.
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        WorkQueue::new()
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> WorkQueue<T> {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            later: BinaryHeap::new(),
            later_items: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        WorkQueue { state: Mutex::new(state), wake: Notify::new() }
    }

    /// Adds an item.
    pub fn add(&self, item: T) {
        add(&mut self.state.lock(), item);
        self.wake.notify_one();
    }

    /// Adds an item when `delay` is over.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.state.lock();
        state.sequence += 1;
        let id = state.sequence;
        state.later.push(Reverse((Instant::now() + delay, id)));
        state.later_items.insert(id, item);
        drop(state);
        self.wake.notify_one();
    }

    /// Adds an item after a failure: 5 ms later, then 10 ms, … up to 1000 s, until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, item: T) {
        let failures = {
            let mut state = self.state.lock();
            let count = state.failures.entry(item.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let delay = FIRST_DELAY.saturating_mul(1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).min(LAST_DELAY);
        self.add_after(item, delay);
    }

    /// How often an item failed since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// An item succeeded: its next failure is its first again.
    pub fn forget(&self, item: &T) {
        self.state.lock().failures.remove(item);
    }

    /// The next item to work on; none when the queue was closed and is empty. Call [`WorkQueue::done`] afterwards.
    pub async fn get(&self) -> Option<T> {
        loop {
            let next_due = {
                let mut state = self.state.lock();
                let next_due = move_due(&mut state);
                if let Some(item) = state.ready.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(item);
                }
                if state.closed {
                    self.wake.notify_one();
                    return None;
                }
                next_due
            };
            match next_due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Work on an item ended.
    pub fn done(&self, item: &T) {
        let mut state = self.state.lock();
        state.processing.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Items that wait now.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// True when nothing waits now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the queue: what waits is still given out, what is due later is not.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }
}

fn add<T: Clone + Eq + Hash>(state: &mut State<T>, item: T) {
    if state.closed || !state.dirty.insert(item.clone()) {
        return;
    }
    if !state.processing.contains(&item) {
        state.ready.push_back(item);
    }
}

/// Moves what is due to `ready`; says when the next is.
fn move_due<T: Clone + Eq + Hash>(state: &mut State<T>) -> Option<Instant> {
    let now = Instant::now();
    while let Some(Reverse((due, id))) = state.later.peek().copied() {
        if due > now {
            return Some(due);
        }
        state.later.pop();
        if let Some(item) = state.later_items.remove(&id) {
            add(state, item);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn each_once_and_again_when_dirty() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.get().await, Some("b"));
        assert!(queue.is_empty(), "a is worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.close();
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_later_and_later() {
        let queue = WorkQueue::new();
        let mut waited = Vec::new();
        for _ in 0..20 {
            let before = Instant::now();
            queue.add_rate_limited(1);
            assert_eq!(queue.get().await, Some(1));
            queue.done(&1);
            waited.push(before.elapsed().as_millis());
        }
        assert_eq!(waited[0..4], [5, 10, 20, 40]);
        assert_eq!(waited[19], 1_000_000);
        queue.forget(&1);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test]
    async fn many_workers_get_everything() {
        let queue = Arc::new(WorkQueue::new());
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut seen = 0;
                    while let Some(item) = queue.get().await {
                        seen += 1;
                        queue.done(&item);
                        tokio::task::yield_now().await;
                    }
                    seen
                })
            })
            .collect();
        (0..1000).for_each(|i| queue.add(i));
        queue.close();
        let mut all = 0;
        for worker in workers {
            all += worker.await.unwrap();
        }
        assert_eq!(all, 1000);
    }
}
