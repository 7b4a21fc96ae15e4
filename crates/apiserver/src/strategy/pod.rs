//! Pods: first state, the few fields an update may change, grace.

use super::{Facts, Part, Strategy, qos, set_generation};
use crate::meta;
use machinery::field::{FieldError, Path};
use serde_json::{Value, json};

/// What upstream tells those who change anything else.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

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
            Part::Main => validate_spec_update(pod, old),
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

fn validate_spec_update(pod: &Value, old: &Value) -> Vec<FieldError> {
    let spec = Path::new("spec");
    if pod.get("spec") == old.get("spec") {
        return Vec::new();
    }
    let mut munged = pod.get("spec").cloned().unwrap_or_default();
    for field in ["containers", "initContainers"] {
        if list(pod, field).count() != list(old, field).count() {
            let detail = "pod updates may not add or remove containers";
            return vec![FieldError::forbidden(&spec.child(field), detail)];
        }
        let Some(containers) = munged.get_mut(field).and_then(Value::as_array_mut) else { continue };
        for (container, before) in containers.iter_mut().zip(list(old, field)) {
            meta::copy(container, before, "image");
        }
    }
    let mut errors = validate_tolerations(pod, old);
    errors.extend(validate_deadline(pod, old));
    errors.extend(validate_gates(pod, old));
    let old_spec = old.get("spec").cloned().unwrap_or_default();
    for field in ["tolerations", "activeDeadlineSeconds", "schedulingGates"] {
        meta::copy(&mut munged, &old_spec, field);
    }
    let grace = |spec: &Value| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace(&old_spec).is_some_and(|seconds| seconds < 0) && grace(&munged) == Some(1) {
        meta::copy(&mut munged, &old_spec, "terminationGracePeriodSeconds");
    }
    if list(old, "schedulingGates").next().is_some() {
        // A gated pod's place may still be narrowed.
        meta::copy(&mut munged, &old_spec, "nodeSelector");
        meta::copy(&mut munged, &old_spec, "affinity");
    }
    if errors.is_empty() && munged != old_spec {
        let detail =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", difference(&munged, &old_spec));
        errors.push(FieldError::forbidden(&spec, detail));
    }
    errors
}

/// The fields that differ, for people.
fn difference(now: &Value, before: &Value) -> String {
    let fields =
        |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut names = [fields(now), fields(before)].concat();
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter(|name| now.get(name) != before.get(name));
    let lines = differing.map(|name| {
        let text = |value: &Value| value.get(&name).map_or_else(|| "nil".to_owned(), Value::to_string);
        format!("  {name}:\n- {}\n+ {}\n", text(before), text(now))
    });
    lines.collect()
}

fn validate_tolerations(pod: &Value, old: &Value) -> Vec<FieldError> {
    let plain = |toleration: &Value| {
        let mut toleration = toleration.clone();
        meta::copy(&mut toleration, &Value::Null, "tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = list(pod, "tolerations").map(plain).collect();
    if list(old, "tolerations").all(|before| now.contains(&plain(before))) {
        return Vec::new();
    }
    let path = Path::new("spec").child("tolerations");
    vec![FieldError::forbidden(&path, "existing toleration can not be modified except its tolerationSeconds")]
}

fn validate_deadline(pod: &Value, old: &Value) -> Option<FieldError> {
    let path = Path::new("spec").child("activeDeadlineSeconds");
    let seconds = |pod: &Value| meta::at(pod, &["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64);
    match (seconds(old), seconds(pod)) {
        (_, Some(now)) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            Some(FieldError::invalid(&path, now, "must be between 0 and 2147483647, inclusive"))
        }
        (Some(before), Some(now)) if before < now => {
            Some(FieldError::invalid(&path, now, "must be less than or equal to previous value"))
        }
        (Some(_), None) => {
            Some(FieldError::invalid(&path, Value::Null, "must not update from a positive integer to nil value"))
        }
        _ => None,
    }
}

fn validate_gates(pod: &Value, old: &Value) -> Option<FieldError> {
    let added = list(pod, "schedulingGates").any(|gate| !list(old, "schedulingGates").any(|before| before == gate));
    let path = Path::new("spec").child("schedulingGates");
    added.then(|| FieldError::forbidden(&path, "only deletion is allowed, but found new scheduling gate"))
}

fn validate_ephemeral_update(pod: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("spec").child("ephemeralContainers");
    let kept = |before: &Value| list(pod, "ephemeralContainers").any(|now| now == before);
    if list(old, "ephemeralContainers").all(kept) {
        return Vec::new();
    }
    vec![FieldError::forbidden(&path, "existing ephemeral containers may not be removed or changed")]
}
