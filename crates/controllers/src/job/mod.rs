//! Jobs: pods that run to their end, so many times.

mod conditions;
mod failures;
mod indexes;
mod plan;

use std::sync::Arc;

use client::{Delta, EventType, Informer, Recorder, reference, select};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec, PodTemplateSpec};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

pub(crate) use self::plan::is_finished;
use self::plan::{INDEX, TRACKING};
use crate::adopt::claim_all;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, is_namespace_terminating};
use crate::create::{For, from_template, generate_name};
use crate::expectations::Expectations;
use crate::{owner, pods};

/// The label with the Job's name, on its pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Jobs that say they are managed by another controller are left alone.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Jobs {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    recorder: Recorder,
    expectations: Expectations,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let controller = Jobs {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        jobs: shared.informers.all(),
        pods: shared.informers.all(),
        recorder: shared.recorder("job-controller"),
        expectations: Expectations::default(),
    };
    let (jobs, pods) = (controller.jobs.clone(), controller.pods.clone());
    Loop::new(shared, controller, queue).on_own(&jobs).on(&pods, Jobs::pod_changed).start(16);
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

/// The template as pods of the Job get it: tracked, and with its completion index if it has one.
fn for_index(template: &PodTemplateSpec, job: &str, index: Option<i32>) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    let Some(index) = index else { return template };
    meta.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let spec: &mut PodSpec = template.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job}-{index}"));
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
            env.push(EnvVar {
                name: "JOB_COMPLETION_INDEX".to_owned(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.labels['{INDEX}']"),
                    }),
                    ..EnvVarSource::default()
                }),
                ..EnvVar::default()
            });
        }
    }
    template
}

impl Jobs {
    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labelled = || pod.metadata.labels.as_ref().and_then(|l| l.get(JOB_NAME)).cloned();
        let Some(owner) = owner::controller(&pod.metadata) else {
            // A tracked pod without a Job must not be kept for ever.
            if let Some(name) = labelled() {
                queue.add(format!("{namespace}/{name}"));
            }
            return;
        };
        if owner.kind != "Job" {
            return;
        }
        self.expectations.created(&owner.uid, pod.metadata.name.as_deref().unwrap_or_default());
        let gone = matches!(delta, Delta::Deleted(_));
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if gone || pods::is_terminating(pod) {
            self.expectations.deleted(&owner.uid, uid);
        }
        if gone || !is_tracked(pod) {
            self.expectations.deleted(&owner.uid, &released(uid));
        }
        queue.add(format!("{namespace}/{}", owner.name));
    }

    /// Takes the finalizer off a pod. The note keeps the Job from counting it again while the cache still shows it.
    async fn release(&self, owner: &str, pod: &Pod) -> Result<(), Error> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let note = released(uid);
        self.expectations.deleting(owner, [note.as_str()]);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let patch = json!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match patched.unless_gone("release pod", name) {
            Ok(Some(_)) => Ok(()),
            other => {
                self.expectations.deleted(owner, &note);
                other.map(drop)
            }
        }
    }

    async fn release_all(&self, owner: &str, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let results = futures::future::join_all(pods.iter().map(|p| self.release(owner, p))).await;
        results.into_iter().collect()
    }

    /// The Job is gone: its pods must not wait to be counted.
    async fn orphans(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let of_it = |p: &Pod| match owner::controller(&p.metadata) {
            Some(o) => o.kind == "Job" && o.name == name,
            None => p.metadata.labels.as_ref().and_then(|l| l.get(JOB_NAME)).map(String::as_str) == Some(name),
        };
        let mut left = self.pods.list_in(namespace);
        left.retain(|p| is_tracked(p) && of_it(p));
        if left.is_empty() {
            return Ok(());
        }
        let live = self.shared.api::<Job>(namespace).get_metadata_opt(name).await.step("read job", name)?;
        let uid = live.and_then(|l| l.metadata.uid);
        left.retain(|p| !owner::is_controlled_by(&p.metadata, uid.as_deref()));
        self.release_all("", &left).await
    }

    async fn create(&self, job: &Job, indexes: &[Option<i32>]) -> Result<(), Error> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let make = |index: &Option<i32>| {
            let template = for_index(&plan::spec(job).template, name, *index);
            let prefix = index.map_or_else(|| format!("{name}-"), |i| format!("{name}-{i}-"));
            let mut pod = from_template(&template, namespace, &prefix, owner::reference(job));
            pod.metadata.name = Some(generate_name(&prefix));
            pod
        };
        let object = reference(job);
        self.work(&object, namespace).create(indexes.iter().map(make).collect()).await
    }

    fn work<'a>(&'a self, owner: &'a k8s_openapi::api::core::v1::ObjectReference, namespace: &'a str) -> For<'a> {
        For { shared: &self.shared, recorder: &self.recorder, expectations: &self.expectations, owner, namespace }
    }

    async fn write_status(&self, job: &Job, plan: &plan::Plan) -> Result<(), Error> {
        if job.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<Job>(job.metadata.namespace.as_deref().unwrap_or_default());
        let update = Job { status: Some(plan.status.clone()), ..job.clone() };
        api.replace_status(name, &PostParams::default(), &update).await.step("write the status of job", name)?;
        if let Some((warning, reason, text)) = &plan.event {
            let kind = if *warning { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&reference(job), kind, reason, text.clone());
        }
        Ok(())
    }

    async fn carry_out(&self, job: &Job, plan: plan::Plan) -> Result<(), Error> {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let object = reference(job);
        // First it is written who ended, then their finalizers may go.
        self.write_status(job, &plan).await?;
        self.release_all(uid, &plan.release).await?;
        self.work(&object, namespace).delete(&plan.delete).await?;
        match self.create(job, &plan.create).await {
            Err(Error::Call { source, .. }) if is_namespace_terminating(&source) => Ok(()),
            other => other,
        }
    }
}

/// The note under which a pod's release is expected: its deletion is another matter.
fn released(uid: &str) -> String {
    format!("{uid} released")
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";

    fn all(&self) -> Vec<String> {
        self.jobs.list().iter().map(|j| client::key(&**j)).collect()
    }

    fn lost(&self) {
        self.expectations.reset();
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let (namespace, name) = client::split_key(key);
        let Some(job) = self.jobs.get(key) else { return self.orphans(namespace, name).await };
        if plan::spec(&job).managed_by.as_deref().is_some_and(|m| m != MANAGER) {
            return Ok(());
        }
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let Some(selector) = plan::spec(&job).selector.as_ref().filter(|s| !select::is_empty(s)) else { return Ok(()) };
        let matches = |p: &Pod| select::matches(selector, p.metadata.labels.as_ref());
        let owned = claim_all(&self.shared, &*job, &self.pods, matches).await?;
        if is_finished(&job) || job.metadata.deletion_timestamp.is_some() {
            let tracked: Vec<_> = owned.into_iter().filter(|p| is_tracked(p)).collect();
            return self.release_all(uid, &tracked).await;
        }
        if !self.expectations.satisfied(uid) {
            return Ok(());
        }
        let plan = plan::plan(&job, &owned, Timestamp::now());
        if let Some(wait) = plan.recheck {
            self.queue.add_after(key.to_owned(), wait);
        }
        self.carry_out(&job, plan).await
    }
}
