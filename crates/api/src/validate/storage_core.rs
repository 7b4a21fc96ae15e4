//! PersistentVolumes and the claims on them.

use super::at::{At, Errors};
use super::sources::{self, Owner};
use super::{meta, resources, scheduling};
use crate::look::Look;
use machinery::name;
use machinery::quantity::Quantity;
use serde_json::{Value, json};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// The kinds of source of a PersistentVolume in the order in which upstream looks at them.
const VOLUME_KINDS: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// A new PersistentVolume.
pub(super) fn volume(object: &Value, errors: &mut Errors) {
    let (spec, at) = (object.at("spec"), At::root("spec"));
    if spec.items("accessModes").is_empty() {
        errors.required(&at.field("accessModes"), "");
    }
    access_modes(spec, &at, errors);
    capacity(spec, &at, errors);
    let reclaim = spec.text("persistentVolumeReclaimPolicy");
    let at_reclaim = at.field("persistentVolumeReclaimPolicy");
    if !reclaim.is_empty() {
        errors.one_of(&at_reclaim, reclaim, &["Delete", "Recycle", "Retain"]);
    }
    node_affinity(spec, &at, errors);
    volume_source(object, spec, &at, errors);
    let path = spec.text("hostPath.path");
    if reclaim == "Recycle" && !path.is_empty() && path.trim_matches('/').is_empty() {
        errors.forbidden(&at_reclaim, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        errors.texts(&at.field("storageClassName"), class, name::dns1123_subdomain(class));
    }
    if spec.has("volumeMode") {
        errors.one_of(&at.field("volumeMode"), spec.text("volumeMode"), &VOLUME_MODES);
    }
    if spec.has("volumeAttributesClassName") {
        let (class, here) = (spec.text("volumeAttributesClassName"), at.field("volumeAttributesClassName"));
        match class {
            "" => errors.required(&here, "an empty string is disallowed"),
            _ => errors.texts(&here, class, name::dns1123_subdomain(class)),
        }
        if !spec.has("csi") {
            errors.required(&at.field("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn access_modes(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("accessModes");
    let (mut alone, mut other) = (false, false);
    for mode in spec.items("accessModes").iter().filter_map(Value::as_str) {
        errors.one_of(&at, mode, &MODES);
        alone |= mode == "ReadWriteOncePod";
        other |= mode != "ReadWriteOncePod" && MODES.contains(&mode);
    }
    if alone && other {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("capacity");
    let amounts = spec.at("capacity");
    let count = amounts.entries("").count();
    if count == 0 {
        errors.required(&at, "");
    }
    if amounts.get("storage").is_none() || count > 1 {
        errors.unsupported(&at, amounts.clone(), &["storage"]);
    }
    for (name, amount) in amounts.entries("") {
        let at = at.key(name);
        resources::basic(amount, &at, errors);
        resources::positive(amount, &at, errors);
    }
}

fn node_affinity(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    if !spec.has("nodeAffinity") {
        return;
    }
    let at = at.field("nodeAffinity.required");
    if spec.has("nodeAffinity.required") {
        scheduling::node_selector(spec.at("nodeAffinity.required"), &at, errors);
    } else {
        errors.required(&at, "must specify required node constraints");
    }
}

fn volume_source(object: &Value, spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut any = false;
    for kind in VOLUME_KINDS.into_iter().filter(|kind| spec.has(kind)) {
        if any && kind != "flexVolume" {
            let named = if kind == "cephfs" { "cephFS" } else { kind };
            errors.forbidden(&at.field(named), "may not specify more than 1 volume type");
            continue;
        }
        any = true;
        let here = at.field(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
        match kind {
            "csi" => csi(spec.at(kind), &here, errors),
            _ => sources::check(kind, spec.at(kind), &here, Owner::Cluster(object.text("metadata.name")), errors),
        }
        if kind == "local" && !spec.has("nodeAffinity") {
            errors.required(&at.field("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if !any {
        errors.required(at, "must specify a volume type");
    }
}

fn csi(source: &Value, at: &At<'_>, errors: &mut Errors) {
    sources::csi_driver(source.text("driver"), &at.field("driver"), errors);
    if source.text("volumeHandle").is_empty() {
        errors.required(&at.field("volumeHandle"), "");
    }
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let here = at.field(field);
        for part in ["name", "namespace"] {
            let text = source.at(field).text(part);
            if source.has(field) && text.is_empty() {
                errors.required(&here.field(part), "");
            } else if source.has(field) {
                let rule = if part == "name" { name::dns1123_subdomain } else { name::dns1123_label };
                errors.texts(&here.field(part), text, rule(text));
            }
        }
    }
}

/// A changed PersistentVolume: its source stays.
pub(super) fn volume_update(new: &Value, old: &Value, errors: &mut Errors) {
    volume(new, errors);
    let source = |object: &Value| {
        let kinds = VOLUME_KINDS.into_iter().filter(|kind| object.at("spec").has(kind));
        let mut found: Vec<(&str, Value)> = kinds.map(|kind| (kind, object.at("spec").at(kind).clone())).collect();
        // Only this secret of a CSI volume may change: the driver's needs for it came later.
        for (_, value) in &mut found {
            if let Some(map) = value.as_object_mut() {
                map.remove("controllerExpandSecretRef");
                map.remove("nodeExpandSecretRef");
            }
        }
        found
    };
    if source(new) != source(old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.forbidden(&At::root("spec.persistentvolumesource"), detail);
    }
    errors.immutable(&At::root("volumeMode"), new.at("spec.volumeMode"), old.at("spec.volumeMode"));
    let affinity = "spec.nodeAffinity";
    if old.has(affinity) && !same_affinity(new.at(affinity), old.at(affinity)) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.invalid(&At::root("nodeAffinity"), internal_affinity(new.at(affinity)), detail);
    }
}

/// Whether affinities are the same, but for names of labels that became stable.
fn same_affinity(new: &Value, old: &Value) -> bool {
    const STABLE: [(&str, &str); 5] = [
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ];
    match (new, old) {
        (Value::String(new), Value::String(old)) => new == old || STABLE.contains(&(old.as_str(), new.as_str())),
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| same_affinity(new, old))
        }
        (Value::Object(new), Value::Object(old)) => {
            new.len() == old.len()
                && new.iter().all(|(key, new)| same_affinity(new, old.get(key).unwrap_or(&Value::Null)))
        }
        _ => new == old,
    }
}

/// A node affinity as upstream's messages show it: fields in upper case, absent ones as null.
fn internal_affinity(affinity: &Value) -> Value {
    if affinity.is_null() {
        return Value::Null;
    }
    let list = |value: &Value, each: &dyn Fn(&Value) -> Value| match value.as_array() {
        Some(items) if !items.is_empty() => Value::Array(items.iter().map(each).collect()),
        _ => Value::Null,
    };
    let requirement = |r: &Value| json!({"Key": r.text("key"), "Operator": r.text("operator"), "Values": list(r.at("values"), &Value::clone)});
    let term = |term: &Value| {
        let of = |field: &str| list(term.at(field), &requirement);
        json!({"MatchExpressions": of("matchExpressions"), "MatchFields": of("matchFields")})
    };
    let required = affinity.at("required");
    let required = match required {
        Value::Null => Value::Null,
        _ => json!({"NodeSelectorTerms": list(required.at("nodeSelectorTerms"), &term)}),
    };
    json!({"Required": required})
}

/// A new claim.
pub(super) fn claim(object: &Value, errors: &mut Errors) {
    claim_spec(object.at("spec"), &At::root("spec"), errors);
}

/// The specification of a claim, or of the claims made from a template.
pub(super) fn claim_spec(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    if spec.items("accessModes").is_empty() {
        errors.required(&at.field("accessModes"), "at least 1 access mode is required");
    }
    meta::selector(spec.at("selector"), &at.field("selector"), errors);
    access_modes(spec, at, errors);
    match spec.at("resources.requests.storage") {
        Value::Null => errors.required(&at.field("resources").key("storage"), ""),
        storage => resources::positive(storage, &at.field("resources").key("storage"), errors),
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        errors.texts(&at.field("storageClassName"), class, name::dns1123_subdomain(class));
    }
    if spec.has("volumeMode") {
        errors.one_of(&at.field("volumeMode"), spec.text("volumeMode"), &VOLUME_MODES);
    }
    for field in ["dataSource", "dataSourceRef"] {
        if spec.has(field) {
            data_source(spec.at(field), &at.field(field), errors);
        }
    }
    both_sources(spec, at, errors);
    let class = spec.text("volumeAttributesClassName");
    if !class.is_empty() {
        errors.texts(&at.field("volumeAttributesClassName"), class, name::dns1123_subdomain(class));
    }
}

fn data_source(source: &Value, at: &At<'_>, errors: &mut Errors) {
    for field in ["name", "kind"] {
        if source.text(field).is_empty() {
            errors.required(&at.field(field), "");
        }
    }
    match source.text("apiGroup") {
        "" if source.text("kind") != "PersistentVolumeClaim" => {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(at, source.text("kind"), detail);
        }
        "" => {}
        group => errors.texts(&at.field("apiGroup"), group, name::dns1123_subdomain(group)),
    }
    let namespace = source.text("namespace");
    if !namespace.is_empty() {
        errors.texts(&at.field("namespace"), namespace, name::dns1123_label(namespace));
    }
}

fn both_sources(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let (old, new) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if old.is_null() || new.is_null() {
        return;
    }
    let path = at.field("dataSource").path();
    if !new.text("namespace").is_empty() {
        errors.invalid(at, path.as_str(), "may not be specified when dataSourceRef.namespace is specified");
    } else if ["apiGroup", "kind", "name"].iter().any(|field| old.at(field) != new.at(field)) {
        errors.invalid(at, path.as_str(), "must match dataSourceRef");
    }
}

/// A changed claim: little of its spec may change.
pub(super) fn claim_update(new: &Value, old: &Value, errors: &mut Errors) {
    claim(new, errors);
    let mut spec = new.at("spec").clone();
    let was = old.at("spec");
    let bound = new.text("status.phase") == "Bound";
    if let Some(map) = spec.as_object_mut() {
        let mut keep = |field: &str| match was.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
        if was.text("volumeName").is_empty() {
            keep("volumeName");
        }
        if was.at("storageClassName").is_null() {
            keep("storageClassName");
        }
        if bound {
            keep("volumeAttributesClassName");
        }
    }
    if bound && was.has("resources.requests.storage") && new.has("spec.resources.requests") {
        spec["resources"]["requests"]["storage"] = was.at("resources.requests.storage").clone();
    }
    if spec != *was {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden(&At::root("spec"), detail);
    }
    shrinks(new, old, errors);
    errors.immutable(&At::root("volumeMode"), new.at("spec.volumeMode"), old.at("spec.volumeMode"));
    let class = "spec.volumeAttributesClassName";
    if new.at(class) != old.at(class) && old.has("status.currentVolumeAttributesClassName") {
        let to = if new.at(class).is_null() { "nil" } else { "empty string" };
        if new.text(class).is_empty() {
            let detail = format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
            errors.forbidden(&At::root(class), detail);
        }
    }
}

/// What is asked for may become less, but not less than what is there.
fn shrinks(new: &Value, old: &Value, errors: &mut Errors) {
    let amount = |object: &Value, path: &str| Quantity::parse(object.text(path)).ok();
    let path = "spec.resources.requests.storage";
    let (Some(now), Some(was)) = (amount(new, path), amount(old, path)) else { return };
    let there = amount(old, "status.capacity.storage");
    if now < was && there.is_none_or(|there| now <= there) {
        errors.forbidden(&At::root(path), "field can not be less than status.capacity");
    }
}
