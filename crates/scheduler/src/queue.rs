//! Pods waiting for a node: ready to be tried, backing off, or blocked until something changes.
//!
//! Pure: time is handed in. A pod is in one state; the heaps hold hints that are checked against it when they come up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use crate::filter::Class;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A blocked pod is tried again after this time, in case that the change it waits for was not recognised.
const BLOCKED_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// May be tried now.
    Active,
    /// May be tried from then on.
    Backoff(Instant),
    /// Tried in vain: waits for a change of this class.
    Blocked(Class, Instant),
    /// Being bound.
    InFlight,
    /// Has scheduling gates.
    Gated,
}

struct Entry {
    pod: Arc<Pod>,
    state: State,
    attempts: u32,
    tried: Instant,
    order: u64,
}

impl Entry {
    /// When the back-off of the last attempt ends.
    fn ready_at(&self) -> Instant {
        let doublings = self.attempts.saturating_sub(1).min(8);
        if self.attempts == 0 { self.tried } else { self.tried + (BACKOFF_FIRST * (1 << doublings)).min(BACKOFF_MAX) }
    }

    fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }
}

/// The pods without a node. Cost: the pod itself and about 150 bytes.
#[derive(Default)]
pub(crate) struct Queue {
    entries: HashMap<String, Entry>,
    active: BinaryHeap<(i32, Reverse<u64>, String)>,
    later: BinaryHeap<Reverse<(Instant, String)>>,
    /// Every blocked pod, and some that no longer are.
    blocked: HashSet<String>,
    next_order: u64,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
}

impl Queue {
    /// Takes a new pod, or a new version of one. A change of its status alone does not wake it.
    pub(crate) fn set(&mut self, pod: Arc<Pod>, now: Instant) {
        let key = uid(&pod);
        let gated = is_gated(&pod);
        if let Some(entry) = self.entries.get_mut(&key) {
            let changed = entry.pod.spec != pod.spec || entry.pod.metadata.labels != pod.metadata.labels;
            entry.pod = pod;
            match entry.state {
                State::Gated if !gated => self.activate(&key),
                State::Blocked(..) if changed => self.wake_one(&key, now),
                _ => {}
            }
            return;
        }
        self.next_order += 1;
        let state = if gated { State::Gated } else { State::Active };
        let entry = Entry { pod, state, attempts: 0, tried: now, order: self.next_order };
        self.entries.insert(key.clone(), entry);
        if !gated {
            self.activate(&key);
        }
    }

    /// The pod has a node, or is gone.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        self.entries.remove(uid).is_some()
    }

    /// The uids of all waiting pods.
    pub(crate) fn uids(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The pod to try next: the highest priority first, then the longest here.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.promote(now);
        while let Some((_, Reverse(order), key)) = self.active.pop() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.state == State::Active && entry.order == order {
                entry.state = State::InFlight;
                entry.attempts += 1;
                entry.tried = now;
                return Some(Arc::clone(&entry.pod));
            }
        }
        None
    }

    /// No node suits: wait for a change of this class.
    pub(crate) fn block(&mut self, uid: &str, class: Class, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.state = State::Blocked(class, now);
            self.later.push(Reverse((now + BLOCKED_MAX, uid.to_owned())));
            self.blocked.insert(uid.to_owned());
        }
    }

    /// Something failed that may work next time: back off.
    pub(crate) fn retry(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            let at = entry.ready_at();
            entry.state = State::Backoff(at);
            self.later.push(Reverse((at, uid.to_owned())));
        }
    }

    /// Something changed: pods blocked by its class may be tried again (after their back-off).
    pub(crate) fn wake(&mut self, class: Class, now: Instant) {
        let mut woken = Vec::new();
        self.blocked.retain(|uid| match self.entries.get(uid).map(|entry| entry.state) {
            Some(State::Blocked(by, _)) if !by.meets(class) => true,
            Some(State::Blocked(..)) => {
                woken.push(uid.clone());
                false
            }
            _ => false,
        });
        // Of equals the one that came first is tried first.
        woken.sort_by_key(|uid| self.entries.get(uid).map(|entry| entry.order));
        woken.iter().for_each(|uid| self.wake_one(uid, now));
    }

    /// When [`Queue::pop`] may next give something it does not give now.
    pub(crate) fn next_due(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, key))) = self.later.peek() {
            let waits = self.entries.get(key).is_some_and(|e| match e.state {
                State::Backoff(until) => until == *at,
                State::Blocked(_, since) => since + BLOCKED_MAX == *at,
                _ => false,
            });
            if waits {
                return Some(*at);
            }
            self.later.pop();
        }
        None
    }

    fn promote(&mut self, now: Instant) {
        while let Some(at) = self.next_due().filter(|at| *at <= now) {
            if let Some(Reverse((_, key))) = self.later.pop() {
                tracing::trace!(uid = key, ?at, "a waiting pod is tried again");
                self.activate(&key);
            }
        }
    }

    fn wake_one(&mut self, key: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let at = entry.ready_at();
        if at <= now {
            self.activate(key);
        } else {
            entry.state = State::Backoff(at);
            self.later.push(Reverse((at, key.to_owned())));
        }
    }

    fn activate(&mut self, key: &str) {
        self.next_order += 1;
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.state = State::Active;
        entry.order = self.next_order;
        self.active.push((entry.priority(), Reverse(entry.order), key.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    fn waiting(name: &str, priority: i32) -> Arc<Pod> {
        Arc::new(pod(name, json!({}), json!({"priority": priority})))
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|p| uid(&p))
    }

    #[test]
    fn priority_then_age() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.set(waiting("a", 0), now);
        q.set(waiting("b", 5), now);
        q.set(waiting("c", 0), now);
        q.set(waiting("a", 0), now);
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut q, now)).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn blocked_pods_wait_for_their_class_and_back_off() {
        let (mut q, t0) = (Queue::default(), Instant::now());
        let after = |s: u64| t0 + Duration::from_secs(s);
        q.set(waiting("a", 0), t0);
        assert!(pop(&mut q, t0).is_some());
        q.block("a", Class::AFFINITY, t0);
        q.wake(Class::NODE, t0);
        assert_eq!(pop(&mut q, after(20)), None, "not what it waits for");
        q.set(waiting("a", 0), after(20));
        assert_eq!(pop(&mut q, after(20)), None, "nothing changed in its spec");
        q.wake(Class::ANY, after(20));
        assert_eq!(pop(&mut q, after(20)).as_deref(), Some("a"), "its back-off is long over");
        q.block("a", Class::NODE, after(20));
        q.wake(Class::NODE, after(21));
        assert_eq!(pop(&mut q, after(21)), None, "the second back-off is two seconds");
        assert_eq!(q.next_due(), Some(after(22)));
        assert_eq!(pop(&mut q, after(22)).as_deref(), Some("a"));
        q.block("a", Class::NODE, after(22));
        assert_eq!(pop(&mut q, after(321)), None);
        assert_eq!(pop(&mut q, after(322)).as_deref(), Some("a"), "nobody waits for ever");
    }

    #[test]
    fn gates_hold_a_pod_until_they_are_gone() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.set(Arc::new(pod("a", json!({}), json!({"schedulingGates": [{"name": "g"}]}))), now);
        assert_eq!(pop(&mut q, now), None);
        q.set(Arc::new(pod("a", json!({}), json!({}))), now);
        assert_eq!(pop(&mut q, now).as_deref(), Some("a"));
        assert!(q.remove("a"));
        q.retry("a");
        assert_eq!(q.next_due(), None, "a removed pod is not retried");
    }
}
