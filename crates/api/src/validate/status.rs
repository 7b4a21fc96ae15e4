//! What is wrong with the status of an object, where that is checked at all.

use super::at::{At, Errors};
use super::{quota, resources, text};
use crate::look::Look;
use machinery::name;
use serde_json::Value;

/// By kind: fields that count something, those of them that cannot be more than there are replicas, and how the last check
/// names what is ready.
type Counts = (&'static str, &'static [&'static str], &'static [&'static str], &'static str);

const REPLICAS: &[&str] = &[
    "replicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "availableReplicas",
    "terminatingReplicas",
    "observedGeneration",
];

const COUNTS: [Counts; 5] = [
    (
        "Deployment",
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
        &["updatedReplicas", "readyReplicas", "availableReplicas"],
        "readyReplicas",
    ),
    ("ReplicaSet", REPLICAS, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], "readyReplicas"),
    (
        "ReplicationController",
        REPLICAS,
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        "readyReplicas",
    ),
    (
        "StatefulSet",
        &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ],
        &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        "status.readyReplicas",
    ),
    (
        "DaemonSet",
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
        &[],
        "",
    ),
];

/// Counts of a workload.
pub(super) fn counts(kind: &str, object: &Value, errors: &mut Errors) {
    let Some((_, fields, bounded, ready)) = COUNTS.iter().find(|(name, ..)| *name == kind) else { return };
    let (status, at) = (object.at("status"), At::root("status"));
    for field in *fields {
        errors.non_negative(&at.field(field), status.at(field));
    }
    for field in *bounded {
        let count = status.int(field);
        if count > status.int("replicas") {
            errors.invalid(&at.field(field), count, "cannot be greater than status.replicas");
        }
    }
    let available = status.int("availableReplicas");
    if !ready.is_empty() && available > status.int("readyReplicas") {
        errors.invalid(&at.field("availableReplicas"), available, format!("cannot be greater than {ready}"));
    }
}

/// What a quota counts.
pub(super) fn resource_quota(object: &Value, errors: &mut Errors) {
    for list in ["hard", "used"] {
        quota::amounts(object.at("status").at(list), &At::root("status").field(list), errors);
    }
}

/// Where a Service is reached from outside.
pub(super) fn load_balancer(status: &Value, at: &At<'_>, errors: &mut Errors) {
    let list = at.field("ingress");
    for (index, ingress) in status.items("ingress").iter().enumerate() {
        let at = list.index(index);
        let (ip, host, mode) = (ingress.text("ip"), ingress.text("hostname"), ingress.text("ipMode"));
        if !ip.is_empty() {
            text::address(ip, &at.field("ip"), errors);
        }
        match (ingress.has("ipMode"), ip.is_empty()) {
            (true, true) => errors.forbidden(&at.field("ipMode"), "may not be specified when `ip` is not set"),
            (true, false) => errors.one_of(&at.field("ipMode"), mode, &["Proxy", "VIP"]),
            (false, false) => errors.required(&at.field("ipMode"), "must be specified when `ip` is set"),
            (false, true) => {}
        }
        if !host.is_empty() {
            errors.texts(&at.field("hostname"), host, name::dns1123_subdomain(host));
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(&at.field("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// What has become of a claim.
pub(super) fn claim(object: &Value, errors: &mut Errors) {
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let (status, at) = (object.at("status"), At::root("status"));
    let basic = |field: &'static str, errors: &mut Errors| {
        for (name, amount) in status.entries(field) {
            resources::basic(amount, &at.field(field).key(name), errors);
        }
    };
    basic("capacity", errors);
    let named = |field: &'static str, key: &str, errors: &mut Errors| {
        let wrong = name::qualified_name(key);
        if wrong.is_empty() && !key.contains('/') && key != "storage" {
            errors.unsupported(&at.field(field), key, &["storage"]);
        }
        errors.texts(&at.field(field), key, wrong);
    };
    for (key, state) in status.entries("allocatedResourceStatuses") {
        named("allocatedResourceStatuses", key, errors);
        if !STATES.iter().any(|known| state == known) {
            errors.unsupported(&at.field("allocatedResourceStatuses"), key.as_str(), &STATES);
        }
    }
    for (key, _) in status.entries("allocatedResources") {
        named("allocatedResources", key, errors);
    }
    basic("allocatedResources", errors);
}

/// A namespace says that it ends only while it does.
pub(super) fn namespace(object: &Value, errors: &mut Errors) {
    let (phase, deleting) = (object.text("status.phase"), object.has("metadata.deletionTimestamp"));
    let at = At::root("status.Phase");
    if deleting && phase != "Terminating" {
        errors.invalid(&at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    } else if !deleting && phase != "Active" {
        errors.invalid(&at, phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
}
