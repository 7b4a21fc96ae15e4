//! Which of the possible nodes is best.

use crate::filter::Wish;
use crate::resources::{self, Resources};
use crate::view::{ClusterView, NodeView};
use client::select::{node_term, tolerated};

/// The best score of one criterion.
const BEST: f64 = 100.0;
/// Images smaller than this in all are not worth a preference, larger ones than this (for each container) no stronger one.
const IMAGE_BYTES_MIN: f64 = 23.0 * 1024.0 * 1024.0;
const IMAGE_BYTES_MAX: f64 = 1000.0 * 1024.0 * 1024.0;

/// The total score of each of `nodes`, in their order. Criteria and weights are upstream's defaults.
pub(crate) fn score(view: &ClusterView, wish: &Wish<'_>, nodes: &[&NodeView]) -> Vec<f64> {
    let scored = resources::requests_for_scoring(&wish.spec);
    let mut totals: Vec<f64> =
        nodes.iter().map(|n| least_allocated(n, &scored) + balanced(n, &wish.requests)).collect();
    let mut add = |weight: f64, scores: Vec<f64>| totals.iter_mut().zip(scores).for_each(|(t, s)| *t += weight * s);
    add(3.0, reversed(each(nodes, |n| unwelcome(wish, n))));
    add(2.0, scaled(each(nodes, |n| preferred_node(wish, n))));
    if wish.spread.prefers() {
        add(2.0, reversed(each(nodes, |n| wish.spread.crowd(n))));
    }
    #[expect(clippy::cast_precision_loss, reason = "weights are small")]
    add(2.0, between(each(nodes, |n| wish.affinity.weight(n) as f64)));
    add(1.0, image_locality(view, wish, nodes));
    totals
}

fn each(nodes: &[&NodeView], f: impl Fn(&NodeView) -> f64) -> Vec<f64> {
    nodes.iter().map(|n| f(n)).collect()
}

/// Scales to 0–100, the highest being best.
fn scaled(scores: Vec<f64>) -> Vec<f64> {
    let most = scores.iter().copied().fold(0.0, f64::max);
    scores.into_iter().map(|s| if most > 0.0 { s * BEST / most } else { 0.0 }).collect()
}

/// Scales to 0–100, the lowest being best.
fn reversed(scores: Vec<f64>) -> Vec<f64> {
    scaled(scores).into_iter().map(|s| BEST - s).collect()
}

/// Scales to 0–100 between the lowest (which may be negative) and the highest.
fn between(scores: Vec<f64>) -> Vec<f64> {
    let low = scores.iter().copied().fold(f64::INFINITY, f64::min);
    scaled(scores.into_iter().map(|s| s - low).collect())
}

/// The share of processor and memory that is left when the pod runs there.
#[expect(clippy::cast_precision_loss, reason = "a score needs no exact bytes")]
fn least_allocated(node: &NodeView, request: &Resources) -> f64 {
    let left =
        |total: i64, used: i64| if total > 0 { ((total - used) as f64 / total as f64).max(0.0) * BEST } else { 0.0 };
    let cpu = left(node.allocatable.milli_cpu, node.scored.milli_cpu + request.milli_cpu);
    let memory = left(node.allocatable.memory_bytes, node.scored.memory_bytes + request.memory_bytes);
    f64::midpoint(cpu, memory)
}

/// How alike processor and memory are used.
#[expect(clippy::cast_precision_loss, reason = "a score needs no exact bytes")]
fn balanced(node: &NodeView, request: &Resources) -> f64 {
    let share = |total: i64, used: i64| if total > 0 { (used as f64 / total as f64).min(1.0) } else { 1.0 };
    let cpu = share(node.allocatable.milli_cpu, node.used.milli_cpu + request.milli_cpu);
    let memory = share(node.allocatable.memory_bytes, node.used.memory_bytes + request.memory_bytes);
    // The standard deviation of two values is half their distance.
    (1.0 - (cpu - memory).abs() / 2.0) * BEST
}

