//! The cluster as the scheduler sees it: nodes, what runs on them, and what is about to.
//!
//! Kept by events, never copied: a scheduling decision reads it, binding adds to it at once (an assumed pod), and the
//! watch confirms later. Only the fields that decisions need are kept: about 300 bytes a pod and 1 KB a node.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, PodSpec, Taint};

use crate::index::{Domains, Index};
use crate::resources::{self, Resources};

pub(crate) use client::select::Labels;

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node: all addresses means each of them.
    pub(crate) fn collides(&self, other: &HostPort) -> bool {
        let everywhere = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(&self.ip) || everywhere(&other.ip))
    }
}

/// A pod that has a node.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) requests: Resources,
    pub(crate) scored: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) priority: i32,
    /// Seconds since the epoch, zero before it started.
    pub(crate) started: i64,
    pub(crate) terminating: bool,
    pub(crate) owner: Option<String>,
    /// Its required anti-affinity, which also keeps others away.
    pub(crate) repels: Vec<PodAffinityTerm>,
}

impl Placed {
    /// The facts about a pod that matter once it has a node.
    pub(crate) fn of(pod: &Pod) -> Placed {
        let nothing = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        let meta = &pod.metadata;
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
        let anti = spec.affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
        let repels = anti.and_then(|a| a.required_during_scheduling_ignored_during_execution.clone());
        Placed {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            requests: resources::requests(spec),
            scored: resources::requests_for_scoring(spec),
            ports: host_ports(pod),
            priority: spec.priority.unwrap_or(0),
            started: started.map_or(0, |t| t.0.as_second()),
            terminating: meta.deletion_timestamp.is_some(),
            owner: controller(pod),
            repels: repels.unwrap_or_default(),
        }
    }
}

/// The uid of the pod's controller.
pub(crate) fn controller(pod: &Pod) -> Option<String> {
    pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.uid.clone())
}

/// The ports of the node that the pod's containers take.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter(|p| p.host_port.is_some_and(|n| n > 0))
        .map(|p| HostPort {
            ip: p.host_ip.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: p.host_port.unwrap_or(0),
        })
        .collect()
}

/// A node, and what runs there.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    /// Sizes of the images present, by every name they have.
    pub(crate) images: HashMap<String, i64>,
    /// The sum of `pods`' requests.
    pub(crate) used: Resources,
    pub(crate) scored: Resources,
    pub(crate) pods: HashMap<String, Placed>,
    /// The API has this node; false when only pods that name it are known.
    pub(crate) exists: bool,
}

impl NodeView {
    /// Adds a pod, replacing what was known of it.
    pub(crate) fn add(&mut self, pod: Placed) {
        self.remove(&pod.uid);
        self.used.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Removes a pod.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Placed> {
        let pod = self.pods.remove(uid)?;
        self.used.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        Some(pod)
    }
}

/// All nodes and pods.
#[derive(Debug, Default)]
pub(crate) struct ClusterView {
    nodes: BTreeMap<String, NodeView>,
    index: Index,
    /// The node of each placed pod, by uid.
    places: HashMap<String, String>,
    /// Labels of namespaces, for affinity that selects them.
    namespaces: HashMap<String, Labels>,
    /// Places kept for pods whose victims are still ending, by uid: node and pod.
    nominated: HashMap<String, (String, Placed)>,
}

impl ClusterView {
    /// The nodes the API has, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.values().filter(|n| n.exists)
    }

    /// How many nodes the API has.
    pub(crate) fn node_count(&self) -> usize {
        self.index.nodes()
    }

    /// How many nodes have an image.
    pub(crate) fn nodes_with_image(&self, name: &str) -> usize {
        self.index.nodes_with_image(name)
    }

