//! Volumes and claims are marked at once, so that a controller keeps them while they are used.

use super::is;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use async_trait::async_trait;
use machinery::Status;
use serde_json::json;

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let finalizer = match &*request.attributes.resource {
            "persistentvolumes" => "kubernetes.io/pv-protection",
            "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
            _ => return Ok(()),
        };
        if request.operation != Operation::Create || !is(request, "", &request.attributes.resource) {
            return Ok(());
        }
        let Some(object) = request.object.as_deref_mut() else { return Ok(()) };
        if !meta::finalizers(object).iter().any(|known| known == finalizer) {
            let list = meta::metadata(object).entry("finalizers").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(finalizer.into());
            }
        }
        Ok(())
    }
}
