//! Cells of the kinds of the other groups: access, admission, scheduling, storage and the like.

use super::{age, clipped, or, since};
use crate::look::Look;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn cells(group: &str, kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    match group {
        "admissionregistration.k8s.io" => admission(kind, object, now),
        "storage.k8s.io" => storage(kind, object, now),
        "resource.k8s.io" => devices(kind, object, now),
        "flowcontrol.apiserver.k8s.io" => flow(kind, object, now),
        "certificates.k8s.io" => certificates(kind, object, now),
        _ => others(kind, object, now),
    }
}

fn others(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (name, age) = (Value::from(object.text("metadata.name")), age(object, now));
    let text = |path: &str| Value::from(object.text(path));
    let cells = match kind {
        "RoleBinding" | "ClusterRoleBinding" => {
            let role = format!("{}/{}", object.text("roleRef.kind"), object.text("roleRef.name"));
            vec![
                name,
                role.into(),
                age,
                subjects(object, "User"),
                subjects(object, "Group"),
                subjects(object, "ServiceAccount"),
            ]
        }
        "Lease" => vec![name, text("spec.holderIdentity"), age],
        "PriorityClass" => {
            let default = object.flag("globalDefault");
            vec![name, object.int("value").into(), default.into(), age, text("preemptionPolicy")]
        }
        "PodDisruptionBudget" => {
            let bound = |path: &str| match object.at(path) {
                Value::Null => "N/A".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let (minimum, maximum) = (bound("spec.minAvailable"), bound("spec.maxUnavailable"));
            vec![name, minimum.into(), maximum.into(), object.int("status.disruptionsAllowed").into(), age]
        }
        "RuntimeClass" => vec![name, text("handler"), age],
        "APIService" => vec![name, service(object).into(), available(object).into(), age],
        "StorageVersionMigration" => {
            let resource = object.at("spec.resource");
            let group = resource.text("group");
            let full = if group.is_empty() {
                resource.text("resource").to_owned()
            } else {
                format!("{}.{group}", resource.text("resource"))
            };
            let phase = object
                .items("status.conditions")
                .iter()
                .rfind(|c| c.text("status") == "True")
                .map_or("", |c| c.text("type"));
            vec![name, full.into(), phase.into()]
        }
        _ => return None,
    };
    Some(cells)
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let names = binding.items("subjects").iter().filter(|s| s.text("kind") == kind).map(|s| match kind {
        "ServiceAccount" => format!("{}/{}", s.text("namespace"), s.text("name")),
        _ => s.text("name").to_owned(),
    });
    names.collect::<Vec<_>>().join(", ").into()
}

fn service(api: &Value) -> String {
    match api.at("spec.service") {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", service.text("namespace"), service.text("name")),
    }
}

fn available(api: &Value) -> String {
    let condition = api.items("status.conditions").iter().find(|c| c.text("type") == "Available");
    match condition.map(|c| (c.text("status"), c.text("reason"))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    }
}

fn admission(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (name, age) = (Value::from(object.text("metadata.name")), age(object, now));
    let parameters = || match object.at("spec.paramKind") {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")),
    };
    let cells = match kind {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            vec![name, object.items("webhooks").len().into(), age]
        }
        "ValidatingAdmissionPolicy" => {
            vec![name, object.items("spec.validations").len().into(), parameters().into(), age]
        }
        "MutatingAdmissionPolicy" => vec![name, object.items("spec.mutations").len().into(), parameters().into(), age],
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            let reference = match object.at("spec.paramRef") {
                Value::Null => "<unset>".to_owned(),
                r if r.text("name").is_empty() => format!("{}/<selector>", or(r.text("namespace"), "*")),
                r => format!("{}/{}", or(r.text("namespace"), "*"), r.text("name")),
            };
            vec![name, object.text("spec.policyName").into(), reference.into(), age]
        }
        _ => return None,
    };
    Some(cells)
}

fn storage(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (name, age) = (object.text("metadata.name"), age(object, now));
    let text = |path: &str| Value::from(object.text(path));
    let cells = match kind {
        "StorageClass" | "VolumeAttributesClass" => {
            let default = |prefix: &str| {
                object["metadata"]["annotations"][format!("storageclass.{prefix}kubernetes.io/is-default-class")]
                    == "true"
            };
            let name = if default("") || default("beta.") { format!("{name} (default)") } else { name.to_owned() };
            if kind == "VolumeAttributesClass" {
                return Some(vec![name.into(), text("driverName"), age]);
            }
            let expansion = object.flag("allowVolumeExpansion");
            vec![
                name.into(),
                text("provisioner"),
                text("reclaimPolicy"),
                text("volumeBindingMode"),
                expansion.into(),
                age,
            ]
        }
        "CSIDriver" => csi_driver(object, age),
        "CSINode" => vec![name.into(), object.items("spec.drivers").len().into(), age],
        "CSIStorageCapacity" => vec![name.into(), text("storageClassName"), text("capacity")],
        "VolumeAttachment" => {
            let attached = object.flag("status.attached");
            vec![
                name.into(),
                text("spec.attacher"),
                text("spec.source.persistentVolumeName"),
                text("spec.nodeName"),
                attached.into(),
                age,
            ]
        }
        _ => return None,
    };
    Some(cells)
}

