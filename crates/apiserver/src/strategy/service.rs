//! Services: what depends on the type goes when the type changes.

use super::{Facts, Part, Strategy};
use crate::meta;
use serde_json::{Map, Value};

pub(super) struct ServiceStrategy(pub(super) Facts);

impl Strategy for ServiceStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, object: &mut Value) {
        self.0.prepare_create(object);
        object["status"] = serde_json::json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        self.0.prepare_update(part, object, old);
        if part == Part::Main {
            keep_addresses(object, old);
            drop_dependents(object, old);
        }
    }
}

fn kind(service: &Value) -> &str {
    match meta::text_at(service, &["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

/// A client that does not send the cluster addresses and node ports back means those that are there.
fn keep_addresses(object: &mut Value, old: &Value) {
    if kind(object) == "ExternalName" || kind(old) == "ExternalName" {
        return;
    }
    let keep_nodes =
        matches!(kind(object), "NodePort" | "LoadBalancer") && matches!(kind(old), "NodePort" | "LoadBalancer");
    let keep_health = meta::text_at(object, &["spec", "externalTrafficPolicy"]) == "Local";
    let old_ports = meta::at(old, &["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let spec = meta::member(object, "spec");
    let mut fields = vec!["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    if keep_health {
        fields.push("healthCheckNodePort");
    }
    for field in fields {
        if is_empty(spec.get(field)) {
            meta::set(spec, field, meta::at(old, &["spec", field]).cloned());
        }
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter(|_| keep_nodes) {
        let same = |before: &&Value| ["port", "protocol"].iter().all(|field| before.get(field) == port.get(field));
        let node_port = old_ports.iter().find(same).and_then(|before| before.get("nodePort")).cloned();
        if let (true, Some(port)) = (is_empty(port.get("nodePort")), port.as_object_mut()) {
            meta::set(port, "nodePort", node_port);
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    value
        .is_none_or(|value| value.is_null() || value == "" || value == 0 || value.as_array().is_some_and(Vec::is_empty))
}

/// Fields of the old type that the client left as they were mean nothing for the new type.
fn drop_dependents(object: &mut Value, old: &Value) {
    let (now, before) = (kind(object).to_owned(), kind(old).to_owned());
    if now == before {
        return;
    }
    let old_spec = old.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let spec = meta::member(object, "spec");
    if now == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            drop_same(spec, &old_spec, field);
        }
    }
    if !matches!(&*now, "NodePort" | "LoadBalancer") {
        drop_same(spec, &old_spec, "externalTrafficPolicy");
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        let old_ports = old_spec.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        for (index, port) in ports.into_iter().flatten().enumerate() {
            if let (Some(port), Some(Value::Object(before))) = (port.as_object_mut(), old_ports.get(index)) {
                drop_same(port, before, "nodePort");
            }
        }
        drop_same(spec, &old_spec, "healthCheckNodePort");
    }
    if now != "LoadBalancer" {
        for field in
            ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges"]
        {
            drop_same(spec, &old_spec, field);
        }
    }
}

fn drop_same(object: &mut Map<String, Value>, old: &Map<String, Value>, field: &str) {
    if object.get(field) == old.get(field) {
        object.remove(field);
    }
}
