//! Shared informers: one list-and-watch a kind, many readers.

use crate::Client;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Deltas a receiver may be behind before it must read the cache again.
const DELTAS: usize = 512;

/// What can be informed about: the kinds of `k8s-openapi`.
pub trait Kind: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Kind for K {}

/// A change of one object.
#[derive(Debug)]
pub enum Delta<K> {
    /// It is new (`old` is none) or changed.
    Applied {
        /// As it was.
        old: Option<Arc<K>>,
        /// As it is.
        new: Arc<K>,
    },
    /// It is gone; this is how it was last seen.
    Deleted(Arc<K>),
}

impl<K> Delta<K> {
    /// The object: as it is, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Delta::Applied { new, .. } | Delta::Deleted(new) => new,
        }
    }
}

impl<K> Clone for Delta<K> {
    fn clone(&self) -> Self {
        match self {
            Delta::Applied { old, new } => Delta::Applied { old: old.clone(), new: Arc::clone(new) },
            Delta::Deleted(object) => Delta::Deleted(Arc::clone(object)),
        }
    }
}

/// The objects of a kind by their keys, in this order.
type Objects<K> = BTreeMap<String, Arc<K>>;

/// All objects, and by whom they are controlled once somebody asks.
struct Cache<K> {
    objects: Objects<K>,
    /// By namespace, then by the uid of the controller; empty for what has none.
    controlled: Option<HashMap<String, HashMap<String, Objects<K>>>>,
}

impl<K: Kind> Cache<K> {
    fn insert(&mut self, key: String, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), Arc::clone(&object));
        if let Some(index) = &mut self.controlled {
            if let Some(old) = &old {
                forget(index, &key, &**old);
            }
            note(index, key, object);
        }
        old
    }

    fn remove(&mut self, key: &str) {
        let old = self.objects.remove(key);
        if let (Some(index), Some(old)) = (&mut self.controlled, old) {
            forget(index, key, &*old);
        }
    }

    fn replace(&mut self, objects: Objects<K>) -> Objects<K> {
        let old = std::mem::replace(&mut self.objects, objects);
        if self.controlled.take().is_some() {
            self.build();
        }
        old
    }

    fn build(&mut self) {
        let mut index = HashMap::new();
        self.objects.iter().for_each(|(key, object)| note(&mut index, key.clone(), Arc::clone(object)));
        self.controlled = Some(index);
    }
}

/// Namespace, and the uid of the controller.
fn places<K: Kind>(object: &K) -> (&str, &str) {
    let meta = object.meta();
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    (meta.namespace.as_deref().unwrap_or_default(), controller.map_or("", |owner| &owner.uid))
}

fn note<K: Kind>(index: &mut HashMap<String, HashMap<String, Objects<K>>>, key: String, object: Arc<K>) {
    let (namespace, controller) = places(&*object);
    let in_namespace = index.entry(namespace.to_owned()).or_default();
    in_namespace.entry(controller.to_owned()).or_default().insert(key, object);
}

fn forget<K: Kind>(index: &mut HashMap<String, HashMap<String, Objects<K>>>, key: &str, object: &K) {
    let (namespace, controller) = places(object);
    let Some(in_namespace) = index.get_mut(namespace) else { return };
    let Some(objects) = in_namespace.get_mut(controller) else { return };
    objects.remove(key);
    if objects.is_empty() {
        in_namespace.remove(controller);
        if in_namespace.is_empty() {
            index.remove(namespace);
        }
    }
}

struct Shared<K> {
    cache: RwLock<Cache<K>>,
    synced: watch::Sender<bool>,
    deltas: broadcast::Sender<Delta<K>>,
}