fn csi_driver(driver: &Value, age: Value) -> Vec<Value> {
    let join = |list: Vec<&str>| or(&list.join(","), "<unset>").to_owned();
    let tokens = join(driver.items("spec.tokenRequests").iter().map(|t| t.text("audience")).collect());
    let modes = join(driver.items("spec.volumeLifecycleModes").iter().filter_map(Value::as_str).collect());
    vec![
        driver.text("metadata.name").into(),
        driver.flag("spec.attachRequired").into(),
        driver.flag("spec.podInfoOnMount").into(),
        driver.flag("spec.storageCapacity").into(),
        tokens.into(),
        driver.flag("spec.requiresRepublish").into(),
        or(&modes, "<none>").into(),
        age,
    ]
}

fn devices(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (name, age) = (Value::from(object.text("metadata.name")), age(object, now));
    let text = |path: &str| Value::from(object.text(path));
    let cells = match kind {
        "DeviceClass" | "ResourceClaimTemplate" => vec![name, age],
        "ResourceClaim" => vec![name, claim_state(object).into(), age],
        "ResourceSlice" => vec![name, text("spec.nodeName"), text("spec.driver"), text("spec.pool.name"), age],
        "DeviceTaintRule" => {
            let added = since(object.text("spec.taint.timeAdded"), now);
            vec![name, text("spec.taint.key"), text("spec.taint.value"), text("spec.taint.effect"), added.into(), age]
        }
        _ => return None,
    };
    Some(cells)
}

fn claim_state(claim: &Value) -> String {
    let mut states = Vec::new();
    if claim.has("metadata.deletionTimestamp") {
        states.push("deleted");
    }
    if claim.has("status.allocation") {
        states.push("allocated");
    }
    if !claim.items("status.reservedFor").is_empty() {
        states.push("reserved");
    } else if states.is_empty() {
        states.push("pending");
    }
    states.join(",")
}

fn flow(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (name, age) = (Value::from(object.text("metadata.name")), age(object, now));
    match kind {
        "FlowSchema" => {
            let dangling = object.items("status.conditions").iter().find(|c| c.text("type") == "Dangling");
            let missing = dangling.map_or("?", |c| c.text("status"));
            let method = or(object.text("spec.distinguisherMethod.type"), "<none>");
            let level = object.text("spec.priorityLevelConfiguration.name");
            Some(vec![
                name,
                level.into(),
                object.int("spec.matchingPrecedence").into(),
                method.into(),
                age,
                missing.into(),
            ])
        }
        "PriorityLevelConfiguration" => {
            let number = |path: &str| object.at(path).as_i64().map_or_else(|| Value::from("<none>"), Value::from);
            let shares = match object.text("spec.type") {
                "Exempt" => number("spec.exempt.nominalConcurrencyShares"),
                _ => number("spec.limited.nominalConcurrencyShares"),
            };
            let queue = |field: &str| number(&format!("spec.limited.limitResponse.queuing.{field}"));
            let (queues, hand, limit) = (queue("queues"), queue("handSize"), queue("queueLengthLimit"));
            Some(vec![name, object.text("spec.type").into(), shares, queues, hand, limit, age])
        }
        _ => None,
    }
}

fn certificates(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (name, age) = (Value::from(object.text("metadata.name")), age(object, now));
    match kind {
        "CertificateSigningRequest" => {
            let duration =
                object.at("spec.expirationSeconds").as_i64().map_or_else(|| "<none>".to_owned(), super::human_duration);
            let (signer, user) = (or(object.text("spec.signerName"), "<none>"), object.text("spec.username"));
            Some(vec![name, age, signer.into(), user.into(), duration.into(), request_state(object).into()])
        }
        "ClusterTrustBundle" => Some(vec![name, or(object.text("spec.signerName"), "<none>").into()]),
        "PodCertificateRequest" => {
            let state = object
                .items("status.conditions")
                .iter()
                .find(|c| c.text("status") == "True")
                .map_or("Pending", |c| c.text("type"));
            let annotations: Vec<String> = object
                .entries("spec.unverifiedUserAnnotations")
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                .collect();
            let field = |name: &str| Value::from(object.text(&format!("spec.{name}")));
            Some(vec![
                name,
                field("podName"),
                field("serviceAccountName"),
                field("nodeName"),
                field("signerName"),
                state.into(),
                clipped(&annotations, 3, "").into(),
            ])
        }
        _ => None,
    }
}

/// `Approved,Issued`.
fn request_state(request: &Value) -> String {
    let has = |name: &str| request.items("status.conditions").iter().any(|c| c.text("type") == name);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state += ",Failed";
    }
    if !request.text("status.certificate").is_empty() {
        state += ",Issued";
    }
    state
}
