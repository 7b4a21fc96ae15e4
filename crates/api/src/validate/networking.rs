//! Ingresses, ingress classes, network policies.

use super::at::{At, Errors};
use super::{meta, text};
use crate::look::Look;
use machinery::name;
use serde_json::Value;

const SPEC: At<'static> = At::root("spec");

pub(super) fn ingress(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let rules = spec.items("rules");
    if rules.is_empty() && !spec.has("defaultBackend") {
        errors.invalid(&SPEC, Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if spec.has("defaultBackend") {
        backend(spec.at("defaultBackend"), &SPEC.field("defaultBackend"), errors);
    }
    let list = SPEC.field("tls");
    for (index, tls) in spec.items("tls").iter().enumerate() {
        tls_hosts(tls, &list.index(index), errors);
    }
    let list = SPEC.field("rules");
    for (index, rule) in rules.iter().enumerate() {
        let at = list.index(index);
        let host = rule.text("host");
        if !host.is_empty() {
            host_name(host, &at.field("host"), errors);
        }
        if rule.has("http") {
            paths(rule.items("http.paths"), &at.field("http.paths"), errors);
        }
    }
    if let Some(class) = spec.at("ingressClassName").as_str() {
        errors.texts(&SPEC.field("ingressClassName"), class, name::dns1123_subdomain(class));
    }
}

/// A host that requests name, or all below a domain.
fn host_name(host: &str, at: &At<'_>, errors: &mut Errors) {
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(at, host, "must be a DNS name, not an IP address");
    } else if host.contains('*') {
        errors.texts(at, host, name::wildcard_dns1123_subdomain(host));
    } else {
        errors.texts(at, host, name::dns1123_subdomain(host));
    }
}

fn tls_hosts(tls: &Value, at: &At<'_>, errors: &mut Errors) {
    let hosts = at.field("hosts");
    for (index, host) in tls.items("hosts").iter().enumerate() {
        let host = host.as_str().unwrap_or_default();
        let rule = if host.contains('*') { name::wildcard_dns1123_subdomain } else { name::dns1123_subdomain };
        errors.texts(&hosts.index(index), host, rule(host));
    }
    let secret = tls.text("secretName");
    if !secret.is_empty() {
        errors.texts(&at.field("secretName"), secret, name::dns1123_subdomain(secret));
    }
}

fn paths(list: &[Value], at: &At<'_>, errors: &mut Errors) {
    if list.is_empty() {
        errors.required(at, "");
    }
    for (index, path) in list.iter().enumerate() {
        let at = at.index(index);
        let ty = path.at("pathType").as_str();
        match ty {
            None => errors.required(&at.field("pathType"), "pathType must be specified"),
            Some("Exact" | "Prefix") => exact_path(path.text("path"), &at.field("path"), errors),
            Some("ImplementationSpecific") => {
                let text = path.text("path");
                if !text.is_empty() && !text.starts_with('/') {
                    errors.invalid(&at.field("path"), text, "must be an absolute path");
                }
            }
            Some(other) => {
                errors.one_of(&at.field("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]);
            }
        }
        backend(path.at("backend"), &at.field("backend"), errors);
    }
}

/// A path that is compared as written: nothing in it may be read in two ways.
fn exact_path(path: &str, at: &At<'_>, errors: &mut Errors) {
    if !path.starts_with('/') {
        errors.invalid(at, path, "must be an absolute path");
        return;
    }
    for part in ["//", "/./", "/../", "%2f", "%2F"] {
        if path.contains(part) {
            errors.invalid(at, path, format!("must not contain '{part}'"));
        }
    }
    for end in ["/..", "/."] {
        if path.ends_with(end) {
            errors.invalid(at, path, format!("cannot end with '{end}'"));
        }
    }
}

fn backend(backend: &Value, at: &At<'_>, errors: &mut Errors) {
    match (backend.has("resource"), backend.has("service")) {
        (true, true) => errors.invalid(at, "", "cannot set both resource and service backends"),
        (false, false) => errors.invalid(at, "", "resource or service backend is required"),
        (true, false) => typed_reference(backend.at("resource"), &at.field("resource"), errors),
        (false, true) => service_backend(backend.at("service"), at, errors),
    }
}

fn service_backend(service: &Value, at: &At<'_>, errors: &mut Errors) {
    let own = at.field("service");
    let service_name = service.text("name");
    if service_name.is_empty() {
        errors.required(&own.field("name"), "");
    } else {
        errors.texts(&own.field("name"), service_name, name::dns1123_label(service_name));
    }
    let (port_name, number) = (service.text("port.name"), service.int("port.number"));
    match (!port_name.is_empty(), number != 0) {
        (true, true) => errors.invalid(at, "", "cannot set both port name & port number"),
        (false, false) => errors.required(at, "port name or number is required"),
        (true, false) => errors.texts(&own.field("port.name"), port_name, name::port_name(port_name)),
        (false, true) => text::port_number(service.at("port.number"), &own.field("port.number"), errors),
    }
}

/// An object of some kind in the same namespace.
fn typed_reference(reference: &Value, at: &At<'_>, errors: &mut Errors) {
    if let Some(group) = reference.at("apiGroup").as_str() {
        errors.texts(&at.field("apiGroup"), group, name::dns1123_subdomain(group));
    }
    for field in ["kind", "name"] {
        let value = reference.text(field);
        if value.is_empty() {
            errors.required(&at.field(field), "");
        } else {
            errors.texts(&at.field(field), value, name::path_segment(value));
        }
    }
}

pub(super) fn ingress_class(object: &Value, errors: &mut Errors) {
    let at = SPEC.field("controller");
    let controller = object.text("spec.controller");
    if controller.is_empty() {
        errors.required(&at, "");
    } else if controller.len() > CONTROLLER_MAX {
        errors.too_long(&at, CONTROLLER_MAX);
    } else if !is_domain_prefixed(controller) {
        errors.invalid(&at, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    if object.has("spec.parameters") {
        class_parameters(object.at("spec.parameters"), &SPEC.field("parameters"), errors);
    }
}

/// A controller's name may have so many bytes.
const CONTROLLER_MAX: usize = 250;

fn is_domain_prefixed(text: &str) -> bool {
    let Some((domain, path)) = text.split_once('/') else { return false };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/%:@&=+$,-_.!~*'()#".contains(&b);
    name::dns1123_subdomain(domain).is_empty() && !path.is_empty() && path.bytes().all(allowed)
}

fn class_parameters(parameters: &Value, at: &At<'_>, errors: &mut Errors) {
    typed_reference(parameters, at, errors);
    let (namespace, own) = (parameters.at("namespace").as_str(), at.field("namespace"));
    match parameters.at("scope").as_str() {
        None => errors.required(&at.field("scope"), ""),
        Some("Namespace") => match namespace {
            None => errors.required(&own, "`parameters.scope` is set to 'Namespace'"),
            Some(namespace) => errors.texts(&own, namespace, name::dns1123_label(namespace)),
        },
        Some("Cluster") => {
            if namespace.is_some() {
                errors.forbidden(&own, "`parameters.scope` is set to 'Cluster'");
            }
        }
        Some(other) => errors.unsupported(&at.field("scope"), other, &["Cluster", "Namespace"]),
    }
}

/// The controller of a class is for good.
pub(super) fn ingress_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    errors.immutable_fields(new, old, &["spec.controller"]);
    ingress_class(new, errors);
}

pub(super) fn network_policy(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    meta::selector(spec.at("podSelector"), &SPEC.field("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = SPEC.field(direction);
        for (index, rule) in spec.items(direction).iter().enumerate() {
            policy_rule(rule, peers, &list.index(index), errors);
        }
    }
    let (types, at) = (spec.items("policyTypes"), SPEC.field("policyTypes"));
    if types.len() > 2 {
        errors.invalid(&at, spec.at("policyTypes").clone(), "may not specify more than two policyTypes");
        return;
    }
    for (index, ty) in types.iter().enumerate() {
        errors.one_of(&at.index(index), ty.as_str().unwrap_or_default(), &["Ingress", "Egress"]);
    }
}

fn policy_rule(rule: &Value, peers: &str, at: &At<'_>, errors: &mut Errors) {
    let list = at.field("ports");
    for (index, port) in rule.items("ports").iter().enumerate() {
        policy_port(port, &list.index(index), errors);
    }
    let list = at.field(peers);
    for (index, peer) in rule.items(peers).iter().enumerate() {
        policy_peer(peer, &list.index(index), errors);
    }
}

fn policy_port(port: &Value, at: &At<'_>, errors: &mut Errors) {
    if let Some(protocol) = port.at("protocol").as_str() {
        errors.one_of(&at.field("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let (from, end_at) = (port.at("port"), at.field("endPort"));
    if !from.is_null() {
        text::port_or_name(from, &at.field("port"), errors);
    }
    let Some(end) = port.at("endPort").as_i64() else { return };
    match from {
        Value::Null => errors.invalid(&end_at, end, "may not be specified when `port` is not specified"),
        Value::String(_) => errors.invalid(&end_at, end, "may not be specified when `port` is non-numeric"),
        number => {
            if number.as_i64().is_some_and(|from| end < from) {
                errors.invalid(&end_at, end, "must be greater than or equal to `port`");
            }
            errors.in_range(&end_at, port.at("endPort"), 1, 65535);
        }
    }
}

fn policy_peer(peer: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut others = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            others += 1;
            meta::selector(peer.at(field), &at.field(field), errors);
        }
    }
    if peer.has("ipBlock") {
        ip_block(peer.at("ipBlock"), &at.field("ipBlock"), errors);
        if others > 0 {
            errors.forbidden(at, "may not specify both ipBlock and another peer");
        }
    } else if others == 0 {
        errors.required(at, "must specify a peer");
    }
}

fn ip_block(block: &Value, at: &At<'_>, errors: &mut Errors) {
    let cidr = block.text("cidr");
    if cidr.is_empty() {
        errors.required(&at.field("cidr"), "");
        return;
    }
    let before = errors.0.len();
    text::network(cidr, &at.field("cidr"), errors);
    let whole = text::parse_network(cidr).filter(|_| errors.0.len() == before);
    let list = at.field("except");
    for (index, except) in block.items("except").iter().enumerate() {
        let (at, except) = (list.index(index), except.as_str().unwrap_or_default());
        let Some(part) = text::parse_network(except) else {
            text::network(except, &at, errors);
            continue;
        };
        if whole.is_some_and(|whole| !within(part, whole)) {
            errors.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}

/// Whether a network lies within another and is smaller.
fn within(part: (u128, u8, bool), whole: (u128, u8, bool)) -> bool {
    let ((part, part_bits, part_v6), (whole, bits, v6)) = (part, whole);
    let width: u32 = if v6 { 128 } else { 32 };
    let shift = width - u32::from(bits);
    part_v6 == v6 && part_bits > bits && (part.checked_shr(shift) == whole.checked_shr(shift))
}
