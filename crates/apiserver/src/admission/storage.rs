//! Volumes and claims: kept while they are used (StorageObjectInUseProtection), grown only where that works
//! (PersistentVolumeClaimResize).

use super::{amount, is};
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// Kinds, and the finalizer that keeps each.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let found = PROTECTED.iter().find(|(group, resource, _)| is(request, group, resource));
        let (Some((.., finalizer)), Some(object)) = (found, request.object.as_deref_mut()) else { return Ok(()) };
        let mut finalizers = meta::finalizers(object);
        if !finalizers.iter().any(|name| name == finalizer) {
            finalizers.push((*finalizer).to_owned());
            meta::metadata(object).insert("finalizers".to_owned(), json!(finalizers));
        }
        Ok(())
    }
}

pub(super) struct PersistentVolumeClaimResize {
    pub(super) classes: Arc<KindStore>,
}

impl PersistentVolumeClaimResize {
    /// Whether both are of one class, which says that its volumes can grow.
    fn can_grow(&self, new: &Value, old: &Value) -> bool {
        let (class, was) = (class(new), class(old));
        let grows = |class: &Value| class.get("allowVolumeExpansion").is_some_and(|allowed| allowed == true);
        !class.is_empty() && class == was && self.classes.get("", class).is_some_and(|entry| grows(&entry.value()))
    }
}

/// The name of a claim's class; empty when it has none.
fn class(claim: &Value) -> &str {
    let annotated = meta::at(claim, &["metadata", "annotations", CLASS_ANNOTATION]).and_then(Value::as_str);
    annotated.unwrap_or_else(|| meta::text_at(claim, &["spec", "storageClassName"]))
}

#[async_trait]
impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        if !is(request, "", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(old), Some(new)) = (request.old_object, request.object.as_deref()) else { return Ok(()) };
        let size = |claim: &Value| meta::at(claim, &["spec", "resources", "requests", "storage"]).and_then(amount);
        if size(new) <= size(old) {
            return Ok(());
        }
        let refuse = |why: &str| Err(Status::forbidden("", "persistentvolumeclaims", meta::name(old), why));
        if meta::text_at(old, &["status", "phase"]) != "Bound" {
            return refuse("Only bound persistent volume claims can be expanded");
        }
        match self.can_grow(new, old) {
            true => Ok(()),
            false => refuse(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ),
        }
    }
}
