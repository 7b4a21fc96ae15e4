//! Where a pod may run: affinity, tolerations, spreading.

use super::at::{At, Errors};
use super::meta;
use crate::look::Look;
use machinery::name;
use serde_json::{Value, json};

/// Which nodes and which other pods a pod is drawn to.
pub(super) fn affinity(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let affinity = spec.at("affinity");
    let here = at.field("affinity");
    node_affinity(affinity.at("nodeAffinity"), &here.field("nodeAffinity"), errors);
    pod_affinity(affinity.at("podAffinity"), &here.field("podAffinity"), errors);
    pod_affinity(affinity.at("podAntiAffinity"), &here.field("podAntiAffinity"), errors);
}

/// What a pod waits for before it is scheduled, and how its like are spread.
pub(super) fn gates_and_spread(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let gates = at.field("schedulingGates");
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        errors.texts(&gates.index(index), name, name::qualified_name(name));
        if spec.items("schedulingGates")[..index].contains(gate) {
            errors.duplicate(&gates.index(index), name);
        }
    }
    spread(spec, &at.field("topologySpreadConstraints"), errors);
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(affinity: &Value, at: &At<'_>, errors: &mut Errors) {
    let required = affinity.at(REQUIRED);
    if !required.is_null() {
        let at = at.field(REQUIRED);
        node_selector(required, &at, errors);
    }
    let at = at.field(PREFERRED);
    for (index, preferred) in affinity.items(PREFERRED).iter().enumerate() {
        let at = at.index(index);
        weight(preferred, &at, errors);
        node_term(preferred.at("preference"), &at.field("preference"), errors);
    }
}

/// A `NodeSelector`: of the terms, one must match.
pub(super) fn node_selector(selector: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("nodeSelectorTerms");
    let terms = selector.items("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &at.index(index), errors);
    }
}

fn weight(term: &Value, at: &At<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&term.int("weight")) {
        errors.invalid(&at.field("weight"), term.int("weight"), "must be in the range 1-100");
    }
}

fn node_term(term: &Value, at: &At<'_>, errors: &mut Errors) {
    let labels = at.field("matchExpressions");
    for (index, requirement) in term.items("matchExpressions").iter().enumerate() {
        let at = labels.index(index);
        node_requirement(requirement, &at, errors);
        let key = requirement.text("key");
        errors.texts(&at.field("key"), key, name::qualified_name(key));
    }
    let fields = at.field("matchFields");
    for (index, requirement) in term.items("matchFields").iter().enumerate() {
        let at = fields.index(index);
        if !matches!(requirement.text("operator"), "In" | "NotIn") {
            errors.invalid(&at.field("operator"), requirement.text("operator"), "not a valid selector operator");
        } else if requirement.items("values").len() != 1 {
            errors.required(
                &at.field("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if requirement.text("key") != "metadata.name" {
            errors.invalid(&at.field("key"), requirement.text("key"), "not a valid field selector key");
        }
    }
}

fn node_requirement(requirement: &Value, at: &At<'_>, errors: &mut Errors) {
    let values = requirement.items("values");
    match requirement.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&at.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&at.field("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&at.field("operator"), other, "not a valid selector operator"),
    }
}

fn pod_affinity(affinity: &Value, at: &At<'_>, errors: &mut Errors) {
    let required = at.field(REQUIRED);
    for (index, term) in affinity.items(REQUIRED).iter().enumerate() {
        pod_term(term, &required.index(index), errors);
    }
    let preferred = at.field(PREFERRED);
    for (index, term) in affinity.items(PREFERRED).iter().enumerate() {
        let at = preferred.index(index);
        weight(term, &at, errors);
        pod_term(term.at("podAffinityTerm"), &at.field("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, at: &At<'_>, errors: &mut Errors) {
    meta::selector(term.at("labelSelector"), &at.field("labelSelector"), errors);
    meta::selector(term.at("namespaceSelector"), &at.field("namespaceSelector"), errors);
    let namespaces = at.field("namespaces");
    for namespace in term.items("namespaces").iter().filter_map(Value::as_str) {
        errors.texts(&namespaces, namespace, name::dns1123_label(namespace));
    }
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.required(&at.field("topologyKey"), "can not be empty");
    }
    errors.texts(&at.field("topologyKey"), key, name::qualified_name(key));
}

/// A list of tolerations.
pub(super) fn tolerations(list: &Value, at: &At<'_>, errors: &mut Errors) {
    for (index, toleration) in list.items("").iter().enumerate() {
        let at = at.index(index);
        let (key, operator, effect) = (toleration.text("key"), toleration.text("operator"), toleration.text("effect"));
        if !key.is_empty() {
            errors.texts(&at.field("key"), key, name::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.field("operator"), operator, detail);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(&at.field("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => {
                let wrong = name::label_value(toleration.text("value"));
                if let Some(first) = wrong.first() {
                    errors.invalid(&at.field("operator"), toleration.text("value"), first.clone());
                }
            }
            "Exists" if !toleration.text("value").is_empty() => {
                errors.invalid(
                    &at.field("operator"),
                    toleration.text("value"),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            other => errors.unsupported(&at.field("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            errors.one_of(&at.field("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

/// Tolerations may be added to a pod; of those it has, only the seconds may change.
pub(super) fn only_added_tolerations(new: &Value, old: &Value, at: &At<'_>, errors: &mut Errors) {
    let plain = |t: &Value| {
        let mut t = t.clone();
        if let Some(map) = t.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        t
    };
    let kept = old.items("").iter().all(|was| new.items("").iter().any(|is| plain(is) == plain(was)));
    if !kept {
        errors.forbidden(at, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn spread(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let constraints = spec.items("topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let at = at.index(index);
        if constraint.int("maxSkew") <= 0 {
            errors.invalid(&at.field("maxSkew"), constraint.int("maxSkew"), "must be greater than zero");
        }
        let (key, action) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            errors.required(&at.field("topologyKey"), "can not be empty");
        }
        errors.one_of(&at.field("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &Value| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == action;
        if constraints[..index].iter().any(same) {
            errors.duplicate(&at.field("{topologyKey, whenUnsatisfiable}"), json!(format!("{{{key}, {action}}}")));
        }
        if constraint.has("minDomains") && constraint.int("minDomains") <= 0 {
            errors.invalid(&at.field("minDomains"), constraint.at("minDomains").clone(), "must be greater than zero");
        }
        meta::selector(constraint.at("labelSelector"), &at.field("labelSelector"), errors);
    }
}
