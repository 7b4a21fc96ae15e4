//! Namespaces that are being deleted: first all they contain goes, then they do.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Delta, Informer};
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, message};
use crate::discover::{self, Resource};

/// The finalizer that this controller removes.
const FINALIZER: &str = "kubernetes";
/// Resources emptied at the same time.
const PARALLEL: usize = 16;

struct Namespaces {
    shared: Arc<Shared>,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let controller =
        Namespaces { shared: Arc::clone(shared), namespaces: shared.informers.all(), pods: shared.informers.all() };
    let (namespaces, pods) = (controller.namespaces.clone(), controller.pods.clone());
    Loop::new(shared, controller, queue).on(&namespaces, Namespaces::changed).on(&pods, Namespaces::pod_gone).start(4);
}

/// What the attempt to empty a namespace found.
#[derive(Debug, Default, PartialEq)]
struct Emptied {
    /// Objects left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Objects left that carry it, by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Resources that could not be emptied, and why.
    failures: Vec<String>,
    /// Discovery failed: nobody knows what else there is.
    undiscovered: Option<String>,
}

impl Emptied {
    fn is_complete(&self) -> bool {
        self.remaining.is_empty() && self.failures.is_empty() && self.undiscovered.is_none()
    }

    /// Type, whether it is true, reason and message of each condition.
    fn conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let list = |counts: &BTreeMap<String, usize>, what: fn(&String, &usize) -> String| {
            counts.iter().map(|(k, n)| what(k, n)).collect::<Vec<_>>().join(", ")
        };
        let either = |bad: bool, when_bad: (&'static str, String), good: (&'static str, &str)| {
            if bad { (true, when_bad.0, when_bad.1) } else { (false, good.0, good.1.to_owned()) }
        };
        let undiscovered = self.undiscovered.clone().unwrap_or_default();
        let remaining = list(&self.remaining, |r, n| format!("{r} has {n} resource instances"));
        let finalizers = list(&self.finalizers, |f, n| format!("{f} in {n} resource instances"));
        let rows = [
            (
                "NamespaceDeletionDiscoveryFailure",
                either(
                    self.undiscovered.is_some(),
                    ("DiscoveryFailed", undiscovered),
                    ("ResourcesDiscovered", "All resources successfully discovered"),
                ),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                either(
                    false,
                    ("GroupVersionParsingFailed", String::new()),
                    ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
                ),
            ),
            (
                "NamespaceDeletionContentFailure",
                either(
                    !self.failures.is_empty(),
                    (
                        "ContentDeletionFailed",
                        format!(
                            "Failed to delete all resource types, {} remaining: {}",
                            self.failures.len(),
                            self.failures.join(", ")
                        ),
                    ),
                    ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
                ),
            ),
            (
                "NamespaceContentRemaining",
                either(
                    !self.remaining.is_empty(),
                    ("SomeResourcesRemain", format!("Some resources are remaining: {remaining}")),
                    ("ContentRemoved", "All content successfully removed"),
                ),
            ),
            (
                "NamespaceFinalizersRemaining",
                either(
                    !self.finalizers.is_empty(),
                    (
                        "SomeFinalizersRemain",
                        format!("Some content in the namespace has finalizers remaining: {finalizers}"),
                    ),
                    ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
                ),
            ),
        ];
        rows.map(|(kind, (bad, reason, message))| (kind, bad, reason, message))
    }
}

/// `namespace` with the conditions of this attempt, or `None` if it shows them.
fn with_conditions(namespace: &Namespace, emptied: &Emptied, now: Timestamp) -> Option<Namespace> {
    let mut namespace = namespace.clone();
    let status = namespace.status.get_or_insert_default();
    let mut changed = status.phase.as_deref() != Some("Terminating");
    status.phase = Some("Terminating".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    for (kind, bad, reason, message) in emptied.conditions() {
        let state = if bad { "True" } else { "False" };
        let old = conditions.iter().position(|c| c.type_ == kind);
        let known = old.map(|i| &conditions[i]);
        if known.is_some_and(|c| {
            c.status == state && c.reason.as_deref() == Some(reason) && c.message.as_ref() == Some(&message)
        }) {
            continue;
        }
        let since = known.filter(|c| c.status == state).and_then(|c| c.last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(now))),
        };
        match old {
            Some(i) => conditions[i] = condition,
            None => conditions.push(condition),
        }
        changed = true;
    }
    changed.then_some(namespace)
}

