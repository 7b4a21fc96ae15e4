//! Which nodes a pod can run on, and why not on the others.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::affinity::Affinity;
use crate::resources::{self, Resources};
use crate::spread::Spread;
use crate::view::{ClusterView, HostPort, NodeView, host_ports};
use client::select::{node_wanted, tolerated};

/// What a rejection is about: only some changes of the cluster can cure it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Class(u8);

impl Class {
    /// The node itself: its name, labels, taints.
    pub(crate) const NODE: Class = Class(1);
    /// Resources and ports: what other pods take.
    pub(crate) const ROOM: Class = Class(2);
    /// Pods near, or not near enough.
    pub(crate) const AFFINITY: Class = Class(4);
    /// Even spreading.
    pub(crate) const SPREAD: Class = Class(8);
    /// All of them.
    pub(crate) const ANY: Class = Class(15);

    /// Both.
    pub(crate) const fn and(self, other: Class) -> Class {
        Class(self.0 | other.0)
    }

    /// Whether they have something in common.
    pub(crate) const fn meets(self, other: Class) -> bool {
        self.0 & other.0 != 0
    }
}

/// Why a node was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) class: Class,
    pub(crate) reasons: Vec<Cow<'static, str>>,
    /// Removing pods from the node could help.
    pub(crate) curable: bool,
}

impl Rejection {
    /// Removing pods does not help.
    pub(crate) fn hard(class: Class, reason: &'static str) -> Self {
        Rejection { class, reasons: vec![Cow::Borrowed(reason)], curable: false }
    }

    /// Removing pods might help.
    pub(crate) fn soft(class: Class, reason: &'static str) -> Self {
        Rejection { curable: true, ..Rejection::hard(class, reason) }
    }
}

/// What is worked out once about a pod, for all nodes.
pub(crate) struct Wish<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) spec: Cow<'a, PodSpec>,
    pub(crate) requests: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) affinity: Affinity,
    pub(crate) spread: Spread<'a>,
}

impl<'a> Wish<'a> {
    /// Works out what `pod` needs in the cluster as it is.
    pub(crate) fn of(view: &'a ClusterView, pod: &'a Pod) -> Wish<'a> {
        let spec = pod.spec.as_ref().map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed);
        Wish {
            requests: resources::requests(&spec),
            ports: host_ports(pod),
            affinity: Affinity::of(view, pod),
            spread: Spread::of(view, pod),
            pod,
            spec,
        }
    }

    /// The pod's priority.
    pub(crate) fn priority(&self) -> i32 {
        self.spec.priority.unwrap_or(0)
    }
}

/// Whether the pod can run on the node, with what runs there and what room is kept for.
pub(crate) fn filter(view: &ClusterView, wish: &Wish<'_>, node: &NodeView) -> Result<(), Rejection> {
    suits(wish, node)?;
    let uid = wish.pod.metadata.uid.as_deref().unwrap_or_default();
    let mut nominated = view.nominated_on(&node.name, uid, wish.priority()).peekable();
    if nominated.peek().is_some() {
        let mut crowded = node.clone();
        nominated.for_each(|p| crowded.add(p.clone()));
        fits(wish, &crowded)?;
    }
    fits(wish, node)?;
    wish.spread.allows(node)?;
    wish.affinity.allows(node)
}

/// What does not depend on other pods.
pub(crate) fn suits(wish: &Wish<'_>, node: &NodeView) -> Result<(), Rejection> {
    let tolerations = wish.spec.tolerations.as_deref().unwrap_or_default();
    if node.unschedulable && !tolerated(&unschedulable_taint(), tolerations) {
        return Err(Rejection::hard(Class::NODE, "node(s) were unschedulable"));
    }
    if let Some(name) = wish.spec.node_name.as_deref().filter(|n| !n.is_empty() && *n != node.name) {
        tracing::trace!(name, node = node.name, "another node is asked for by name");
        return Err(Rejection::hard(Class::NODE, "node(s) didn't match the requested node name"));
    }
    let keeps_away = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    if node.taints.iter().any(|t| keeps_away(&t.effect) && !tolerated(t, tolerations)) {
        return Err(Rejection::hard(Class::NODE, "node(s) had untolerated taint(s)"));
    }
    if !node_wanted(&wish.spec, &node.name, Some(&node.labels)) {
        return Err(Rejection::hard(Class::NODE, "node(s) didn't match Pod's node affinity/selector"));
    }
    Ok(())
}

/// Ports and resources.
pub(crate) fn fits(wish: &Wish<'_>, node: &NodeView) -> Result<(), Rejection> {
    let mut taken = node.pods.values().flat_map(|p| &p.ports);
    if !wish.ports.is_empty() && taken.any(|t| wish.ports.iter().any(|w| w.collides(t))) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::soft(Class::ROOM, reason));
    }
    let reasons = node.allocatable.lacks(&node.used, &wish.requests);
    if reasons.is_empty() {
        return Ok(());
    }
    // More than an empty node has: no victim can help.
    let curable = node.allocatable.lacks(&Resources::default(), &wish.requests).is_empty();
    Err(Rejection { class: Class::ROOM.and(Class::NODE), reasons, curable })
}

fn unschedulable_taint() -> k8s_openapi::api::core::v1::Taint {
    k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, view};
    use serde_json::{Value, json};

    #[test]
    fn each_filter_says_why() {
        let nodes = [
            node("plain", json!({}), json!({})),
            node("cordoned", json!({}), json!({"unschedulable": true})),
            node("tainted", json!({}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
        ];
        let web = json!({"nodeName": "plain", "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"cpu": "1500m"}}}]});
        let v = view(&nodes, &[pod("web", json!({}), web)]);
        let request = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let exists = json!([{"operator": "Exists"}]);
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80}]}]});
        type Row = (&'static str, Value, Option<(&'static str, bool)>);
        let rows: [Row; 10] = [
            ("plain", json!({}), None),
            (
                "plain",
                json!({"nodeSelector": {"a": "b"}}),
                Some(("node(s) didn't match Pod's node affinity/selector", false)),
            ),
            ("plain", request("600m"), Some(("Insufficient cpu", true))),
            ("plain", request("3"), Some(("Insufficient cpu", false))),
            ("plain", request("500m"), None),
            ("plain", port, Some(("node(s) didn't have free ports for the requested pod ports", true))),
            ("cordoned", json!({}), Some(("node(s) were unschedulable", false))),
            ("cordoned", json!({"tolerations": exists}), None),
            ("tainted", json!({}), Some(("node(s) had untolerated taint(s)", false))),
            ("tainted", json!({"tolerations": exists}), None),
        ];
        for (name, spec, want) in rows {
            let pod = pod("new", json!({}), spec.clone());
            let result = filter(&v, &Wish::of(&v, &pod), v.node(name).unwrap());
            let got = result.as_ref().err().map(|r| (r.reasons[0].as_ref(), r.curable));
            assert_eq!(got, want, "{name} {spec}");
        }
    }
}
