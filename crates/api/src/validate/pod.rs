//! Pods and templates of pods.

use super::at::{At, Errors};
use super::{containers, meta, resources, scheduling, security, text, volumes};
use crate::look::Look;
use machinery::name;
use serde_json::{Value, json};

const ID_MAX: i64 = 2_147_483_647;

/// A new pod.
pub(super) fn create(pod: &Value, errors: &mut Errors) {
    spec(pod.at("spec"), &At::root("spec"), errors);
    if !pod.items("spec.ephemeralContainers").is_empty() {
        errors.forbidden(&At::root("spec.ephemeralContainers"), "cannot be set on create");
    }
    // Templates may carry the blank; upstream tells only pods.
    for (list, at) in
        [("spec.containers", At::root("spec.containers")), ("spec.initContainers", At::root("spec.initContainers"))]
    {
        for (index, container) in pod.items(list).iter().enumerate() {
            let image = container.text("image");
            if image.trim() != image {
                errors.invalid(&at.index(index).field("image"), image, "must not have leading or trailing whitespace");
            }
        }
    }
}

/// A changed pod: only few fields of its spec may change.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    spec(new.at("spec"), &At::root("spec"), errors);
    let counts = |pod: &Value| (pod.items("spec.containers").len(), pod.items("spec.initContainers").len());
    let (before, after) = (counts(old), counts(new));
    if before.0 != after.0 {
        errors.forbidden(&At::root("spec.containers"), "pod updates may not add or remove containers");
    }
    if before.1 != after.1 {
        errors.forbidden(&At::root("spec.initContainers"), "pod updates may not add or remove containers");
    }
    if before != after {
        return;
    }
    deadline(new, old, errors);
    scheduling::only_added_tolerations(
        new.at("spec.tolerations"),
        old.at("spec.tolerations"),
        &At::root("spec.tolerations"),
        errors,
    );
    let mut masked = new.at("spec").clone();
    take_mutable(&mut masked, old.at("spec"));
    if masked != *old.at("spec") {
        errors.forbidden(
            &At::root("spec"),
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

/// The deadline may be set, or come closer.
fn deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let at = At::root("spec.activeDeadlineSeconds");
    match (new.at("spec.activeDeadlineSeconds").as_i64(), old.at("spec.activeDeadlineSeconds").as_i64()) {
        (Some(new), _) if !(0..=ID_MAX).contains(&new) => {
            errors.invalid(&at, new, format!("must be between 0 and {ID_MAX}, inclusive"))
        }
        (Some(new), Some(old)) if old < new => errors.invalid(&at, new, "must be less than or equal to previous value"),
        (None, Some(_)) => errors.invalid(&at, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

/// Puts the old values into the fields that may change.
fn take_mutable(spec: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        for (index, container) in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            container["image"] = old[list][index]["image"].clone();
        }
    }
    let gates = spec.items("schedulingGates");
    let only_removed = gates.iter().all(|g| old.items("schedulingGates").contains(g));
    let Some(fields) = spec.as_object_mut() else { return };
    let mut fixed = vec!["activeDeadlineSeconds", "tolerations"];
    if only_removed {
        fixed.push("schedulingGates");
    }
    if !old.items("schedulingGates").is_empty() {
        // A gated pod may still be narrowed to fewer nodes.
        fixed.extend(["nodeSelector", "affinity"]);
    }
    if old.int("terminationGracePeriodSeconds") < 0 && fields.get("terminationGracePeriodSeconds") == Some(&json!(1)) {
        fixed.push("terminationGracePeriodSeconds");
    }
    for field in fixed {
        match old.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
}

/// The template of a workload's pods.
pub(super) fn template(template: &Value, at: &At<'_>, errors: &mut Errors) {
    meta::labels(template.at("metadata.labels"), &at.field("metadata.labels"), errors);
    meta::annotations(template.at("metadata.annotations"), &at.field("metadata.annotations"), errors);
    spec(template.at("spec"), &at.field("spec"), errors);
}

fn spec(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let names = volumes::check(spec, &at.field("volumes"), errors);
    resource_claims(spec, &at.field("resourceClaims"), errors);
    containers::check_all(spec, at, &names, errors);
    errors.one_of(&at.field("restartPolicy"), spec.text("restartPolicy"), &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.one_of(&at.field("dnsPolicy"), spec.text("dnsPolicy"), &policies);
    meta::labels(spec.at("nodeSelector"), &at.field("nodeSelector"), errors);
    security::pod(spec, at, errors);
    scheduling::affinity(spec, at, errors);
    dns(spec, at, errors);
    let gates = at.field("readinessGates");
    for (index, gate) in spec.items("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        errors.texts(&gates.index(index).field("conditionType"), kind, name::qualified_name(kind));
    }
    scheduling::gates_and_spread(spec, at, errors);
    for field in ["serviceAccountName", "nodeName"] {
        named(spec, field, at, name::dns1123_subdomain, errors);
    }
    errors.in_range(&at.field("activeDeadlineSeconds"), spec.at("activeDeadlineSeconds"), 1, ID_MAX);
    for field in ["hostname", "subdomain"] {
        named(spec, field, at, name::dns1123_label, errors);
    }
    scheduling::tolerations(spec.at("tolerations"), &at.field("tolerations"), errors);
    host_aliases(spec, at, errors);
    for field in ["priorityClassName", "runtimeClassName"] {
        named(spec, field, at, name::dns1123_subdomain, errors);
    }
    if spec.has("preemptionPolicy") {
        let policy = spec.text("preemptionPolicy");
        errors.one_of(&at.field("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    overhead(spec, &at.field("overhead.limits"), errors);
    named(spec, "hostnameOverride", at, name::dns1123_subdomain, errors);
    match spec.text("os.name") {
        "linux" | "windows" => {}
        "" if spec.has("os") => errors.required(&at.field("os.name"), ""),
        "" => {}
        other => errors.unsupported(&at.field("os"), other, &["linux", "windows"]),
    }
}

fn named(spec: &Value, field: &str, at: &At<'_>, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let name = spec.text(field);
    if !name.is_empty() {
        errors.texts(&at.field(field), name, rule(name));
    }
}

/// What a pod takes beyond its containers.
fn overhead(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    resources::amounts(spec.at("overhead"), at, errors);
}

/// The devices a pod asks for.
fn resource_claims(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, claim) in spec.items("resourceClaims").iter().enumerate() {
        let (name, here) = (claim.text("name"), at.index(index));
        if name.is_empty() {
            errors.required(&here.field("name"), "");
        } else if seen.contains(&name) {
            errors.duplicate(&here.field("name"), name);
        } else {
            errors.texts(&here.field("name"), name, name::dns1123_label(name));
            seen.push(name);
        }
        let shown = || json!({"Name": name, "ResourceClaimName": claim.at("resourceClaimName"), "ResourceClaimTemplateName": claim.at("resourceClaimTemplateName")});
        let both = "`resourceClaimName`, `resourceClaimTemplateName`";
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => errors.invalid(&here, shown(), format!("at most one of {both} may be specified")),
            (false, false) => errors.invalid(&here, shown(), format!("must specify one of: {both}")),
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            let name = claim.text(field);
            if claim.has(field) {
                errors.texts(&here.field(field), name, name::dns1123_subdomain(name));
            }
        }
    }
}

fn host_aliases(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("hostAliases");
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        let at = at.index(index);
        text::address(alias.text("ip"), &at.field("ip"), errors);
        let at = at.field("hostnames");
        for (index, host) in alias.items("hostnames").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            errors.texts(&at.index(index), host, name::dns1123_subdomain(host));
        }
    }
}

fn dns(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let policy = spec.text("dnsPolicy");
    let config = spec.at("dnsConfig");
    let at = at.field("dnsConfig");
    let servers = config.items("nameservers");
    if policy == "None" && config.is_null() {
        errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        return;
    }
    if policy == "None" && servers.is_empty() {
        errors.required(&at.field("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > 3 {
        let value = config.at("nameservers").clone();
        errors.invalid(&at.field("nameservers"), value, "must not have more than 3 nameservers");
    }
    let servers_at = at.field("nameservers");
    for (index, server) in servers.iter().enumerate() {
        text::address(server.as_str().unwrap_or_default(), &servers_at.index(index), errors);
    }
    dns_searches(config, &at, errors);
    let options = at.field("options");
    for (index, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(&options.index(index), "must not be empty");
        }
    }
}

fn dns_searches(config: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("searches");
    let searches = config.items("searches");
    if searches.len() > 32 {
        errors.invalid(&at, config.at("searches").clone(), "must not have more than 32 search paths");
    }
    for (index, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        let plain = search.strip_suffix('.').unwrap_or(search);
        if search == "." || name::dns1123_subdomain(&plain.replace('_', "a")).is_empty() {
            continue;
        }
        errors.invalid(
            &at.index(index),
            search,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and \
             end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
        );
    }
}