fn is_ours_to_finish(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some() && finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

impl Namespaces {
    fn changed(&self, queue: &Queue, delta: &Delta<Namespace>) {
        let Delta::Applied { old, new } = delta else { return };
        // Our own status updates are no reason to start again.
        let first = old.as_ref().is_none_or(|o| o.metadata.deletion_timestamp.is_none() || o.spec != new.spec);
        if first && is_ours_to_finish(new) {
            queue.add(client::key(&**new));
        }
    }

    /// The last pods of a namespace usually end long after everything else: go on when they do.
    fn pod_gone(&self, queue: &Queue, delta: &Delta<Pod>) {
        let Delta::Deleted(pod) = delta else { return };
        let Some(name) = &pod.metadata.namespace else { return };
        if self.namespaces.get(name).is_some_and(|n| is_ours_to_finish(&n)) && self.pods.list_in(name).is_empty() {
            queue.add(name.clone());
        }
    }

    async fn empty(&self, name: &str) -> Emptied {
        let resources = match discover::resources(&self.shared.client).await {
            Ok(all) => all,
            Err(error) => return Emptied { undiscovered: Some(error.to_string()), ..Emptied::default() },
        };
        let mut work = Vec::new();
        for resource in resources.iter() {
            if resource.namespaced && resource.can("list") && resource.can("delete") {
                work.push(async move { (resource, self.empty_one(name, resource).await) });
            }
        }
        let results: Vec<_> = stream::iter(work).buffer_unordered(PARALLEL).collect().await;
        let mut emptied = Emptied::default();
        for (resource, result) in results {
            match result {
                Ok(left) if left.is_empty() => {}
                Ok(left) => {
                    let name = format!("{}.{}", resource.api.plural, resource.api.group);
                    emptied.remaining.insert(name, left.len());
                    for finalizer in left.into_iter().flatten() {
                        *emptied.finalizers.entry(finalizer).or_default() += 1;
                    }
                }
                Err(error) => emptied.failures.push(format!("{}: {}", resource.name(), message(&error))),
            }
        }
        emptied.failures.sort();
        emptied
    }

    /// Deletes all objects of a resource; gives the finalizers of each that is still there.
    async fn empty_one(&self, namespace: &str, resource: &Resource) -> Result<Vec<Vec<String>>, kube::Error> {
        let api = resource.objects(&self.shared.client, namespace);
        let before = api.list_metadata(&ListParams::default()).await?;
        if before.items.is_empty() {
            return Ok(Vec::new());
        }
        let how = DeleteParams::background();
        if resource.can("deletecollection") {
            api.delete_collection(&how, &ListParams::default()).await?;
        } else {
            for object in &before.items {
                let deleted = api.delete(object.metadata.name.as_deref().unwrap_or_default(), &how).await;
                if let Err(error) = deleted
                    && code(&error) != 404
                {
                    return Err(error);
                }
            }
        }
        let left = api.list_metadata(&ListParams::default()).await?;
        Ok(left.items.into_iter().map(|o| o.metadata.finalizers.unwrap_or_default()).collect())
    }

    /// Takes our finalizer off; the API server then removes the namespace.
    async fn finish(&self, name: &str) -> Result<(), Error> {
        let api = self.shared.cluster::<Namespace>();
        let Some(mut live) = api.get_opt(name).await.step("read namespace", name)? else { return Ok(()) };
        if !is_ours_to_finish(&live) {
            return Ok(());
        }
        if let Some(finalizers) = live.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let done: Result<Namespace, _> = api.replace_subresource("finalize", name, &PostParams::default(), &live).await;
        done.unless_gone("finalize namespace", name).map(drop)
    }
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace-controller";

    fn all(&self) -> Vec<String> {
        let all = self.namespaces.list();
        all.iter().filter(|n| is_ours_to_finish(n)).map(|n| client::key(&**n)).collect()
    }

    async fn reconcile(&self, name: &str) -> Result<(), Error> {
        let api = self.shared.cluster::<Namespace>();
        let Some(live) = api.get_opt(name).await.step("read namespace", name)? else { return Ok(()) };
        if !is_ours_to_finish(&live) {
            return Ok(());
        }
        let emptied = self.empty(name).await;
        if let Some(update) = with_conditions(&live, &emptied, Timestamp::now()) {
            match api.replace_status(name, &PostParams::default(), &update).await {
                Err(e) if code(&e) == 409 => {}
                other => drop(other.unless_gone("write the status of namespace", name)?),
            }
        }
        if emptied.is_complete() {
            return self.finish(name).await;
        }
        if !emptied.failures.is_empty() || emptied.undiscovered.is_some() {
            return Err(Error::Unusable(format!("namespace {name} could not be emptied: {emptied:?}")));
        }
        // What remains is ending in its own time.
        Err(Error::NotYet(format!("the contents of namespace {name} to go: {:?}", emptied.remaining)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::json;

    #[test]
    fn conditions_say_what_is_left() {
        let namespace: Namespace =
            object(json!({"metadata": {"name": "a", "deletionTimestamp": "1970-01-01T00:00:01Z"},
            "spec": {"finalizers": ["kubernetes"]}}));
        assert!(is_ours_to_finish(&namespace));
        let left = Emptied {
            remaining: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("x/y".to_owned(), 1)]),
            ..Emptied::default()
        };
        assert!(!left.is_complete());
        let shown = with_conditions(&namespace, &left, at(5)).expect("there were none");
        let get = |n: &Namespace, kind: &str| {
            let all = n.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            all.into_iter().find(|c| c.type_ == kind).map(|c| (c.status, c.message.unwrap_or_default())).unwrap()
        };
        assert_eq!(
            get(&shown, "NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(
            get(&shown, "NamespaceFinalizersRemaining"),
            (
                "True".into(),
                "Some content in the namespace has finalizers remaining: x/y in 1 resource instances".into()
            )
        );
        assert!(with_conditions(&shown, &left, at(9)).is_none(), "no news, no write");
        let done = with_conditions(&shown, &Emptied::default(), at(9)).expect("all is gone now");
        assert_eq!(get(&done, "NamespaceContentRemaining").0, "False");
    }
}
