//! The one way statuses go back to the API: batched, newest wins, and the final deletion of a pod after its last status.
//!
//! Each pod has at most one request under way; what is put meanwhile replaces what waits. A status that changes nothing
//! is not sent. Small changes wait [`LINGER`] for others; a change of phase, readiness or end does not.

use crate::spec;
use client::Client;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a small change waits for others.
const LINGER: Duration = Duration::from_millis(60);
/// Requests under way at one time.
const PARALLEL: usize = 16;
/// Before a failed request is sent again.
const RETRY: Duration = Duration::from_secs(1);

struct Job {
    pod: Arc<Pod>,
    status: Option<PodStatus>,
    delete: bool,
    due: Instant,
    failures: u32,
}

#[derive(Default)]
struct Inner {
    jobs: Mutex<HashMap<String, Job>>,
    /// What the API was told last, by UID.
    sent: Mutex<HashMap<String, Value>>,
    notify: Notify,
}

/// Handle of the writer. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Writer(Arc<Inner>);

fn urgent(old: Option<&PodStatus>, new: &PodStatus) -> bool {
    let ready = |s: &PodStatus| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    old.is_none_or(|old| {
        (old.phase != new.phase && new.phase.as_deref() != Some("Pending")) || ready(old) != ready(new)
    })
}

impl Writer {
    /// Puts the newest status of a pod.
    pub fn put(&self, pod: &Arc<Pod>, old: Option<&PodStatus>, status: PodStatus) {
        let due = Instant::now() + if urgent(old, &status) && old.is_some() { Duration::ZERO } else { LINGER };
        let mut jobs = self.0.jobs.lock();
        let job = jobs.entry(spec::uid(pod).to_owned()).or_insert_with(|| Job {
            pod: pod.clone(),
            status: None,
            delete: false,
            due,
            failures: 0,
        });
        job.pod = pod.clone();
        job.status = Some(status);
        job.due = job.due.min(due);
        drop(jobs);
        self.0.notify.notify_one();
    }

    /// Deletes the pod for good, after the status put last has been written.
    pub fn delete(&self, pod: &Arc<Pod>) {
        let mut jobs = self.0.jobs.lock();
        let now = Instant::now();
        let job = jobs.entry(spec::uid(pod).to_owned()).or_insert_with(|| Job {
            pod: pod.clone(),
            status: None,
            delete: true,
            due: now,
            failures: 0,
        });
        job.delete = true;
        job.due = now;
        drop(jobs);
        self.0.notify.notify_one();
    }

    /// The pod is gone from the API.
    pub fn forget(&self, uid: &str) {
        self.0.jobs.lock().remove(uid);
        self.0.sent.lock().remove(uid);
    }

