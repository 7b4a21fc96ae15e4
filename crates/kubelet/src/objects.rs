//! The ConfigMaps and Secrets that pods of this node use: one watch for each, as long as a pod uses it.

use crate::spec;
use client::Client;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, VolumeProjection};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest wait for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// Why an object is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It does not exist.
    NotFound,
    /// The API could not be asked.
    Failed(String),
}

/// Objects by name, as they were when asked for.
type Found<K> = HashMap<String, Result<Arc<K>, Missing>>;

/// The ConfigMaps and Secrets of one pod.
#[derive(Clone, Default)]
pub struct Fetched {
    /// ConfigMaps by name.
    pub config_maps: Found<ConfigMap>,
    /// Secrets by name.
    pub secrets: Found<Secret>,
}

fn pick<K>(found: &Found<K>, kind: &str, name: &str, optional: bool) -> Result<Option<Arc<K>>, String> {
    match found.get(name) {
        Some(Ok(object)) => Ok(Some(object.clone())),
        Some(Err(Missing::Failed(message))) => Err(format!("failed to get {kind} \"{name}\": {message}")),
        _ if optional => Ok(None),
        _ => Err(format!("{kind} \"{name}\" not found")),
    }
}

impl Fetched {
    /// A ConfigMap; `None` when it is missing and that is allowed.
    pub fn config_map(&self, name: &str, optional: bool) -> Result<Option<Arc<ConfigMap>>, String> {
        pick(&self.config_maps, "configmap", name, optional)
    }

    /// A Secret; `None` when it is missing and that is allowed.
    pub fn secret(&self, name: &str, optional: bool) -> Result<Option<Arc<Secret>>, String> {
        pick(&self.secrets, "secret", name, optional)
    }
}

/// The names of what a pod refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

impl References {
    /// Of all volumes, environments and pull secrets of a pod.
    pub fn of(pod: &Pod) -> References {
        let mut refs = References::default();
        for (_, c) in spec::containers(pod) {
            refs.container(&c);
        }
        for volume in spec::spec(pod).volumes.iter().flatten() {
            refs.config_maps.extend(volume.config_map.as_ref().map(|s| s.name.clone()));
            refs.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
            for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
                refs.projection(source);
            }
        }
        refs.secrets.extend(spec::spec(pod).image_pull_secrets.iter().flatten().map(|s| s.name.clone()));
        refs.secrets.remove("");
        refs.config_maps.remove("");
        refs
    }

    fn projection(&mut self, source: &VolumeProjection) {
        self.config_maps.extend(source.config_map.as_ref().map(|s| s.name.clone()));
        self.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
    }

    fn container(&mut self, c: &Container) {
        for source in c.env_from.iter().flatten() {
            self.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
            self.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in c.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            self.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
}

#[derive(Clone)]
enum State<K> {
    Loading,
    Known(Result<Arc<K>, Missing>),
}

struct Entry<K> {
    state: watch::Receiver<State<K>>,
    users: HashSet<String>,
    token: CancellationToken,
}

/// Called with the UID of a pod when something it uses changed.
pub type Changed = Arc<dyn Fn(&str) + Send + Sync>;

struct Cache<K> {
    client: Client,
    entries: Mutex<HashMap<(String, String), Entry<K>>>,
}

impl<K> Cache<K>
where
    K: client::Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    /// Starts (or joins) the watch of an object for a pod.
    fn acquire(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        uid: &str,
        parent: &CancellationToken,
        changed: &Changed,
    ) -> watch::Receiver<State<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&key) {
            entry.users.insert(uid.to_owned());
            return entry.state.clone();
        }
        let (tx, rx) = watch::channel(State::Loading);
        let token = parent.child_token();
        let users = HashSet::from([uid.to_owned()]);
        entries.insert(key.clone(), Entry { state: rx.clone(), users, token: token.clone() });
        tokio::spawn(self.clone().follow(key, tx, token, changed.clone()));
        rx
    }

    async fn follow(
        self: Arc<Self>,
        key: (String, String),
        tx: watch::Sender<State<K>>,
        token: CancellationToken,
        changed: Changed,
    ) {
        let api = kube::Api::<K>::namespaced(self.client.clone(), &key.0);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
        let mut stream = watcher(api, config).default_backoff().boxed();
        let mut listed = None;
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = stream.next() => event,
            };
            let state = match event {
                None => return,
                Some(Ok(watcher::Event::Init)) => {
                    listed = None;
                    continue;
                }
                Some(Ok(watcher::Event::InitApply(object))) => {
                    listed = Some(object);
                    continue;
                }
                Some(Ok(watcher::Event::InitDone)) => listed.take().map_or(Err(Missing::NotFound), |o| Ok(Arc::new(o))),
                Some(Ok(watcher::Event::Apply(object))) => Ok(Arc::new(object)),
                Some(Ok(watcher::Event::Delete(_))) => Err(Missing::NotFound),
                Some(Err(error)) if matches!(*tx.borrow(), State::Loading) => Err(Missing::Failed(error.to_string())),
                Some(Err(error)) => {
                    tracing::debug!(name = %key.1, %error, "the watch of an object a pod uses broke; it is taken up again");
                    continue;
                }
            };
            let first = matches!(*tx.borrow(), State::Loading);
            tx.send_replace(State::Known(state));
            if !first {
                let users: Vec<String> =
                    self.entries.lock().get(&key).map(|e| e.users.iter().cloned().collect()).unwrap_or_default();
                users.iter().for_each(|uid| changed(uid));
            }
        }
    }

    /// A pod uses only these from now on.
    fn keep(&self, uid: &str, namespace: &str, names: &BTreeSet<String>) {
        self.entries.lock().retain(|(ns, name), entry| {
            if !(ns == namespace && names.contains(name)) {
                entry.users.remove(uid);
            }
            if entry.users.is_empty() {
                entry.token.cancel();
            }
            !entry.users.is_empty()
        });
    }
}