    /// The nodes with pods that keep others away.
    pub(crate) fn repelling_nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.index.repelling().filter_map(|name| self.node(name))
    }

    /// Where the pods of a controller run.
    pub(crate) fn siblings(&self, controller: &str) -> Option<&Domains> {
        self.index.siblings(controller)
    }

    /// One node.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.get(name).filter(|n| n.exists)
    }

    /// Takes over what the API says of a node; says whether anything changed that a decision may depend on.
    pub(crate) fn set_node(&mut self, node: &Node) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let known = self.nodes.entry(name.clone()).or_default();
        let fresh = NodeView {
            name,
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable) == Some(true),
            allocatable: Resources::from_list(status.and_then(|s| s.allocatable.as_ref())),
            images: images(node),
            exists: true,
            ..NodeView::default()
        };
        let changed = !known.exists
            || known.labels != fresh.labels
            || known.taints != fresh.taints
            || known.unschedulable != fresh.unschedulable
            || known.allocatable != fresh.allocatable;
        let indexed = !known.exists || known.labels != fresh.labels || known.images != fresh.images;
        if indexed {
            self.index.remove_node(known);
        }
        let running =
            (std::mem::take(&mut known.used), std::mem::take(&mut known.scored), std::mem::take(&mut known.pods));
        *known = NodeView { used: running.0, scored: running.1, pods: running.2, ..fresh };
        if indexed {
            self.index.add_node(known);
        }
        changed
    }

    /// The node is gone; pods that still name it are remembered.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        self.index.remove_node(node);
        node.exists = false;
        if node.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// Takes over what the API says of a pod that has a node.
    pub(crate) fn set_pod(&mut self, pod: &Pod) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        self.place(Placed::of(pod), &node);
    }

    /// Puts a pod on a node: as the API says, or because it is about to be bound.
    pub(crate) fn place(&mut self, pod: Placed, node: &str) {
        if self.places.get(&pod.uid).is_some_and(|n| n != node) {
            self.remove_pod(&pod.uid);
        }
        self.nominated.remove(&pod.uid);
        self.places.insert(pod.uid.clone(), node.to_owned());
        let view = self.nodes.entry(node.to_owned()).or_default();
        if let Some(before) = view.remove(&pod.uid) {
            self.index.remove_pod(view, &before);
        }
        self.index.add_pod(view, &pod);
        view.add(pod);
    }

    /// The pod ended, is gone, or could not be bound; says whether it had a place.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        self.nominated.remove(uid);
        let Some(node) = self.places.remove(uid) else { return false };
        if let Some(view) = self.nodes.get_mut(&node) {
            if let Some(pod) = view.remove(uid) {
                self.index.remove_pod(view, &pod);
            }
            if !view.exists && view.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }

    /// Whether the pod has a node.
    pub(crate) fn has_place(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// The uids of all placed pods.
    pub(crate) fn placed(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    /// Keeps room on `node` for a pod whose victims are ending.
    pub(crate) fn nominate(&mut self, pod: Placed, node: &str) {
        self.nominated.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    /// No room is kept for the pod any more.
    pub(crate) fn drop_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// Where room is kept for the pod.
    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(node, _)| node.as_str())
    }

    /// The pods that room is kept for on `node`, other than `uid`, and that `priority` must respect.
    pub(crate) fn nominated_on<'a>(
        &'a self,
        node: &'a str,
        uid: &'a str,
        priority: i32,
    ) -> impl Iterator<Item = &'a Placed> {
        let all = self.nominated.values().filter(move |(n, p)| n == node && p.uid != uid && p.priority >= priority);
        all.map(|(_, p)| p)
    }

    /// Takes over a namespace's labels; says whether they changed.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        let labels = labels.cloned().unwrap_or_default();
        self.namespaces.insert(name.to_owned(), labels.clone()) != Some(labels)
    }

    /// The namespace is gone.
    pub(crate) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A namespace's labels.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }
}

fn images(node: &Node) -> HashMap<String, i64> {
    let all = node.status.iter().flat_map(|s| s.images.iter().flatten());
    let named = all.flat_map(|i| i.names.iter().flatten().map(move |n| (n.clone(), i.size_bytes.unwrap_or(0))));
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, view};
    use serde_json::json;

    #[test]
    fn sums_follow_pods_and_survive_node_updates() {
        let request = json!({"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let mut v = view(&[node("n", json!({}), json!({}))], &[pod("a", json!({}), request.clone())]);
        v.set_pod(&pod("a", json!({}), request.clone()));
        let used = |v: &ClusterView| v.node("n").map(|n| (n.used.milli_cpu, n.used.pods));
        assert_eq!(used(&v), Some((1000, 1)), "a pod counts once");
        assert!(!v.set_node(&node("n", json!({}), json!({}))), "the same node is no news");
        assert!(v.set_node(&node("n", json!({"x": "y"}), json!({}))));
        assert_eq!(used(&v), Some((1000, 1)));
        v.remove_node("n");
        assert_eq!(used(&v), None);
        v.set_node(&node("n", json!({}), json!({})));
        assert_eq!(used(&v), Some((1000, 1)), "pods outlive the node object");
        assert!(v.remove_pod("a"));
        assert_eq!(used(&v), Some((0, 0)));
    }

    #[test]
    fn host_ports_collide_by_address() {
        let port = |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        let rows = [
            (port("", "TCP", 80), port("10.0.0.1", "TCP", 80), true),
            (port("10.0.0.2", "TCP", 80), port("10.0.0.1", "TCP", 80), false),
            (port("10.0.0.1", "TCP", 80), port("0.0.0.0", "TCP", 80), true),
            (port("", "UDP", 80), port("", "TCP", 80), false),
            (port("", "TCP", 81), port("", "TCP", 80), false),
        ];
        for (a, b, want) in rows {
            assert_eq!((a.collides(&b), b.collides(&a)), (want, want), "{a:?} {b:?}");
        }
    }
}
