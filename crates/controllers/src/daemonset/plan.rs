//! Which nodes need a daemon pod, which pods must go, and how far an update may go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};

use crate::deployment::scaled;
use crate::history::HASH;
use crate::pods::{self, Availability};
use client::select::{node_wanted, tolerates};

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    /// Pods that go.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that failed (also in `delete`): people are told.
    pub(super) failed: Vec<Arc<Pod>>,
    pub(super) status: DaemonSetStatus,
    /// Look again after this time: a pod becomes available by the mere passing of it.
    pub(super) recheck: Option<Duration>,
}

/// What all daemon pods put up with, so that they run on nodes in trouble: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The tolerations of a daemon pod with this spec.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let network = (spec.host_network == Some(true)).then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let added = TOLERATED.into_iter().chain(network).map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    });
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for toleration in added {
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Whether a pod with this spec belongs on the node, and whether one that is there may stay.
fn belongs(spec: &PodSpec, tolerations: &[Toleration], node: &Node) -> (bool, bool) {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == name);
    if !named || !node_wanted(spec, node.metadata.name.as_deref().unwrap_or_default(), node.metadata.labels.as_ref()) {
        return (false, false);
    }
    let repelled = |effects: &[&str]| {
        let covered = |t: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, t));
        let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        taints.any(|t| effects.contains(&t.effect.as_str()) && !covered(t))
    };
    (!repelled(&["NoSchedule", "NoExecute"]), !repelled(&["NoExecute"]))
}

/// The node a daemon pod is for: where it runs, or where its affinity sends it.
pub(super) fn target(pod: &Pod) -> Option<String> {
    if !pods::node(pod).is_empty() {
        return Some(pods::node(pod).to_owned());
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields.find(|f| f.key == "metadata.name")?.values.as_ref()?.first().cloned()
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map(String::as_str) == Some(hash)
}

/// A node's daemon pods.
struct Place<'a> {
    name: &'a str,
    wanted: bool,
    /// Pods that live, the oldest first.
    pods: Vec<&'a Arc<Pod>>,
}

/// Plans the pods of `ds` (all that it owns are in `owned`), whose current template has `hash`.
pub(super) fn plan(ds: &DaemonSet, nodes: &[Arc<Node>], owned: &[Arc<Pod>], hash: &str, now: Timestamp) -> Plan {
    let spec = ds.spec.template.spec.clone().unwrap_or_default();
    let tolerations = tolerations(&spec);
    let mut by_node: BTreeMap<String, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in owned {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let mut plan = Plan::default();
    let mut places = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let (run, stay) = belongs(&spec, &tolerations, node);
        let here = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        places.push(manage(&mut plan, name, here, run, stay, hash));
    }
    let min_ready = ds.spec.min_ready_seconds.unwrap_or(0);
    let available = |p: &Pod| pods::availability(p, min_ready, now);
    if ds.metadata.deletion_timestamp.is_some() {
        plan = Plan::default();
    } else if plan.create.is_empty() && plan.delete.is_empty() {
        roll(&mut plan, ds, &places, hash, &|p| available(p) == Availability::Available);
    }
    let waits = owned.iter().filter_map(|p| match available(p) {
        Availability::In(wait) => Some(wait),
        _ => None,
    });
    plan.recheck = waits.min();
    plan.status = status(ds, &places, hash, &|p| available(p) == Availability::Available);
    plan
}