async fn wait<K: Clone>(mut rx: watch::Receiver<State<K>>) -> Result<Arc<K>, Missing> {
    let known = tokio::time::timeout(FIRST_ANSWER, rx.wait_for(|s| matches!(s, State::Known(_)))).await;
    match known {
        Ok(Ok(state)) => match &*state {
            State::Known(result) => result.clone(),
            State::Loading => Err(Missing::NotFound),
        },
        Ok(Err(_)) => Err(Missing::Failed("the kubelet is ending".into())),
        Err(_) => Err(Missing::Failed("timed out waiting for the API server".into())),
    }
}

/// All ConfigMaps and Secrets in use on this node.
#[derive(Clone)]
pub struct Objects {
    config_maps: Arc<Cache<ConfigMap>>,
    secrets: Arc<Cache<Secret>>,
    changed: Changed,
    token: CancellationToken,
}

impl Objects {
    /// `changed` is told the UID of each pod that uses an object that changed. Ends with the token.
    pub fn new(client: Client, token: CancellationToken, changed: Changed) -> Objects {
        Objects {
            config_maps: Arc::new(Cache { client: client.clone(), entries: Mutex::default() }),
            secrets: Arc::new(Cache { client, entries: Mutex::default() }),
            changed,
            token,
        }
    }

    /// All that a pod refers to, as it is now; the pod hears of later changes until [`Objects::release`].
    pub async fn fetch(&self, pod: &Pod) -> Fetched {
        let refs = References::of(pod);
        let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
        let maps = refs.config_maps.iter().map(|name| {
            let rx = self.config_maps.acquire(namespace, name, uid, &self.token, &self.changed);
            async move { (name.clone(), wait(rx).await) }
        });
        let secrets = refs.secrets.iter().map(|name| {
            let rx = self.secrets.acquire(namespace, name, uid, &self.token, &self.changed);
            async move { (name.clone(), wait(rx).await) }
        });
        let (maps, secrets) =
            futures::future::join(futures::future::join_all(maps), futures::future::join_all(secrets)).await;
        self.config_maps.keep(uid, namespace, &refs.config_maps);
        self.secrets.keep(uid, namespace, &refs.secrets);
        Fetched { config_maps: maps.into_iter().collect(), secrets: secrets.into_iter().collect() }
    }

    /// The pod uses nothing any more.
    pub fn release(&self, pod: &Pod) {
        let none = BTreeSet::new();
        self.config_maps.keep(spec::uid(pod), spec::namespace(pod), &none);
        self.secrets.keep(spec::uid(pod), spec::namespace(pod), &none);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "configMap": {"name": "va"}}, {"name": "b", "secret": {"secretName": "vb"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "pc"}}, {"secret": {"name": "pd"}}]}}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "ei"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "ec", "key": "k"}}},
                {"name": "Y", "value": "1"}]}]}}))
        .unwrap();
        let refs = References::of(&pod);
        assert_eq!(refs.config_maps.iter().collect::<Vec<_>>(), ["ec", "pc", "va"]);
        assert_eq!(refs.secrets.iter().collect::<Vec<_>>(), ["ei", "pd", "pull", "vb"]);
    }
}
