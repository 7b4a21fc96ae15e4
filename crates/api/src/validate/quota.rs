//! ResourceQuota: what can be limited, and for which objects.

use super::at::{At, Errors};
use super::resources;
use crate::look::Look;
use serde_json::Value;

/// Resources of which only whole numbers are limited.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources of nodes that pods are limited in.
const COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
/// Scopes that are there or not, and have no values.
const PLAIN_SCOPES: [&str; 5] =
    ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "CrossNamespacePodAffinity"];
/// Scopes that no object can be in together.
const EXCLUSIVE: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

pub(super) fn create(object: &Value, errors: &mut Errors) {
    amounts(object.at("spec.hard"), &At::root("spec.hard"), errors);
    scopes(object, errors);
    selector(object, errors);
}

/// Amounts by the names of what quotas know.
pub(super) fn amounts(list: &Value, at: &At<'_>, errors: &mut Errors) {
    for (name, amount) in list.entries("") {
        let here = at.key(name);
        resources::resource_name(name, &here, errors);
        if !name.contains('/') && !is_standard(name) {
            if machinery::name::qualified_name(name).is_empty() {
                errors.invalid(&here, name.as_str(), "must be a standard resource type or fully qualified");
            }
            errors.invalid(&here, name.as_str(), "must be a standard resource for quota");
        }
        resources::non_negative(amount, &here, errors);
        if is_counted(name) {
            resources::whole(amount, &here, errors);
        }
    }
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    create(new, errors);
    let set = |object: &Value| {
        let mut names: Vec<String> = object.items("spec.scopes").iter().map(|name| name.text("").to_owned()).collect();
        names.sort();
        names.dedup();
        names
    };
    if set(new) != set(old) {
        errors.invalid(&At::root("spec.scopes"), new.at("spec.scopes").clone(), "field is immutable");
    }
}

fn scopes(object: &Value, errors: &mut Errors) {
    let at = At::root("spec.scopes");
    let scopes: Vec<&str> = object.items("spec.scopes").iter().map(|scope| scope.text("")).collect();
    let all = || object.at("spec.scopes").clone();
    for scope in &scopes {
        if !is_scope(scope) {
            errors.invalid(&at, all(), "unsupported scope");
        }
        for _ in misplaced(object, scope) {
            errors.invalid(&at, all(), "unsupported scope applied to resource");
        }
    }
    for _ in EXCLUSIVE.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))) {
        errors.invalid(&at, all(), "conflicting scopes");
    }
}

fn selector(object: &Value, errors: &mut Errors) {
    let at = At::root("spec.scopeSelector.matchExpressions");
    let wanted = object.items("spec.scopeSelector.matchExpressions");
    for requirement in wanted {
        let (scope, operator) = (requirement.text("scopeName"), requirement.text("operator"));
        if !is_scope(scope) {
            errors.invalid(&at.field("scopeName"), scope, "unsupported scope");
        }
        for _ in misplaced(object, scope) {
            errors.invalid(&at, object.at("spec.scopeSelector").clone(), "unsupported scope applied to resource");
        }
        if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
            errors.invalid(&at.field("operator"), operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
        }
        let values = requirement.items("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &at.field("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                &at.field("values"),
                requirement.at("values").clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(&at.field("operator"), operator, "not a valid selector operator"),
        }
    }
    let has = |scope: &&str| wanted.iter().any(|requirement| requirement.text("scopeName") == *scope);
    for _ in EXCLUSIVE.iter().filter(|pair| pair.iter().all(has)) {
        errors.invalid(&at, object.at("spec.scopes").clone(), "conflicting scopes");
    }
}

fn is_scope(scope: &str) -> bool {
    PLAIN_SCOPES.contains(&scope) || matches!(scope, "PriorityClass" | "VolumeAttributesClass")
}

/// Limits of a quota that its scope has nothing to do with.
fn misplaced<'a>(object: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a String> {
    let standard = object.entries("spec.hard").map(|(name, _)| name).filter(|name| is_standard_alone(name));
    standard.filter(move |name| match scope {
        "BestEffort" => *name != "pods",
        "VolumeAttributesClass" => !matches!(name.as_str(), "persistentvolumeclaims" | "requests.storage"),
        _ if is_scope(scope) => *name != "pods" && !COMPUTE.contains(&name.as_str()),
        _ => false,
    })
}

fn is_counted(name: &str) -> bool {
    COUNTED.contains(&name) || name.starts_with("count/")
}

fn is_standard_alone(name: &str) -> bool {
    COUNTED.contains(&name)
        || COMPUTE.contains(&name)
        || name == "requests.storage"
        || name.trim_start_matches("requests.").trim_start_matches("limits.") == "ephemeral-storage"
        || name.trim_start_matches("requests.").starts_with("hugepages-")
}

fn is_standard(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    is_counted(name)
        || ["cpu", "memory", "ephemeral-storage", "storage"].contains(&plain)
        || plain.starts_with("hugepages-")
        || name.contains(".storageclass.storage.k8s.io/")
}
