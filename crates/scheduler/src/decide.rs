//! One decision: the node for a pod, or why there is none and whom to evict for it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::filter::{Class, Rejection, Wish, filter};
use crate::preempt::{self, Preemption};
use crate::score::score;
use crate::view::{ClusterView, NodeView};

/// Clusters up to this size are always looked at whole.
const NODES_MIN: usize = 100;

/// What to do with a pod.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Bind it to this node.
    Bind(String),
    /// Nothing suits now.
    Wait {
        /// For people, in upstream's words.
        message: String,
        /// The changes that could help.
        class: Class,
        /// Pods to evict so that it can run.
        preempt: Option<Preemption>,
    },
}

/// Decides about `pod`. `turn` moves the starting point on large clusters, so that all nodes are looked at in time.
pub(crate) fn decide(view: &mut ClusterView, pod: &Pod, turn: &mut usize) -> Decision {
    let total = view.node_count();
    if total == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Wait { message, class: Class::ANY, preempt: None };
    }
    let rejections = match choose(view, pod, total, turn) {
        Ok(node) => return Decision::Bind(node),
        Err(rejections) => rejections,
    };
    let class = rejections.values().fold(Class::default(), |all, r| all.and(r.class));
    let (preempt, outcome) = preempt::preempt(view, pod, &rejections);
    let message = format!("{} {outcome}", explain(total, rejections.values()));
    Decision::Wait { message, class, preempt }
}

/// The best node, or why each was rejected.
fn choose(
    view: &ClusterView,
    pod: &Pod,
    total: usize,
    turn: &mut usize,
) -> Result<String, BTreeMap<String, Rejection>> {
    let wish = Wish::of(view, pod);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).or(view.nomination(uid));
    if let Some(node) = nominated.and_then(|n| view.node(n))
        && filter(view, &wish, node).is_ok()
    {
        return Ok(node.name.clone());
    }
    let enough = enough(total);
    let start = if enough < total { *turn % total } else { 0 };
    let mut feasible: Vec<&NodeView> = Vec::new();
    let mut rejections = BTreeMap::new();
    for node in view.nodes().skip(start).chain(view.nodes().take(start)) {
        *turn = turn.wrapping_add(1);
        match filter(view, &wish, node) {
            Ok(()) => feasible.push(node),
            Err(rejection) => {
                rejections.insert(node.name.clone(), rejection);
            }
        }
        if feasible.len() == enough {
            break;
        }
    }
    match feasible.as_slice() {
        [] => Err(rejections),
        [only] => Ok(only.name.clone()),
        several => Ok(best(&score(view, &wish, several), several).name.clone()),
    }
}

/// How many suitable nodes are enough to choose from: all of a small cluster, at least 5 % of a large one.
fn enough(total: usize) -> usize {
    let percent = 50_usize.saturating_sub(total / 125).max(5);
    if total < NODES_MIN { total } else { (total * percent / 100).max(NODES_MIN) }
}

/// The node with the highest score; one of them at random if there are several.
fn best<'a>(scores: &[f64], nodes: &[&'a NodeView]) -> &'a NodeView {
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let equal: Vec<usize> = (0..nodes.len()).filter(|i| scores[*i] >= top).collect();
    nodes[equal[fastrand::usize(..equal.len())]]
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub(crate) fn explain<'a>(total: usize, rejections: impl Iterator<Item = &'a Rejection>) -> String {
    let mut counts: BTreeMap<&Cow<'static, str>, usize> = BTreeMap::new();
    rejections.flat_map(|r| &r.reasons).for_each(|r| *counts.entry(r).or_default() += 1);
    let mut reasons: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    reasons.sort();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, view};
    use serde_json::json;

    fn request(cpu: &str, extra: serde_json::Value) -> serde_json::Value {
        let mut spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn a_pod_that_fits_nowhere_is_told_why() {
        let plain = node("n", json!({}), json!({}));
        let cordoned = node("m", json!({}), json!({"unschedulable": true}));
        let busy = pod("busy", json!({}), request("1500m", json!({"nodeName": "n"})));
        let rows = [
            (vec![], vec![], "1", "no nodes available to schedule pods"),
            (
                vec![plain.clone()],
                vec![busy.clone()],
                "1",
                "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                 1 No preemption victims found for incoming pod.",
            ),
            (
                vec![plain, cordoned],
                vec![busy],
                "1",
                "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are \
                 available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
            ),
        ];
        for (nodes, pods, cpu, want) in rows {
            let mut v = view(&nodes, &pods);
            match decide(&mut v, &pod("new", json!({}), request(cpu, json!({}))), &mut 0) {
                Decision::Wait { message, preempt: None, .. } => assert_eq!(message, want),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn lower_priorities_give_way() {
        let mut v = view(
            &[node("a", json!({}), json!({})), node("b", json!({}), json!({}))],
            &[
                pod("low-a", json!({}), request("1", json!({"nodeName": "a", "priority": 1}))),
                pod("high-a", json!({}), request("1", json!({"nodeName": "a", "priority": 9}))),
                pod("mid-b", json!({}), request("2", json!({"nodeName": "b", "priority": 4}))),
            ],
        );
        let new = pod("new", json!({}), request("1", json!({"priority": 5})));
        let Decision::Wait { message, preempt: Some(p), .. } = decide(&mut v, &new, &mut 0) else {
            panic!("no preemption")
        };
        assert_eq!((p.node.as_str(), p.victims.len(), p.victims[0].name.as_str()), ("a", 1, "low-a"));
        assert!(
            message.ends_with("preemption: found a potential placement for pod on node a, preempting 1 victims"),
            "{message}"
        );
        assert_eq!(v.node("a").map(|n| n.used.milli_cpu), Some(2000), "trying changes nothing");
        let never = pod("new", json!({}), request("1", json!({"priority": 5, "preemptionPolicy": "Never"})));
        let Decision::Wait { message, preempt: None, .. } = decide(&mut v, &never, &mut 0) else { panic!("preempts") };
        assert!(message.ends_with("preemption: not eligible due to preemptionPolicy=Never."), "{message}");
    }

    #[test]
    fn large_clusters_are_sampled() {
        for (total, want) in [(10, 10), (100, 100), (500, 230), (1000, 420), (10_000, 500)] {
            assert_eq!(enough(total), want, "{total}");
        }
    }
}
