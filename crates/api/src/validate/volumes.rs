//! Volumes of pods.

use super::at::{At, Errors};
use super::sources::{self, Owner};
use super::{meta, resources, storage_core, text};
use crate::look::Look;
use machinery::name;
use serde_json::Value;

/// Checks all volumes and gives the names of those with which nothing is wrong.
pub(super) fn check<'a>(spec: &'a Value, at: &At<'_>, errors: &mut Errors) -> Vec<&'a str> {
    let (mut names, mut good) = (Vec::new(), Vec::new());
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let (name, at) = (volume.text("name"), at.index(index));
        let before = errors.0.len();
        source(volume, &at, errors);
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        } else {
            errors.texts(&at.field("name"), name, name::dns1123_label(name));
        }
        if names.contains(&name) {
            errors.duplicate(&at.field("name"), name);
        }
        if errors.0.len() == before {
            names.push(name);
            good.push(name);
        }
    }
    good
}

fn source(volume: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut any = false;
    for kind in sources::KINDS.iter().filter(|kind| volume.has(kind)) {
        let source = volume.at(kind);
        if any {
            // Two paths are misspelled upstream.
            let named = match *kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                kind => kind,
            };
            errors.forbidden(&at.field(named), "may not specify more than 1 volume type");
            continue;
        }
        any = true;
        one_source(kind, source, volume, at, errors);
    }
    if !any {
        errors.required(at, "must specify a volume type");
    }
}

