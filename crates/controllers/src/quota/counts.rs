//! How many objects of a kind there are in a namespace, for kinds that some quota limits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;

use crate::control::Shared;
use crate::discover::{self, Meta, Resource};

/// Follows the metadata of the kinds that were asked for.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<String, Count>>);

#[derive(Default)]
struct Count {
    /// The first list has been read.
    known: bool,
    /// Uids by namespace.
    objects: HashMap<String, HashSet<String>>,
}

impl Counts {
    /// The number of objects of each resource in a namespace; none when one is not known yet: then `changed` is called once it
    /// is, and whenever an object comes or goes. What the API does not serve is left out.
    pub(super) async fn of(
        self: &Arc<Self>,
        shared: &Shared,
        namespace: &str,
        resources: &[String],
        changed: impl Fn(Option<&str>) + Clone + Send + 'static,
    ) -> Result<Option<BTreeMap<String, usize>>, discover::Error> {
        let missing: Vec<&String> = resources.iter().filter(|name| !self.0.lock().contains_key(*name)).collect();
        if !missing.is_empty() {
            for resource in discover::resources(&shared.client).await?.iter() {
                let name = resource.name();
                let wanted = missing.contains(&&name) && resource.namespaced && resource.can("watch");
                if wanted && self.0.lock().insert(name.clone(), Count::default()).is_none() {
                    shared.spawn(Arc::clone(self).follow(shared.client.clone(), resource.clone(), changed.clone()));
                }
            }
        }
        let counts = self.0.lock();
        let mut found = BTreeMap::new();
        for name in resources {
            let Some(count) = counts.get(name) else { continue };
            if !count.known {
                return Ok(None);
            }
            found.insert(name.clone(), count.objects.get(namespace).map_or(0, HashSet::len));
        }
        Ok(Some(found))
    }

    async fn follow(self: Arc<Self>, client: client::Client, resource: Resource, changed: impl Fn(Option<&str>)) {
        let name = resource.name();
        let mut events = watcher(resource.metadata(&client), watcher::Config::default()).default_backoff().boxed();
        let mut listed = Count { known: true, objects: HashMap::new() };
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(object)) => {
                    let new = self.0.lock().get_mut(&name).is_some_and(|count| count.insert(&object));
                    if new {
                        changed(object.metadata.namespace.as_deref());
                    }
                }
                Ok(watcher::Event::Delete(object)) => {
                    self.0.lock().get_mut(&name).into_iter().for_each(|count| count.remove(&object));
                    changed(object.metadata.namespace.as_deref());
                }
                Ok(watcher::Event::Init) => listed.objects.clear(),
                Ok(watcher::Event::InitApply(object)) => drop(listed.insert(&object)),
                Ok(watcher::Event::InitDone) => {
                    let objects = std::mem::take(&mut listed.objects);
                    self.0.lock().insert(name.clone(), Count { known: true, objects });
                    changed(None);
                }
                Err(error) => tracing::debug!(resource = name, %error, "watch failed, it is tried again"),
            }
        }
    }
}

impl Count {
    /// Whether the object is new.
    fn insert(&mut self, object: &Meta) -> bool {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        self.objects.entry(namespace).or_default().insert(object.metadata.uid.clone().unwrap_or_default())
    }

    fn remove(&mut self, object: &Meta) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(uids) = self.objects.get_mut(namespace) {
            uids.remove(object.metadata.uid.as_deref().unwrap_or_default());
            if uids.is_empty() {
                self.objects.remove(namespace);
            }
        }
    }
}
