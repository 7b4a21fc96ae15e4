//! What every namespace must have: the `default` ServiceAccount and the ConfigMap with the cluster's root certificate.

use std::sync::Arc;

use client::{Delta, Informer, Kind};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, is_namespace_terminating};
use client::select::Labels;

const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions \
    of Kubernetes clusters.";

struct Furnish {
    shared: Arc<Shared>,
    root_ca: String,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    bundles: Informer<ConfigMap>,
}

/// Starts the controller. `root_ca` is what `ca.crt` contains; without it no ConfigMap is published.
pub(crate) fn start(shared: &Arc<Shared>, root_ca: String) {
    let controller = Furnish {
        shared: Arc::clone(shared),
        root_ca,
        namespaces: shared.informers.all(),
        accounts: shared.informers.with_fields("metadata.name=default"),
        bundles: shared.informers.with_fields(&format!("metadata.name={ROOT_CA}")),
    };
    let (namespaces, accounts, bundles) =
        (controller.namespaces.clone(), controller.accounts.clone(), controller.bundles.clone());
    Loop::new(shared, controller, Arc::new(Queue::new()))
        .on_own(&namespaces)
        .on(&accounts, |_, queue, delta| lost_or_changed(queue, delta))
        .on(&bundles, |_, queue, delta| lost_or_changed(queue, delta))
        .start(8);
}

fn lost_or_changed<K: Kind>(queue: &Queue, delta: &Delta<K>) {
    if let Some(namespace) = &delta.object().meta().namespace {
        queue.add(namespace.clone());
    }
}

/// What `current` should be, or `None` if it is.
fn bundle(namespace: &str, root_ca: &str, current: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data = Labels::from([("ca.crt".to_owned(), root_ca.to_owned())]);
    let described = |c: &ConfigMap| {
        c.metadata.annotations.as_ref().and_then(|a| a.get(DESCRIPTION)).map(String::as_str) == Some(DESCRIPTION_TEXT)
    };
    if current.is_some_and(|c| c.data.as_ref() == Some(&data) && described(c)) {
        return None;
    }
    let mut wanted = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    wanted.data = Some(data);
    wanted.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    Some(wanted)
}

/// A creation that somebody else did, or that is pointless because the namespace goes away, is no failure.
fn settled<T>(result: Result<T, kube::Error>, step: &'static str, namespace: &str) -> Result<(), Error> {
    match result {
        Err(e) if is_namespace_terminating(&e) || matches!(code(&e), 404 | 409) => Ok(()),
        other => other.step(step, namespace).map(drop),
    }
}

impl Furnish {
    async fn account(&self, namespace: &str) -> Result<(), Error> {
        if self.accounts.get(&format!("{namespace}/default")).is_some() {
            return Ok(());
        }
        let metadata = ObjectMeta {
            name: Some("default".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let api = self.shared.api::<ServiceAccount>(namespace);
        settled(api.create(&PostParams::default(), &account).await, "create the default service account of", namespace)
    }

    async fn root_ca(&self, namespace: &str) -> Result<(), Error> {
        let current = self.bundles.get(&format!("{namespace}/{ROOT_CA}"));
        if self.root_ca.is_empty() {
            return Ok(());
        }
        let Some(wanted) = bundle(namespace, &self.root_ca, current.as_deref()) else { return Ok(()) };
        let api = self.shared.api::<ConfigMap>(namespace);
        match current {
            Some(_) => api
                .replace(ROOT_CA, &PostParams::default(), &wanted)
                .await
                .step("update the root CA of", namespace)
                .map(drop),
            None => settled(api.create(&PostParams::default(), &wanted).await, "publish the root CA in", namespace),
        }
    }
}

impl Controller for Furnish {
    const NAME: &'static str = "serviceaccount-controller";

    fn all(&self) -> Vec<String> {
        self.namespaces.list().iter().map(|n| client::key(&**n)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(()) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let (account, root_ca) = tokio::join!(self.account(key), self.root_ca(key));
        account.and(root_ca)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_written_once_and_repaired() {
        let made = bundle("a", "PEM", None).expect("there is none");
        assert_eq!(bundle("a", "PEM", Some(&made)), None);
        let mut spoilt = made.clone();
        spoilt.data.get_or_insert_default().insert("ca.crt".into(), "other".into());
        assert_eq!(bundle("a", "PEM", Some(&spoilt)), Some(made.clone()));
        assert!(bundle("a", "NEW", Some(&made)).is_some(), "a new root is published everywhere");
    }
}
