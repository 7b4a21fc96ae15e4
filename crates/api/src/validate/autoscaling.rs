//! Horizontal pod autoscalers, in their v2 form.

use super::at::{At, Errors};
use super::{meta, resources};
use crate::look::Look;
use machinery::name;
use machinery::quantity::Quantity;
use serde_json::Value;

/// Kinds of metric sources, and the field each is described in; sorted as upstream lists them.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
/// The longest window a scaling policy may look at.
const PERIOD_SECONDS_MAX: i64 = 1800;
/// The longest time past recommendations may be considered.
const STABILIZATION_SECONDS_MAX: i64 = 3600;

pub(super) fn autoscaler(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let at = At::root("spec");
    let (min, max) = (spec.at("minReplicas").as_i64(), spec.int("maxReplicas"));
    if min.is_some_and(|min| min < 0) {
        errors.non_negative(&at.field("minReplicas"), spec.at("minReplicas"));
    }
    if min.is_some_and(|min| min > max) {
        errors.invalid(&at.field("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    let target = at.field("scaleTargetRef");
    reference(spec.at("scaleTargetRef"), &target, errors);
    let api_version = spec.text("scaleTargetRef.apiVersion");
    if !names_group(api_version) {
        errors.invalid(&target.field("apiVersion"), api_version, "apiVersion must specify API group");
    }
    metrics(spec.items("metrics"), &at.field("metrics"), min == Some(0), errors);
    behavior(spec.at("behavior"), &at.field("behavior"), errors);
    match max {
        0 => errors.required(&at.field("maxReplicas"), ""),
        ..0 => errors.invalid(&at.field("maxReplicas"), max, "must be greater than or equal to 1"),
        _ => {}
    }
}

/// Whether an API version is one of a group, or the core's by name.
fn names_group(api_version: &str) -> bool {
    match api_version.split_once('/') {
        Some((group, version)) => !group.is_empty() && !version.contains('/'),
        None => api_version == "v1",
    }
}

fn reference(reference: &Value, at: &At<'_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        segment(reference.text(field), &at.field(field), "", errors);
    }
}

/// A name that becomes part of a path.
fn segment(text: &str, at: &At<'_>, missing: &str, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(at, missing);
    } else {
        errors.texts(at, text, name::path_segment(text));
    }
}

fn metrics(list: &[Value], at: &At<'_>, to_zero: bool, errors: &mut Errors) {
    for (index, metric) in list.iter().enumerate() {
        source(metric, &at.index(index), errors);
    }
    if to_zero && !list.iter().any(|metric| matches!(metric.text("type"), "Object" | "External")) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(at, detail);
    }
}

/// A metric must describe the source that its type names, and no other.
fn source(metric: &Value, at: &At<'_>, errors: &mut Errors) {
    let ty = metric.text("type");
    if ty.is_empty() {
        errors.required(&at.field("type"), "must specify a metric source type");
    }
    let known: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
    errors.one_of(&at.field("type"), ty, &known);
    // In the order upstream looks at them.
    for field in ["object", "pods", "resource", "containerResource", "external"] {
        if !metric.has(field) {
            continue;
        }
        let at = at.field(field);
        if !(field == "containerResource" && ty != "ContainerResource") {
            describe(metric.at(field), field, &at, errors);
        }
        if !SOURCES.contains(&(ty, field)) && known.contains(&ty) {
            errors.forbidden(&at, "must populate the given metric source only");
        }
    }
    if let Some((_, field)) = SOURCES.iter().find(|(name, field)| *name == ty && !metric.has(field)) {
        errors.required(&at.field(field), "must populate information for the given metric source");
    }
}

