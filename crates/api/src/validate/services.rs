//! Services, endpoints and endpoint slices.

use super::at::{At, Errors};
use super::{meta, text};
use crate::look::Look;
use machinery::name;
use serde_json::{Value, json};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const SPEC: At<'static> = At::root("spec");

pub(super) fn service(service: &Value, errors: &mut Errors) {
    let spec = service.at("spec");
    let kind = spec.text("type");
    let headless = spec.text("clusterIP") == "None";
    let external = kind == "ExternalName";
    if spec.items("ports").is_empty() && !headless && !external {
        errors.required(&SPEC.field("ports"), "");
    }
    ports(spec, headless, errors);
    meta::labels(spec.at("selector"), &SPEC.field("selector"), errors);
    errors.one_of(&SPEC.field("sessionAffinity"), spec.text("sessionAffinity"), &["ClientIP", "None"]);
    let seconds = spec.at("sessionAffinityConfig.clientIP.timeoutSeconds");
    if seconds.as_i64().is_some_and(|s| !(1..=86400).contains(&s)) {
        let at = SPEC.field("sessionAffinityConfig.clientIP.timeoutSeconds");
        errors.invalid(&at, seconds.clone(), "must be greater than 0 and less than 86400");
    }
    let outside = SPEC.field("externalIPs");
    for (index, ip) in spec.items("externalIPs").iter().enumerate() {
        text::reachable_address(ip.as_str().unwrap_or_default(), &outside.index(index), errors);
    }
    match kind {
        "" => errors.required(&SPEC.field("type"), ""),
        kind => errors.one_of(&SPEC.field("type"), kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
    }
    if external {
        external_name(spec, errors);
    } else {
        cluster_addresses(spec, errors);
    }
    if spec.has("internalTrafficPolicy") {
        errors.one_of(&SPEC.field("internalTrafficPolicy"), spec.text("internalTrafficPolicy"), &["Cluster", "Local"]);
    } else if !external {
        errors.required(&SPEC.field("internalTrafficPolicy"), "");
    }
    traffic(spec, errors);
}

fn external_name(spec: &Value, errors: &mut Errors) {
    if !spec.items("clusterIPs").is_empty() {
        errors.forbidden(&SPEC.field("clusterIPs"), "may not be set for ExternalName services");
    }
    let name = spec.text("externalName");
    let plain = name.strip_suffix('.').unwrap_or(name);
    match plain {
        "" => errors.required(&SPEC.field("externalName"), ""),
        _ => errors.texts(&SPEC.field("externalName"), name, name::dns1123_subdomain(plain)),
    }
}

fn cluster_addresses(spec: &Value, errors: &mut Errors) {
    let at = SPEC.field("clusterIPs");
    let list = spec.items("clusterIPs");
    if !list.is_empty() && !spec.text("clusterIP").is_empty() && list[0] != *spec.at("clusterIP") {
        errors.invalid(&at, spec.at("clusterIPs").clone(), "first value must match `clusterIP`");
    }
    if list.len() > 2 {
        errors.invalid(&at, spec.at("clusterIPs").clone(), "may only hold up to 2 values");
    }
    for (index, ip) in list.iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if ip != "None" {
            text::address(ip, &at.index(index), errors);
        } else if list.len() > 1 {
            errors.invalid(
                &at.index(index),
                ip,
                "must be empty, None, or a valid IP address when the list has more than one value",
            );
        }
    }
}

