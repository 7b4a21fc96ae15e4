//! Is a node alive? Its kubelet renews a Lease; when that stops, the node's conditions become Unknown and its pods not ready.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Delta, EventType, Informer, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use super::taints;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code};
use crate::pods;

/// A node is given up when it has not been heard of for this long (upstream's `node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
const LEASES: &str = "kube-node-lease";
/// The conditions that nobody can vouch for when the kubelet is silent.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// When a node was last heard of, by this process's clock: nodes' clocks are not trusted.
struct Heard {
    at: Instant,
    renewed: Option<MicroTime>,
    beat: Option<Time>,
    /// A timer is set for this moment.
    check_at: Option<Instant>,
}

struct Health {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: Recorder,
    heard: Mutex<HashMap<String, Heard>>,
}

/// Starts the controller.
pub(super) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let health = Health {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        nodes: shared.informers.all(),
        leases: shared.informers.with_fields(&format!("metadata.namespace={LEASES}")),
        pods: shared.informers.all(),
        recorder: shared.recorder("node-controller"),
        heard: Mutex::default(),
    };
    let (nodes, leases, pods) = (health.nodes.clone(), health.leases.clone(), health.pods.clone());
    Loop::new(shared, health, queue)
        .on(&nodes, Health::node_changed)
        .on(&leases, Health::lease_changed)
        .needs(&pods)
        .start(8);
}

/// `node` with the conditions of a silent kubelet, or `None` if it has them.
fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    let mut node = node.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in VOUCHED {
        if let Some(c) = conditions.iter_mut().find(|c| c.type_ == kind) {
            if c.status != "Unknown" {
                c.status = "Unknown".to_owned();
                c.reason = Some("NodeStatusUnknown".to_owned());
                c.message = Some("Kubelet stopped posting node status.".to_owned());
                c.last_transition_time = Some(Time(now));
                changed = true;
            }
        } else {
            conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            });
            changed = true;
        }
    }
    changed.then_some(node)
}

impl Health {
    fn node_changed(&self, queue: &Queue, delta: &Delta<Node>) {
        let node = delta.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let word = match delta {
            Delta::Applied { old: None, .. } => Some(("RegisteredNode", "Registered")),
            Delta::Deleted(_) => Some(("RemovingNode", "Removing")),
            Delta::Applied { .. } => None,
        };
        if let Some((reason, word)) = word {
            let ending = if word == "Removing" { "from" } else { "in" };
            let text = format!("Node {name} event: {word} Node {name} {ending} Controller");
            self.recorder.event(&reference(&**node), EventType::Normal, reason, text);
        }
        queue.add(name);
    }

    /// A renewal is only noted; a node that was given up is looked at again.
    fn lease_changed(&self, queue: &Queue, delta: &Delta<Lease>) {
        let Some(name) = delta.object().metadata.name.clone() else { return };
        self.note(&name);
        let given_up = self
            .nodes
            .get(&name)
            .is_some_and(|n| taints::condition(&n, "Ready").is_some_and(|c| c.status == "Unknown"));
        if given_up {
            queue.add(name);
        }
    }

    /// Notes signs of life; says how long ago the last one was.
    fn note(&self, name: &str) -> Duration {
        let lease = self.leases.get(&format!("{LEASES}/{name}"));
        let renewed = lease.and_then(|l| l.spec.as_ref().and_then(|s| s.renew_time.clone()));
        let node = self.nodes.get(name);
        let beat = node.and_then(|n| taints::condition(&n, "Ready").and_then(|c| c.last_heartbeat_time.clone()));
        let now = Instant::now();
        let mut all = self.heard.lock();
        let heard = all.entry(name.to_owned()).or_insert_with(|| Heard {
            at: now,
            renewed: renewed.clone(),
            beat: beat.clone(),
            check_at: None,
        });
        if heard.renewed != renewed || heard.beat != beat {
            (heard.at, heard.renewed, heard.beat) = (now, renewed, beat);
        }
        now - heard.at
    }

    /// Sets a timer for when the node's grace ends, unless one is set.
    fn arm(&self, name: &str, silent: Duration) {
        let wait = GRACE.saturating_sub(silent) + Duration::from_millis(100);
        let due = Instant::now() + wait;
        let mut all = self.heard.lock();
        let Some(heard) = all.get_mut(name) else { return };
        if heard.check_at.is_none_or(|at| at <= Instant::now()) {
            heard.check_at = Some(due);
            drop(all);
            self.queue.add_after(name.to_owned(), wait);
        }
    }

    async fn give_up(&self, node: &Node, name: &str) -> Result<(), Error> {
        let Some(silent) = silenced(node, Timestamp::now()) else { return Ok(()) };
        let api = self.shared.cluster::<Node>();
        api.replace_status(name, &PostParams::default(), &silent).await.step("write the status of node", name)?;
        let text = format!("Node {name} status is now: NodeNotReady");
        self.recorder.event(&reference(node), EventType::Normal, "NodeNotReady", text);
        Ok(())
    }

    /// Pods on a node that is not ready do not get traffic.
    async fn mark_pods(&self, name: &str) -> Result<(), Error> {
        for pod in self.pods.list().iter().filter(|p| pods::node(p) == name && pods::is_ready(p)) {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let api = self.shared.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            match api.patch_status(pod_name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(e) if code(&e) == 409 => {}
                other => drop(other.unless_gone("mark not ready", pod_name)?),
            }
        }
        Ok(())
    }

    async fn write_taints(&self, node: &Node, name: &str) -> Result<(), Error> {
        let Some(taints) = taints::plan(node, Timestamp::now()) else { return Ok(()) };
        let patch =
            json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        let api = self.shared.cluster::<Node>();
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unless_gone("taint node", name).map(drop)
    }
}

impl Controller for Health {
    const NAME: &'static str = "node-lifecycle-controller";

    fn all(&self) -> Vec<String> {
        self.nodes.list().iter().map(|n| client::key(&**n)).collect()
    }

    async fn reconcile(&self, name: &str) -> Result<(), Error> {
        let Some(node) = self.nodes.get(name) else {
            self.heard.lock().remove(name);
            return Ok(());
        };
        let silent = self.note(name);
        self.arm(name, silent);
        if silent >= GRACE {
            self.give_up(&node, name).await?;
        }
        self.write_taints(&node, name).await?;
        let unknown = taints::condition(&node, "Ready").is_some_and(|c| c.status == "Unknown");
        if unknown { self.mark_pods(name).await } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};

    #[test]
    fn a_silent_node_is_unknown_once() {
        let node: Node = object(json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "1970-01-01T00:00:07Z"},
            {"type": "NetworkUnavailable", "status": "False"}]}}));
        let silent = silenced(&node, at(99)).expect("it was ready");
        let get =
            |kind: &str| taints::condition(&silent, kind).map(|c| (c.status.as_str(), c.reason.as_deref())).unwrap();
        assert_eq!(get("Ready"), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(get("PIDPressure"), ("Unknown", Some("NodeStatusNeverUpdated")));
        assert_eq!(get("NetworkUnavailable"), ("False", None));
        assert_eq!(taints::condition(&silent, "Ready").unwrap().last_heartbeat_time.as_ref().unwrap().0, at(7));
        assert!(silenced(&silent, at(100)).is_none());
    }
}
