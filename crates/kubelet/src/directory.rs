//! Who is on this node: found by the server, told of changes by those who see them.

use crate::inbox::{Inbox, News};
use crate::spec;
use crate::state::Waiting;
use crate::view::View;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One pod as its worker last saw it.
#[derive(Clone)]
pub struct Entry {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What the runtime has of it.
    pub view: Arc<View>,
    /// What its containers wait for.
    pub waiting: Arc<BTreeMap<String, Waiting>>,
    inbox: Inbox,
}

/// All pods by UID. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<HashMap<String, Entry>>>);

impl Directory {
    /// A pod came.
    pub fn add(&self, pod: &Arc<Pod>, inbox: Inbox) {
        let entry = Entry { pod: pod.clone(), view: Arc::default(), waiting: Arc::default(), inbox };
        self.0.lock().insert(spec::uid(pod).to_owned(), entry);
    }

    /// A pod left.
    pub fn remove(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// The worker's newest view.
    pub fn publish(&self, pod: &Arc<Pod>, view: &View, waiting: &BTreeMap<String, Waiting>) {
        if let Some(entry) = self.0.lock().get_mut(spec::uid(pod)) {
            entry.pod = pod.clone();
            entry.view = Arc::new(view.clone());
            if *entry.waiting != *waiting {
                entry.waiting = Arc::new(waiting.clone());
            }
        }
    }

    /// Tells a worker something. False when there is none.
    pub fn tell(&self, uid: &str, change: impl FnOnce(&mut News)) -> bool {
        let inbox = self.0.lock().get(uid).map(|e| e.inbox.clone());
        inbox.map(|i| i.tell(change)).is_some()
    }

    /// Tells all workers something.
    pub fn tell_all(&self, change: impl Fn(&mut News)) {
        let inboxes: Vec<Inbox> = self.0.lock().values().map(|e| e.inbox.clone()).collect();
        inboxes.iter().for_each(|i| i.tell(&change));
    }

    /// The pod of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Entry> {
        let all = self.0.lock();
        all.values().find(|e| spec::namespace(&e.pod) == namespace && spec::name(&e.pod) == name).cloned()
    }

    /// Whether there is a worker for it.
    pub fn contains(&self, uid: &str) -> bool {
        self.0.lock().contains_key(uid)
    }

    /// All pods.
    pub fn all(&self) -> Vec<Entry> {
        self.0.lock().values().cloned().collect()
    }
}
