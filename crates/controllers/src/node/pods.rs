//! Pods that cannot stay: their node's taints drive them out, or their node is gone, or they will never get one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Delta, EventType, Informer, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::taints::{Stay, stay};
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code};
use crate::pods;

/// A node must be missing for so long before its pods are given up: it may be about to come back under its name.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods beyond this number are deleted, the oldest first.
const ENDED_MAX: usize = 12_500;

struct Strays {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    evictions: Recorder,
    missing: Mutex<HashMap<String, Instant>>,
}

/// Starts the controller.
pub(super) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let strays = Strays {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        nodes: shared.informers.all(),
        pods: shared.informers.all(),
        evictions: shared.recorder("taint-eviction-controller"),
        missing: Mutex::default(),
    };
    let (nodes, pods) = (strays.nodes.clone(), strays.pods.clone());
    Loop::new(shared, strays, queue).on(&nodes, Strays::node_changed).on(&pods, Strays::pod_changed).start(8);
}

fn execute_taints(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

/// Why a pod must go.
#[derive(Debug, PartialEq)]
enum Verdict {
    Stay,
    /// Look again after this time.
    Later(Duration),
    /// Its node's taints drive it out.
    Evict,
    /// Its node does not exist.
    Orphan,
    /// It is being deleted and never had a node.
    Unborn,
}

/// Decides about a pod; `missing` says for how long its node has not existed, `None` when it does.
fn judge(pod: &Pod, node: Option<&Node>, missing: Option<Duration>, now: Timestamp) -> Verdict {
    if pods::node(pod).is_empty() {
        return if pods::is_terminating(pod) { Verdict::Unborn } else { Verdict::Stay };
    }
    let Some(node) = node else {
        let left = QUARANTINE.saturating_sub(missing.unwrap_or_default());
        return if left.is_zero() { Verdict::Orphan } else { Verdict::Later(left) };
    };
    if !pods::is_active(pod) {
        return Verdict::Stay;
    }
    match stay(pod, &execute_taints(node), now) {
        Stay::ForEver => Verdict::Stay,
        Stay::For(time) if time.is_zero() => Verdict::Evict,
        Stay::For(time) => Verdict::Later(time),
    }
}

impl Strays {
    fn node_changed(&self, queue: &Queue, delta: &Delta<Node>) {
        let node = delta.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let relevant = match delta {
            Delta::Applied { old, new } => {
                self.missing.lock().remove(name);
                let before = old.as_ref().map(|o| execute_taints(o)).unwrap_or_default();
                before != execute_taints(new)
            }
            Delta::Deleted(_) => {
                self.missing.lock().insert(name.to_owned(), Instant::now());
                true
            }
        };
        if relevant {
            let concerned = self.pods.list();
            concerned.iter().filter(|p| pods::node(p) == name).for_each(|p| queue.add(client::key(&**p)));
        }
    }

    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let Delta::Applied { old, new } = delta else { return };
        let node = pods::node(new);
        let unborn = node.is_empty() && pods::is_terminating(new);
        let placed = !node.is_empty() && old.as_ref().is_none_or(|o| pods::node(o) != node);
        if unborn || placed {
            queue.add(client::key(&**new));
        }
        if pods::is_finished(new) && self.pods.len() > ENDED_MAX {
            self.collect_ended(queue);
        }
    }

    /// Queues the oldest ended pods beyond the limit.
    fn collect_ended(&self, queue: &Queue) {
        let mut ended: Vec<_> = self.pods.list().into_iter().filter(|p| pods::is_finished(p)).collect();
        if ended.len() > ENDED_MAX {
            ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
            let surplus = ended.len() - ENDED_MAX;
            ended.iter().take(surplus).for_each(|p| queue.add(client::key(&**p)));
        }
    }

    fn is_surplus(&self, pod: &Pod) -> bool {
        if !pods::is_finished(pod) || self.pods.len() <= ENDED_MAX {
            return false;
        }
        let all = self.pods.list();
        let ended = all.iter().filter(|p| pods::is_finished(p));
        let newer = ended.filter(|p| p.metadata.creation_timestamp > pod.metadata.creation_timestamp).count();
        newer >= ENDED_MAX
    }

    fn missing_for(&self, node: &str) -> Duration {
        self.missing.lock().entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// Marks the pod's end as a disruption, then deletes it.
    async fn remove(&self, pod: &Pod, why: Option<(&str, &str)>, fail: bool, how: DeleteParams) -> Result<(), Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        if let Some((reason, message)) = why {
            let mut patch: Value = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": Time(Timestamp::now())}]}});
            if fail && !pods::is_finished(pod) {
                patch["status"]["phase"] = json!("Failed");
            }
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(e) if code(&e) == 409 => return Ok(()),
                other => drop(other.unless_gone("mark as disrupted", name)?),
            }
        }
        let exactly = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match api.delete(name, &how.preconditions(exactly)).await {
            Err(e) if code(&e) == 409 => Ok(()),
            other => other.unless_gone("delete pod", name).map(drop),
        }
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let text = format!("Marking for deletion Pod {}", client::key(pod));
        self.evictions.event(&reference(pod), EventType::Normal, "TaintManagerEviction", text);
        let why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        self.remove(pod, Some(why), false, DeleteParams::default()).await
    }
}

impl Controller for Strays {
    const NAME: &'static str = "pod-garbage-collector-controller";

    fn all(&self) -> Vec<String> {
        self.pods.list().iter().map(|p| client::key(&**p)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let now = DeleteParams::default().grace_period(0);
        if self.is_surplus(&pod) {
            return self.remove(&pod, None, false, now).await;
        }
        let node_name = pods::node(&pod);
        let node = self.nodes.get(node_name);
        let missing = (node.is_none() && !node_name.is_empty()).then(|| self.missing_for(node_name));
        match judge(&pod, node.as_deref(), missing, Timestamp::now()) {
            Verdict::Stay => Ok(()),
            Verdict::Later(wait) => {
                self.queue.add_after(key.to_owned(), wait + Duration::from_millis(50));
                Ok(())
            }
            Verdict::Evict => self.evict(&pod).await,
            Verdict::Unborn => self.remove(&pod, None, false, now).await,
            Verdict::Orphan => {
                // The cache says so; the API has the last word.
                let live =
                    self.shared.cluster::<Node>().get_metadata_opt(node_name).await.step("read node", node_name)?;
                if live.is_some() {
                    return Ok(());
                }
                self.remove(&pod, Some(("DeletionByPodGC", "PodGC: node no longer exists")), true, now).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod};

    #[test]
    fn who_may_stay() {
        let plain: Node = object(json!({"metadata": {"name": "n1"}}));
        let tainted: Node =
            object(json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}));
        let secs = Duration::from_secs;
        let rows = [
            (pod("ok"), Some(&plain), None, Verdict::Stay),
            (pod("driven-out"), Some(&tainted), None, Verdict::Evict),
            (pod("going").deleted(1), Some(&tainted), None, Verdict::Stay),
            (pod("lost"), None, Some(secs(10)), Verdict::Later(secs(30))),
            (pod("lost"), None, Some(secs(40)), Verdict::Orphan),
            (pod("waiting").node(""), None, None, Verdict::Stay),
            (pod("unborn").node("").deleted(1), None, None, Verdict::Unborn),
        ];
        for (pod, node, missing, want) in rows {
            let pod = pod.build();
            assert_eq!(judge(&pod, node, missing, at(100)), want, "{:?}", pod.metadata.name);
        }
    }
}
