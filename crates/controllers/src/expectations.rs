//! What a controller has asked for and its cache does not show yet.
//!
//! A controller that creates three pods and is woken before its informer has seen them would create three more. So it
//! notes, before each call, the name it is about to create or the uid it is about to delete, and does nothing about that
//! owner until the informer has shown all of them. Names are chosen by the controller, which makes the note exact: no
//! counting, and no race between the answer of the call and the event. A note is dropped after five minutes, so that a
//! lost event cannot stop a controller for good.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const TIMEOUT: Duration = Duration::from_secs(300);

/// The notes of one controller, by the uid of the owner.
#[derive(Default)]
pub(crate) struct Expectations(Mutex<HashMap<String, Pending>>);

struct Pending {
    created: HashSet<String>,
    deleted: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// Notes that objects named `names` are about to be created for `owner`.
    pub(crate) fn creating<'a>(&self, owner: &str, names: impl IntoIterator<Item = &'a str>) {
        self.with(owner, |p| p.created.extend(names.into_iter().map(str::to_owned)));
    }

    /// Notes that objects with these uids are about to be deleted for `owner`.
    pub(crate) fn deleting<'a>(&self, owner: &str, uids: impl IntoIterator<Item = &'a str>) {
        self.with(owner, |p| p.deleted.extend(uids.into_iter().map(str::to_owned)));
    }

    /// The object named `name` was seen, or its creation failed.
    pub(crate) fn created(&self, owner: &str, name: &str) {
        self.settle(owner, |p| p.created.remove(name));
    }

    /// The object was seen to be going or gone, or its deletion failed.
    pub(crate) fn deleted(&self, owner: &str, uid: &str) {
        self.settle(owner, |p| p.deleted.remove(uid));
    }

    /// Whether the cache shows all that was asked for on behalf of `owner`.
    pub(crate) fn satisfied(&self, owner: &str) -> bool {
        let mut all = self.0.lock();
        if all.get(owner).is_some_and(|p| p.since.elapsed() > TIMEOUT) {
            all.remove(owner);
        }
        !all.contains_key(owner)
    }

    /// Events were lost: trust the cache again.
    pub(crate) fn reset(&self) {
        self.0.lock().clear();
    }

    fn with(&self, owner: &str, change: impl FnOnce(&mut Pending)) {
        let mut all = self.0.lock();
        let fresh = || Pending { created: HashSet::new(), deleted: HashSet::new(), since: Instant::now() };
        let pending = all.entry(owner.to_owned()).or_insert_with(fresh);
        pending.since = Instant::now();
        change(pending);
        if pending.created.is_empty() && pending.deleted.is_empty() {
            all.remove(owner);
        }
    }

    fn settle(&self, owner: &str, change: impl FnOnce(&mut Pending) -> bool) {
        let mut all = self.0.lock();
        let Some(pending) = all.get_mut(owner) else { return };
        change(pending);
        if pending.created.is_empty() && pending.deleted.is_empty() {
            all.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_waits_until_all_is_seen() {
        let e = Expectations::default();
        assert!(e.satisfied("o"));
        e.creating("o", ["a", "b"]);
        e.deleting("o", ["u"]);
        e.created("o", "a");
        e.created("o", "unrelated");
        e.deleted("o", "u");
        assert!(!e.satisfied("o"), "b was not seen");
        assert!(e.satisfied("other"));
        e.created("o", "b");
        assert!(e.satisfied("o"));
    }
}
