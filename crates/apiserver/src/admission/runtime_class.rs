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
        if given.is_some() && overhead.is_none() {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return refuse(why.to_owned());
        }
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
                if let Some(own) = selector.get(key).filter(|own| *own != value) {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    return refuse(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                        text(value),
                        text(own)
                    ));
                }
                selector.insert(key.clone(), value.clone());
            }
            spec.insert("nodeSelector".to_owned(), json!(selector));
        }
        if let Some(added) = scheduling.and_then(|s| s.get("tolerations")).and_then(Value::as_array) {
            let mut all = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
            all.extend(added.iter().cloned());
            spec.insert("tolerations".to_owned(), json!(merged(&all)));
        }
        Ok(())
    }
}

/// Tolerations without those that another one includes; of equal ones, the first.
fn merged(all: &[Value]) -> Vec<&Value> {
    let mut kept: Vec<&Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let later = all[at + 1..].iter().any(|other| other != toleration && includes(other, toleration));
        if !later && !kept.iter().any(|other| includes(other, toleration)) {
            kept.push(toleration);
        }
    }
    kept
}

/// Whether a toleration tolerates all that another does.
fn includes(wide: &Value, narrow: &Value) -> bool {
    let text = |of: &Value, field: &str| meta::text_at(of, &[field]).to_owned();
    let seconds = |of: &Value| of.get("tolerationSeconds").and_then(Value::as_i64);
    let (operator, all_keys) = (text(wide, "operator"), text(wide, "key").is_empty());
    if wide == narrow {
        return true;
    }
    if text(wide, "key") != text(narrow, "key") && !(all_keys && operator == "Exists") {
        return false;
    }
    let effect = text(wide, "effect");
    if !effect.is_empty() && effect != text(narrow, "effect") {
        return false;
    }
    if let (true, Some(limit)) = (effect == "NoExecute", seconds(wide))
        && seconds(narrow).is_none_or(|seconds| seconds > limit)
    {
        return false;
    }
    match operator.as_str() {
        "Exists" => true,
        "" | "Equal" => text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_that_another_includes_go() {
        let exists = json!({"key": "a", "operator": "Exists"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "v", "effect": "NoSchedule"});
        let all = json!({"operator": "Exists"});
        let brief = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 50});
        for (given, expected) in [
            (vec![&equal, &exists], vec![&exists]),
            (vec![&exists, &equal], vec![&exists]),
            (vec![&equal, &equal], vec![&equal]),
            (vec![&exists, &all], vec![&all]),
            (vec![&brief, &long], vec![&long]),
            (vec![&equal, &brief], vec![&equal, &brief]),
        ] {
            let given: Vec<Value> = given.into_iter().cloned().collect();
            assert_eq!(merged(&given), expected, "{given:?}");
        }
    }
}
