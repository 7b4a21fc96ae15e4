//! A node writes its own Node, Lease and pods only, and asks for tokens of pods that it runs.

mod node;
mod pod;
mod token;

use crate::authz::node_of;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::{KindStore, Storage};
use async_trait::async_trait;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

pub(super) struct NodeRestriction {
    pods: Arc<KindStore>,
    nodes: Arc<KindStore>,
    claims: Arc<KindStore>,
    volumes: Arc<KindStore>,
    drivers: Arc<KindStore>,
}

impl NodeRestriction {
    pub(super) fn new(storage: &Storage) -> Result<Self, Status> {
        Ok(Self {
            pods: storage.kind("", "pods")?,
            nodes: storage.kind("", "nodes")?,
            claims: storage.kind("", "persistentvolumeclaims")?,
            volumes: storage.kind("", "persistentvolumes")?,
            drivers: storage.kind("storage.k8s.io", "csidrivers")?,
        })
    }
}

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let Some(node) = node_of(&attributes.user).filter(|_| request.operation != Operation::Connect) else {
            return Ok(());
        };
        match (attributes.group.as_str(), attributes.resource.as_str(), attributes.subresource.as_str()) {
            ("", "pods", "") => self.pod(request, node),
            ("", "pods", "status") => pod::status(request, node),
            ("", "pods", "eviction") => self.eviction(request, node),
            ("", "pods", other) => {
                let why = format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed");
                refuse(request, why)
            }
            ("", "nodes", _) => node::check(request, node),
            ("", "persistentvolumeclaims", "status") => claim_status(request, node),
            ("", "persistentvolumeclaims", _) => refuse(request, "may only update PVC status".to_owned()),
            ("", "serviceaccounts", "token") => self.token(request, node),
            ("coordination.k8s.io", "leases", _) if attributes.namespace != "kube-node-lease" => {
                let why = "can only access leases in the \"kube-node-lease\" system namespace".to_owned();
                refuse(request, why)
            }
            ("coordination.k8s.io", "leases", _) => named(request, node, "node lease"),
            ("storage.k8s.io", "csinodes", _) => named(request, node, "CSINode"),
            ("resource.k8s.io", "resourceslices", "") => slice(request, node),
            _ => Ok(()),
        }
    }
}

/// 403, with the reason.
fn refuse(request: &AdmissionRequest<'_>, why: String) -> Result<(), Status> {
    let attributes = request.attributes;
    let named = request.object.as_deref().map(meta::name).unwrap_or_default();
    let name = if attributes.name.is_empty() { named } else { &attributes.name };
    Err(Status::forbidden(&attributes.group, &attributes.resource, name, why))
}

/// The name of what is written: a create has it in its object.
fn name_of<'a>(request: &'a AdmissionRequest<'_>) -> &'a str {
    let object = request.object.as_deref().or(request.old_object);
    object.map(meta::name).filter(|name| !name.is_empty()).unwrap_or(&request.attributes.name)
}

fn named(request: &AdmissionRequest<'_>, node: &str, what: &str) -> Result<(), Status> {
    match name_of(request) == node {
        true => Ok(()),
        false => refuse(request, format!("can only access {what} with the same name as the requesting node")),
    }
}

/// A node says how large a volume has become, and nothing else about its claim.
fn claim_status(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    const OWN: [&str; 4] = ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"];
    let rest = |claim: Option<&Value>| {
        let mut claim = claim.cloned().unwrap_or_default();
        for field in ["resourceVersion", "managedFields"] {
            meta::metadata(&mut claim).remove(field);
        }
        if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
            status.retain(|field, _| !OWN.contains(&field.as_str()));
        }
        claim
    };
    match rest(request.old_object) == rest(request.object.as_deref()) {
        true => Ok(()),
        false => refuse(
            request,
            format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions"),
        ),
    }
}

fn slice(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let (verb, slice) = match request.operation {
        Operation::Create => ("create", request.object.as_deref()),
        Operation::Delete => ("delete", request.old_object),
        _ => return Ok(()),
    };
    match slice.is_some_and(|slice| meta::text_at(slice, &["spec", "nodeName"]) == node) {
        true => Ok(()),
        false => {
            refuse(request, format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
        }
    }
}