/// One node: too few pods, too many, failed ones, or ones that do not belong there.
fn manage<'a>(plan: &mut Plan, name: &'a str, here: &[&'a Arc<Pod>], run: bool, stay: bool, hash: &str) -> Place<'a> {
    let live: Vec<&Arc<Pod>> = here.iter().copied().filter(|p| !pods::is_terminating(p)).collect();
    let (failed, mut running): (Vec<_>, Vec<_>) = live.into_iter().partition(|p| pods::is_finished(p));
    running.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    if run || stay {
        // A pod that ended, however it ended, is replaced: daemons run always.
        plan.failed.extend(failed.iter().map(|p| Arc::clone(p)));
        plan.delete.extend(failed.iter().map(|p| Arc::clone(p)));
    }
    match (run, stay) {
        (true, _) if running.is_empty() && failed.is_empty() => {
            let ending = here.iter().any(|p| pods::is_terminating(p));
            if !ending {
                plan.create.push(name.to_owned());
            }
        }
        (_, true) => {
            // One of each revision may run (an update with a surge has two); more is an accident.
            for current in [true, false] {
                let same: Vec<_> = running.iter().filter(|p| is_current(p, hash) == current).collect();
                plan.delete.extend(same.iter().skip(1).map(|p| Arc::clone(p)));
            }
        }
        (false, false) => {
            plan.delete.extend(running.iter().chain(&failed).map(|p| Arc::clone(p)));
        }
        (true, false) => {}
    }
    Place { name, wanted: run, pods: running }
}

/// Goes on with an update as far as `maxUnavailable` and `maxSurge` allow.
fn roll(plan: &mut Plan, ds: &DaemonSet, places: &[Place<'_>], hash: &str, available: &dyn Fn(&Pod) -> bool) {
    let strategy = ds.spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    let wanted: Vec<&Place<'_>> = places.iter().filter(|p| p.wanted).collect();
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).map_or(0, |v| scaled(v, total, true));
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(1, |v| scaled(v, total, true));
    let mut surge_left = surge - i32::try_from(wanted.iter().filter(|p| p.pods.len() > 1).count()).unwrap_or(i32::MAX);
    let missing = wanted.iter().filter(|p| !p.pods.iter().any(|pod| available(pod))).count();
    let mut left =
        if surge > 0 && unavailable == 0 { 0 } else { unavailable.max(1) } - i32::try_from(missing).unwrap_or(i32::MAX);
    for place in wanted {
        let new = place.pods.iter().find(|p| is_current(p, hash));
        let Some(old) = place.pods.iter().find(|p| !is_current(p, hash)) else { continue };
        match new {
            // The new pod has taken over.
            Some(new) if available(new) => plan.delete.push(Arc::clone(old)),
            Some(_) => {}
            // An old pod that is of no use anyway costs nothing.
            None if !available(old) => plan.delete.push(Arc::clone(old)),
            None if surge > 0 && surge_left > 0 => {
                plan.create.push(place.name.to_owned());
                surge_left -= 1;
            }
            None if surge == 0 && left > 0 => {
                plan.delete.push(Arc::clone(old));
                left -= 1;
            }
            None => {}
        }
    }
}

fn status(ds: &DaemonSet, places: &[Place<'_>], hash: &str, available: &dyn Fn(&Pod) -> bool) -> DaemonSetStatus {
    let count =
        |f: &dyn Fn(&Place<'_>) -> bool| i32::try_from(places.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX);
    let any = |p: &Place<'_>, f: &dyn Fn(&Pod) -> bool| p.wanted && p.pods.iter().any(|pod| f(pod));
    let before = ds.status.clone().unwrap_or_default();
    let desired = count(&|p| p.wanted);
    let number_available = count(&|p| any(p, available));
    let positive = |n: i32| Some(n).filter(|n| *n > 0);
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: count(&|p| p.wanted && !p.pods.is_empty()),
        number_misscheduled: count(&|p| !p.wanted && !p.pods.is_empty()),
        number_ready: count(&|p| any(p, &pods::is_ready)),
        number_available: positive(number_available),
        number_unavailable: positive(desired - number_available),
        updated_number_scheduled: positive(count(&|p| any(p, &|pod| is_current(pod, hash)))),
        observed_generation: ds.metadata.generation,
        collision_count: before.collision_count,
        conditions: before.conditions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, at, object, pod};
    use serde_json::{Value, json};

    fn node(name: &str, spec: Value) -> Arc<Node> {
        Arc::new(object(json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": spec})))
    }

    fn set(spec: Value, strategy: Value) -> DaemonSet {
        object(json!({"metadata": {"name": "ds", "generation": 2}, "spec": {
            "selector": {}, "template": {"spec": spec}, "updateStrategy": strategy}}))
    }

    fn on(name: &str, node: &str, hash: &str) -> PodBuilder {
        pod(name).node(node).labels(&[(HASH, hash)])
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        let mut names: Vec<&str> = pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_node_that_wants_one_has_one() {
        let nodes = [
            node("a", json!({})),
            node(
                "b",
                json!({"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
            ),
            node("c", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
            node("d", json!({"taints": [{"key": "k", "effect": "NoExecute"}]})),
        ];
        let ds = set(json!({"containers": [], "nodeSelector": {"os": "linux"}}), json!({}));
        let none = plan(&ds, &nodes, &[], "h", at(5));
        assert_eq!(none.create, ["a", "b"], "taints of the cordon are tolerated, others are not");
        let owned = [
            on("a1", "a", "h").ready(1).arc(),
            on("a2", "a", "h").created(9).arc(),
            on("b1", "b", "h").phase("Failed").arc(),
            on("c1", "c", "h").arc(),
            on("d1", "d", "h").arc(),
            on("gone", "elsewhere", "h").arc(),
        ];
        let some = plan(&ds, &nodes, &owned, "h", at(5));
        assert_eq!(names(&some.delete), ["a2", "b1", "d1"], "a second one, a failed one, and one driven out");
        assert_eq!(names(&some.failed), ["b1"]);
        let s = some.status;
        assert_eq!(
            (s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled, s.number_ready),
            (2, 1, 2, 1)
        );
    }

    #[test]
    fn updates_keep_enough_daemons() {
        let nodes: Vec<_> = ["a", "b", "c"].iter().map(|n| node(n, json!({}))).collect();
        let old: Vec<_> = ["a", "b", "c"].iter().map(|n| on(n, n, "old").ready(1).arc()).collect();
        let update = |strategy: Value, pods: &[Arc<Pod>]| {
            let p = plan(&set(json!({"containers": []}), strategy), &nodes, pods, "new", at(9));
            (p.create.clone(), names(&p.delete).into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let none: Vec<String> = Vec::new();
        let two = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
        assert_eq!(update(json!({}), &old), (none.clone(), vec!["a".into()]));
        assert_eq!(update(two, &old), (none.clone(), vec!["a".into(), "b".into()]));
        assert_eq!(update(json!({"type": "OnDelete"}), &old), (none.clone(), none.clone()));
        let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        assert_eq!(update(surge.clone(), &old), (vec!["a".into()], none.clone()));
        let mut both = old.clone();
        both.push(on("a-new", "a", "new").arc());
        assert_eq!(update(surge.clone(), &both), (none.clone(), none.clone()), "the new one is not ready yet");
        both.pop();
        both.push(on("a-new", "a", "new").ready(2).arc());
        assert_eq!(update(surge, &both), (none, vec!["a".into()]), "then the old one goes");
        let sick = [on("a", "a", "new").arc(), on("b", "b", "old").ready(1).arc(), on("c", "c", "old").arc()];
        assert_eq!(update(json!({}), &sick).1, ["c"], "one is missing already, so only a useless one goes");
    }
}
