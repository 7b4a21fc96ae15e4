//! The other kinds of the core group, leases and priority classes.

use super::at::{At, Errors};
use super::{resources, text};
use crate::look::Look;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::name;
use machinery::quantity::Quantity;
use serde_json::Value;

/// The data of a ConfigMap or Secret may have so many bytes.
const DATA_MAX: usize = 1024 * 1024;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    let mut size = 0;
    let data = At::root("data");
    for (key, value) in object.entries("data") {
        errors.texts(&data.key(key), key, name::config_map_key(key));
        if object.at("binaryData").get(key).is_some() {
            errors.invalid(&data.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().unwrap_or_default().len();
    }
    let binary = At::root("binaryData");
    for (key, value) in object.entries("binaryData") {
        errors.texts(&binary.key(key), key, name::config_map_key(key));
        size += decoded_len(value);
    }
    if size > DATA_MAX {
        errors.too_long(&At::root(""), DATA_MAX);
    }
}

fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

pub(super) fn config_map_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable_data(new, old, &["data", "binaryData"], errors);
    config_map(new, errors);
}

fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        errors.forbidden(&At::root("immutable"), IMMUTABLE);
    }
    for field in fields {
        if new.at(field) != old.at(field) {
            errors.forbidden(&At::root(field), IMMUTABLE);
        }
    }
}

