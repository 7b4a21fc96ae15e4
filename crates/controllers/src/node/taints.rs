//! The taints that follow from a node's conditions, and how long pods put up with them.

use std::time::Duration;

use client::select::tolerates;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, its status, and the taint that keeps pods away meanwhile.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// A node's condition of type `kind`.
pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The taints the node should have, or `None` if it has them. Taints that are not ours stay.
pub(super) fn plan(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let current = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key) in BY_CONDITION {
        if condition(node, kind).is_some_and(|c| c.status == status) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if spec.and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let unknown = condition(node, "Ready").is_none();
    let ours = |t: &Taint| match (t.key.as_str(), t.effect.as_str()) {
        // A node that has not reported yet keeps the taint it was registered with.
        (NOT_READY | UNREACHABLE, _) if unknown => false,
        (NOT_READY | UNREACHABLE, "NoExecute") => true,
        (key, "NoSchedule") => key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, k)| *k == key),
        _ => false,
    };
    let is_wanted = |t: &Taint| wanted.contains(&(t.key.as_str(), t.effect.as_str()));
    let mut taints: Vec<Taint> = current.iter().filter(|t| !ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = Some(Time(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None });
        }
    }
    (taints != current).then_some(taints)
}

/// What the `NoExecute` taints of its node mean for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// It may stay.
    ForEver,
    /// It must go after this time (zero: now).
    For(Duration),
}

/// How long `pod` may stay on a node with `taints`: as long as its least patient toleration allows, from when the taint came.
pub(super) fn stay(pod: &Pod, taints: &[Taint], now: Timestamp) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut left: Option<i64> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let covering: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if covering.is_empty() {
            return Stay::For(Duration::ZERO);
        }
        let since = taint.time_added.as_ref().map_or(now, |t| t.0).as_second();
        if let Some(seconds) = covering.iter().filter_map(|t| t.toleration_seconds).min() {
            let rest = since.saturating_add(seconds.max(0)) - now.as_second();
            left = Some(left.map_or(rest, |l| l.min(rest)));
        }
    }
    match left {
        None => Stay::ForEver,
        Some(seconds) => Stay::For(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod};
    use serde_json::{Value, json};

    fn node(conditions: Value, spec: Value) -> Node {
        object(json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}))
    }

    #[test]
    fn taints_follow_conditions() {
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        let registered = json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]});
        let foreign = json!({"taints": [{"key": "mine", "effect": "NoExecute"}]});
        type Row = (Node, Option<Vec<(&'static str, &'static str)>>);
        let rows: [Row; 7] = [
            (node(ready("True"), json!({})), None),
            (node(json!([]), registered.clone()), None),
            (node(ready("True"), registered), Some(vec![])),
            (node(ready("False"), json!({})), Some(vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")])),
            (
                node(ready("Unknown"), foreign.clone()),
                Some(vec![("mine", "NoExecute"), (UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
            ),
            (node(ready("True"), json!({"unschedulable": true})), Some(vec![(UNSCHEDULABLE, "NoSchedule")])),
            (
                node(json!([{"type": "DiskPressure", "status": "True"}]), foreign),
                Some(vec![("mine", "NoExecute"), ("node.kubernetes.io/disk-pressure", "NoSchedule")]),
            ),
        ];
        for (node, want) in rows {
            let got = plan(&node, at(5));
            let pairs = got.as_ref().map(|t| t.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect());
            assert_eq!(pairs, want, "{node:?}");
        }
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let taint: Taint = object(json!({"key": "k", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"}));
        let rows = [
            (json!([]), Stay::For(Duration::ZERO)),
            (json!([{"key": "k", "operator": "Exists"}]), Stay::ForEver),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), Stay::For(Duration::ZERO)),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 60}]), Stay::For(Duration::from_secs(50))),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]), Stay::For(Duration::ZERO)),
            (
                json!([{"operator": "Exists"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 30}]),
                Stay::For(Duration::from_secs(20)),
            ),
        ];
        for (tolerations, want) in rows {
            let p = pod("p").spec(|s| s.tolerations = object(tolerations.clone())).build();
            assert_eq!(stay(&p, std::slice::from_ref(&taint), at(110)), want, "{tolerations}");
        }
    }
}
