//! Nothing is made in a namespace that is not there or is going away, and some namespaces never go.

use super::is;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use std::sync::Arc;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle {
    pub(super) namespaces: Arc<KindStore>,
}

#[async_trait]
impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let is_namespace = attributes.group.is_empty() && attributes.resource == "namespaces";
        if is_namespace || request.operation != Operation::Create || attributes.namespace.is_empty() {
            return Ok(());
        }
        // A review of what would be allowed is no object in the namespace.
        if attributes.group == "authorization.k8s.io" {
            return Ok(());
        }
        let namespace = self.namespaces.find("", &attributes.namespace)?;
        if namespace.field("status.phase").is_some_and(|phase| phase != "Terminating") {
            return Ok(());
        }
        let object = namespace.value();
        if !meta::deleting(&object) && meta::text_at(&object, &["status", "phase"]) != "Terminating" {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {} because it is being terminated", namespace.name());
        let name = request.object.as_deref().map(meta::name).unwrap_or_default();
        let status = Status::forbidden(&attributes.group, &attributes.resource, name, why);
        let message = format!("namespace {} is being terminated", namespace.name());
        Err(status.with_cause("NamespaceTerminating", "metadata.namespace", message))
    }
    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let name = request.attributes.name.as_str();
        let deletes = request.operation == Operation::Delete && is(request, "", "namespaces");
        match deletes && IMMORTAL.contains(&name) {
            true => Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted")),
            false => Ok(()),
        }
    }
}
