//! The garbage collector: objects whose owners are gone go too, and owners wait for those they must wait for.
//!
//! One metadata watch for each resource feeds the [`graph`]; uids to look at wait in a queue; each is checked against the
//! API (`collect`) before anything is deleted, because a cache may be behind.

mod collect;
mod graph;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::Client;
use futures::StreamExt;
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::graph::Graph;
use crate::control::{Controller, Error, Loop, Queue, Shared};
use crate::discover::{self, Meta, Resource};

/// Resources whose objects own nothing and are owned by nothing that matters: they come and go by themselves.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// The collector starts late: while the cluster comes up there is no garbage, and its many lists would be in the way.
const DELAY: Duration = Duration::from_secs(1);
/// New kinds come with several definitions at a time: wait for the last of them.
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) struct Collector {
    client: Client,
    queue: Arc<Queue>,
    graph: Mutex<Graph>,
    /// Watches that have not read their first list.
    unlisted: AtomicUsize,
    resources: Mutex<HashMap<ApiResource, Arc<Resource>>>,
    /// The set of resources may have changed.
    changed: Notify,
}

/// Starts the collector.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let collector = Arc::new(Collector {
        client: shared.client.clone(),
        queue: Arc::clone(&queue),
        graph: Mutex::default(),
        unlisted: AtomicUsize::new(0),
        resources: Mutex::default(),
        changed: Notify::new(),
    });
    shared.spawn(keep_watching(Arc::clone(&collector), Arc::clone(shared)));
    Loop::new(shared, Worker(collector), queue).start(16);
}

/// Watches every resource there is; when the set of resources changes, watches begin and end.
async fn keep_watching(collector: Arc<Collector>, shared: Arc<Shared>) {
    let mut watches: HashMap<ApiResource, CancellationToken> = HashMap::new();
    let mut failures = 0_u32;
    tokio::time::sleep(DELAY).await;
    loop {
        match discover::resources(&collector.client).await {
            Ok(all) => {
                failures = 0;
                collector.follow(&shared, &mut watches, &all);
                collector.changed.notified().await;
                tokio::time::sleep(SETTLE).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the garbage collector does not know what there is, it asks again");
                failures += 1;
                tokio::time::sleep(Duration::from_millis(50 << failures.min(9))).await;
            }
        }
    }
}

impl Collector {
    fn follow(
        self: &Arc<Self>,
        shared: &Shared,
        watches: &mut HashMap<ApiResource, CancellationToken>,
        all: &[Resource],
    ) {
        let ignored = |r: &Resource| IGNORED.contains(&(r.api.group.as_str(), r.api.plural.as_str()));
        let wanted = all.iter().filter(|r| r.can("list") && r.can("watch") && r.can("delete") && !ignored(r));
        let wanted: HashMap<ApiResource, Arc<Resource>> =
            wanted.map(|r| (r.api.clone(), Arc::new(r.clone()))).collect();
        watches.retain(|api, token| {
            let keep = wanted.contains_key(api);
            if !keep {
                token.cancel();
            }
            keep
        });
        for (api, resource) in &wanted {
            if !watches.contains_key(api) {
                let token = shared.token.child_token();
                watches.insert(api.clone(), token.clone());
                self.unlisted.fetch_add(1, Ordering::SeqCst);
                let watch = Arc::clone(self).watch(Arc::clone(resource));
                shared.tasks.spawn(async move {
                    token.run_until_cancelled(watch).await;
                });
            }
        }
        *self.resources.lock() = wanted;
    }

    async fn watch(self: Arc<Self>, resource: Arc<Resource>) {
        let api = resource.metadata(&self.client);
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let defines = matches!(resource.api.plural.as_str(), "customresourcedefinitions" | "apiservices");
        let mut first = true;
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            let look = match event {
                Ok(watcher::Event::Apply(object)) => self.set(&resource, &object),
                Ok(watcher::Event::Delete(object)) => self.remove(&object),
                Ok(watcher::Event::Init) => {
                    listed = HashSet::new();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(object.metadata.uid.clone());
                    self.set(&resource, &object)
                }
                Ok(watcher::Event::InitDone) => {
                    let look = self.graph.lock().retain(&resource, &std::mem::take(&mut listed));
                    if std::mem::take(&mut first) {
                        self.first_list_read();
                    }
                    look
                }
                Err(error) => {
                    tracing::debug!(resource = resource.name(), %error, "watch failed, it is tried again");
                    // A resource that cannot be listed must not hold up the others for good.
                    if std::mem::take(&mut first) {
                        self.first_list_read();
                    }
                    continue;
                }
            };
            if defines {
                self.changed.notify_one();
            }
            look.into_iter().for_each(|uid| self.queue.add(uid));
        }
    }

    fn set(&self, resource: &Arc<Resource>, object: &Meta) -> Vec<String> {
        self.graph.lock().set(resource, &object.metadata, self.is_settled())
    }

    fn remove(&self, object: &Meta) -> Vec<String> {
        let look = self.graph.lock().remove(object.metadata.uid.as_deref().unwrap_or_default());
        if self.is_settled() { look } else { Vec::new() }
    }

    fn is_settled(&self) -> bool {
        self.unlisted.load(Ordering::SeqCst) == 0
    }

    /// With the last first list the graph is whole: look at what is suspicious in it.
    fn first_list_read(&self) {
        if self.unlisted.fetch_sub(1, Ordering::SeqCst) == 1 {
            let suspects = self.graph.lock().suspects();
            suspects.into_iter().for_each(|uid| self.queue.add(uid));
        }
    }
}

/// The part of the collector that works off the queue.
struct Worker(Arc<Collector>);

impl Controller for Worker {
    const NAME: &'static str = "garbage-collector-controller";

    fn all(&self) -> Vec<String> {
        Vec::new()
    }

    async fn reconcile(&self, uid: &str) -> Result<(), Error> {
        self.0.collect(uid).await
    }
}
