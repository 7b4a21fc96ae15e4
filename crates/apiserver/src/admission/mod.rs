//! What is changed or refused between a request and the store.

mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod priority;
mod runtime_class;
mod service_account;
mod taint_nodes;

use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::storage::Storage;
use machinery::Status;
use std::sync::Arc;

/// The plug-ins in their order. `authz::RoleGuard` comes on top.
pub fn plugins(storage: &Arc<Storage>) -> Result<Vec<Arc<dyn AdmissionPlugin>>, Status> {
    let core = |resource: &str| storage.kind("", resource);
    Ok(vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle { namespaces: core("namespaces")? }),
        Arc::new(limit_ranger::LimitRanger { ranges: core("limitranges")? }),
        Arc::new(service_account::ServiceAccount { accounts: core("serviceaccounts")? }),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity { namespaces: core("namespaces")? }),
        Arc::new(priority::Priority { classes: storage.kind("scheduling.k8s.io", "priorityclasses")? }),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_storage_class::DefaultStorageClass {
            classes: storage.kind("storage.k8s.io", "storageclasses")?,
        }),
        Arc::new(runtime_class::RuntimeClass { classes: storage.kind("node.k8s.io", "runtimeclasses")? }),
    ])
}

/// Whether this is the creation of a pod (not of one of its subresources).
fn creates_pod(request: &AdmissionRequest<'_>) -> bool {
    is(request, "", "pods") && request.operation == Operation::Create
}

/// Whether this is about the resource itself.
fn is(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    let attributes = request.attributes;
    attributes.group == group && attributes.resource == resource && attributes.subresource.is_empty()
}
