//! ReplicaSets and ReplicationControllers: so many pods of a template.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use client::{Delta, Informer, Kind, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::api::PostParams;

use self::plan::{Change, Counts, Desired};
use crate::adopt::claim_all;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step};
use crate::create::{For, from_template};
use crate::expectations::Expectations;
use crate::{owner, pods};
use client::select::{self, Labels};

/// A kind that keeps a number of pods.
pub(crate) trait Replicated: Kind + Resource<Scope = NamespaceResourceScope> + serde::Serialize {
    const COMPONENT: &'static str;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn selects(&self, labels: Option<&Labels>) -> bool;
    /// The object with this status, or `None` if it has that already.
    fn with_status(&self, counts: Counts, failure: Option<(&'static str, String)>) -> Option<Self>;
}

struct Replicas<K> {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    owners: Informer<K>,
    pods: Informer<Pod>,
    recorder: Recorder,
    expectations: Expectations,
}

/// Starts the controller of one kind.
pub(crate) fn start<K: Replicated>(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let controller = Replicas::<K> {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        owners: shared.informers.all(),
        pods: shared.informers.all(),
        recorder: shared.recorder(K::COMPONENT),
        expectations: Expectations::default(),
    };
    let (owners, pods) = (controller.owners.clone(), controller.pods.clone());
    Loop::new(shared, controller, queue).on_own(&owners).on(&pods, Replicas::pod_changed).start(16);
}

impl<K: Replicated> Replicas<K> {
    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mine = |p: &Pod| owner::controller(&p.metadata).filter(|o| o.kind == K::kind(&())).cloned();
        if let Delta::Applied { old: Some(old), .. } = delta
            && let Some(before) = mine(old)
            && owner::controller(&pod.metadata).map(|o| &o.uid) != Some(&before.uid)
        {
            queue.add(format!("{namespace}/{}", before.name));
        }
        if let Some(owner) = mine(pod) {
            self.expectations.created(&owner.uid, pod.metadata.name.as_deref().unwrap_or_default());
            if matches!(delta, Delta::Deleted(_)) || pods::is_terminating(pod) {
                self.expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
            }
            queue.add(format!("{namespace}/{}", owner.name));
        } else if owner::controller(&pod.metadata).is_none() && matches!(delta, Delta::Applied { .. }) {
            // Nobody's pod: whoever selects it may adopt it.
            let selecting = self.owners.list_in(namespace);
            let selecting = selecting.iter().filter(|o| o.selects(pod.metadata.labels.as_ref()));
            selecting.for_each(|o| queue.add(client::key(&**o)));
        }
    }

    /// The active pods on each node that belong to the same Deployment as `set`.
    fn related(&self, set: &K) -> HashMap<String, usize> {
        let mut by_node = HashMap::new();
        let namespace = set.meta().namespace.as_deref().unwrap_or_default();
        let siblings: Vec<String> = match owner::controller(set.meta()) {
            Some(above) => {
                let sets = self.owners.controlled(namespace, &above.uid);
                sets.iter().filter_map(|set| set.meta().uid.clone()).collect()
            }
            None => set.meta().uid.iter().cloned().collect(),
        };
        for pod in siblings.iter().flat_map(|uid| self.pods.controlled(namespace, uid)).filter(|p| pods::is_active(p)) {
            *by_node.entry(pods::node(&pod).to_owned()).or_default() += 1;
        }
        by_node
    }

    async fn change(&self, set: &K, desired: &Desired<'_>, owned: &[Arc<Pod>]) -> Result<(), (&'static str, Error)> {
        let uid = set.meta().uid.as_deref().unwrap_or_default();
        if !self.expectations.satisfied(uid) {
            return Ok(());
        }
        let namespace = set.meta().namespace.as_deref().unwrap_or_default();
        let work = For {
            shared: &self.shared,
            recorder: &self.recorder,
            expectations: &self.expectations,
            owner: &reference(set),
            namespace,
        };
        let change = plan::change(desired, owned, &HashMap::new(), Timestamp::now());
        match change {
            Change::Nothing => Ok(()),
            Change::Create(count) => {
                let Some(template) = set.template() else { return Ok(()) };
                let prefix = format!("{}-", set.meta().name.as_deref().unwrap_or_default());
                let make = |_| from_template(template, namespace, &prefix, owner::reference(set));
                work.create((0..count).map(make).collect()).await.map_err(|e| ("FailedCreate", e))
            }
            Change::Delete(_) => {
                let related = self.related(set);
                let Change::Delete(doomed) = plan::change(desired, owned, &related, Timestamp::now()) else {
                    return Ok(());
                };
                work.delete(&doomed).await.map_err(|e| ("FailedDelete", e))
            }
        }
    }
}

impl<K: Replicated> Controller for Replicas<K> {
    const NAME: &'static str = K::COMPONENT;