fn one_source(kind: &str, source: &Value, volume: &Value, above: &At<'_>, errors: &mut Errors) {
    let at = &above.field(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
    match kind {
        "emptyDir" => {
            if resources::signum(source.at("sizeLimit")) < 0 {
                errors.forbidden(&at.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "iscsi" => {
            sources::check(kind, source, at, Owner::Pod, errors);
            let long = volume.text("name").len() + 1 + source.text("targetPortal").len() > 64;
            if source.has("initiatorName") && long {
                let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                              iscsi.initiatorName is specified.";
                errors.invalid(&at.field("targetPortal"), source.text("targetPortal"), detail);
            }
        }
        "configMap" | "secret" => {
            let name = if kind == "secret" { "secretName" } else { "name" };
            if source.text(name).is_empty() {
                errors.required(&at.field(name), "");
            }
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
        "csi" => csi(source, at, errors),
        "ephemeral" if source.at("volumeClaimTemplate").is_null() => {
            errors.required(&at.field("volumeClaimTemplate"), "")
        }
        "ephemeral" => {
            let (template, at) = (source.at("volumeClaimTemplate"), at.field("volumeClaimTemplate"));
            meta::template(template.at("metadata"), &at.field("metadata"), errors);
            storage_core::claim_spec(template.at("spec"), &at.field("spec"), errors);
        }
        "image" => image(source, at, errors),
        _ => sources::check(kind, source, at, Owner::Pod, errors),
    }
}

fn image(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let (reference, policy) = (source.text("reference"), source.text("pullPolicy"));
    if reference.is_empty() {
        errors.required(&at.field("reference"), "");
    } else if reference.trim() != reference {
        errors.invalid(&at.field("reference"), reference, "must not have leading or trailing whitespace");
    }
    errors.one_of(&at.field("pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
}

fn csi(source: &Value, at: &At<'_>, errors: &mut Errors) {
    sources::csi_driver(source.text("driver"), &at.field("driver"), errors);
    if source.has("nodePublishSecretRef") {
        match source.text("nodePublishSecretRef.name") {
            "" => errors.required(&at.field("nodePublishSecretRef.name"), ""),
            name => errors.texts(&at.field("name"), name, name::dns1123_subdomain(name)),
        }
    }
}

fn mode(mode: &Value, at: &At<'_>, errors: &mut Errors) {
    if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        errors.invalid(at, mode.clone(), "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("items");
    for (index, file) in source.items("items").iter().enumerate() {
        item(file, &at.index(index), errors);
    }
}

fn item(item: &Value, at: &At<'_>, errors: &mut Errors) {
    for field in ["key", "path"] {
        if item.text(field).is_empty() {
            errors.required(&at.field(field), "");
        }
    }
    text::visible_local_path(item.text("path"), &at.field("path"), errors);
    mode(item.at("mode"), &at.field("mode"), errors);
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
    let mut paths: Vec<&str> = Vec::new();
    for (index, part) in source.items("sources").iter().enumerate() {
        let here = sources.index(index);
        let mut given = 0;
        for kind in
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"]
        {
            if !part.has(kind) {
                continue;
            }
            given += 1;
            projection(kind, part.at(kind), at, &here.field(kind), &mut paths, errors);
        }
        if given > 1 {
            errors.forbidden(&here, "may not specify more than 1 volume type per source");
        }
    }
}

/// One source of a projected volume, and the paths that are taken by it.
fn projection<'a>(
    kind: &str,
    source: &'a Value,
    volume: &At<'_>,
    at: &At<'_>,
    paths: &mut Vec<&'a str>,
    errors: &mut Errors,
) {
    let mut take = |path: &'a str, shown: &str, errors: &mut Errors| {
        if paths.contains(&path) {
            errors.invalid(volume, shown, "conflicting duplicate paths");
        } else {
            paths.push(path);
        }
    };
    match kind {
        "secret" | "configMap" => {
            let name = source.text("name");
            if name.is_empty() {
                errors.required(&at.field("name"), "");
            }
            let list = at.field("items");
            for (index, file) in source.items("items").iter().enumerate() {
                item(file, &list.index(index), errors);
                if !file.text("path").is_empty() {
                    take(file.text("path"), name, errors);
                }
            }
        }
        "downwardAPI" => {
            for file in source.items("items") {
                downward_file(file, at, errors);
                if !file.text("path").is_empty() {
                    take(file.text("path"), file.text("path"), errors);
                }
            }
        }
        "serviceAccountToken" => token(source, volume, at, errors),
        "clusterTrustBundle" => {
            trust_bundle(source, at, errors);
            take(source.text("path"), source.text("path"), errors);
        }
        _ => {
            pod_certificate(source, at, errors);
            for field in CERTIFICATE_PATHS.into_iter().filter(|field| !source.text(field).is_empty()) {
                let path = source.text(field);
                text::visible_local_path(path, &at.field(field), errors);
                take(path, path, errors);
            }
            if CERTIFICATE_PATHS.iter().all(|field| source.text(field).is_empty()) {
                let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.required(at, detail);
            }
        }
    }
}

const CERTIFICATE_PATHS: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];

fn trust_bundle(source: &Value, at: &At<'_>, errors: &mut Errors) {
    match (source.has("name"), source.has("signerName")) {
        (true, true) => errors.invalid(at, source.clone(), "only one of name and signerName may be used"),
        (true, false) => {
            let name = source.text("name");
            if name.is_empty() {
                errors.required(&at.field("name"), "must be a valid object name");
            }
            let wrong = name::dns1123_subdomain(name.rsplit_once(':').map_or(name, |(_, name)| name));
            let wrong = wrong.into_iter().map(|text| format!("not a valid clustertrustbundlename: {text}")).collect();
            errors.texts(&at.field("name"), name, wrong);
            if source.has("labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(&at.field("labelSelector"), source.at("labelSelector").clone(), detail);
            }
        }
        (false, true) => {
            let signer = source.text("signerName");
            if signer.is_empty() {
                errors.required(&at.field("signerName"), "must be a valid signer name");
            }
            text::signer(signer, &at.field("signerName"), errors);
            meta::selector(source.at("labelSelector"), &at.field("labelSelector"), errors);
        }
        (false, false) => errors.required(at, "either name or signerName must be specified"),
    }
    let path = source.text("path");
    if path.is_empty() {
        errors.required(&at.field("path"), "");
    }
    text::visible_local_path(path, &at.field("path"), errors);
}

fn pod_certificate(source: &Value, at: &At<'_>, errors: &mut Errors) {
    let signer = source.text("signerName");
    text::signer(signer, &at.field("signerName"), errors);
    meta::annotations(source.at("userAnnotations"), &at.field("userAnnotations"), errors);
    let keys = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    errors.one_of(&at.field("keyType"), source.text("keyType"), &keys);
    if let Some(seconds) = source.at("maxExpirationSeconds").as_i64() {
        // Signers of Kubernetes' own give a day at most, others 91 days (KEP-4317).
        let own =
            signer.split('/').next().is_some_and(|host| host == "kubernetes.io" || host.ends_with(".kubernetes.io"));
        let max = if own { 86_400 } else { 7_862_400 };
        let at = at.field("maxExpirationSeconds");
        if seconds < 3600 {
            errors.invalid(&at, seconds, "if provided, maxExpirationSeconds must be >= 3600");
        }
        if seconds > max {
            errors.invalid(&at, seconds, format!("if provided, maxExpirationSeconds must be <= {max}"));
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
