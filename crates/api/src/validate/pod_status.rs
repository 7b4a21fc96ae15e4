//! The status of pods.

use super::at::{At, Errors};
use super::text;
use crate::look::Look;
use machinery::name;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What is wrong with a new status of a pod.
pub(super) fn check(new: &Value, old: &Value, errors: &mut Errors) {
    let (status, was, at) = (new.at("status"), old.at("status"), At::root("status"));
    nominated(new, status, was, &at, errors);
    if status.int("observedGeneration") < 0 {
        let value = status.at("observedGeneration").clone();
        errors.invalid(&at.field("observedGeneration"), value, "must be a non-negative integer");
    }
    containers(status, &at, errors);
    claims(new, status, &at, errors);
    extended_claim(status, &at, errors);
    let conditions = at.field("conditions");
    for (index, condition) in status.items("conditions").iter().enumerate() {
        let at = conditions.index(index);
        if condition.int("observedGeneration") < 0 {
            let value = condition.at("observedGeneration").clone();
            errors.invalid(&at.field("observedGeneration"), value, "must be a non-negative integer");
        }
        let kind = condition.text("type");
        errors.texts(&at.field("Type"), kind, name::qualified_name(kind));
    }
    addresses(status, "podIPs", &at, errors);
    host_address(status, &at, errors);
    addresses(status, "hostIPs", &at, errors);
    if status.at("qosClass") != was.at("qosClass") && !was.text("qosClass").is_empty() {
        errors.invalid(&at.field("qosClass"), status.at("qosClass").clone(), "field is immutable");
    }
}

fn nominated(pod: &Value, status: &Value, was: &Value, at: &At<'_>, errors: &mut Errors) {
    let node = status.text("nominatedNodeName");
    let at = at.field("nominatedNodeName");
    if !node.is_empty() {
        errors.texts(&at, node, name::dns1123_subdomain(node));
        if !pod.text("spec.nodeName").is_empty() && node != was.text("nominatedNodeName") {
            errors.forbidden(&at, "may not be set on pods that are already bound to a node");
        }
    }
}

fn host_address(status: &Value, at: &At<'_>, errors: &mut Errors) {
    let first = status.items("hostIPs").first().map(|address| address.text("ip"));
    if let Some(first) = first.filter(|first| *first != status.text("hostIP")) {
        errors.invalid(&at.field("hostIPs").index(0).field("ip"), first, "must be equal to `hostIP`");
    }
}

/// Addresses are good, and at most one of each family.
fn addresses(status: &Value, field: &str, at: &At<'_>, errors: &mut Errors) {
    let at = at.field(field);
    let list = status.items(field);
    let mut parsed: Vec<IpAddr> = Vec::new();
    for (index, address) in list.iter().enumerate() {
        parsed.extend(text::address(address.text("ip"), &at.index(index), errors));
    }
    let fours = parsed.iter().filter(|ip| ip.is_ipv4()).count();
    if parsed.len() == list.len() && (fours > 1 || parsed.len() - fours > 1) {
        let shown: Vec<Value> = list.iter().map(|address| json!({"IP": address.text("ip")})).collect();
        errors.invalid(&at, shown, "may specify no more than one IP for each IP family");
    }
}

fn containers(status: &Value, at: &At<'_>, errors: &mut Errors) {
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let list_at = at.field(list);
        for (index, container) in status.items(list).iter().enumerate() {
            let here = list_at.index(index);
            let here = here.field("user.linux");
            let user = container.at("user.linux");
            errors.in_range(&here.field("uid"), user.at("uid"), 0, 4_294_967_295);
            errors.in_range(&here.field("gid"), user.at("gid"), 0, 2_147_483_647);
            let groups = here.field("supplementalGroups");
            for (index, group) in user.items("supplementalGroups").iter().enumerate() {
                errors.in_range(&groups.index(index), group, 0, 2_147_483_647);
            }
        }
    }
}

fn claims(pod: &Value, status: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("resourceClaimStatuses");
    let mut seen: Vec<&str> = Vec::new();
    for (index, claim) in status.items("resourceClaimStatuses").iter().enumerate() {
        let (name, at) = (claim.text("name"), at.index(index));
        if !pod.items("spec.resourceClaims").iter().any(|wanted| wanted.text("name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&at.field("name"), name, detail);
        } else if seen.contains(&name) {
            errors.duplicate(&at.field("name"), name);
        }
        seen.push(name);
        if claim.has("resourceClaimName") {
            let made = claim.text("resourceClaimName");
            errors.texts(&at.field("resourceClaimName"), made, name::dns1123_subdomain(made));
        }
    }
}

fn extended_claim(status: &Value, at: &At<'_>, errors: &mut Errors) {
    let claim = status.at("extendedResourceClaimStatus");
    if claim.is_null() {
        return;
    }
    let at = at.field("extendedResourceClaimStatus");
    if claim.items("requestMappings").is_empty() {
        errors.required(&at.field("requestMappings"), "at least one request mapping is required");
    }
    if claim.text("resourceClaimName").is_empty() {
        errors.required(&at.field("resourceClaimName"), "");
    }
}
