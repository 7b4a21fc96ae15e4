//! Claims without a storage class get the default one: the newest, when several are marked.

use super::is;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::json;
use std::sync::Arc;

const MARK: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_MARK: &str = "storageclass.beta.kubernetes.io/is-default-class";

pub(super) struct DefaultStorageClass {
    pub(super) classes: Arc<KindStore>,
}

#[async_trait]
impl AdmissionPlugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !is(request, "", "persistentvolumeclaims") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(claim) = request.object.as_deref_mut() else { return Ok(()) };
        let annotated = meta::at(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
        if annotated.is_some() || meta::at(claim, &["spec", "storageClassName"]).is_some_and(|name| !name.is_null()) {
            return Ok(());
        }
        if let Some(class) = super::newest_marked(&self.classes, &[MARK, OLD_MARK]) {
            meta::member(claim, "spec").insert("storageClassName".to_owned(), json!(class));
        }
        Ok(())
    }
}
