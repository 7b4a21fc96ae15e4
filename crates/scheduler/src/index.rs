//! What decisions ask of all pods and nodes together, counted as they come and go, so that a decision reads no pod it need not.
//!
//! Only nodes that the API has count, with their pods.

use std::collections::HashMap;

use crate::view::{NodeView, Placed};

/// The label with a node's name.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label with a node's zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// Pods of one controller that are not ending, by host and by zone.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    hosts: HashMap<String, i64>,
    zones: HashMap<String, i64>,
}

impl Domains {
    /// The pods on the node's host and in its zone.
    pub(crate) fn around(&self, node: &NodeView) -> (i64, i64) {
        let here = |key, counts: &HashMap<String, i64>| {
            node.labels.get(key).and_then(|value| counts.get(value)).copied().unwrap_or(0)
        };
        (here(HOSTNAME, &self.hosts), here(ZONE, &self.zones))
    }

    fn count(&mut self, node: &NodeView, step: i64) {
        for (key, counts) in [(HOSTNAME, &mut self.hosts), (ZONE, &mut self.zones)] {
            if let Some(value) = node.labels.get(key) {
                count(counts, value, step);
            }
        }
    }
}

/// Adds to a count, and forgets it when it is zero.
fn count(counts: &mut HashMap<String, i64>, key: &str, step: i64) {
    match counts.get_mut(key) {
        Some(number) => {
            *number += step;
            if *number == 0 {
                counts.remove(key);
            }
        }
        None => {
            counts.insert(key.to_owned(), step);
        }
    }
}

/// The counts. Cost: about 200 bytes for each controller and domain with pods of it.
#[derive(Debug, Default)]
pub(crate) struct Index {
    nodes: usize,
    siblings: HashMap<String, Domains>,
    /// Pods with required anti-affinity, by node.
    repelling: HashMap<String, i64>,
    /// Nodes, by image.
    images: HashMap<String, i64>,
}

impl Index {
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    pub(crate) fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).map_or(0, |n| usize::try_from(*n).unwrap_or(0))
    }

    pub(crate) fn repelling(&self) -> impl Iterator<Item = &str> {
        self.repelling.keys().map(String::as_str)
    }

    pub(crate) fn siblings(&self, controller: &str) -> Option<&Domains> {
        self.siblings.get(controller)
    }

    /// Counts a node that the API has, with its pods; nothing if it has not.
    pub(crate) fn add_node(&mut self, node: &NodeView) {
        self.node(node, 1);
        self.nodes += usize::from(node.exists);
    }

    /// Takes back what [`Index::add_node`] counted.
    pub(crate) fn remove_node(&mut self, node: &NodeView) {
        self.node(node, -1);
        self.nodes -= usize::from(node.exists);
    }

    fn node(&mut self, node: &NodeView, step: i64) {
        if node.exists {
            node.images.keys().for_each(|image| count(&mut self.images, image, step));
            node.pods.values().for_each(|pod| self.pod(node, pod, step));
        }
    }

    /// Counts a pod of a node.
    pub(crate) fn add_pod(&mut self, node: &NodeView, pod: &Placed) {
        self.pod(node, pod, 1);
    }

    /// Takes back what [`Index::add_pod`] counted.
    pub(crate) fn remove_pod(&mut self, node: &NodeView, pod: &Placed) {
        self.pod(node, pod, -1);
    }

    fn pod(&mut self, node: &NodeView, pod: &Placed, step: i64) {
        if !node.exists {
            return;
        }
        if !pod.repels.is_empty() {
            count(&mut self.repelling, &node.name, step);
        }
        let Some(controller) = pod.owner.as_ref().filter(|_| !pod.terminating) else { return };
        let domains = self.siblings.entry(controller.clone()).or_default();
        domains.count(node, step);
        if domains.hosts.is_empty() && domains.zones.is_empty() {
            self.siblings.remove(controller);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{node, object, pod, view};
    use crate::view::ClusterView;
    use serde_json::{Value, json};

    fn owned(name: &str, node: &str) -> k8s_openapi::api::core::v1::Pod {
        let mut p = pod(
            name,
            json!({}),
            json!({"nodeName": node, "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                [{"topologyKey": "zone", "labelSelector": {}}]}}}),
        );
        p.metadata.owner_references = Some(vec![object(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}))]);
        p
    }

    fn zoned(name: &str, zone: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
            "status": {"images": [{"names": ["img:1"], "sizeBytes": 1}]}})
    }

    /// Nodes, nodes with the image, nodes that repel, and pods of the controller around `node`.
    fn counts(v: &ClusterView, node: &str) -> (usize, usize, usize, (i64, i64)) {
        let around = v.node(node).zip(v.siblings("rs")).map_or((0, 0), |(node, siblings)| siblings.around(node));
        (v.node_count(), v.nodes_with_image("img:1"), v.repelling_nodes().count(), around)
    }

    #[test]
    fn counts_follow_pods_and_nodes() {
        let mut v = view(
            &[object(zoned("a", "z")), object(zoned("b", "z")), node("c", json!({}), json!({}))],
            &[owned("1", "a"), owned("2", "b"), owned("3", "late")],
        );
        assert_eq!(counts(&v, "a"), (3, 2, 2, (1, 2)));
        v.set_pod(&owned("1", "a"));
        assert_eq!(counts(&v, "a"), (3, 2, 2, (1, 2)), "a pod counts once");
        v.set_node(&object(zoned("late", "z")));
        assert_eq!(counts(&v, "a"), (4, 3, 3, (1, 3)), "a node brings its pods");
        v.set_node(&object(zoned("late", "elsewhere")));
        assert_eq!(counts(&v, "a"), (4, 3, 3, (1, 2)), "its labels say where they are");
        let mut ending = owned("2", "b");
        ending.metadata.deletion_timestamp = Some(object(json!("2026-01-01T00:00:00Z")));
        v.set_pod(&ending);
        assert_eq!(counts(&v, "a"), (4, 3, 3, (1, 1)), "who ends is no sibling, but still keeps others away");
        v.remove_node("late");
        v.remove_node("late");
        assert_eq!(counts(&v, "a"), (3, 2, 2, (1, 1)));
        ["1", "2", "3"].iter().for_each(|uid| assert!(v.remove_pod(uid)));
        assert_eq!(counts(&v, "a"), (3, 2, 0, (0, 0)));
        assert!(v.siblings("rs").is_none());
        ["a", "b", "c"].iter().for_each(|name| v.remove_node(name));
        assert_eq!(counts(&v, "a"), (0, 0, 0, (0, 0)));
    }
}