    fn all(&self) -> Vec<String> {
        self.owners.list().iter().map(|o| client::key(&**o)).collect()
    }

    fn lost(&self) {
        self.expectations.reset();
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(set) = self.owners.get(key) else { return Ok(()) };
        let namespace = set.meta().namespace.as_deref().unwrap_or_default();
        let desired = Desired {
            replicas: set.replicas(),
            min_ready_seconds: set.min_ready_seconds(),
            template_labels: set.template().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref()),
            being_deleted: set.meta().deletion_timestamp.is_some(),
        };
        let matches = |p: &Pod| set.selects(p.metadata.labels.as_ref());
        let owned = claim_all(&self.shared, &*set, &self.pods, matches).await?;
        let changed = self.change(&set, &desired, &owned).await;
        let (counts, next) = plan::count(&desired, &owned, Timestamp::now());
        let failure = changed.as_ref().err().map(|(reason, e)| (*reason, e.to_string()));
        if let Some(next) = next {
            self.queue.add_after(key.to_owned(), next);
        }
        if let Some(update) = set.with_status(counts, failure) {
            let name = set.meta().name.as_deref().unwrap_or_default();
            let api = self.shared.api::<K>(namespace);
            api.replace_status(name, &PostParams::default(), &update).await.unless_gone("write the status of", key)?;
        }
        match changed {
            Err((_, Error::Call { source, .. })) if crate::control::is_namespace_terminating(&source) => Ok(()),
            other => other.map_err(|(_, e)| e),
        }
    }
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }
    fn selects(&self, labels: Option<&Labels>) -> bool {
        !select::is_empty(&self.spec.selector) && select::matches(&self.spec.selector, labels)
    }
    fn with_status(&self, counts: Counts, failure: Option<(&'static str, String)>) -> Option<Self> {
        let before = self.status.clone().unwrap_or_default();
        let mut conditions: Vec<_> = before.conditions.clone().unwrap_or_default();
        let known = conditions.iter().any(|c| c.type_.as_deref() == Some("ReplicaFailure"));
        match failure {
            Some((reason, message)) if !known => conditions.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(Timestamp::now())),
            }),
            Some(_) => {}
            None => conditions.retain(|c| c.type_.as_deref() != Some("ReplicaFailure")),
        }
        let positive = |n: i32| Some(n).filter(|n| *n > 0);
        let after = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: positive(counts.fully_labeled),
            ready_replicas: positive(counts.ready),
            available_replicas: positive(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: self.metadata.generation,
            conditions: Some(conditions).filter(|c| !c.is_empty()),
        };
        (after != before).then(|| ReplicaSet { status: Some(after), ..self.clone() })
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn selects(&self, labels: Option<&Labels>) -> bool {
        let selector = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        selector.is_some_and(|s| !s.is_empty() && select::contains(labels, s))
    }
    fn with_status(&self, counts: Counts, failure: Option<(&'static str, String)>) -> Option<Self> {
        let before = self.status.clone().unwrap_or_default();
        let mut conditions: Vec<_> = before.conditions.clone().unwrap_or_default();
        let known = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
        match failure {
            Some((reason, message)) if !known => conditions.push(ReplicationControllerCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(Timestamp::now())),
            }),
            Some(_) => {}
            None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        }
        let positive = |n: i32| Some(n).filter(|n| *n > 0);
        let after = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: positive(counts.fully_labeled),
            ready_replicas: positive(counts.ready),
            available_replicas: positive(counts.available),
            observed_generation: self.metadata.generation,
            conditions: Some(conditions).filter(|c| !c.is_empty()),
        };
        (after != before).then(|| ReplicationController { status: Some(after), ..self.clone() })
    }
}
