//! A new node is not ready until its kubelet and the node controller say otherwise.

use super::is;
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl AdmissionPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !is(request, "", "nodes") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(node) = request.object.as_deref_mut() else { return Ok(()) };
        let spec = meta::member(node, "spec");
        let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let same = |t: &Value| t.get("key") == taint.get("key") && t.get("effect") == taint.get("effect");
        match spec.get_mut("taints").and_then(Value::as_array_mut) {
            Some(taints) if taints.iter().any(same) => {}
            Some(taints) => taints.push(taint),
            None => {
                spec.insert("taints".to_owned(), json!([taint]));
            }
        }
        Ok(())
    }
}
