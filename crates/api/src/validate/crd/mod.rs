//! CustomResourceDefinitions, in upstream's paths and words.
//!
//! Upstream reads what all versions have in common as if it stood once, above them: the paths of a definition with one version, or
//! with equal ones, are `spec.validation…`, `spec.subresources…`; those of others `spec.versions[0].schema…`.

mod schema;
mod structure;

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use serde_json::Value;
use std::collections::HashSet;

const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Selectable fields of a version at most.
const SELECTABLE_MAX: usize = 8;
/// Review versions that we can speak.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

pub(super) fn create(object: &Value, errors: &mut Errors) {
    let name = object.text("metadata.name");
    if !name.is_empty() && name != format!("{}.{}", object.text("spec.names.plural"), object.text("spec.group")) {
        errors.invalid(&At::root("metadata.name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    spec(object, None, errors);
    names(object.at("status.acceptedNames"), &At::root("status.acceptedNames"), errors);
    stored_versions(object, errors);
    approval(object, None, errors);
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    spec(new, Some(old), errors);
    if is_established(old) {
        for field in ["spec.scope", "spec.names.kind"] {
            errors.immutable(&At::root(field), new.at(field), old.at(field));
        }
    }
    for field in ["spec.group", "spec.names.plural"] {
        errors.immutable(&At::root(field), new.at(field), old.at(field));
    }
    names(new.at("status.acceptedNames"), &At::root("status.acceptedNames"), errors);
    stored_versions(new, errors);
    approval(new, Some(old), errors);
}

fn is_established(definition: &Value) -> bool {
    let mut conditions = definition.items("status.conditions").iter();
    conditions.any(|condition| condition.text("type") == "Established" && condition.text("status") == "True")
}

/// What is wrong with a name, all in one.
fn joined(errors: &mut Errors, at: &At<'_>, value: &str, prefix: &str, wrong: &[String]) {
    if !wrong.is_empty() {
        errors.invalid(at, value, format!("{prefix}{}", wrong.join(",")));
    }
}

fn spec(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = At::root("spec");
    group(object.text("spec.group"), &at.field("group"), errors);
    match object.text("spec.scope") {
        "" => errors.required(&at.field("scope"), ""),
        scope => errors.one_of(&at.field("scope"), scope, &["Cluster", "Namespaced"]),
    }
    if object.flag("spec.preserveUnknownFields") && !old.is_some_and(|old| old.flag("spec.preserveUnknownFields")) {
        errors.invalid(
            &at.field("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    versions(object, old, errors);
    let own = at.field("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if object.at("spec.names").text(field).is_empty() {
            errors.required(&own.field(field), "");
        }
    }
    names(object.at("spec.names"), &own, errors);
    conversion(object, old, errors);
}

fn group(group: &str, at: &At<'_>, errors: &mut Errors) {
    let wrong = name::dns1123_subdomain(group);
    if group.is_empty() {
        errors.required(at, "");
    } else if !wrong.is_empty() {
        joined(errors, at, group, "", &wrong);
    } else if !group.contains('.') {
        errors.invalid(at, group, "should be a domain with at least one dot");
    }
}

/// A field of the versions that all of them have alike.
fn common<'v>(versions: &'v [Value], field: &str) -> Option<&'v Value> {
    let first = versions.first()?.at(field);
    versions.iter().all(|version| version.at(field) == first).then_some(first)
}

fn versions(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (versions, root) = (object.items("spec.versions"), At::root("spec"));
    let at = root.field("versions");
    let (schema, subresources) = (common(versions, "schema"), common(versions, "subresources"));
    let (columns, selectable) = (common(versions, "additionalPrinterColumns"), common(versions, "selectableFields"));
    let mut seen = HashSet::new();
    let mut unique = true;
    for (index, version) in versions.iter().enumerate() {
        let (name, at) = (version.text("name"), at.index(index));
        unique &= seen.insert(name);
        if !version.has("schema.openAPIV3Schema") {
            errors.required(&at.field("schema.openAPIV3Schema"), "");
        }
        joined(errors, &at.field("name"), name, "", &name::dns1035_label(name));
        deprecation(version, &at.field("deprecationWarning"), errors);
        let had = old.and_then(|old| old.items("spec.versions").iter().find(|was| was.text("name") == name));
        if schema.is_none() && had.is_none_or(|had| had.at("schema") != version.at("schema")) {
            schema::version(version.at("schema"), version.has("subresources.status"), &at.field("schema"), errors);
        }
        if subresources.is_none() {
            scale(version.at("subresources.scale"), &at.field("subresources"), errors);
        }
        if columns.is_none() {
            self::columns(version.items("additionalPrinterColumns"), &at, errors);
        }
        if selectable.is_none() {
            self::selectable(version, had, &at.field("selectableFields"), errors);
        }
    }
    if !unique {
        errors.invalid(&at, object.at("spec.versions").clone(), "must contain unique version names");
    }
    if versions.iter().filter(|version| version.flag("storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(&at, object.at("spec.versions").clone(), detail);
    }
    let Some(first) = versions.first() else { return };
    let was = old.map_or(&[][..], |old| old.items("spec.versions"));
    if let Some(schema) = schema.filter(|schema| common(was, "schema") != Some(schema)) {
        let status = versions.iter().any(|version| version.has("subresources.status"));
        schema::version(schema, status, &root.field("validation"), errors);
    }
    if let Some(subresources) = subresources {
        scale(subresources.at("scale"), &root.field("subresources"), errors);
    }
    if columns.is_some() {
        self::columns(first.items("additionalPrinterColumns"), &root, errors);
    }
    if selectable.is_some() {
        self::selectable(first, was.first(), &root.field("selectableFields"), errors);
    }
}

fn deprecation(version: &Value, at: &At<'_>, errors: &mut Errors) {
    let Some(text) = version.at("deprecationWarning").as_str() else { return };
    if !version.flag("deprecated") {
        return errors.invalid(at, text, "can only be set for deprecated versions");
    }
    if text.len() > 256 {
        errors.invalid(at, text, "must be <= 256 characters long");
    }
    if text.is_empty() {
        errors.invalid(at, text, "must not be an empty string");
    }
    if let Some((index, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        let detail =
            format!("must only contain printable UTF-8 characters; non-printable character found at index {index}");
        errors.invalid(at, text, detail);
    }
}

/// The names that are given; those that must be are for the caller.
fn names(names: &Value, at: &At<'_>, errors: &mut Errors) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for (field, prefix) in [("plural", ""), ("singular", ""), ("kind", MIXED), ("listKind", MIXED)] {
        let text = names.text(field);
        let folded = if prefix.is_empty() { text.to_owned() } else { text.to_lowercase() };
        if !text.is_empty() {
            joined(errors, &at.field(field), text, prefix, &name::dns1035_label(&folded));
        }
    }
    let mut list = |field: &str| {
        let at = at.field(field);
        for (index, text) in names.items(field).iter().enumerate() {
            let text = text.as_str().unwrap_or_default();
            joined(errors, &at.index(index), text, "", &name::dns1035_label(text));
        }
    };
    list("shortNames");
    list("categories");
    let kind = names.text("kind");
    if !kind.is_empty() && kind == names.text("listKind") {
        errors.invalid(&at.field("listKind"), kind, "kind and listKind may not be the same");
    }
}

fn simple_path(path: &str, at: &At<'_>, errors: &mut Errors) -> bool {
    let good = path.starts_with('.');
    if !good {
        errors.invalid(at, path, "must be a simple json path starting with .");
    }
    good
}

fn scale(scale: &Value, at: &At<'_>, errors: &mut Errors) {
    if scale.is_null() {
        return;
    }
    for (field, name, prefix, place) in [
        ("specReplicasPath", "scale.specReplicasPath", ".spec.", "spec"),
        ("statusReplicasPath", "scale.statusReplicasPath", ".status.", "status"),
    ] {
        let (path, at) = (scale.text(field), at.field(name));
        if path.is_empty() {
            errors.required(&at, "");
        } else if simple_path(path, &at, errors) && !path.starts_with(prefix) {
            errors.invalid(&at, path, format!("should be a json path under .{place}"));
        }
    }
    let (path, at) = (scale.text("labelSelectorPath"), at.field("scale.labelSelectorPath"));
    if !path.is_empty()
        && simple_path(path, &at, errors)
        && !path.starts_with(".spec.")
        && !path.starts_with(".status.")
    {
        errors.invalid(&at, path, "should be a json path under either .spec or .status");
    }
}

fn columns(columns: &[Value], above: &At<'_>, errors: &mut Errors) {
    let at = above.field("additionalPrinterColumns");
    for (index, column) in columns.iter().enumerate() {
        let at = at.index(index);
        if column.text("name").is_empty() {
            errors.required(&at.field("name"), "");
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        match column.text("type") {
            "" => errors.required(&at.field("type"), &types),
            kind if !COLUMN_TYPES.contains(&kind) => errors.invalid(&at.field("type"), kind, types),
            _ => {}
        }
        let format = column.text("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            errors.invalid(&at.field("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
        }
        match column.text("jsonPath") {
            "" => errors.required(&at.field("JSONPath"), ""),
            path => {
                simple_path(path, &at.field("JSONPath"), errors);
            }
        }
    }
}

fn selectable(version: &Value, old: Option<&Value>, at: &At<'_>, errors: &mut Errors) {
    let fields = version.items("selectableFields");
    let mut seen = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let at = at.index(index);
        let (path, at) = (field.text("jsonPath"), at.field("jsonPath"));
        if path.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let found = match schema::at_path(version.at("schema.openAPIV3Schema"), path) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&at, path, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if path == ".metadata" || path.starts_with(".metadata.") {
            errors.invalid(&at, path, "must not point to fields in metadata");
        }
        if !matches!(found.text("type"), "string" | "boolean" | "integer") {
            errors.invalid(&at, path, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
        }
        if !seen.insert(path) {
            errors.duplicate(&at, path);
        }
    }
    let kept = old.is_some_and(|old| old.at("selectableFields") == version.at("selectableFields"));
    if seen.len() > SELECTABLE_MAX && !kept {
        errors.too_many(at, seen.len(), SELECTABLE_MAX);
    }
}

fn conversion(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (conversion, at) = (object.at("spec.conversion"), At::root("spec.conversion"));
    if conversion.is_null() {
        return;
    }
    match conversion.text("strategy") {
        "" => errors.required(&at.field("strategy"), ""),
        strategy => errors.one_of(&at.field("strategy"), strategy, &["None", "Webhook"]),
    }
    let (webhook, versions) = (conversion.at("webhook"), conversion.at("webhook.conversionReviewVersions"));
    if conversion.text("strategy") != "Webhook" {
        if webhook.has("clientConfig") {
            errors.forbidden(&at.field("webhookClientConfig"), "should not be set when strategy is not set to Webhook");
        }
        if !versions.items("").is_empty() {
            let at = at.field("conversionReviewVersions");
            errors.forbidden(&at, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    client_config(webhook.at("clientConfig"), &at.field("webhookClientConfig"), errors);
    let _ = old;
    review_versions(versions, &at.field("conversionReviewVersions"), errors);
}

fn client_config(config: &Value, at: &At<'_>, errors: &mut Errors) {
    if config.is_null() {
        return errors.required(at, "required when strategy is set to Webhook");
    }
    if config.has("url") == config.has("service") {
        return errors.required(at, "exactly one of url or service is required");
    }
    if let Some(url) = config.at("url").as_str() {
        let at = at.field("url");
        match url.split_once("://") {
            None => errors.invalid(&at, url, "url must be a valid URL; desired format: https://host[/path]"),
            Some((scheme, _)) if scheme != "https" => {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.invalid(&at, scheme, detail);
            }
            Some((_, rest)) => {
                let host = rest.split('/').next().unwrap_or_default();
                if host.is_empty() {
                    errors.invalid(&at, "", "host must be specified; desired format: https://host[/path]");
                }
                if host.contains('@') {
                    errors.invalid(&at, host, "user information is not permitted in the URL");
                }
                if rest.contains('#') {
                    errors.invalid(&at, url, "fragments are not permitted in the URL");
                }
                if rest.contains('?') {
                    errors.invalid(&at, url, "query parameters are not permitted in the URL");
                }
            }
        }
        return;
    }
    let (service, at) = (config.at("service"), at.field("service"));
    if service.text("name").is_empty() {
        errors.required(&at.field("name"), "service name is required");
    }
    if service.text("namespace").is_empty() {
        errors.required(&at.field("namespace"), "service namespace is required");
    }
    let port = service.int("port");
    if service.has("port") && !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.invalid(&at.field("port"), port, detail);
    }
    let path = service.text("path");
    if !path.is_empty() && !path.starts_with('/') {
        errors.invalid(&at.field("path"), path, "must start with a '/'");
    }
}

fn review_versions(versions: &Value, at: &At<'_>, errors: &mut Errors) {
    let list: Vec<&str> = versions.items("").iter().filter_map(Value::as_str).collect();
    if list.is_empty() {
        return errors.required(at, "");
    }
    let mut seen = HashSet::new();
    for (index, version) in list.iter().enumerate() {
        if seen.insert(*version) {
            errors.texts(&at.index(index), version, name::dns1035_label(version));
        } else {
            errors.invalid(&at.index(index), *version, "duplicate version");
        }
    }
    if !list.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        errors.invalid(at, versions.clone(), format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

fn stored_versions(object: &Value, errors: &mut Errors) {
    let (stored, at) = (object.items("status.storedVersions"), At::root("status.storedVersions"));
    if stored.is_empty() {
        return errors.invalid(
            &at,
            object.at("status.storedVersions").clone(),
            "must have at least one stored version",
        );
    }
    let versions = object.items("spec.versions");
    for version in versions.iter().filter(|version| version.flag("storage")) {
        if !stored.contains(version.at("name")) {
            let detail = format!("must have the storage version {}", version.text("name"));
            errors.invalid(&at, object.at("status.storedVersions").clone(), detail);
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.at("name") == name) {
            let text = name.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {text} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {text} and removes {text} from status.storedVersions"
            );
            errors.invalid(&at.index(index), text, detail);
        }
    }
}

/// Groups of the Kubernetes project say who approved their kinds.
fn approval(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let group = object.text("spec.group");
    let protected =
        |domain: &str| group == domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if !protected("k8s.io") && !protected("kubernetes.io") {
        return;
    }
    let annotation = |object: &Value| {
        object.at("metadata.annotations").get(APPROVED).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let state = |text: &str| match text {
        "" => 0,
        text if text.starts_with("unapproved") => 1,
        text if text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) => 2,
        _ => 3,
    };
    let text = annotation(object);
    if old.is_some_and(|old| state(&annotation(old)) == state(&text)) {
        return;
    }
    let (above, reason) =
        (At::root("metadata.annotations"), format!("protected groups must have approval annotation {APPROVED:?}"));
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state(&text) {
        0 => errors.required(&above.key(APPROVED), &format!("{reason}, {SEE}")),
        3 => {
            let detail = format!("{reason} with either a URL or a reason starting with \"unapproved\", {SEE}");
            errors.invalid(&above.key(APPROVED), text, detail);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
