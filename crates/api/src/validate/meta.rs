//! `metadata`, labels and label selectors.

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use serde_json::{Value, json};

/// All annotations of an object together may have so many bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// The rule that the names of a kind follow.
pub(super) fn name_rule(group: &str, kind: &str) -> fn(&str) -> Vec<String> {
    match (group, kind) {
        ("", "Namespace" | "Service") => name::dns1123_label,
        ("rbac.authorization.k8s.io", _) => name::path_segment,
        ("batch", "CronJob") => cron_job_name,
        ("apiregistration.k8s.io", "APIService")
        | ("networking.k8s.io", "IPAddress")
        | ("certificates.k8s.io", "ClusterTrustBundle" | "CertificateSigningRequest") => name::path_segment,
        _ => name::dns1123_subdomain,
    }
}

/// The name of a cron job is part of the names of its jobs, which have a time appended.
fn cron_job_name(text: &str) -> Vec<String> {
    let mut wrong = name::dns1123_subdomain(text);
    if text.len() > 52 {
        wrong.push("must be no more than 52 characters".to_owned());
    }
    wrong
}

/// The metadata of a new object, after its name was generated.
pub(super) fn create(group: &str, kind: &str, object: &Value, errors: &mut Errors) {
    let rule = name_rule(group, kind);
    let generate = object.text("metadata.generateName");
    if !generate.is_empty() {
        // A trailing dash is fine, as more comes after it.
        let masked = generate.strip_suffix('-').map_or_else(|| generate.to_owned(), |g| format!("{g}a"));
        errors.texts(&At::root("metadata.generateName"), generate, rule(&masked));
    }
    match object.text("metadata.name") {
        "" => errors.required(&At::root("metadata.name"), "name or generateName is required"),
        name => errors.texts(&At::root("metadata.name"), name, rule(name)),
    }
    common(object, errors);
}

/// The metadata of a changed object.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.creationTimestamp"] {
        if !new.at(field).is_null() || field != "metadata.uid" && field != "metadata.creationTimestamp" {
            errors.immutable(&At::root(field), new.at(field), old.at(field));
        }
    }
    common(new, errors);
}

fn common(object: &Value, errors: &mut Errors) {
    let namespace = object.text("metadata.namespace");
    if !namespace.is_empty() {
        errors.texts(&At::root("metadata.namespace"), namespace, name::dns1123_label(namespace));
    }
    errors.non_negative(&At::root("metadata.generation"), object.at("metadata.generation"));
    labels(object.at("metadata.labels"), &At::root("metadata.labels"), errors);
    annotations(object.at("metadata.annotations"), &At::root("metadata.annotations"), errors);
    owners(object.at("metadata.ownerReferences"), &At::root("metadata.ownerReferences"), errors);
    let at = At::root("metadata.finalizers");
    let finalizers = object.items("metadata.finalizers");
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        errors.texts(&at, finalizer, name::qualified_name(finalizer));
    }
    for (index, finalizer) in finalizers.iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if !finalizer.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&finalizer) {
            errors.invalid(
                &at.index(index),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    if finalizers.contains(&json!("orphan")) && finalizers.contains(&json!("foregroundDeletion")) {
        let value = object.at("metadata.finalizers").clone();
        errors.invalid(&at, value, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Keys and values of labels.
pub(super) fn labels(labels: &Value, at: &At<'_>, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.texts(at, key, name::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.texts(at, value, name::label_value(value));
    }
}

/// Keys and size of annotations.
pub(super) fn annotations(annotations: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().unwrap_or_default().len();
        errors.texts(at, key, name::qualified_name(&key.to_ascii_lowercase()));
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(at, ANNOTATIONS_MAX);
    }
}

/// The metadata of objects that are made from a template.
pub(super) fn template(metadata: &Value, at: &At<'_>, errors: &mut Errors) {
    annotations(metadata.at("annotations"), &at.field("annotations"), errors);
    labels(metadata.at("labels"), &at.field("labels"), errors);
}

fn owners(references: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for (index, owner) in references.items("").iter().enumerate() {
        let at = at.index(index);
        let api_version = owner.text("apiVersion");
        let version = api_version.split_once('/').map_or(api_version, |(_, version)| version);
        if !api_version.is_empty() && (version.is_empty() || version.contains('/')) {
            errors.invalid(&at.field("apiVersion"), api_version, "must be <group>/<version> or <version>");
        }
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.required(&at.field(field), "must not be empty");
            }
        }
        if api_version == "v1" && owner.text("kind") == "Event" {
            errors.invalid(&at, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        let again = references.items("")[..index].iter().any(|before| before == owner);
        if owner.flag("controller") && !again {
            let this = format!("{}/{}", owner.text("kind"), owner.text("name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.invalid(&At::root("metadata.ownerReferences"), references.clone(), detail);
            }
            controller.get_or_insert(this);
        }
    }
}

/// A `LabelSelector`; a null one is fine.
pub(super) fn selector(selector: &Value, at: &At<'_>, errors: &mut Errors) {
    labels(selector.at("matchLabels"), &at.field("matchLabels"), errors);
    let at = at.field("matchExpressions");
    for (index, requirement) in selector.items("matchExpressions").iter().enumerate() {
        let at = at.index(index);
        let values = requirement.items("values");
        match requirement.text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&at.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(
                    &at.field("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at.field("operator"), other, "not a valid selector operator"),
        }
        let key = requirement.text("key");
        errors.texts(&at.field("key"), key, name::qualified_name(key));
        let at = at.field("values");
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.texts(&at.index(index), value, name::label_value(value));
        }
    }
}

/// Whether a selector selects everything.
pub(super) fn is_empty_selector(selector: &Value) -> bool {
    selector.entries("matchLabels").next().is_none() && selector.items("matchExpressions").is_empty()
}
