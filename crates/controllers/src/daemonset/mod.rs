//! DaemonSets: one pod on every node that wants one.

mod plan;

use std::sync::Arc;

use client::{Delta, EventType, Informer, Recorder, reference, select};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
};
use kube::api::PostParams;

use crate::adopt::claim_all;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step};
use crate::create::{For, from_template};
use crate::expectations::Expectations;
use crate::history::{self, Current, HASH};
use crate::{owner, pods};

struct DaemonSets {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    sets: Informer<DaemonSet>,
    revisions: Informer<ControllerRevision>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: Recorder,
    expectations: Expectations,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let all = DaemonSets {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        sets: shared.informers.all(),
        revisions: shared.informers.all(),
        nodes: shared.informers.all(),
        pods: shared.informers.all(),
        recorder: shared.recorder("daemonset-controller"),
        expectations: Expectations::default(),
    };
    let (sets, revisions, nodes, pods) = (all.sets.clone(), all.revisions.clone(), all.nodes.clone(), all.pods.clone());
    Loop::new(shared, all, queue)
        .on_own(&sets)
        .on(&nodes, DaemonSets::node_changed)
        .on(&pods, DaemonSets::pod_changed)
        .needs(&revisions)
        .start(8);
}

/// A template as the pods of one node get it: tied to the node, with the daemon's tolerations and its revision.
fn for_node(template: &PodTemplateSpec, node: &str, hash: &str, generation: Option<&String>) -> PodTemplateSpec {
    let mut template = template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    if let Some(generation) = generation {
        labels.insert("pod-template-generation".to_owned(), generation.clone());
    }
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(plan::tolerations(spec));
    tie(spec, node);
    template
}

/// Requires the node by name, in addition to what the affinity requires already.
fn tie(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut NodeAffinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required: &mut NodeSelector =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![by_name.clone()]);
    }
}

impl DaemonSets {
    fn node_changed(&self, queue: &Queue, delta: &Delta<Node>) {
        let relevant = |n: &Node| (n.metadata.labels.clone(), n.spec.as_ref().and_then(|s| s.taints.clone()));
        if let Delta::Applied { old: Some(old), new } = delta
            && relevant(old) == relevant(new)
        {
            return;
        }
        self.all().into_iter().for_each(|key| queue.add(key));
    }

    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(owner) = owner::controller(&pod.metadata).filter(|o| o.kind == "DaemonSet") {
            self.expectations.created(&owner.uid, pod.metadata.name.as_deref().unwrap_or_default());
            if matches!(delta, Delta::Deleted(_)) || pods::is_terminating(pod) {
                self.expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
            }
            queue.add(format!("{namespace}/{}", owner.name));
        } else if owner::controller(&pod.metadata).is_none() && matches!(delta, Delta::Applied { .. }) {
            let labels = pod.metadata.labels.as_ref();
            let sets = self.sets.list_in(namespace);
            let selecting = sets
                .iter()
                .filter(|d| !select::is_empty(&d.spec.selector) && select::matches(&d.spec.selector, labels));
            selecting.for_each(|d| queue.add(client::key(&**d)));
        }
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<DaemonSet>(set.metadata.namespace.as_deref().unwrap_or_default());
        let update = DaemonSet { status: Some(status), ..set.clone() };
        api.replace_status(name, &PostParams::default(), &update)
            .await
            .unless_gone("write the status of", name)
            .map(drop)
    }

    /// Creates and deletes what was planned.
    async fn carry_out(&self, set: &DaemonSet, plan: &plan::Plan, hash: &str) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let object = reference(set);
        for pod in &plan.failed {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let text =
                format!("Found failed daemon pod {namespace}/{name} on node {}, will try to kill it", pods::node(pod));
            self.recorder.event(&object, EventType::Warning, "FailedDaemonPod", text);
        }
        let work = For {
            shared: &self.shared,
            recorder: &self.recorder,
            expectations: &self.expectations,
            owner: &object,
            namespace,
        };
        let generation =
            set.metadata.annotations.as_ref().and_then(|a| a.get("deprecated.daemonset.template.generation"));
        let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
        let make = |node: &String| {
            let template = for_node(&set.spec.template, node, hash, generation);
            from_template(&template, namespace, &prefix, owner::reference(set))
        };
        let created = work.create(plan.create.iter().map(make).collect()).await;
        let deleted = work.delete(&plan.delete).await;
        created.and(deleted)
    }
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";

    fn all(&self) -> Vec<String> {
        self.sets.list().iter().map(|d| client::key(&**d)).collect()
    }

    fn lost(&self) {
        self.expectations.reset();
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(set) = self.sets.get(key) else { return Ok(()) };
        if select::is_empty(&set.spec.selector) {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&*set), EventType::Warning, "SelectingAll", text);
            return Ok(());
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let known = history::of(&self.revisions, &*set);
        let current = history::current(&self.shared, &*set, &set.spec.template, collisions, &known).await?;
        let Current::Is(current) = current else {
            let status = set.status.clone().unwrap_or_default();
            let status = DaemonSetStatus { collision_count: Some(collisions.unwrap_or(0) + 1), ..status };
            return self.write_status(&set, status).await;
        };
        let hash = history::hash(&current).to_owned();
        let matches = |p: &Pod| select::matches(&set.spec.selector, p.metadata.labels.as_ref());
        let owned = claim_all(&self.shared, &*set, &self.pods, matches).await?;
        let plan = plan::plan(&set, &self.nodes.list(), &owned, &hash, Timestamp::now());
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let outcome = if self.expectations.satisfied(uid) { self.carry_out(&set, &plan, &hash).await } else { Ok(()) };
        if let Some(wait) = plan.recheck {
            self.queue.add_after(key.to_owned(), wait);
        }
        self.write_status(&set, plan.status).await?;
        let label = |p: &Arc<Pod>| p.metadata.labels.as_ref().and_then(|l| l.get(HASH)).cloned();
        let live: Vec<String> = owned.iter().filter_map(label).chain([hash]).collect();
        let live: Vec<&str> = live.iter().map(String::as_str).collect();
        history::prune(&self.shared, &known, &live, set.spec.revision_history_limit).await?;
        outcome
    }
}
