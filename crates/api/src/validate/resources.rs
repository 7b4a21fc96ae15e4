//! Names and amounts of resources.

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use machinery::quantity::Quantity;
use serde_json::Value;

/// Names that stand for resources of containers without a prefix.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Limits and requests of a container.
pub(super) fn check(resources: &Value, at: &At<'_>, errors: &mut Errors) {
    let limits = at.field("limits");
    amounts(resources.at("limits"), &limits, errors);
    let requests = at.field("requests");
    for (name, amount) in resources.entries("requests") {
        let at = requests.key(name);
        container_resource(name, &at, errors);
        non_negative(amount, &at, errors);
        let limit = resources.at("limits").get(name);
        compare(name, amount, limit, [&requests, &limits], errors);
    }
}

/// A map of amounts by the names of what containers use.
pub(super) fn amounts(list: &Value, at: &At<'_>, errors: &mut Errors) {
    for (name, amount) in list.entries("") {
        let at = at.key(name);
        container_resource(name, &at, errors);
        non_negative(amount, &at, errors);
    }
}

fn compare(name: &str, request: &Value, limit: Option<&Value>, [at, limits]: [&At<'_>; 2], errors: &mut Errors) {
    let overcommit = STANDARD.contains(&name) || (!name.contains('/') && !name.starts_with("hugepages-"));
    match limit {
        None if overcommit => {}
        None => errors.required(limits, "Limit must be set for non overcommitable resources"),
        Some(limit) => {
            let (Some(asked), Some(allowed)) = (parsed(request), parsed(limit)) else { return };
            if overcommit && asked > allowed {
                let text = request.as_str().unwrap_or_default();
                let detail =
                    format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
                errors.invalid(at, text, detail);
            } else if !overcommit && asked != allowed {
                let text = request.as_str().unwrap_or_default();
                errors.invalid(
                    at,
                    text,
                    format!("must be equal to {name} limit of {}", limit.as_str().unwrap_or_default()),
                );
            }
        }
    }
}

fn parsed(amount: &Value) -> Option<Quantity> {
    Quantity::parse(amount.as_str()?).ok()
}

pub(super) fn container_resource(name: &str, at: &At<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    let standard = STANDARD.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
        errors.invalid(at, name, "must be a standard resource for containers");
    }
}

/// The form of a resource's name.
pub(super) fn resource_name(name: &str, at: &At<'_>, errors: &mut Errors) {
    errors.texts(at, name, name::qualified_name(name));
}

/// An amount that must not be negative.
pub(super) fn non_negative(amount: &Value, at: &At<'_>, errors: &mut Errors) {
    if parsed(amount).is_some_and(|q| q.signum() < 0) {
        errors.invalid(at, amount.clone(), "must be greater than or equal to 0");
    }
}

/// An amount that must be more than nothing.
pub(super) fn positive(amount: &Value, at: &At<'_>, errors: &mut Errors) {
    if signum(amount) <= 0 {
        errors.invalid(at, amount.clone(), "must be greater than zero");
    }
}

/// An amount as upstream checks those of volumes: what is negative is shown as a number.
pub(super) fn basic(amount: &Value, at: &At<'_>, errors: &mut Errors) {
    if signum(amount) < 0 {
        let whole = parsed(amount).map(|q| q.milli_value() / 1000);
        errors.invalid(at, whole.map_or(Value::Null, Value::from), "must be a valid resource quantity");
    }
}

/// Whether an amount is less than, or more than, nothing; what is none counts as nothing.
pub(super) fn signum(amount: &Value) -> i32 {
    parsed(amount).map_or(0, |q| i32::from(q.signum()))
}

/// An amount that must be whole.
pub(super) fn whole(amount: &Value, at: &At<'_>, errors: &mut Errors) {
    if parsed(amount).is_some_and(|q| q.milli_value() % 1000 != 0) {
        errors.invalid(at, amount.clone(), "must be an integer");
    }
}