fn ports(spec: &Value, headless: bool, errors: &mut Errors) {
    let list = spec.items("ports");
    let at = SPEC.field("ports");
    let mut names: Vec<&str> = Vec::new();
    let mut pairs = Vec::new();
    let mut node_ports = Vec::new();
    for (index, port) in list.iter().enumerate() {
        let here = at.index(index);
        let name = port.text("name");
        if name.is_empty() && list.len() > 1 {
            errors.required(&here.field("name"), "");
        } else if !name.is_empty() {
            errors.texts(&here.field("name"), name, name::dns1123_label(name));
            if names.contains(&name) {
                errors.duplicate(&here.field("name"), name);
            }
            names.push(name);
        }
        text::port_number(port.at("port"), &here.field("port"), errors);
        match port.text("protocol") {
            "" => errors.required(&here.field("protocol"), ""),
            protocol => errors.one_of(&here.field("protocol"), protocol, &PROTOCOLS),
        }
        text::port_or_name(port.at("targetPort"), &here.field("targetPort"), errors);
        if headless && spec.text("type") == "ClusterIP" && port.int("nodePort") != 0 {
            errors.forbidden(&here.field("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if port.int("nodePort") != 0 && spec.text("type") == "ClusterIP" && !headless {
            errors.forbidden(&here.field("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        let pair = (port.text("protocol"), port.int("port"));
        if pairs.contains(&pair) {
            errors.duplicate(&here, same_port(port));
        }
        pairs.push(pair);
        let node = (port.text("protocol"), port.int("nodePort"));
        if node.1 != 0 && node_ports.contains(&node) {
            errors.duplicate(&here.field("nodePort"), node.1);
        }
        node_ports.push(node);
    }
}

/// A duplicate is shown as what makes it one.
fn same_port(port: &Value) -> Value {
    json!({
        "Name": "", "Protocol": port.text("protocol"), "AppProtocol": null, "Port": port.int("port"), "TargetPort": 0, "NodePort": 0,
    })
}

fn traffic(spec: &Value, errors: &mut Errors) {
    let policy = spec.text("externalTrafficPolicy");
    let kind = spec.text("type");
    let outside = matches!(kind, "NodePort" | "LoadBalancer") || !spec.items("externalIPs").is_empty();
    let at = SPEC.field("externalTrafficPolicy");
    if !policy.is_empty() && !outside {
        errors.invalid(&at, policy, "may only be set for externally-accessible services");
    } else if !policy.is_empty() {
        errors.one_of(&at, policy, &["Cluster", "Local"]);
    } else if matches!(kind, "NodePort" | "LoadBalancer") {
        errors.required(&at, "");
    }
    errors.non_negative(&SPEC.field("healthCheckNodePort"), spec.at("healthCheckNodePort"));
}

pub(super) fn service_update(new: &Value, old: &Value, errors: &mut Errors) {
    let same_kind = new.text("spec.type") == old.text("spec.type") || old.text("spec.type") != "ExternalName";
    let (was, is) = (old.items("spec.clusterIPs"), new.items("spec.clusterIPs"));
    if same_kind && new.text("spec.type") != "ExternalName" && !was.is_empty() {
        match is.first() {
            Some(first) if *first != was[0] => {
                let value = new.at("spec.clusterIPs").clone();
                errors.invalid(&SPEC.field("clusterIPs").index(0), value, "may not change once set");
            }
            None => errors.invalid(&SPEC.field("clusterIPs").index(0), json!([]), "primary clusterIP can not be unset"),
            _ => {}
        }
    }
    let families = |s: &Value| s.items("spec.ipFamilies").first().cloned();
    if let (Some(was), Some(is)) = (families(old), families(new))
        && was != is
        && new.text("spec.type") != "ExternalName"
        && old.text("spec.type") != "ExternalName"
    {
        let value = new.at("spec.ipFamilies").clone();
        errors.invalid(&SPEC.field("ipFamilies").index(0), value, "may not change once set");
    }
    service(new, errors);
}

pub(super) fn endpoints(endpoints: &Value, errors: &mut Errors) {
    let at = At::root("subsets");
    for (index, subset) in endpoints.items("subsets").iter().enumerate() {
        let at = at.index(index);
        if subset.items("addresses").is_empty() && subset.items("notReadyAddresses").is_empty() {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            let at = at.field(list);
            for (index, address) in subset.items(list).iter().enumerate() {
                endpoint_address(address, &at.index(index), errors);
            }
        }
        let ports = subset.items("ports");
        let here = at.field("ports");
        for (index, port) in ports.iter().enumerate() {
            endpoint_port(port, ports.len() > 1, &here.index(index), errors);
        }
    }
}

fn endpoint_address(address: &Value, at: &At<'_>, errors: &mut Errors) {
    let ip = address.text("ip");
    text::reachable_address(ip, &at.field("ip"), errors);
    if ip.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(&at.field("ip"), ip, "must be a valid IP address");
    }
    let host = address.text("hostname");
    if !host.is_empty() {
        errors.texts(&at.field("hostname"), host, name::dns1123_label(host));
    }
    let node = address.text("nodeName");
    if !node.is_empty() {
        errors.texts(&at.field("nodeName"), node, name::dns1123_subdomain(node));
    }
}

fn endpoint_port(port: &Value, named: bool, at: &At<'_>, errors: &mut Errors) {
    match port.text("name") {
        "" if named => errors.required(&at.field("name"), ""),
        "" => {}
        name => errors.texts(&at.field("name"), name, name::dns1123_label(name)),
    }
    text::port_number(port.at("port"), &at.field("port"), errors);
    match port.text("protocol") {
        "" => errors.required(&at.field("protocol"), ""),
        protocol => errors.one_of(&at.field("protocol"), protocol, &PROTOCOLS),
    }
}

pub(super) fn endpoint_slice(slice: &Value, errors: &mut Errors) {
    let kind = slice.text("addressType");
    match kind {
        "" => errors.required(&At::root("addressType"), ""),
        kind => errors.one_of(&At::root("addressType"), kind, &["FQDN", "IPv4", "IPv6"]),
    }
    let at = At::root("endpoints");
    for (index, endpoint) in slice.items("endpoints").iter().enumerate() {
        slice_endpoint(endpoint, kind, &at.index(index), errors);
    }
    let at = At::root("ports");
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in slice.items("ports").iter().enumerate() {
        let (name, at) = (port.text("name"), at.index(index));
        if !name.is_empty() {
            errors.texts(&at.field("name"), name, name::dns1123_label(name));
        }
        if names.contains(&name) {
            errors.duplicate(&at.field("name"), name);
        }
        names.push(name);
        match port.text("protocol") {
            "" => errors.required(&at.field("protocol"), ""),
            protocol => errors.one_of(&at.field("protocol"), protocol, &PROTOCOLS),
        }
    }
}

fn slice_endpoint(endpoint: &Value, kind: &str, at: &At<'_>, errors: &mut Errors) {
    let addresses = endpoint.items("addresses");
    let list = at.field("addresses");
    if addresses.is_empty() {
        errors.required(&list, "");
    }
    if addresses.len() > 100 {
        errors.0.push(machinery::field::FieldError::too_many(&list.path(), addresses.len(), 100));
    }
    for (index, address) in addresses.iter().enumerate() {
        let (address, at) = (address.as_str().unwrap_or_default(), list.index(index));
        match kind {
            "FQDN" => errors.texts(&at, address, name::dns1123_subdomain(address)),
            "IPv4" | "IPv6" => {
                let parsed = address.parse::<std::net::IpAddr>();
                if parsed.is_ok_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                    errors.invalid(&list, address, format!("must be an {kind} address"));
                }
                text::reachable_address(address, &at, errors);
            }
            _ => {}
        }
    }
    let (node, host) = (endpoint.text("nodeName"), endpoint.text("hostname"));
    if !node.is_empty() {
        errors.texts(&at.field("nodeName"), node, name::dns1123_subdomain(node));
    }
    if !host.is_empty() {
        errors.texts(&at.field("hostname"), host, name::dns1123_label(host));
    }
}
