//! Between the versions of one kind that differ: events of the two groups, autoscalers of v1 and v2.

use crate::meta;
use serde_json::{Map, Value, json};

/// How a served version differs from the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conversion {
    /// Events of `events.k8s.io`, stored as those of the core group.
    Events,
    /// Autoscalers of v1, stored as v2.
    Autoscalers,
    /// Only the version's name.
    Name,
}

/// Core group's names of an event's fields, and those of `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Where a v1 autoscaler keeps what v1 has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

impl Conversion {
    /// The conversion between group versions of a resource, when they differ.
    pub(crate) fn between(served: (&str, &str), stored: (&str, &str), resource: &str) -> Option<Conversion> {
        match (served, resource) {
            _ if served == stored => None,
            (("events.k8s.io", _), "events") => Some(Conversion::Events),
            (("autoscaling", "v1"), "horizontalpodautoscalers") => Some(Conversion::Autoscalers),
            _ => Some(Conversion::Name),
        }
    }

    /// The stored form's name of a field that can be selected by, where it has another.
    pub(crate) fn stored_field(self, field: &str) -> Option<String> {
        let (first, rest) = field.split_once('.').map_or((field, None), |(first, rest)| (first, Some(rest)));
        let (stored, _) = EVENT_FIELDS.iter().find(|(_, served)| self == Conversion::Events && *served == first)?;
        Some(rest.map_or_else(|| (*stored).to_owned(), |rest| format!("{stored}.{rest}")))
    }

    /// From the stored form.
    pub(crate) fn serve(self, object: &mut Value) {
        match self {
            Conversion::Events => rename(object, EVENT_FIELDS),
            Conversion::Autoscalers => autoscaler_v1(object),
            Conversion::Name => {}
        }
    }

    /// To the stored form.
    pub(crate) fn store(self, object: &mut Value) {
        match self {
            Conversion::Events => rename(object, EVENT_FIELDS.map(|(core, own)| (own, core))),
            Conversion::Autoscalers => autoscaler_v2(object),
            Conversion::Name => {}
        }
    }
}

fn rename(object: &mut Value, fields: [(&str, &str); 7]) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in fields {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

/// Whether a metric (or its current state) is the plain CPU utilization that v1 knows.
fn is_cpu(metric: &Value) -> bool {
    meta::text_at(metric, &["type"]) == "Resource" && meta::text_at(metric, &["resource", "name"]) == "cpu"
}

fn stash(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(value) = value.filter(|value| value.as_array().is_none_or(|list| !list.is_empty())) else { return };
    let annotations = meta::metadata(object).entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.to_owned(), value.to_string().into());
    }
}

fn unstash(object: &mut Value, key: &str) -> Option<Value> {
    let metadata = meta::metadata(object);
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn take_list(map: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match map.remove(field) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn autoscaler_v1(object: &mut Value) {
    let spec = meta::member(object, "spec");
    let (cpu, rest): (Vec<_>, Vec<_>) = take_list(spec, "metrics").into_iter().partition(|metric| {
        is_cpu(metric) && meta::at(metric, &["resource", "target", "averageUtilization"]).is_some()
    });
    let target = cpu.first().and_then(|metric| meta::at(metric, &["resource", "target", "averageUtilization"]));
    meta::set(spec, "targetCPUUtilizationPercentage", target.cloned());
    let behavior = spec.remove("behavior");
    let status = meta::member(object, "status");
    let current = take_list(status, "currentMetrics");
    let conditions = take_list(status, "conditions");
    let used = current.iter().find(|metric| is_cpu(metric));
    let used = used.and_then(|metric| meta::at(metric, &["resource", "current", "averageUtilization"])).cloned();
    meta::set(status, "currentCPUUtilizationPercentage", used);
    status.entry("currentReplicas").or_insert_with(|| json!(0));
    stash(object, METRICS, Some(rest.into()));
    stash(object, BEHAVIOR, behavior);
    stash(object, CURRENT_METRICS, Some(current.into()));
    stash(object, CONDITIONS, Some(conditions.into()));
}

fn autoscaler_v2(object: &mut Value) {
    let stashed = |object: &mut Value, key| match unstash(object, key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let rest = stashed(object, METRICS);
    let behavior = unstash(object, BEHAVIOR);
    let (current, conditions) = (stashed(object, CURRENT_METRICS), stashed(object, CONDITIONS));
    let spec = meta::member(object, "spec");
    let mut metrics = Vec::new();
    if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": target});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    metrics.extend(rest);
    meta::set(spec, "metrics", (!metrics.is_empty()).then(|| metrics.into()));
    meta::set(spec, "behavior", behavior);
    let status = meta::member(object, "status");
    status.remove("currentCPUUtilizationPercentage");
    if status.get("currentReplicas").is_some_and(|replicas| *replicas == 0) {
        status.remove("currentReplicas");
    }
    meta::set(status, "currentMetrics", Some(current.into()));
    meta::set(status, "conditions", (!conditions.is_empty()).then(|| conditions.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_stored_form() {
        for (field, stored) in [
            ("regarding.name", Some("involvedObject.name")),
            ("reportingController", Some("reportingComponent")),
            ("reason", None),
        ] {
            assert_eq!(Conversion::Events.stored_field(field).as_deref(), stored);
            assert_eq!(Conversion::Name.stored_field(field), None);
        }
    }

    #[test]
    fn there_and_back() {
        for (conversion, stored) in [
            (
                Conversion::Events,
                json!({"involvedObject": {"kind": "Pod"}, "message": "m", "reason": "r", "count": 2, "reportingComponent": "c", "metadata": {}}),
            ),
            (
                Conversion::Autoscalers,
                json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "behavior": {"x": 1}, "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Pods", "pods": {"metric": {"name": "m"}}}]},
                    "status": {"currentMetrics": [], "desiredReplicas": 1}}),
            ),
        ] {
            let mut served = stored.clone();
            conversion.serve(&mut served);
            assert_ne!(served, stored);
            conversion.store(&mut served);
            assert_eq!(served, stored);
        }
    }
}