fn describe(source: &Value, field: &str, at: &At<'_>, errors: &mut Errors) {
    if field == "object" {
        reference(source.at("describedObject"), &at.field("describedObject"), errors);
    }
    match field {
        "resource" | "containerResource" => resource(source, field, at, errors),
        _ => {
            let at = at.field("metric");
            segment(source.text("metric.name"), &at.field("name"), "must specify a metric name", errors);
            meta::selector(source.at("metric.selector"), &at.field("selector"), errors);
        }
    }
    let (target, at) = (source.at("target"), at.field("target"));
    values(target, &at, errors);
    let (raw, value, share) = (target.has("averageValue"), target.has("value"), target.has("averageUtilization"));
    let average = at.field("averageValue");
    match field {
        "object" if !raw && !value => errors.required(&average, "must set either a target value or averageValue"),
        "external" if raw && value => {
            errors.forbidden(&at.field("value"), "may not set both a target value for metric and a per-pod target");
        }
        "external" if !raw && !value => {
            errors.required(&average, "must set either a target value for metric or a per-pod target");
        }
        "pods" if !raw => errors.required(&average, "must specify a positive target averageValue"),
        "resource" | "containerResource" if !raw && !share => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(&at.field("averageUtilization"), detail);
        }
        "resource" | "containerResource" if raw && share => {
            errors.forbidden(&average, "may not set both a target raw value and a target utilization");
        }
        _ => {}
    }
}

fn resource(source: &Value, field: &str, at: &At<'_>, errors: &mut Errors) {
    let text = source.text("name");
    if text.is_empty() {
        errors.required(&at.field("name"), "must specify a resource name");
    }
    if field == "resource" {
        return;
    }
    if !text.is_empty() {
        resources::container_resource(text, &at.field("name"), errors);
    }
    let container = source.text("container");
    if container.is_empty() {
        errors.required(&at.field("container"), "must specify a container");
    } else {
        errors.texts(&at.field("container"), container, name::dns1123_label(container));
    }
}

fn values(target: &Value, at: &At<'_>, errors: &mut Errors) {
    let ty = target.text("type");
    if ty.is_empty() {
        errors.required(&at.field("type"), "must specify a metric target type");
    }
    if !matches!(ty, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&at.field("type"), ty, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let amount = target.at(field);
        if amount.as_str().and_then(|text| Quantity::parse(text).ok()).is_some_and(|amount| amount.signum() != 1) {
            errors.invalid(&at.field(field), amount.clone(), "must be positive");
        }
    }
    let share = target.at("averageUtilization");
    if share.as_i64().is_some_and(|share| share < 1) {
        errors.invalid(&at.field("averageUtilization"), share.clone(), "must be greater than 0");
    }
}

fn behavior(behavior: &Value, at: &At<'_>, errors: &mut Errors) {
    for direction in ["scaleUp", "scaleDown"] {
        if behavior.has(direction) {
            rules(behavior.at(direction), &at.field(direction), errors);
        }
    }
}

fn rules(rules: &Value, at: &At<'_>, errors: &mut Errors) {
    at_most(rules, "stabilizationWindowSeconds", "must be greater than or equal to zero", 0, at, errors);
    if let Some(choice) = rules.at("selectPolicy").as_str() {
        errors.one_of(&at.field("selectPolicy"), choice, &["Disabled", "Max", "Min"]);
    }
    let list = at.field("policies");
    if rules.items("policies").is_empty() {
        errors.required(&list, "must specify at least one Policy");
    }
    for (index, policy) in rules.items("policies").iter().enumerate() {
        let at = list.index(index);
        errors.one_of(&at.field("type"), policy.text("type"), &["Percent", "Pods"]);
        if policy.int("value") < 1 {
            errors.invalid(&at.field("value"), policy.int("value"), "must be greater than zero");
        }
        at_most(policy, "periodSeconds", "must be greater than zero", 1, &at, errors);
    }
    resources::non_negative(rules.at("tolerance"), &at.field("tolerance"), errors);
}

/// A number of seconds from `min` on; how many at most depends on the field.
fn at_most(owner: &Value, field: &str, too_few: &str, min: i64, at: &At<'_>, errors: &mut Errors) {
    let max = if field == "periodSeconds" { PERIOD_SECONDS_MAX } else { STABILIZATION_SECONDS_MAX };
    let seconds = owner.at(field).as_i64();
    // Only what is optional may be absent.
    let Some(seconds) = seconds.or((min > 0).then_some(0)) else { return };
    if seconds < min {
        errors.invalid(&at.field(field), seconds, too_few);
    } else if seconds > max {
        errors.invalid(&at.field(field), seconds, format!("must be less than or equal to {max}"));
    }
}
