//! Storage classes.

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use serde_json::Value;
use std::collections::BTreeSet;

/// All parameters together may have so many bytes.
const PARAMETERS_MAX: usize = 256 * 1024;
/// So many parameters.
const PARAMETERS_COUNT_MAX: usize = 512;

pub(super) fn class(object: &Value, errors: &mut Errors) {
    let provisioner = object.text("provisioner");
    let at = At::root("provisioner");
    if provisioner.is_empty() {
        errors.required(&at, "");
    } else {
        let lower = provisioner.to_lowercase();
        errors.texts(&at, &lower, name::qualified_name(&lower));
    }
    parameters(object, errors);
    if let Some(policy) = object.at("reclaimPolicy").as_str().filter(|policy| !policy.is_empty()) {
        errors.one_of(&At::root("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    match object.at("volumeBindingMode").as_str() {
        None => errors.required(&At::root("volumeBindingMode"), ""),
        Some(mode) => errors.one_of(&At::root("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]),
    }
    let list = At::root("allowedTopologies");
    let mut terms = Vec::new();
    for (index, term) in object.items("allowedTopologies").iter().enumerate() {
        let at = list.index(index);
        let at = at.field("matchLabelExpressions");
        let term = topology(term, &at, errors);
        if term.is_empty() || terms.contains(&term) {
            errors.duplicate(&at, "");
        } else {
            terms.push(term);
        }
    }
}

fn parameters(object: &Value, errors: &mut Errors) {
    let at = At::root("parameters");
    let (mut size, mut count) = (0, 0);
    for (key, value) in object.entries("parameters") {
        if key.is_empty() {
            errors.invalid(&at, key.as_str(), "field can not be empty.");
        }
        (size, count) = (size + key.len() + value.as_str().unwrap_or_default().len(), count + 1);
    }
    if count > PARAMETERS_COUNT_MAX {
        errors.too_long(&At::root("Provisioner Parameters Length"), PARAMETERS_COUNT_MAX);
    } else if size > PARAMETERS_MAX {
        errors.too_long(&at, PARAMETERS_MAX);
    }
}

/// A term's keys and values, sorted, so that two that say the same are seen to.
fn topology<'a>(term: &'a Value, at: &At<'_>, errors: &mut Errors) -> Vec<(&'a str, BTreeSet<&'a str>)> {
    let mut found: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for (index, requirement) in term.items("matchLabelExpressions").iter().enumerate() {
        let at = at.index(index);
        let (key, values, list) = (requirement.text("key"), requirement.items("values"), at.field("values"));
        if values.is_empty() {
            errors.required(&list, "");
        }
        let mut set = BTreeSet::new();
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            if !set.insert(value) {
                errors.duplicate(&list.index(index), value);
            }
        }
        errors.texts(&at.field("key"), key, name::qualified_name(key));
        if found.iter().any(|(other, _)| *other == key) {
            errors.duplicate(&at.field("key"), key);
        }
        found.push((key, set));
    }
    found.sort();
    found
}

/// What a class provisions, and when, is for good. Upstream shows no values here.
pub(super) fn class_update(new: &Value, old: &Value, errors: &mut Errors) {
    class(new, errors);
    for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
        if new.at(field) != old.at(field) {
            errors.invalid(&At::root(field), Value::Null, "field is immutable");
        }
    }
}
