//! StatefulSets: pods with names and volumes that stay theirs, one after the other.

mod identity;
mod plan;

use std::sync::Arc;

use client::{Delta, EventType, Informer, Recorder, reference, select};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::api::{DeleteParams, PostParams, Preconditions};

use self::plan::{Action, Revisions};
use crate::adopt::claim_all;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, is_namespace_terminating, message};
use crate::expectations::Expectations;
use crate::history::{self, Current, HASH};
use crate::{owner, pods};

struct StatefulSets {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    sets: Informer<StatefulSet>,
    revisions: Informer<ControllerRevision>,
    pods: Informer<Pod>,
    recorder: Recorder,
    expectations: Expectations,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let all = StatefulSets {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        sets: shared.informers.all(),
        revisions: shared.informers.all(),
        pods: shared.informers.all(),
        recorder: shared.recorder("statefulset-controller"),
        expectations: Expectations::default(),
    };
    let (sets, revisions, pods) = (all.sets.clone(), all.revisions.clone(), all.pods.clone());
    Loop::new(shared, all, queue).on_own(&sets).on(&pods, StatefulSets::pod_changed).needs(&revisions).start(8);
}

/// The template a revision holds.
fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    serde_json::from_value(template).ok()
}

impl StatefulSets {
    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(owner) = owner::controller(&pod.metadata).filter(|o| o.kind == "StatefulSet") {
            self.expectations.created(&owner.uid, pod.metadata.name.as_deref().unwrap_or_default());
            if matches!(delta, Delta::Deleted(_)) || pods::is_terminating(pod) {
                self.expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
            }
            queue.add(format!("{namespace}/{}", owner.name));
        } else if owner::controller(&pod.metadata).is_none() && matches!(delta, Delta::Applied { .. }) {
            let sets = self.sets.list_in(namespace);
            let selecting = sets.iter().filter(|s| selects(s, pod));
            selecting.for_each(|s| queue.add(client::key(&**s)));
        }
    }

    async fn apply(&self, set: &StatefulSet, action: Action, known: &[Arc<ControllerRevision>]) -> Result<(), Error> {
        match action {
            Action::Create { ordinal, revision } => {
                let spec = set.spec.clone();
                let found = known.iter().find(|r| history::hash(r) == revision).and_then(|r| template_of(r));
                let template = found.unwrap_or(spec.template);
                self.create(set, &identity::pod(set, &template, &revision, ordinal), ordinal).await
            }
            Action::Delete(pod) => self.delete(set, &pod).await,
        }
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod, ordinal: i32) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let set_name = set.metadata.name.as_deref().unwrap_or_default();
        for (_, claim) in identity::claims(set, ordinal) {
            self.ensure_claim(set, &claim).await?;
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        self.expectations.creating(uid, [name]);
        let Err(source) = self.shared.api::<Pod>(namespace).create(&PostParams::default(), pod).await else {
            let text = format!("create Pod {name} in StatefulSet {set_name} successful");
            self.recorder.event(&reference(set), EventType::Normal, "SuccessfulCreate", text);
            return Ok(());
        };
        self.expectations.created(uid, name);
        if is_namespace_terminating(&source) {
            return Ok(());
        }
        let text = format!("create Pod {name} in StatefulSet {set_name} failed error: {}", message(&source));
        self.recorder.event(&reference(set), EventType::Warning, "FailedCreate", text);
        Err(Error::Call { step: "create pod", name: name.to_owned(), source })
    }

    async fn ensure_claim(&self, set: &StatefulSet, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<PersistentVolumeClaim>(namespace);
        if api.get_metadata_opt(name).await.step("read claim", name)?.is_some() {
            return Ok(());
        }
        match api.create(&PostParams::default(), claim).await {
            Err(e) if code(&e) == 409 => Ok(()),
            Err(source) => Err(Error::Call { step: "create claim", name: name.to_owned(), source }),
            Ok(_) => {
                let set_name = set.metadata.name.as_deref().unwrap_or_default();
                let text = format!("create Claim {name} in StatefulSet {set_name} success");
                self.recorder.event(&reference(set), EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let pod_uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.expectations.deleting(uid, [pod_uid]);
        let exactly = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let deleted =
            self.shared.api::<Pod>(namespace).delete(name, &DeleteParams::default().preconditions(exactly)).await;
        match deleted {
            Ok(_) => {
                let set_name = set.metadata.name.as_deref().unwrap_or_default();
                let text = format!("delete Pod {name} in StatefulSet {set_name} successful");
                self.recorder.event(&reference(set), EventType::Normal, "SuccessfulDelete", text);
                Ok(())
            }
            Err(source) => {
                self.expectations.deleted(uid, pod_uid);
                let gone = matches!(code(&source), 404 | 409);
                if gone { Ok(()) } else { Err(Error::Call { step: "delete pod", name: name.to_owned(), source }) }
            }
        }
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<StatefulSet>(set.metadata.namespace.as_deref().unwrap_or_default());
        let update = StatefulSet { status: Some(status), ..set.clone() };
        api.replace_status(name, &PostParams::default(), &update)
            .await
            .unless_gone("write the status of", name)
            .map(drop)
    }

    /// Labels that say which pod of the set it is, on pods that were adopted without.
    async fn repair(&self, set: &StatefulSet, owned: &[Arc<Pod>]) -> Result<(), Error> {
        for pod in owned.iter().filter(|p| pods::is_active(p)) {
            if let Some(repaired) = identity::repaired(set, pod) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let api = self.shared.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
                api.replace(name, &PostParams::default(), &repaired).await.unless_gone("label pod", name)?;
            }
        }
        Ok(())
    }
}

fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    let spec = &set.spec;
    !select::is_empty(&spec.selector)
        && select::matches(&spec.selector, pod.metadata.labels.as_ref())
        && plan::ordinal(set.metadata.name.as_deref().unwrap_or_default(), pod).is_some()
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";

    fn all(&self) -> Vec<String> {
        self.sets.list().iter().map(|s| client::key(&**s)).collect()
    }

    fn lost(&self) {
        self.expectations.reset();
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(set) = self.sets.get(key) else { return Ok(()) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let spec = &set.spec;
        let owned = claim_all(&self.shared, &*set, &self.pods, |p| selects(&set, p)).await?;
        let before = set.status.clone().unwrap_or_default();
        let mut known = history::of(&self.revisions, &*set);
        let update = history::current(&self.shared, &*set, &spec.template, before.collision_count, &known).await?;
        let Current::Is(update) = update else {
            let collision_count = Some(before.collision_count.unwrap_or(0) + 1);
            return self.write_status(&set, StatefulSetStatus { collision_count, ..before }).await;
        };
        if !known.iter().any(|r| r.metadata.uid == update.metadata.uid) {
            known.push(Arc::clone(&update));
        }
        let update = history::hash(&update).to_owned();
        let left = before.current_revision.as_deref();
        let current = known.iter().find(|r| r.metadata.name.as_deref() == left).map_or(&*update, |r| history::hash(r));
        let plan = plan::plan(&set, &owned, Revisions { current, update: &update }, Timestamp::now());
        let mut outcome = self.repair(&set, &owned).await;
        if self.expectations.satisfied(set.metadata.uid.as_deref().unwrap_or_default()) {
            for action in plan.actions {
                outcome = outcome.and(self.apply(&set, action, &known).await);
            }
        }
        if let Some(wait) = plan.recheck {
            self.queue.add_after(key.to_owned(), wait);
        }
        self.write_status(&set, plan.status).await?;
        let label = |p: &Arc<Pod>| p.metadata.labels.as_ref().and_then(|l| l.get(HASH)).cloned();
        let live: Vec<String> = owned.iter().filter_map(label).chain([current.to_owned(), update.clone()]).collect();
        let live: Vec<&str> = live.iter().map(String::as_str).collect();
        history::prune(&self.shared, &known, &live, spec.revision_history_limit).await?;
        outcome
    }
}