/// A cache of all objects of a kind (that a selector means), kept by a watch.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Kind> Informer<K> {
    /// One object, by `namespace/name` or `name`.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.shared.cache.read().objects.get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.cache.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let prefix = format!("{namespace}/");
        let cache = self.shared.cache.read();
        cache
            .objects
            .range(prefix.clone()..)
            .take_while(|(k, _)| k.starts_with(&prefix))
            .map(|(_, o)| Arc::clone(o))
            .collect()
    }

    /// The objects of a namespace that have the controller with this uid, or none if it is empty. The first call builds an
    /// index (about 100 bytes an object); from then on this reads only what it gives.
    pub fn controlled(&self, namespace: &str, uid: &str) -> Vec<Arc<K>> {
        let find = |index: &HashMap<String, HashMap<String, Objects<K>>>| -> Vec<Arc<K>> {
            let found = index.get(namespace).and_then(|in_namespace| in_namespace.get(uid));
            found.into_iter().flat_map(|objects| objects.values().cloned()).collect()
        };
        if let Some(index) = &self.shared.cache.read().controlled {
            return find(index);
        }
        let mut cache = self.shared.cache.write();
        if cache.controlled.is_none() {
            cache.build();
        }
        cache.controlled.as_ref().map(find).unwrap_or_default()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.shared.cache.read().objects.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list is in the cache.
    pub async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Changes from now on. Objects already in the cache are not repeated: subscribe, then list.
    pub fn subscribe(&self) -> broadcast::Receiver<Delta<K>> {
        self.shared.deltas.subscribe()
    }

    fn new() -> Informer<K> {
        let shared = Shared {
            cache: RwLock::new(Cache { objects: Objects::new(), controlled: None }),
            synced: watch::Sender::new(false),
            deltas: broadcast::Sender::new(DELTAS),
        };
        Informer { shared: Arc::new(shared) }
    }

    fn apply(&self, object: K) {
        let new = Arc::new(object);
        let old = self.shared.cache.write().insert(crate::key(&*new), Arc::clone(&new));
        // Nobody listening is no error.
        let _ = self.shared.deltas.send(Delta::Applied { old, new });
    }

    fn delete(&self, object: K) {
        self.shared.cache.write().remove(&crate::key(&object));
        let _ = self.shared.deltas.send(Delta::Deleted(Arc::new(object)));
    }

    /// A new list replaces all; what differs is sent as deltas.
    fn replace(&self, listed: Objects<K>) {
        let old = self.shared.cache.write().replace(listed.clone());
        for (key, object) in &old {
            if !listed.contains_key(key) {
                let _ = self.shared.deltas.send(Delta::Deleted(Arc::clone(object)));
            }
        }
        for (key, new) in listed {
            let old = old.get(&key).cloned();
            if old.as_ref().is_none_or(|o| o.meta().resource_version != new.meta().resource_version) {
                let _ = self.shared.deltas.send(Delta::Applied { old, new });
            }
        }
        self.shared.synced.send_replace(true);
    }

    async fn run(self, api: Api<K>, config: watcher::Config, token: CancellationToken) {
        let events = watcher(api, config).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listed = BTreeMap::new();
        loop {
            let event = tokio::select! {
                event = events.try_next() => event,
                () = token.cancelled() => return,
            };
            match event {
                Ok(Some(watcher::Event::Apply(object))) => self.apply(slim(object)),
                Ok(Some(watcher::Event::Delete(object))) => self.delete(slim(object)),
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(object))) => {
                    let object = slim(object);
                    listed.insert(crate::key(&object), Arc::new(object));
                }
                Ok(Some(watcher::Event::InitDone)) => self.replace(std::mem::take(&mut listed)),
                Ok(None) => return,
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch failed, it is tried again"),
            }
        }
    }
}

/// Drops what no component reads.
fn slim<K: Kind>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Makes informers, one for each kind and field selector. All end when the token is cancelled.
pub struct Informers {
    client: Client,
    token: CancellationToken,
    tasks: TaskTracker,
    made: Mutex<HashMap<(TypeId, String), Box<dyn Any + Send>>>,
}

impl Informers {
    /// A factory on a client.
    pub fn new(client: Client, token: CancellationToken) -> Informers {
        Informers { client, token, tasks: TaskTracker::new(), made: Mutex::default() }
    }

    /// The client informers use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// All objects of a kind.
    pub fn all<K: Kind>(&self) -> Informer<K> {
        self.with_fields("")
    }

    /// The objects of a kind that a field selector means, for instance `spec.nodeName=n1`.
    pub fn with_fields<K: Kind>(&self, field_selector: &str) -> Informer<K> {
        let mut made = self.made.lock();
        let slot = made.entry((TypeId::of::<K>(), field_selector.to_owned()));
        let informer = slot.or_insert_with(|| {
            let informer = Informer::<K>::new();
            let config = match field_selector {
                "" => watcher::Config::default(),
                fields => watcher::Config::default().fields(fields),
            };
            let api = Api::<K>::all_with(self.client.clone(), &());
            self.tasks.spawn(informer.clone().run(api, config, self.token.clone()));
            Box::new(informer)
        });
        informer.downcast_ref::<Informer<K>>().expect("the key holds the type").clone()
    }

    /// Waits until all watches have ended, after the token was cancelled.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Turns a receiver of deltas into a stream that yields `None` where deltas were lost.
impl<K: Kind> Informer<K> {
    /// Deltas as a stream; `None` means some were lost: read the cache again.
    pub fn deltas(&self) -> impl futures::Stream<Item = Option<Delta<K>>> + Send + use<K> {
        tokio_stream::wrappers::BroadcastStream::new(self.subscribe()).map(Result::ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, controller: &str) -> Pod {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": controller, "controller": true});
        let owners = if controller.is_empty() { json!([]) } else { json!([owner]) };
        let object = json!({"metadata": {"namespace": namespace, "name": name, "ownerReferences": owners}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn objects_are_found_by_their_controller() {
        let informer = Informer::<Pod>::new();
        let names = |namespace: &str, uid: &str| -> Vec<String> {
            informer.controlled(namespace, uid).iter().filter_map(|pod| pod.metadata.name.clone()).collect()
        };
        informer.apply(pod("n", "a", "x"));
        assert_eq!(names("n", "x"), ["a"], "the index has what was there before it");
        informer.apply(pod("n", "b", "x"));
        informer.apply(pod("n", "c", ""));
        informer.apply(pod("other", "d", "x"));
        assert_eq!((names("n", "x"), names("n", "")), (vec!["a".into(), "b".into()], vec!["c".into()]));
        informer.apply(pod("n", "a", ""));
        informer.delete(pod("n", "b", "x"));
        assert_eq!((names("n", "x"), names("n", "")), (vec![], vec!["a".into(), "c".into()]));
        informer.replace(Objects::from([("n/e".to_owned(), Arc::new(pod("n", "e", "x")))]));
        assert_eq!((names("n", "x"), names("n", ""), names("other", "x")), (vec!["e".into()], vec![], vec![]));
    }
}
