//! Volumes of pods.

use super::at::{At, Errors};
use super::text;
use crate::look::Look;
use machinery::name;
use machinery::quantity::Quantity;
use serde_json::Value;

/// Checks all volumes and gives their names.
pub(super) fn check<'a>(spec: &'a Value, at: &At<'_>, errors: &mut Errors) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let (name, at) = (volume.text("name"), at.index(index));
        source(volume, &at, errors);
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        } else {
            errors.texts(&at.field("name"), name, name::dns1123_label(name));
        }
        if names.contains(&name) {
            errors.duplicate(&at.field("name"), name);
        }
        names.push(name);
    }
    names
}

fn source(volume: &Value, at: &At<'_>, errors: &mut Errors) {
    let sources: Vec<(&String, &Value)> =
        volume.entries("").filter(|(key, value)| *key != "name" && !value.is_null()).collect();
    if sources.is_empty() {
        errors.required(at, "must specify a volume type");
    }
    for (index, (kind, source)) in sources.into_iter().enumerate() {
        let at = at.field(kind);
        if index > 0 {
            errors.forbidden(&at, "may not specify more than 1 volume type");
            continue;
        }
        one_source(kind, source, &at, errors);
    }
}

fn one_source(kind: &str, source: &Value, at: &At<'_>, errors: &mut Errors) {
    let need = |field: &str, errors: &mut Errors| {
        if source.text(field).is_empty() {
            errors.required(&at.field(field), "");
        }
    };
    match kind {
        "emptyDir" => {
            let limit = source.text("sizeLimit");
            if Quantity::parse(limit).is_ok_and(|q| q.signum() < 0) {
                errors.forbidden(&at.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => host_path(source, at, errors),
        "configMap" => {
            need("name", errors);
            mode(source.at("defaultMode"), &at.field("defaultMode"), errors);
            items(source, at, errors);
        }
        "secret" => {
            need("secretName", errors);
            mode(source.at("defaultMode"), &at.field("defaultMode"), errors);
            items(source, at, errors);
        }
        "downwardAPI" => {
            mode(source.at("defaultMode"), &at.field("defaultMode"), errors);
            for item in source.items("items") {
                downward_file(item, at, errors);
            }
        }
        "projected" => projected(source, at, errors),
        "persistentVolumeClaim" => need("claimName", errors),
        "nfs" => {
            need("server", errors);
            need("path", errors);
        }
        "csi" => need("driver", errors),
        "ephemeral" if source.at("volumeClaimTemplate").is_null() => {
            errors.required(&at.field("volumeClaimTemplate"), "")
        }
        "image" if source.text("reference").is_empty() => errors.required(&at.field("reference"), ""),
        _ => {}
    }
}

fn host_path(source: &Value, at: &At<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    match source.text("path") {
        "" => errors.required(&at.field("path"), ""),
        path => text::no_parent(path, &at.field("path"), errors),
    }
    errors.one_of(&at.field("type"), source.text("type"), &TYPES);
}

fn mode(mode: &Value, at: &At<'_>, errors: &mut Errors) {
    if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        errors.invalid(at, mode.clone(), "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("items");
    for (index, item) in source.items("items").iter().enumerate() {
        let at = at.index(index);
        for field in ["key", "path"] {
            if item.text(field).is_empty() {
                errors.required(&at.field(field), "");
            }
        }
        text::visible_local_path(item.text("path"), &at.field("path"), errors);
        mode(item.at("mode"), &at.field("mode"), errors);
    }
}

fn downward_file(item: &Value, at: &At<'_>, errors: &mut Errors) {
    match item.text("path") {
        "" => errors.required(&at.field("path"), ""),
        path => text::visible_local_path(path, &at.field("path"), errors),
    }
    if item.has("fieldRef") {
        field_reference(item.at("fieldRef"), &at.field("fieldRef"), VOLUME_FIELDS, errors);
        if item.has("resourceFieldRef") {
            errors.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if item.has("resourceFieldRef") {
        let reference = item.at("resourceFieldRef");
        for field in ["containerName", "resource"] {
            if reference.text(field).is_empty() {
                errors.required(&at.field("resourceFieldRef").field(field), "");
            }
        }
    } else {
        errors.required(at, "one of fieldRef and resourceFieldRef is required");
    }
    mode(item.at("mode"), &at.field("mode"), errors);
}

const VOLUME_FIELDS: &[&str] =
    &["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"];

/// A reference to a field of the pod itself.
pub(super) fn field_reference(reference: &Value, at: &At<'_>, supported: &[&str], errors: &mut Errors) {
    let path = reference.text("fieldPath");
    if reference.text("apiVersion").is_empty() {
        errors.required(&at.field("apiVersion"), "");
        return;
    }
    if path.is_empty() {
        errors.required(&at.field("fieldPath"), "");
        return;
    }
    let keyed = ["metadata.labels", "metadata.annotations"].iter().find_map(|map| {
        let key = path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")?;
        Some((*map, key))
    });
    if let Some((map, key)) = keyed {
        let lower = key.to_ascii_lowercase();
        errors.texts(at, key, name::qualified_name(if map.ends_with("labels") { key } else { &lower }));
        return;
    }
    let known = [
        "spec.nodeName",
        "spec.serviceAccountName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "spec.hostNetwork",
    ];
    let addresses = ["status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"];
    let convertible = VOLUME_FIELDS.contains(&path) || known.contains(&path) || addresses.contains(&path);
    if !convertible {
        errors.invalid(
            &at.field("fieldPath"),
            path,
            format!("error converting fieldPath: field label not supported: {path}"),
        );
    } else if !supported.contains(&path) {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        errors.unsupported(&at.field("fieldPath"), path, &sorted);
    }
}

fn projected(source: &Value, at: &At<'_>, errors: &mut Errors) {
    mode(source.at("defaultMode"), &at.field("defaultMode"), errors);
    let sources = at.field("sources");
    for (index, part) in source.items("sources").iter().enumerate() {
        let here = sources.index(index);
        for (count, (kind, inner)) in part.entries("").filter(|(_, v)| !v.is_null()).enumerate() {
            let here = here.field(kind);
            if count > 0 {
                errors.forbidden(&sources.index(index), "may not specify more than 1 volume type");
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    if inner.text("name").is_empty() {
                        errors.required(&here.field("name"), "");
                    }
                    items(inner, &here, errors);
                }
                "downwardAPI" => inner.items("items").iter().for_each(|item| downward_file(item, &here, errors)),
                "serviceAccountToken" => token(inner, at, &here, errors),
                _ => {}
            }
        }
    }
}

fn token(token: &Value, volume: &At<'_>, at: &At<'_>, errors: &mut Errors) {
    let seconds = token.int("expirationSeconds");
    let at = at.field("expirationSeconds");
    if seconds < 600 {
        errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match token.text("path") {
        "" => errors.required(&volume.field("path"), ""),
        path => text::visible_local_path(path, &volume.field("path"), errors),
    }
}
