//! Defaults of single kinds that are more than a fixed value.

use super::{Object, is_unset, items_mut, object_in, set_absent, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub(super) fn service(service: &mut Object) {
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    // The fixed defaults of the spec come after those of the whole.
    if text(spec, "type").is_empty() {
        spec.insert("type".to_owned(), "ClusterIP".into());
    }
    let kind = text(spec, "type").to_owned();
    session_affinity(spec);
    for port in items_mut(spec, "ports") {
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == json!(0)
            || port["targetPort"] == json!("")
        {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".to_owned(), number);
        }
    }
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|a| !a.is_empty());
    let outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external);
    if outside && text(spec, "externalTrafficPolicy").is_empty() {
        spec.insert("externalTrafficPolicy".to_owned(), "Cluster".into());
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = service.get_mut("status").and_then(|s| s.get_mut("loadBalancer")).and_then(Value::as_object_mut);
        for ingress in balancer.into_iter().flat_map(|b| items_mut(b, "ingress")) {
            if !text(ingress, "ip").is_empty() {
                set_absent(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn session_affinity(spec: &mut Object) {
    match text(spec, "sessionAffinity") {
        "" | "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let seconds =
                spec.get("sessionAffinityConfig").and_then(|c| c.get("clientIP")).and_then(|c| c.get("timeoutSeconds"));
            if is_unset(seconds, true) {
                spec.insert("sessionAffinityConfig".to_owned(), json!({"clientIP": {"timeoutSeconds": 10800}}));
            }
        }
        _ => {}
    }
}

/// Folds the write-only text into the data.
pub(super) fn secret(secret: &mut Object) {
    let Some(Value::Object(strings)) = secret.remove("stringData") else { return };
    if let Some(data) = object_in(secret, "data") {
        for (key, value) in strings {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

/// A namespace carries its name as a label.
pub(super) fn namespace(namespace: &mut Object) {
    let Some(meta) = namespace.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let name = text(meta, "name").to_owned();
    if !name.is_empty()
        && let Some(labels) = object_in(meta, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

pub(super) fn node_status(status: &mut Object) {
    if let Some(capacity) = status.get("capacity").cloned() {
        set_absent(status, "allocatable", capacity);
    }
}

/// Default limits of containers come from the maxima, default requests from the default limits and the minima.
pub(super) fn limit_range_item(item: &mut Object) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(Value::Object(source)) = item.get(from).cloned() else { continue };
        if let Some(target) = object_in(item, to) {
            for (name, quantity) in source {
                target.entry(name).or_insert(quantity);
            }
        }
    }
}

/// Selector and labels of a replication controller come from its template.
pub(super) fn replication_controller(controller: &mut Object) {
    let labels = controller
        .get("spec")
        .and_then(|s| s.get("template"))
        .and_then(|t| t.get("metadata"))
        .and_then(|m| m.get("labels"));
    let Some(labels) = labels.filter(|l| l.is_object()).cloned() else { return };
    if let Some(spec) = controller.get_mut("spec").and_then(Value::as_object_mut)
        && is_empty_map(spec.get("selector"))
    {
        spec.insert("selector".to_owned(), labels.clone());
    }
    label_like(controller, labels);
}

fn label_like(object: &mut Object, labels: Value) {
    if let Some(meta) = object_in(object, "metadata")
        && is_empty_map(meta.get("labels"))
    {
        meta.insert("labels".to_owned(), labels);
    }
}

fn is_empty_map(value: Option<&Value>) -> bool {
    value.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
}

pub(super) fn deployment_strategy(strategy: &mut Object) {
    rolling_update(strategy, &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
}

pub(super) fn daemon_set_strategy(strategy: &mut Object) {
    rolling_update(strategy, &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
}

pub(super) fn stateful_set_strategy(strategy: &mut Object) {
    rolling_update(strategy, &[("partition", json!(0)), ("maxUnavailable", json!(1))]);
}

/// The strategy is a rolling update unless it says otherwise, and only then has parameters.
fn rolling_update(strategy: &mut Object, parameters: &[(&str, Value)]) {
    if text(strategy, "type").is_empty() {
        strategy.insert("type".to_owned(), "RollingUpdate".into());
    }
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object_in(strategy, "rollingUpdate")
    {
        for (name, value) in parameters {
            set_absent(rolling, name, value.clone());
        }
    }
}

pub(super) fn job(job: &mut Object) {
    let labels =
        job.get("spec").and_then(|s| s.get("template")).and_then(|t| t.get("metadata")).and_then(|m| m.get("labels"));
    let labels = labels.filter(|l| l.is_object()).cloned();
    if let Some(spec) = job.get_mut("spec").and_then(Value::as_object_mut) {
        if is_unset(spec.get("parallelism"), true) {
            set_absent(spec, "completions", 1);
        }
        set_absent(spec, "parallelism", 1);
        let per_index = !is_unset(spec.get("backoffLimitPerIndex"), true);
        set_absent(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        set_absent(spec, "completionMode", "NonIndexed");
        set_absent(spec, "suspend", false);
        set_absent(spec, "manualSelector", false);
        let policy = !is_unset(spec.get("podFailurePolicy"), true);
        set_absent(spec, "podReplacementPolicy", if policy { "Failed" } else { "TerminatingOrFailed" });
    }
    if let Some(labels) = labels {
        label_like(job, labels);
    }
}

pub(super) fn scaling_behavior(behavior: &mut Object) {
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if let Some(up) = object_in(behavior, "scaleUp") {
        set_absent(up, "stabilizationWindowSeconds", 0);
        set_absent(up, "selectPolicy", "Max");
        set_absent(up, "policies", json!([pods, percent]));
    }
    if let Some(down) = object_in(behavior, "scaleDown") {
        set_absent(down, "selectPolicy", "Max");
        set_absent(down, "policies", json!([percent]));
    }
}

pub(super) fn network_policy(spec: &mut Object) {
    if is_unset(spec.get("policyTypes"), false) {
        let egress = !is_unset(spec.get("egress"), false);
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

pub(super) fn subject(subject: &mut Object) {
    if matches!(text(subject, "kind"), "User" | "Group") && text(subject, "apiGroup").is_empty() {
        subject.insert("apiGroup".to_owned(), "rbac.authorization.k8s.io".into());
    }
}

pub(super) fn mutating_webhook(webhook: &mut Object) {
    set_absent(webhook, "reinvocationPolicy", "Never");
}

/// Names of a custom kind follow from the kind; the stored versions start with the one that is stored.
pub(super) fn custom_resource_definition(definition: &mut Object) {
    let spec = definition.get_mut("spec").and_then(Value::as_object_mut);
    let mut stored = Vec::new();
    if let Some(spec) = spec {
        stored = items_mut(spec, "versions")
            .filter(|v| v.get("storage") == Some(&json!(true)))
            .map(|v| v["name"].clone())
            .collect();
        if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
            let kind = text(names, "kind").to_owned();
            if text(names, "singular").is_empty() {
                names.insert("singular".to_owned(), kind.to_lowercase().into());
            }
            if text(names, "listKind").is_empty() && !kind.is_empty() {
                names.insert("listKind".to_owned(), format!("{kind}List").into());
            }
        }
    }
    if let Some(status) = object_in(definition, "status")
        && is_unset(status.get("storedVersions"), false)
    {
        status.insert("storedVersions".to_owned(), stored.into());
    }
}

pub(super) fn device_count(request: &mut Object) {
    if text(request, "allocationMode") == "ExactCount" && is_unset(request.get("count"), false) {
        request.insert("count".to_owned(), json!(1));
    }
}
