//! A node's own Node: no labels that steer others' pods to it, no taints, no owners.

use super::{name_of, refuse};
use crate::context::{AdmissionRequest, Operation};
use crate::meta;
use machinery::Status;
use serde_json::Value;

/// Labels under Kubernetes' domains that a node may still set on itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

pub(super) fn check(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let name = name_of(request);
    if name != node {
        return refuse(request, format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = request.object.as_deref() else { return Ok(()) };
    let source = |node: Option<&Value>| node.and_then(|node| meta::at(node, &["spec", "configSource"])).cloned();
    if source(Some(new)).is_some() && source(Some(new)) != source(request.old_object) {
        return refuse(request, format!("node {node:?} is not allowed to set a configSource"));
    }
    let reserved = reserved(request.old_object, new);
    if request.operation == Operation::Create && !reserved.is_empty() {
        let why = format!("node {node:?} is not allowed to set the following labels: {}", reserved.join(", "));
        return refuse(request, why);
    }
    let Some(old) = request.old_object else { return Ok(()) };
    let differ = |path: &[&str]| meta::at(old, path) != meta::at(new, path);
    if differ(&["spec", "taints"]) && request.attributes.subresource.is_empty() {
        return refuse(request, format!("node {node:?} is not allowed to modify taints"));
    }
    if differ(&["metadata", "ownerReferences"]) {
        return refuse(request, format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    match reserved.is_empty() {
        true => Ok(()),
        false => refuse(request, format!("is not allowed to modify labels: {}", reserved.join(", "))),
    }
}

/// Labels that change and are not a node's to change.
fn reserved(old: Option<&Value>, new: &Value) -> Vec<String> {
    let labels = |node: Option<&Value>| {
        node.and_then(|node| meta::at(node, &["metadata", "labels"])?.as_object()).cloned().unwrap_or_default()
    };
    let (before, after) = (labels(old), labels(Some(new)));
    let changed = before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key));
    let mut reserved: Vec<String> = changed.filter(|key| is_reserved(key)).cloned().collect();
    reserved.sort_unstable();
    reserved.dedup();
    reserved
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let under = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let kubernetes = under("kubernetes.io") || under("k8s.io");
    let free = under("node.kubernetes.io") || under("kubelet.kubernetes.io");
    kubernetes && !free && !OWN_LABELS.contains(&key)
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels_a_node_may_not_set() {
        for (label, reserved) in [
            ("node-role.kubernetes.io/master", true),
            ("node-restriction.kubernetes.io/x", true),
            ("x.node-restriction.kubernetes.io/x", true),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.node.kubernetes.io/anything", false),
            ("topology.kubernetes.io/zone", false),
            ("example.org/x", false),
            ("foo.k8s.io/x", true),
            ("notk8s.io/x", false),
            ("plain", false),
        ] {
            assert_eq!(super::is_reserved(label), reserved, "{label}");
        }
    }
}
