//! Deployments: revisions of a template, and the rollout from one to the next.

mod bounds;
mod plan;
mod revision;
mod rolling;
mod scale;
mod status;

use std::sync::Arc;

use client::{Delta, EventType, Informer, Recorder, reference, select};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};

pub(crate) use self::bounds::scaled;
use self::plan::Action;
pub(crate) use self::revision::template_hash;
use crate::adopt::claim_all;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, is_namespace_terminating, message};
use crate::{owner, pods};

struct Deployments {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let controller = Deployments {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        deployments: shared.informers.all(),
        sets: shared.informers.all(),
        pods: shared.informers.all(),
        recorder: shared.recorder("deployment-controller"),
    };
    let (deployments, sets, pods) = (controller.deployments.clone(), controller.sets.clone(), controller.pods.clone());
    Loop::new(shared, controller, queue)
        .on_own(&deployments)
        .on(&sets, Deployments::set_changed)
        .on(&pods, Deployments::pod_changed)
        .start(16);
}

impl Deployments {
    fn set_changed(&self, queue: &Queue, delta: &Delta<ReplicaSet>) {
        let set = delta.object();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let before = match delta {
            Delta::Applied { old: Some(old), .. } => owner::controller(&old.metadata),
            _ => None,
        };
        let now = owner::controller(&set.metadata);
        for owner in before.into_iter().chain(now).filter(|o| o.kind == "Deployment") {
            queue.add(format!("{namespace}/{}", owner.name));
        }
        if now.is_none() && matches!(delta, Delta::Applied { .. }) {
            let labels = set.metadata.labels.as_ref();
            let selecting = self.deployments.list_in(namespace);
            let selecting = selecting.iter().filter(|d| select::matches(&d.spec.selector, labels));
            selecting.for_each(|d| queue.add(client::key(&**d)));
        }
    }

    /// `Recreate` waits for the last old pod to end; nothing else here depends on single pods.
    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        if !matches!(delta, Delta::Deleted(_)) && !pods::is_finished(pod) {
            return;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let set = owner::controller(&pod.metadata).and_then(|o| self.sets.get(&format!("{namespace}/{}", o.name)));
        let Some(above) = set.as_ref().and_then(|s| owner::controller(&s.metadata)) else { return };
        let key = format!("{namespace}/{}", above.name);
        if self.deployments.get(&key).is_some_and(|d| bounds::is_recreate(&d)) {
            queue.add(key);
        }
    }

    /// Whether a pod of another revision than the current one has not ended yet.
    fn old_pods_running(&self, d: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        if !bounds::is_recreate(d) {
            return false;
        }
        let current =
            |s: &ReplicaSet| s.spec.template.as_ref().is_some_and(|t| revision::same_template(t, &d.spec.template));
        let namespace = d.metadata.namespace.as_deref().unwrap_or_default();
        let old = sets.iter().filter(|s| !current(s)).filter_map(|s| s.metadata.uid.as_deref());
        old.flat_map(|uid| self.pods.controlled(namespace, uid)).any(|p| !pods::is_finished(&p))
    }

    async fn apply(&self, d: &Deployment, action: Action, status: &mut DeploymentStatus) -> Result<(), Error> {
        let namespace = d.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.shared.api::<ReplicaSet>(namespace);
        match action {
            Action::Create(set) => self.create(d, &set, status).await,
            Action::Update { set, scaled } => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                api.replace(name, &PostParams::default(), &set).await.step("update replica set", name)?;
                if let Some((from, to)) = scaled {
                    self.note_scaled(d, name, from, to);
                }
                Ok(())
            }
            Action::Delete(name) => {
                let uid = self.sets.get(&format!("{namespace}/{name}")).and_then(|s| s.metadata.uid.clone());
                let how = DeleteParams::background().preconditions(Preconditions { uid, resource_version: None });
                api.delete(&name, &how).await.unless_gone("delete replica set", &name).map(drop)
            }
        }
    }

    /// Creates the new ReplicaSet. If its name is taken by one that is not ours, the next try takes another name.
    async fn create(&self, d: &Deployment, set: &ReplicaSet, status: &mut DeploymentStatus) -> Result<(), Error> {
        let namespace = d.metadata.namespace.as_deref().unwrap_or_default();
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<ReplicaSet>(namespace);
        let Err(source) = api.create(&PostParams::default(), set).await else {
            let size = set.spec.replicas.unwrap_or(0);
            if size > 0 {
                self.note_scaled(d, name, 0, size);
            }
            return Ok(());
        };
        if code(&source) == 409 {
            let existing = api.get(name).await.step("read replica set", name)?;
            let templates = (existing.spec.template.as_ref(), set.spec.template.as_ref());
            let same = matches!(templates, (Some(a), Some(b)) if revision::same_template(a, b));
            if owner::is_controlled_by(&existing.metadata, d.metadata.uid.as_deref()) && same {
                return Ok(());
            }
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        } else if !is_namespace_terminating(&source) {
            let text = format!("Failed to create new replica set \"{name}\": {}", message(&source));
            status::note_create_failed(d, status, &text, Timestamp::now());
            self.recorder.event(&reference(d), EventType::Warning, "ReplicaSetCreateError", text);
        }
        Err(Error::Call { step: "create replica set", name: name.to_owned(), source })
    }

    fn note_scaled(&self, d: &Deployment, name: &str, from: i32, to: i32) {
        let word = if to > from { "up" } else { "down" };
        let text = format!("Scaled {word} replica set {name} from {from} to {to}");
        self.recorder.event(&reference(d), EventType::Normal, "ScalingReplicaSet", text);
    }

    /// Writes the status, and with it the revision that kubectl shows: an annotation, but the controller's, not the user's.
    async fn write(&self, d: &Deployment, status: DeploymentStatus, revision: Option<i64>) -> Result<(), Error> {
        let revision = revision.filter(|r| revision::revision(d.metadata.annotations.as_ref()) != *r);
        if d.status.as_ref() == Some(&status) && revision.is_none() {
            return Ok(());
        }
        let name = d.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<Deployment>(d.metadata.namespace.as_deref().unwrap_or_default());
        let mut update = Deployment { status: Some(status), ..d.clone() };
        if let Some(revision) = revision {
            let annotations = update.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.to_owned(), revision.to_string());
        }
        api.replace_status(name, &PostParams::default(), &update)
            .await
            .unless_gone("write the status of", name)
            .map(drop)
    }
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";

    fn all(&self) -> Vec<String> {
        self.deployments.list().iter().map(|d| client::key(&**d)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(d) = self.deployments.get(key) else { return Ok(()) };
        if select::is_empty(&d.spec.selector) {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&*d), EventType::Warning, "SelectingAll", text);
            return Ok(());
        }
        let matches = |s: &ReplicaSet| select::matches(&d.spec.selector, s.metadata.labels.as_ref());
        let sets = claim_all(&self.shared, &*d, &self.sets, matches).await?;
        let plan = plan::plan(&d, &sets, self.old_pods_running(&d, &sets), Timestamp::now());
        let mut status = plan.status;
        let mut outcome = Ok(());
        for action in plan.actions {
            outcome = self.apply(&d, action, &mut status).await;
            if outcome.is_err() {
                break;
            }
        }
        self.write(&d, status, plan.revision.filter(|_| outcome.is_ok())).await?;
        if let Some(wait) = plan.recheck {
            self.queue.add_after(key.to_owned(), wait);
        }
        outcome
    }
}
