//! Cells of the other kinds of the core group.

use super::{age, containers, labels, or, since};
use crate::look::Look;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) fn cells(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let name = Value::from(object.text("metadata.name"));
    let age = || age(object, now);
    let cells = match kind {
        "ConfigMap" => {
            vec![name, (object.entries("data").count() + object.entries("binaryData").count()).into(), age()]
        }
        "Secret" => vec![name, object.text("type").into(), object.entries("data").count().into(), age()],
        "ServiceAccount" => vec![name, age()],
        "Namespace" => vec![name, object.text("status.phase").into(), age()],
        "Node" => node(object, now),
        "PersistentVolume" => volume(object, now),
        "PersistentVolumeClaim" => claim(object, now),
        "ResourceQuota" => {
            let (requests, limits) = quota(object);
            vec![name, requests.into(), limits.into(), age()]
        }
        "ReplicationController" => {
            let [names, images] = containers(object, "spec.template.spec.containers");
            let int = |path: &str| json!(object.int(path));
            let selector = labels(object, "spec.selector");
            vec![
                name,
                int("spec.replicas"),
                int("status.replicas"),
                int("status.readyReplicas"),
                age(),
                names,
                images,
                selector.into(),
            ]
        }
        "ComponentStatus" => component(object),
        "Event" => event(object, now),
        _ => return None,
    };
    Some(cells)
}

fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let address = |kind: &str| {
        node.items("status.addresses").iter().find(|a| a.text("type") == kind).map_or("<none>", |a| a.text("address"))
    };
    let info = |field: &str| or(node.text(&format!("status.nodeInfo.{field}")), "<unknown>");
    let kernel = match node.text("status.nodeInfo.architecture") {
        "" => info("kernelVersion").to_owned(),
        architecture => format!("{} ({architecture})", info("kernelVersion")),
    };
    vec![
        node.text("metadata.name").into(),
        node_status(node).into(),
        roles(node).into(),
        age(node, now),
        node.text("status.nodeInfo.kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        kernel.into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = node.items("status.conditions").iter().find(|c| c.text("type") == "Ready");
    let mut status = match ready.map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.flag("spec.unschedulable") {
        status += ",SchedulingDisabled";
    }
    status
}

fn roles(node: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in node.entries("metadata.labels") {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            roles.insert(role);
        } else if key == "kubernetes.io/role" {
            roles.insert(value.as_str().unwrap_or_default());
        }
    }
    let list: Vec<&str> = roles.into_iter().filter(|r| !r.is_empty()).collect();
    or(&list.join(","), "<none>").to_owned()
}

/// `RWO,ROX` in upstream's order, each once.
fn access_modes(object: &Value, path: &str) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| object.items(path).iter().any(|m| m == mode);
    SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

fn storage_class(object: &Value) -> &str {
    object["metadata"]["annotations"][CLASS_ANNOTATION].as_str().unwrap_or(object.text("spec.storageClassName"))
}

fn volume(volume: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match volume.at("spec.claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", claim.text("namespace"), claim.text("name")),
    };
    let terminating = volume.has("metadata.deletionTimestamp");
    vec![
        volume.text("metadata.name").into(),
        volume.text("spec.capacity.storage").into(),
        access_modes(volume, "spec.accessModes").into(),
        volume.text("spec.persistentVolumeReclaimPolicy").into(),
        if terminating { "Terminating" } else { volume.text("status.phase") }.into(),
        claim.into(),
        storage_class(volume).into(),
        or(volume.text("spec.volumeAttributesClassName"), "<unset>").into(),
        volume.text("status.reason").into(),
        age(volume, now),
        or(volume.text("spec.volumeMode"), "<unset>").into(),
    ]
}

fn claim(claim: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !claim.text("spec.volumeName").is_empty();
    let terminating = claim.has("metadata.deletionTimestamp");
    let when_bound = |text: String| if bound { text } else { String::new() };
    vec![
        claim.text("metadata.name").into(),
        if terminating { "Terminating" } else { claim.text("status.phase") }.into(),
        claim.text("spec.volumeName").into(),
        when_bound(claim.text("status.capacity.storage").to_owned()).into(),
        when_bound(access_modes(claim, "status.accessModes")).into(),
        storage_class(claim).into(),
        or(claim.text("spec.volumeAttributesClassName"), "<unset>").into(),
        age(claim, now),
        or(claim.text("spec.volumeMode"), "<unset>").into(),
    ]
}

/// `pods: 1/10, …`: requests and counts in one cell, limits in the other.
fn quota(quota: &Value) -> (String, String) {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in quota.entries("status.hard") {
        let used = quota["status"]["used"][name.as_str()].as_str().unwrap_or("0");
        let entry = format!("{name}: {used}/{}", hard.as_str().unwrap_or_default());
        if name.starts_with("limits.") { limits.push(entry) } else { requests.push(entry) }
    }
    (requests.join(", "), limits.join(", "))
}

fn component(component: &Value) -> Vec<Value> {
    let healthy = component.items("conditions").iter().find(|c| c.text("type") == "Healthy");
    let status = match healthy.map(|c| c.text("status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let text = |field: &str| Value::from(healthy.map_or("", |c| c.text(field)));
    vec![component.text("metadata.name").into(), status.into(), text("message"), text("error")]
}

/// Both versions of events: the one of the core group and the one of its own group name some fields differently.
fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |a: &str, b: &str| or(event.text(a), event.text(b)).to_owned();
    let object = if event.has("regarding") { event.at("regarding") } else { event.at("involvedObject") };
    let first = or(&either("firstTimestamp", "deprecatedFirstTimestamp"), event.text("eventTime")).to_owned();
    let last = or(&either("lastTimestamp", "deprecatedLastTimestamp"), &first).to_owned();
    let (last, count) = match event.at("series") {
        Value::Null => (last, event.int("count").max(event.int("deprecatedCount")).max(1)),
        series => (series.text("lastObservedTime").to_owned(), series.int("count")),
    };
    vec![
        since(&last, now).into(),
        event.text("type").into(),
        event.text("reason").into(),
        format!("{}/{}", object.text("kind").to_lowercase(), object.text("name")).into(),
        object.text("fieldPath").into(),
        source(event).into(),
        either("message", "note").trim().to_owned().into(),
        since(&first, now).into(),
        count.into(),
        event.text("metadata.name").into(),
    ]
}

fn source(event: &Value) -> String {
    let source = if event.has("deprecatedSource") { event.at("deprecatedSource") } else { event.at("source") };
    let component =
        or(source.text("component"), or(event.text("reportingComponent"), event.text("reportingController")));
    let host = or(source.text("host"), event.text("reportingInstance"));
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}
