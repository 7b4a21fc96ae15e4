//! What is changed or refused between a request and the store.

mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
pub(crate) mod policy;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod storage_in_use;
mod taint_nodes;
pub(crate) mod webhooks;

use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::storage::Storage;
use machinery::Status;
use machinery::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The plug-ins in their order. `authz::RoleGuard` comes on top, and [`resource_quota`] last.
pub fn plugins(storage: &Arc<Storage>) -> Result<Vec<Arc<dyn AdmissionPlugin>>, Status> {
    let core = |resource: &str| storage.kind("", resource);
    Ok(vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle { namespaces: core("namespaces")? }),
        Arc::new(limit_ranger::LimitRanger { ranges: core("limitranges")? }),
        Arc::new(service_account::ServiceAccount { accounts: core("serviceaccounts")? }),
        Arc::new(node_restriction::NodeRestriction::new(storage)?),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity { namespaces: core("namespaces")? }),
        Arc::new(priority::Priority { classes: storage.kind("scheduling.k8s.io", "priorityclasses")? }),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_storage_class::DefaultStorageClass {
            classes: storage.kind("storage.k8s.io", "storageclasses")?,
        }),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(runtime_class::RuntimeClass { classes: storage.kind("node.k8s.io", "runtimeclasses")? }),
    ])
}

/// What the cluster's users configure: mutating policies and webhooks, then validating ones. They come after all plug-ins of our
/// own have changed what they change.
pub fn configured(storage: &Arc<Storage>) -> Result<[Arc<dyn AdmissionPlugin>; 5], Status> {
    let [mutating, validating] = webhooks::plugins(storage, &crate::webhook::Caller::new(Arc::clone(storage)))?;
    Ok([policy::mutating(storage)?, mutating, policy::guard(), policy::validating(storage)?, validating])
}

/// The plug-in that comes last: what it has charged is refused by nobody any more.
pub fn resource_quota(storage: &Arc<Storage>) -> Result<Arc<dyn AdmissionPlugin>, Status> {
    Ok(Arc::new(quota::ResourceQuota::new(storage.kind("", "resourcequotas")?.clone())))
}

/// A map of quantities, as resource lists are; what is no quantity is left out.
fn amounts(value: Option<&Value>) -> BTreeMap<String, Quantity> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

/// One quantity, written as text or as a number.
fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
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
