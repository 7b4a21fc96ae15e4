//! Where a volume comes from: what the volumes of pods and PersistentVolumes share.

use super::at::{At, Errors};
use super::text;
use crate::look::Look;
use machinery::name;
use serde_json::Value;

/// The kinds of source in the order in which upstream looks at them: the first one given counts.
pub(super) const KINDS: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Fields that must not be empty, by kind.
const NEEDED: &[(&str, &[&str])] = &[
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("nfs", &["server", "path"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &["volume"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("storageos", &["volumeName"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
];

/// Whether the user of the volume is a pod or the volume is the cluster's, which says the namespaces of secrets too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// A pod.
    Pod,
    /// A PersistentVolume of this name.
    Cluster(&'a str),
}

/// Checks a source of a kind that pods and PersistentVolumes share; those that only pods have are left to the caller.
pub(super) fn check(kind: &str, source: &Value, at: &At<'_>, owner: Owner<'_>, errors: &mut Errors) {
    if kind == "quobyte" {
        quobyte(source, at, errors);
    }
    for field in NEEDED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| fields) {
        if source.text(field).is_empty() && source.items(field).is_empty() {
            errors.required(&at.field(field), "");
        }
    }
    match kind {
        "hostPath" => host_path(source, at, errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => partition(source, at, errors),
        "nfs" if !source.text("path").starts_with('/') => {
            errors.invalid(&at.field("path"), source.text("path"), "must be an absolute path");
        }
        "gitRepo" => text::local_path(source.text("directory"), &at.field("directory"), errors),
        "local" if !source.text("path").is_empty() => text::no_parent(source.text("path"), &at.field("path"), errors),
        "iscsi" => iscsi(source, at, owner, errors),
        "fc" => fibre_channel(source, at, errors),
        "flocker" => flocker(source, at, errors),
        "glusterfs" if owner != Owner::Pod && source.has("endpointsNamespace") => {
            let namespace = source.text("endpointsNamespace");
            let at = at.field("endpointsNamespace");
            if namespace.is_empty() {
                errors.invalid(&at, "", "if the endpointnamespace is set, it must be a valid namespace name");
            } else {
                errors.texts(&at, namespace, name::dns1123_label(namespace));
            }
        }
        "cinder" => secret(source, at, owner, errors),
        "storageos" => {
            let namespace = source.text("volumeNamespace");
            if !namespace.is_empty() {
                errors.texts(&at.field("volumeNamespace"), namespace, name::dns1123_label(namespace));
            }
            secret(source, at, owner, errors);
        }
        "azureFile"
            if owner != Owner::Pod && source.has("secretNamespace") && source.text("secretNamespace").is_empty() =>
        {
            errors.required(&at.field("secretNamespace"), "");
        }
        "azureDisk" => azure_disk(source, at, errors),
        "flexVolume" => flex(source, at, errors),
        _ => {}
    }
}

fn secret(source: &Value, at: &At<'_>, owner: Owner<'_>, errors: &mut Errors) {
    let at = at.field("secretRef");
    let reference = source.at("secretRef");
    if reference.is_null() {
        return;
    }
    for field in ["name", "namespace"] {
        if reference.text(field).is_empty() && (field == "name" || owner != Owner::Pod) {
            errors.required(&at.field(field), "");
        }
    }
}

/// A folder or file of the node.
fn host_path(source: &Value, at: &At<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = source.text("path");
    if path.is_empty() {
        errors.required(&at.field("path"), "");
        return;
    }
    text::no_parent(path, &at.field("path"), errors);
    errors.one_of(&at.field("type"), source.text("type"), &TYPES);
}

fn partition(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let number = source.int("partition");
    if !(0..=255).contains(&number) {
        errors.invalid(&at.field("partition"), number, "must be between 1 and 255, inclusive");
    }
}

fn iscsi(source: &Value, at: &At<'_>, owner: Owner<'_>, errors: &mut Errors) {
    let portal = source.text("targetPortal");
    if portal.is_empty() {
        errors.required(&at.field("targetPortal"), "");
    }
    if let Owner::Cluster(volume) = owner
        && source.has("initiatorName")
        && volume.len() + 1 + portal.len() > 64
    {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(&at.field("targetportal"), portal, detail);
    }
    match source.text("iqn") {
        "" => errors.required(&at.field("iqn"), ""),
        iqn => qualified(iqn, owner, &at.field("iqn"), errors),
    }
    if !(0..=255).contains(&source.int("lun")) {
        errors.invalid(&at.field("lun"), source.int("lun"), "must be between 0 and 255, inclusive");
    }
    if (source.flag("chapAuthDiscovery") || source.flag("chapAuthSession")) && source.at("secretRef").is_null() {
        errors.required(&at.field("secretRef"), "");
    }
    if owner != Owner::Pod && source.has("secretRef") && source.text("secretRef.name").is_empty() {
        errors.required(&at.field("secretRef.name"), "");
    }
    if source.has("initiatorName") {
        qualified(source.text("initiatorName"), owner, &at.field("initiatorname"), errors);
    }
}

/// A name of iSCSI (RFC 3720): `iqn.2001-04.com.example:disk`, `eui.` or `naa.` and digits.
fn qualified(text: &str, owner: Owner<'_>, at: &At<'_>, errors: &mut Errors) {
    let hex =
        |rest: &str, lengths: &[usize]| lengths.contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_hexdigit());
    let good = match text.split_once('.') {
        Some(("iqn", rest)) => iqn(rest),
        Some(("eui", rest)) => hex(rest, &[16]),
        Some(("naa", rest)) => hex(rest, &[16, 32]),
        _ if ["iqn", "eui", "naa"].iter().any(|start| text.starts_with(start)) => false,
        _ if owner == Owner::Pod => {
            return errors.invalid(at, text, "must be valid format starting with iqn, eui, or naa");
        }
        _ => false,
    };
    if !good {
        errors.invalid(at, text, "must be valid format");
    }
}

/// What follows `iqn.`: a month, a reversed domain, and what its owner likes.
fn iqn(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let Some((month, rest)) = text.split_at_checked(7) else { return false };
    let (name, own) = rest.split_once(':').unwrap_or((rest, "a"));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    month.len() == 7
        && digits(&month[..4])
        && &month[4..5] == "-"
        && digits(&month[5..])
        && name.strip_prefix('.').is_some_and(|name| name.contains('.') && name.split('.').all(word))
        && !own.is_empty()
        && !own.contains([' ', '\t', '\n'])
}

fn fibre_channel(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let names = source.items("targetWWNs");
    let at_names = at.field("targetWWNs");
    if names.is_empty() && source.items("wwids").is_empty() {
        errors.required(&at_names, "must specify either targetWWNs or wwids, but not both");
    }
    if !names.is_empty() && !source.items("wwids").is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&at_names, source.at("targetWWNs").clone(), detail);
    }
    if names.is_empty() {
        return;
    }
    match source.at("lun").as_i64() {
        None => errors.required(&at.field("lun"), "lun is required if targetWWNs is specified"),
        Some(lun) if !(0..=255).contains(&lun) => {
            errors.invalid(&at.field("lun"), lun, "must be between 0 and 255, inclusive");
        }
        Some(_) => {}
    }
}

fn flocker(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let (name, id) = (source.text("datasetName"), source.text("datasetUUID"));
    if name.is_empty() && id.is_empty() {
        errors.required(at, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        errors.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        errors.invalid(&at.field("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, at: &At<'_>, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = source.text("registry");
    if registry.is_empty() {
        errors.required(&at.field("registry"), PAIRS);
    } else if source.text("tenant").len() > 64 {
        errors.required(&at.field("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        let pair = |text: &str| text.split_once(':').is_some_and(|(_, port)| !port.contains(':'));
        for _ in registry.split(',').filter(|text| !pair(text)) {
            errors.invalid(&at.field("registry"), registry, PAIRS);
        }
    }
}

fn azure_disk(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let uri = source.text("diskURI");
    if source.has("cachingMode") {
        errors.one_of(&at.field("cachingMode"), source.text("cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    }
    let kind = source.text("kind");
    if source.has("kind") {
        errors.one_of(&at.field("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    }
    if kind == "Managed" && !uri.starts_with("/subscriptions/") {
        let form = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        errors.unsupported(&at.field("diskURI"), uri, &[form]);
    }
    if source.has("kind") && kind != "Managed" && !uri.starts_with("https://") {
        let form = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
        errors.unsupported(&at.field("diskURI"), uri, &[form]);
    }
}

fn flex(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("options");
    for (key, _) in source.entries("options") {
        let namespace = format!(".{}", key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace));
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            errors.invalid(&at.key(key), key.as_str(), "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// The name of a CSI driver.
pub(super) fn csi_driver(driver: &str, at: &At<'_>, errors: &mut Errors) {
    if driver.is_empty() {
        errors.required(at, "");
    }
    if driver.len() > 63 {
        errors.too_long(at, 63);
    }
    errors.texts(at, driver, name::dns1123_subdomain(&driver.to_lowercase()));
}
