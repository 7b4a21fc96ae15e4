//! Ingresses without a class get the default one: the newest, when several are marked.

use super::is;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::json;
use std::sync::Arc;

const MARK: &str = "ingressclass.kubernetes.io/is-default-class";
/// The way to name a class before there was a field.
const ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) struct DefaultIngressClass {
    pub(super) classes: Arc<KindStore>,
}

#[async_trait]
impl AdmissionPlugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !is(request, "networking.k8s.io", "ingresses") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(ingress) = request.object.as_deref_mut() else { return Ok(()) };
        let named = meta::at(ingress, &["spec", "ingressClassName"]).is_some();
        if named || meta::at(ingress, &["metadata", "annotations", ANNOTATION]).is_some() {
            return Ok(());
        }
        if let Some(class) = super::newest_marked(&self.classes, &[MARK]) {
            meta::member(ingress, "spec").insert("ingressClassName".to_owned(), json!(class));
        }
        Ok(())
    }
}