    /// Writes until the token is cancelled.
    pub async fn run(self, client: Client, token: CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        let mut busy: Vec<String> = Vec::new();
        loop {
            let next = self.take(&mut busy, under_way.len());
            let wait = match next {
                Ok(job) => {
                    under_way.push(self.send(client.clone(), job));
                    continue;
                }
                Err(wait) => wait,
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = self.0.notify.notified() => {}
                () = async { match wait { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
                Some(uid) = under_way.next(), if !under_way.is_empty() => busy.retain(|u| *u != uid),
            }
        }
    }

    /// The next job that is due, or when to look again.
    fn take(&self, busy: &mut Vec<String>, running: usize) -> Result<Job, Option<Instant>> {
        if running >= PARALLEL {
            return Err(None);
        }
        let mut jobs = self.0.jobs.lock();
        let next = jobs.iter().filter(|(uid, _)| !busy.contains(uid)).min_by_key(|(_, j)| j.due);
        let Some((uid, due)) = next.map(|(uid, j)| (uid.clone(), j.due)) else { return Err(None) };
        if due > Instant::now() {
            return Err(Some(due));
        }
        match jobs.remove(&uid) {
            Some(job) => {
                busy.push(uid);
                Ok(job)
            }
            None => Err(None),
        }
    }

    async fn send(&self, client: Client, mut job: Job) -> String {
        let uid = spec::uid(&job.pod).to_owned();
        let api = Api::<Pod>::namespaced(client, spec::namespace(&job.pod));
        let result = self.send_status(&api, &job, &uid).await;
        let result = match result {
            Ok(()) if job.delete => {
                job.status = None;
                delete(&api, &job.pod).await
            }
            other => other,
        };
        if let Err(error) = result {
            tracing::debug!(pod = %spec::full_name(&job.pod), %error, "a pod status could not be written; it is tried again");
            self.again(uid.clone(), job);
        }
        uid
    }

    /// Puts a job back that failed, under what came meanwhile.
    fn again(&self, uid: String, mut job: Job) {
        job.failures += 1;
        job.due = Instant::now() + RETRY * job.failures.min(10);
        let mut jobs = self.0.jobs.lock();
        let newer = jobs.remove(&uid);
        if let Some(newer) = newer {
            job.status = newer.status.or(job.status);
            job.delete |= newer.delete;
            job.pod = newer.pod;
        }
        jobs.insert(uid, job);
    }

    async fn send_status(&self, api: &Api<Pod>, job: &Job, uid: &str) -> Result<(), kube::Error> {
        let Some(status) = &job.status else { return Ok(()) };
        let new = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        let old = match self.0.sent.lock().get(uid) {
            Some(sent) => sent.clone(),
            None => serde_json::to_value(&job.pod.status).map_err(kube::Error::SerdeError)?,
        };
        let Some(patch) = difference(&old, &new) else { return Ok(()) };
        let body = json!({"metadata": {"uid": uid}, "status": patch});
        match api.patch_status(spec::name(&job.pod), &PatchParams::default(), &Patch::Strategic(body)).await {
            Ok(_) => {
                self.0.sent.lock().insert(uid.to_owned(), new);
                Ok(())
            }
            // Gone, or another pod of that name: nobody is left to tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                self.0.sent.lock().remove(uid);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

async fn delete(api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(spec::name(pod), &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The strategic merge patch from one status to another: only fields that differ, and of the conditions only those that do.
/// None when nothing differs.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object()?;
    let mut patch = Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        let changed = match key.as_str() {
            "conditions" => conditions(old.get(key), value),
            "podIPs" | "hostIPs" if old.get(key).is_some() => replace_list(value),
            _ => Some(value.clone()),
        };
        if let Some(changed) = changed {
            patch.insert(key.clone(), changed);
        }
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn conditions(old: Option<&Value>, new: &Value) -> Option<Value> {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let changed: Vec<Value> = new
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| ours(c) && !old.contains(c))
        .map(|c| with_nulls(old, c))
        .collect();
    (!changed.is_empty()).then_some(Value::Array(changed))
}

/// What others set is theirs to change.
fn ours(condition: &Value) -> bool {
    condition["type"].as_str().is_some_and(|t| crate::status::OURS.contains(&t))
}

/// A condition that lost its reason or message says so: merging keeps what is not named.
fn with_nulls(old: &[Value], condition: &Value) -> Value {
    let mut out = condition.clone();
    let before = old.iter().find(|o| o["type"] == condition["type"]);
    if let (Some(before), Some(out)) = (before.and_then(Value::as_object), out.as_object_mut()) {
        for key in before.keys() {
            out.entry(key.clone()).or_insert(Value::Null);
        }
    }
    out
}

/// Lists merged by key need a directive to lose entries.
fn replace_list(value: &Value) -> Option<Value> {
    let mut list = vec![json!({"$patch": "replace"})];
    list.extend(value.as_array().cloned().unwrap_or_default());
    Some(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_no_larger_than_the_change() {
        let c = |t: &str, s: &str| json!({"type": t, "status": s});
        for (old, new, want) in [
            (json!({"phase": "Pending"}), json!({"phase": "Pending"}), None),
            (json!(null), json!({"phase": "Running"}), Some(json!({"phase": "Running"}))),
            (json!({"reason": "x", "phase": "a"}), json!({"phase": "a"}), Some(json!({"reason": null}))),
            (
                json!({"conditions": [c("Ready", "True"), c("Initialized", "True")]}),
                json!({"conditions": [c("Ready", "True"), c("Initialized", "False")]}),
                Some(json!({"conditions": [c("Initialized", "False")]})),
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"}]}),
                json!({"conditions": [c("Ready", "True")]}),
                Some(json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]})),
            ),
            (
                json!({"podIPs": [{"ip": "1"}]}),
                json!({"podIPs": [{"ip": "2"}]}),
                Some(json!({"podIPs": [{"$patch": "replace"}, {"ip": "2"}]})),
            ),
            (json!({}), json!({"conditions": [c("example.com/gate", "True")]}), None),
            (json!({}), json!({"podIPs": [{"ip": "2"}]}), Some(json!({"podIPs": [{"ip": "2"}]}))),
        ] {
            assert_eq!(difference(&old, &new), want, "{old} {new}");
        }
    }
}
