//! A pod on a node has the node's labels of region and zone.

use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels {
    pub(super) nodes: Arc<KindStore>,
}

#[async_trait]
impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        if !(attributes.group.is_empty() && attributes.resource == "pods") {
            return Ok(());
        }
        let (subresource, operation) = (attributes.subresource.as_str(), request.operation);
        let Some(object) = request.object.as_deref_mut() else { return Ok(()) };
        let node = match (subresource, operation) {
            ("", Operation::Create | Operation::Update) => meta::text_at(object, &["spec", "nodeName"]),
            // The labels of a binding become the pod's.
            ("binding", Operation::Create) if meta::text_at(object, &["target", "kind"]) == "Node" => {
                meta::text_at(object, &["target", "name"])
            }
            _ => "",
        };
        let Some(node) = Some(node).filter(|node| !node.is_empty()).and_then(|node| self.nodes.get("", node)) else {
            return Ok(());
        };
        let node = node.value();
        let labels = LABELS.into_iter().filter_map(|label| {
            Some((label, meta::at(&node, &["metadata", "labels", label]).and_then(Value::as_str)?))
        });
        for (label, value) in labels {
            let own = meta::metadata(object).entry("labels").or_insert_with(|| serde_json::json!({}));
            if let Some(own) = own.as_object_mut() {
                own.insert(label.to_owned(), value.into());
            }
        }
        Ok(())
    }
}
