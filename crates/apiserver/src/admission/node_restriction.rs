//! A node writes its own Node, Lease and pods only.

use crate::authz::node_of;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use async_trait::async_trait;
use machinery::Status;
use serde_json::Value;

/// Labels under these domains that a node may still set on itself.
const OWN_LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
];

pub(super) struct NodeRestriction;

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let Some(node) = node_of(&attributes.user) else { return Ok(()) };
        match (attributes.group.as_str(), attributes.resource.as_str(), attributes.subresource.as_str()) {
            ("", "pods", "" | "status") => pod(request, node),
            ("", "pods", "eviction") => Ok(()),
            ("", "nodes", _) => own_node(request, node),
            ("coordination.k8s.io", "leases", _) => named(request, node),
            _ => Ok(()),
        }
    }
}

fn refuse(request: &AdmissionRequest<'_>, why: String) -> Result<(), Status> {
    let attributes = request.attributes;
    Err(Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, why))
}

fn named(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let object = request.object.as_deref().or(request.old_object);
    let name = object.map(meta::name).filter(|name| !name.is_empty()).unwrap_or(&request.attributes.name);
    match name == node {
        true => Ok(()),
        false => refuse(request, format!("node {node:?} is not allowed to modify {:?}", name)),
    }
}

fn own_node(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    named(request, node)?;
    let Some(new) = request.object.as_deref() else { return Ok(()) };
    let labels = |value: Option<&Value>| {
        value.and_then(|v| meta::at(v, &["metadata", "labels"])).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let (before, after) = (labels(request.old_object), labels(Some(new)));
    let changed = before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key));
    let mut reserved: Vec<&str> = changed.map(String::as_str).filter(|key| is_reserved(key)).collect();
    reserved.sort_unstable();
    reserved.dedup();
    if !reserved.is_empty() {
        let verb = if request.operation == Operation::Create { "set" } else { "modify" };
        let list = reserved.join(", ");
        return refuse(request, format!("node {node:?} is not allowed to {verb} node label(s): {list}"));
    }
    if let Some(old) = request.old_object
        && meta::at(old, &["spec", "taints"]) != meta::at(new, &["spec", "taints"])
        && request.attributes.subresource.is_empty()
    {
        return refuse(request, format!("node {node:?} is not allowed to modify taints"));
    }
    Ok(())
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let under = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let kubernetes = under("kubernetes.io") || under("k8s.io");
    let free = domain == "node.kubernetes.io" || domain == "kubelet.kubernetes.io";
    let free = free || domain.ends_with(".node.kubernetes.io") || domain.ends_with(".kubelet.kubernetes.io");
    kubernetes && !free && !OWN_LABELS.contains(&key)
}

fn pod(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let runs_here = |pod: &Value| meta::text_at(pod, &["spec", "nodeName"]) == node;
    match request.operation {
        Operation::Create => {
            let Some(pod) = request.object.as_deref() else { return Ok(()) };
            if meta::at(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_none() {
                let why = format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                );
                return refuse(request, why);
            }
            match runs_here(pod) {
                true => Ok(()),
                false => {
                    refuse(request, format!("node {node:?} can only create pods with spec.nodeName set to itself"))
                }
            }
        }
        Operation::Update if request.attributes.subresource == "status" => match request.old_object {
            Some(old) if !runs_here(old) => refuse(
                request,
                format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
            ),
            _ => Ok(()),
        },
        Operation::Update => refuse(
            request,
            format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"),
        ),
        Operation::Delete => match request.old_object {
            Some(old) if !runs_here(old) => {
                refuse(request, format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            _ => Ok(()),
        },
        Operation::Connect => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels_a_node_may_not_set() {
        for (label, reserved) in [
            ("node-role.kubernetes.io/master", true),
            ("node-restriction.kubernetes.io/x", true),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.node.kubernetes.io/anything", false),
            ("topology.kubernetes.io/zone", false),
            ("example.org/x", false),
            ("foo.k8s.io/x", true),
            ("plain", false),
        ] {
            assert_eq!(super::is_reserved(label), reserved, "{label}");
        }
    }
}
