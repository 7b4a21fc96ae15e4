//! Pods: first state, the few fields an update may change, grace.

use super::{Facts, Part, Strategy, qos, set_generation};
use crate::meta;
use machinery::field::{FieldError, Path};
use serde_json::{Value, json};

pub(super) struct PodStrategy(pub(super) Facts);

impl Strategy for PodStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, pod: &mut Value) {
        set_generation(pod, 1);
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(pod)});
        if list(pod, "schedulingGates").next().is_some() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        pod["status"] = status;
    }

    fn prepare_update(&self, part: Part, pod: &mut Value, old: &Value) {
        match part {
            Part::Status => prepare_status(pod, old),
            Part::EphemeralContainers => {
                let wanted = meta::at(pod, &["spec", "ephemeralContainers"]).cloned();
                meta::copy(pod, old, "spec");
                meta::copy(pod, old, "status");
                meta::set(meta::member(pod, "spec"), "ephemeralContainers", wanted);
            }
            _ => meta::copy(pod, old, "status"),
        }
        let changed = i64::from(pod.get("spec") != old.get("spec"));
        set_generation(pod, meta::generation(old) + changed);
    }

    fn validate_update(&self, part: Part, pod: &Value, old: &Value) -> Vec<FieldError> {
        match part {
            Part::EphemeralContainers => validate_ephemeral_update(pod, old),
            _ => Vec::new(),
        }
    }

    fn grace_seconds(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let own = meta::at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
        let unscheduled = meta::text_at(pod, &["spec", "nodeName"]).is_empty();
        let finished = matches!(meta::text_at(pod, &["status", "phase"]), "Failed" | "Succeeded");
        let seconds = if unscheduled || finished { 0 } else { requested.or(own).unwrap_or(0) };
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

fn list<'a>(pod: &'a Value, field: &'a str) -> impl Iterator<Item = &'a Value> {
    meta::at(pod, &["spec", field]).and_then(Value::as_array).into_iter().flatten()
}

fn prepare_status(pod: &mut Value, old: &Value) {
    meta::copy(pod, old, "spec");
    let owners = meta::at(old, &["metadata", "ownerReferences"]).cloned();
    meta::set(meta::metadata(pod), "ownerReferences", owners);
    let status = meta::member(pod, "status");
    for field in ["qosClass", "observedGeneration", "resourceClaimStatuses", "extendedResourceClaimStatus"] {
        if status.get(field).is_none_or(|value| value.is_null() || value == "")
            && let Some(before) = meta::at(old, &["status", field])
        {
            status.insert(field.to_owned(), before.clone());
        }
    }
    let before = meta::at(old, &["status", "conditions"]).and_then(Value::as_array);
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        let kind = condition.get("type").cloned();
        let same = before.into_iter().flatten().find(|old| old.get("type") == kind.as_ref());
        let generation = same.and_then(|same| same.get("observedGeneration"));
        if let (Some(generation), Some(condition)) = (generation, condition.as_object_mut()) {
            condition.entry("observedGeneration").or_insert_with(|| generation.clone());
        }
    }
}

fn validate_ephemeral_update(pod: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("spec").child("ephemeralContainers");
    let kept = |before: &Value| list(pod, "ephemeralContainers").any(|now| now == before);
    if list(old, "ephemeralContainers").all(kept) {
        return Vec::new();
    }
    vec![FieldError::forbidden(&path, "existing ephemeral containers may not be removed or changed")]
}
