//! Pods bear a node that is not ready or unreachable for five minutes, unless they say otherwise.

use super::creates_pod;
use crate::context::{AdmissionPlugin, AdmissionRequest};
use crate::meta;
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};

const SECONDS: i64 = 300;

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl AdmissionPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if creates_pod(request)
            && let Some(pod) = request.object.as_deref_mut()
        {
            add_tolerations(pod);
        }
        Ok(())
    }
}

fn add_tolerations(pod: &mut Value) {
    let spec = meta::member(pod, "spec");
    let mut tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            let field = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
            (field("key") == taint || field("key").is_empty()) && matches!(field("effect"), "NoExecute" | "")
        };
        if !tolerations.iter().any(covers) {
            tolerations
                .push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
    spec.insert("tolerations".to_owned(), tolerations.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added() {
        let cases = [
            (json!([]), 2),
            (json!([{"operator": "Exists"}]), 0),
            (json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]), 1),
            (json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}]), 2),
        ];
        for (before, added) in cases {
            let mut pod = json!({"spec": {"tolerations": before.clone()}});
            add_tolerations(&mut pod);
            let after = pod["spec"]["tolerations"].as_array().unwrap().len();
            assert_eq!(after - before.as_array().unwrap().len(), added, "{before}");
        }
    }
}