/// The taints that would rather not have the pod.
fn unwelcome(wish: &Wish<'_>, node: &NodeView) -> f64 {
    let tolerations = wish.spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerated(t, tolerations));
    taints.map(|_| 1.0).sum()
}

/// The weight of the preferred node affinities that match.
fn preferred_node(wish: &Wish<'_>, node: &NodeView) -> f64 {
    let affinity = wish.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let matching = terms.into_iter().flatten().filter(|t| node_term(&t.preference, &node.name, Some(&node.labels)));
    matching.map(|t| f64::from(t.weight)).sum()
}

/// How much of the pod's images is on the node; an image that many nodes have counts more, so that pods do not heap up.
#[expect(clippy::cast_precision_loss, reason = "a score needs no exact bytes")]
fn image_locality(view: &ClusterView, wish: &Wish<'_>, nodes: &[&NodeView]) -> Vec<f64> {
    let containers = wish.spec.containers.iter().chain(wish.spec.init_containers.iter().flatten());
    let images: Vec<String> = containers.filter_map(|c| c.image.as_deref()).map(full_name).collect();
    let total = view.node_count().max(1) as f64;
    let share: Vec<f64> = images.iter().map(|i| view.nodes_with_image(i) as f64 / total).collect();
    let most = IMAGE_BYTES_MAX * images.len().max(1) as f64;
    each(nodes, |node| {
        let present = images.iter().zip(&share).map(|(i, s)| node.images.get(i).copied().unwrap_or(0) as f64 * s);
        let sum: f64 = present.sum();
        (sum.clamp(IMAGE_BYTES_MIN, most) - IMAGE_BYTES_MIN) / (most - IMAGE_BYTES_MIN) * BEST
    })
}

/// An image's name with the tag that is meant when none is given.
fn full_name(image: &str) -> String {
    let tail = image.rsplit('/').next().unwrap_or(image);
    if tail.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, object, pod, view};
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::json;

    fn best(nodes: &[Node], placed: &[Pod], pod: &Pod) -> String {
        let v = view(nodes, placed);
        let wish = Wish::of(&v, pod);
        let all: Vec<&NodeView> = v.nodes().collect();
        let scores = score(&v, &wish, &all);
        let top = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("there are nodes").0;
        all[top].name.clone()
    }

    #[test]
    fn each_criterion_prefers_the_better_node() {
        let plain = |name: &str| node(name, json!({}), json!({}));
        let running = |node: &str| {
            let mut p = pod(
                "r",
                json!({"app": "x"}),
                json!({"nodeName": node,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]}),
            );
            p.metadata.owner_references = Some(vec![object(json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}))]);
            p
        };
        let empty = pod("new", json!({}), json!({}));
        assert_eq!(best(&[plain("a"), plain("b")], &[running("a")], &empty), "b", "least allocated");

        let mut tainted = plain("a");
        tainted.spec = object(json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}));
        assert_eq!(best(&[tainted, plain("b")], &[running("b")], &empty), "b", "preferred taints outweigh load");

        let ssd = node("b", json!({"disk": "ssd"}), json!({}));
        let likes = pod(
            "new",
            json!({}),
            json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {
                "matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}),
        );
        assert_eq!(best(&[plain("a"), ssd], &[running("b")], &likes), "b", "preferred node affinity");

        let small = json!({"nodeName": "a", "containers": [{"name": "c"}]});
        let mut sibling = pod("s", json!({}), small);
        sibling.metadata.owner_references = running("a").metadata.owner_references;
        let mut other = pod("new", json!({}), json!({}));
        other.metadata.owner_references = sibling.metadata.owner_references.clone();
        assert_eq!(best(&[plain("a"), plain("b")], &[sibling], &other), "b", "siblings are spread");

        let mut cached = plain("b");
        cached.status.get_or_insert_default().images =
            Some(vec![object(json!({"names": ["img:latest"], "sizeBytes": 900_000_000}))]);
        assert_eq!(best(&[plain("a"), cached], &[], &empty), "b", "the image is there");
    }
}