pub(super) fn secret(object: &Value, errors: &mut Errors) {
    let at = At::root("data");
    let mut size = 0;
    for (key, value) in object.entries("data") {
        errors.texts(&at.key(key), key, name::config_map_key(key));
        size += decoded_len(value);
    }
    if size > DATA_MAX {
        errors.too_long(&at, DATA_MAX);
    }
    let data = object.at("data");
    let mut need = |key: &str| {
        if data.get(key).is_none() {
            errors.required(&at.key(key), "");
        }
    };
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            let account = object["metadata"]["annotations"]["kubernetes.io/service-account.name"].as_str();
            if account.is_none_or(str::is_empty) {
                errors.required(&At::root("metadata.annotations").key("kubernetes.io/service-account.name"), "");
            }
        }
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", &at, errors),
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", &at, errors),
        "kubernetes.io/basic-auth" if data.get("username").is_none() && data.get("password").is_none() => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn docker_config(data: &Value, key: &str, at: &At<'_>, errors: &mut Errors) {
    let at = at.key(key);
    let Some(text) = data.get(key).and_then(Value::as_str) else {
        errors.required(&at, "");
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_err() {
        let first = bytes.first().map_or(' ', |b| char::from(*b));
        let wrong = match bytes.is_empty() {
            true => "unexpected end of JSON input".to_owned(),
            false => format!("invalid character '{first}' looking for beginning of value"),
        };
        errors.invalid(&at, "<secret contents redacted>", wrong);
    }
}

pub(super) fn secret_update(new: &Value, old: &Value, errors: &mut Errors) {
    errors.immutable_fields(new, old, &["type"]);
    immutable_data(new, old, &["data"], errors);
    secret(new, errors);
}

pub(super) fn node(object: &Value, errors: &mut Errors) {
    taints(object.items("spec.taints"), &At::root("metadata.taints"), errors);
    let at = At::root("spec.podCIDRs");
    for (index, cidr) in object.items("spec.podCIDRs").iter().enumerate() {
        text::network(cidr.as_str().unwrap_or_default(), &at.index(index), errors);
    }
    for list in ["status.capacity", "status.allocatable"] {
        let at = At::root(list);
        for (name, amount) in object.entries(list) {
            resources::resource_name(name, &at.key(name), errors);
            resources::non_negative(amount, &at.key(name), errors);
        }
    }
}

fn taints(taints: &[Value], at: &At<'_>, errors: &mut Errors) {
    for (index, taint) in taints.iter().enumerate() {
        let here = at.index(index);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        errors.texts(&here.field("key"), key, name::qualified_name(key));
        errors.texts(&here.field("value"), value, name::label_value(value));
        match effect {
            "" => errors.required(&here.field("effect"), ""),
            effect => errors.one_of(&here.field("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
        }
        if taints[..index].iter().any(|t| t.text("key") == key && t.text("effect") == effect) {
            errors.duplicate(&here, taint.clone());
        }
    }
}

pub(super) fn node_update(new: &Value, old: &Value, errors: &mut Errors) {
    if !old.items("spec.podCIDRs").is_empty() && old.at("spec.podCIDRs") != new.at("spec.podCIDRs") {
        errors.forbidden(&At::root("spec.podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !old.text("spec.providerID").is_empty() && old.text("spec.providerID") != new.text("spec.providerID") {
        errors.invalid(&At::root("spec.providerID"), Value::Null, "field cannot be modified once set");
    }
    node(new, errors);
}

pub(super) fn lease(object: &Value, errors: &mut Errors) {
    let duration = object.at("spec.leaseDurationSeconds");
    if duration.as_i64().is_some_and(|d| d <= 0) {
        errors.invalid(&At::root("spec.leaseDurationSeconds"), duration.clone(), "must be greater than 0");
    }
    errors.non_negative(&At::root("spec.leaseTransitions"), object.at("spec.leaseTransitions"));
}

/// The system's own priority classes.
const SYSTEM_CLASSES: [&str; 2] = ["system-node-critical", "system-cluster-critical"];
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

pub(super) fn priority_class(object: &Value, errors: &mut Errors) {
    let (name, value) = (object.text("metadata.name"), object.int("value"));
    if name.starts_with("system-") && !SYSTEM_CLASSES.contains(&name) {
        let detail = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
        );
        errors.forbidden(&At::root("metadata.name"), detail);
    } else if !name.starts_with("system-") && value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.forbidden(&At::root("value"), detail);
    }
    if object.has("preemptionPolicy") {
        errors.one_of(
            &At::root("preemptionPolicy"),
            object.text("preemptionPolicy"),
            &["PreemptLowerPriority", "Never"],
        );
    }
}

pub(super) fn priority_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new.at("value") != old.at("value") {
        errors.forbidden(&At::root("value"), "may not be changed in an update.");
    }
    errors.immutable_fields(new, old, &["preemptionPolicy"]);
}

pub(super) fn limit_range(object: &Value, errors: &mut Errors) {
    let at = At::root("spec.limits");
    let mut kinds: Vec<&str> = Vec::new();
    for (index, item) in object.items("spec.limits").iter().enumerate() {
        let (kind, at) = (item.text("type"), at.index(index));
        if kinds.contains(&kind) {
            errors.duplicate(&at.field("type"), kind);
        }
        kinds.push(kind);
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item.entries(field).next().is_some() {
                    errors.forbidden(&at.field(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        bounds(item, &at, errors);
    }
}

/// min ≤ default request ≤ default ≤ max, as far as each is there.
fn bounds(item: &Value, at: &At<'_>, errors: &mut Errors) {
    let amount = |field: &str, name: &str| {
        item[field][name].as_str().and_then(|t| Quantity::parse(t).ok().map(|q| (q, t.to_owned())))
    };
    let mut names: Vec<&String> =
        ["max", "min", "default", "defaultRequest"].iter().flat_map(|f| item.entries(f).map(|(k, _)| k)).collect();
    names.sort();
    names.dedup();
    let order = |low: (&str, &str), high: (&str, &str), place: (&str, &str), name: &str, errors: &mut Errors| {
        let (Some((small, small_text)), Some((big, big_text))) = (amount(low.0, name), amount(high.0, name)) else {
            return;
        };
        if item.text("type") == "Pod" && (low.0.starts_with("default") || high.0.starts_with("default")) {
            return;
        }
        if small > big {
            let detail = format!("{} value {small_text} is greater than {} value {big_text}", low.1, high.1);
            let shown = amount(place.1, name).map(|(_, text)| text).unwrap_or_default();
            errors.invalid(&at.field(place.0).key(name), shown, detail);
        }
    };
    for name in names {
        order(("min", "min"), ("max", "max"), ("min", "min"), name, errors);
        order(
            ("min", "min"),
            ("defaultRequest", "default request"),
            ("defaultRequest", "defaultRequest"),
            name,
            errors,
        );
        order(
            ("defaultRequest", "default request"),
            ("max", "max"),
            ("defaultRequest", "defaultRequest"),
            name,
            errors,
        );
        order(
            ("defaultRequest", "default request"),
            ("default", "default limit"),
            ("defaultRequest", "defaultRequest"),
            name,
            errors,
        );
        order(("min", "min"), ("default", "default"), ("default", "min"), name, errors);
        order(("default", "default"), ("max", "max"), ("default", "max"), name, errors);
    }
}
