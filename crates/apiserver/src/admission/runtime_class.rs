//! Pods of a runtime class get its overhead and scheduling constraints.

use super::creates_pod;
use crate::context::{AdmissionPlugin, AdmissionRequest};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) struct RuntimeClass {
    pub(super) classes: Arc<KindStore>,
}

#[async_trait]
impl AdmissionPlugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !creates_pod(request) {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        let pod_name = meta::name(pod).to_owned();
        let refuse = |why: String| Err(Status::forbidden("", "pods", &pod_name, why));
        let name = meta::text_at(pod, &["spec", "runtimeClassName"]).to_owned();
        let given = meta::at(pod, &["spec", "overhead"]).filter(|overhead| !overhead.is_null()).cloned();
        if name.is_empty() {
            return match given {
                Some(_) => {
                    refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into())
                }
                None => Ok(()),
            };
        }
        let Some(class) = self.classes.get("", &name) else {
            return refuse(format!("pod rejected: RuntimeClass {name:?} not found"));
        };
        let class = class.value();
        let overhead = meta::at(&class, &["overhead", "podFixed"]);
        if given.is_some() && given.as_ref() != overhead {
            return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        let spec = meta::member(pod, "spec");
        if let Some(overhead) = overhead {
            spec.insert("overhead".to_owned(), overhead.clone());
        }
        let scheduling = class.get("scheduling");
        if let Some(wanted) = scheduling.and_then(|s| s.get("nodeSelector")).and_then(Value::as_object) {
            let mut selector = spec.get("nodeSelector").and_then(Value::as_object).cloned().unwrap_or_default();
            for (key, value) in wanted {
                if selector.get(key).is_some_and(|own| own != value) {
                    return refuse(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] differs"
                    ));
                }
                selector.insert(key.clone(), value.clone());
            }
            spec.insert("nodeSelector".to_owned(), json!(selector));
        }
        if let Some(added) = scheduling.and_then(|s| s.get("tolerations")).and_then(Value::as_array) {
            let mut tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
            tolerations.extend(added.iter().filter(|t| !tolerations.contains(t)).cloned().collect::<Vec<_>>());
            spec.insert("tolerations".to_owned(), json!(tolerations));
        }
        Ok(())
    }
}
