//! Roles and their bindings.

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(object: &Value, namespaced: bool, errors: &mut Errors) {
    let at = At::root("rules");
    for (index, rule) in object.items("rules").iter().enumerate() {
        let at = at.index(index);
        if rule.items("verbs").is_empty() {
            errors.required(&at.field("verbs"), "");
        }
        if !rule.items("nonResourceURLs").is_empty() {
            let urls = rule.at("nonResourceURLs").clone();
            if namespaced {
                errors.invalid(
                    &at.field("nonResourceURLs"),
                    urls,
                    "namespaced rules cannot apply to non-resource URLs",
                );
            } else if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.items(f).is_empty()) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at.field("nonResourceURLs"), urls, detail);
            }
            continue;
        }
        if rule.items("apiGroups").is_empty() {
            errors.required(&at.field("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.items("resources").is_empty() {
            errors.required(&at.field("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn binding(object: &Value, namespaced: bool, errors: &mut Errors) {
    let reference = object.at("roleRef");
    if reference.text("apiGroup") != GROUP {
        errors.unsupported(&At::root("roleRef.apiGroup"), reference.text("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    errors.one_of(&At::root("roleRef.kind"), reference.text("kind"), kinds);
    match reference.text("name") {
        "" => errors.required(&At::root("roleRef.name"), ""),
        role => errors.texts(&At::root("roleRef.name"), role, name::path_segment(role)),
    }
    let at = At::root("subjects");
    for (index, subject) in object.items("subjects").iter().enumerate() {
        self::subject(subject, namespaced, &at.index(index), errors);
    }
}

fn subject(subject: &Value, namespaced: bool, at: &At<'_>, errors: &mut Errors) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        errors.required(&at.field("name"), "");
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.texts(&at.field("name"), name, name::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.unsupported(&at.field("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.text("namespace").is_empty() {
                errors.required(&at.field("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.unsupported(&at.field("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        other => errors.unsupported(&at.field("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

pub(super) fn binding_update(new: &Value, old: &Value, namespaced: bool, errors: &mut Errors) {
    errors.immutable_fields(new, old, &["roleRef"]);
    binding(new, namespaced, errors);
}
