//! A node's pods: it mirrors its static pods, reports on those it runs, and ends them.

use super::{NodeRestriction, refuse};
use crate::authz::references;
use crate::context::{AdmissionRequest, Operation};
use crate::meta;
use machinery::Status;
use serde_json::Value;

const MIRROR: &str = "kubernetes.io/config.mirror";

fn runs_on(pod: &Value, node: &str) -> bool {
    meta::text_at(pod, &["spec", "nodeName"]) == node
}

/// A change of `pods/status`.
pub(super) fn status(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let (Some(old), Some(new)) = (request.old_object, request.object.as_deref()) else { return Ok(()) };
    if !runs_on(old, node) {
        let why = format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return refuse(request, why);
    }
    for (path, what) in [
        (&["metadata", "labels"], "labels through pod status"),
        (&["status", "resourceClaimStatuses"], "resource claim statues"),
        (&["status", "extendedResourceClaimStatus"], "extended resource claim status"),
        (&["status", "nodeAllocatableResourceClaimStatuses"], "node allocatable resource claim statuses"),
    ] {
        if meta::at(old, path) != meta::at(new, path) {
            return refuse(request, format!("node {node:?} cannot update {what}"));
        }
    }
    Ok(())
}

/// What else of the API a pod has in its volumes, or claims.
fn projected(pod: &Value) -> Option<&'static str> {
    const SOURCES: [(&str, &str); 3] = [
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
        ("serviceAccountToken", "serviceaccounts"),
    ];
    let volumes = meta::at(pod, &["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let mut sources = volumes.filter_map(|volume| volume.pointer("/projected/sources")?.as_array()).flatten();
    let found = sources.find_map(|source| SOURCES.iter().find(|(field, _)| source.get(field).is_some()));
    let claims = meta::at(pod, &["spec", "resourceClaims"]).and_then(Value::as_array);
    found.map(|(_, kind)| *kind).or(claims.filter(|claims| !claims.is_empty()).map(|_| "resourceclaims"))
}

impl NodeRestriction {
    pub(super) fn pod(&self, request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
        match request.operation {
            Operation::Create => request.object.as_deref().map_or(Ok(()), |pod| self.mirror(request, pod, node)),
            Operation::Delete if request.old_object.is_some_and(|old| runs_on(old, node)) => Ok(()),
            Operation::Delete => {
                refuse(request, format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            _ => refuse(
                request,
                format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"),
            ),
        }
    }

    pub(super) fn eviction(&self, request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
        let pod = self.pods.find(&request.attributes.namespace, &request.attributes.name)?;
        match pod.field("spec.nodeName") == Some(node) {
            true => Ok(()),
            false => refuse(request, format!("node {node} can only evict pods with spec.nodeName set to itself")),
        }
    }

    /// A pod that a node makes: the mirror of a static one, of its own, which refers to nothing in the API.
    fn mirror(&self, request: &AdmissionRequest<'_>, pod: &Value, node: &str) -> Result<(), Status> {
        if meta::at(pod, &["metadata", "annotations", MIRROR]).is_none() {
            let why = format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods");
            return refuse(request, why);
        }
        if !runs_on(pod, node) {
            return refuse(request, format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        self.owner(request, pod, node)?;
        let named = references(pod, &request.attributes.namespace).first().map(|(kind, _)| *kind);
        match named.or_else(|| projected(pod)) {
            None => Ok(()),
            Some(kind) => refuse(request, format!("node {node:?} can not create pods that reference {kind}")),
        }
    }

    /// Its owner is the node, so that it goes with it.
    fn owner(&self, request: &AdmissionRequest<'_>, pod: &Value, node: &str) -> Result<(), Status> {
        let owners = meta::at(pod, &["metadata", "ownerReferences"]).and_then(Value::as_array);
        let can_only =
            |what: &str| refuse(request, format!("node {node:?} can only create pods with {what} set to itself"));
        let owner = match owners.map(Vec::as_slice).unwrap_or_default() {
            [owner] => owner,
            [] => return can_only("an owner reference"),
            _ => return can_only("a single owner reference"),
        };
        let of =
            (meta::text_at(owner, &["apiVersion"]), meta::text_at(owner, &["kind"]), meta::text_at(owner, &["name"]));
        if of != ("v1", "Node", node) {
            return can_only("an owner reference");
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            return can_only("a controller owner reference");
        }
        if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
            return refuse(request, format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let (given, real) = (meta::text_at(owner, &["uid"]), self.nodes.find("", node)?.uid.clone());
        match *real == *given {
            true => Ok(()),
            false => refuse(request, format!("node {node} UID mismatch: expected {given} got {real}")),
        }
    }
}
