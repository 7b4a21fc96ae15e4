//! Cells of services, endpoints and network kinds.

use super::{age, clipped, labels, or};
use crate::look::Look;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::Value;
use std::collections::BTreeSet;

/// Kinds of the core group.
pub(super) fn core(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let name = Value::from(object.text("metadata.name"));
    match kind {
        "Service" => Some(vec![
            name,
            object.text("spec.type").into(),
            or(object.items("spec.clusterIPs").first().and_then(Value::as_str).unwrap_or_default(), "<none>").into(),
            external_address(object).into(),
            service_ports(object).into(),
            age(object, now),
            labels(object, "spec.selector").into(),
        ]),
        "Endpoints" => Some(vec![name, endpoints(object).into(), age(object, now)]),
        _ => None,
    }
}

pub(super) fn cells(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let name = object.text("metadata.name");
    let age = age(object, now);
    let cells = match kind {
        "EndpointSlice" => {
            let ports: Vec<String> = object.items("ports").iter().map(slice_port).collect();
            let addresses: Vec<String> =
                object.items("endpoints").iter().flat_map(|e| strings(e, "addresses")).collect();
            let (ports, addresses) = (clipped(&ports, 3, "<unset>"), clipped(&addresses, 3, "<unset>"));
            vec![name.into(), object.text("addressType").into(), ports.into(), addresses.into(), age]
        }
        "Ingress" => {
            let ports = if object.items("spec.tls").is_empty() { "80" } else { "80, 443" };
            let class = or(object.text("spec.ingressClassName"), "<none>");
            vec![name.into(), class.into(), hosts(object).into(), balancer(object).into(), ports.into(), age]
        }
        "IngressClass" => {
            let default = object["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true";
            let name = format!("{name}{}", if default { " (default)" } else { "" });
            vec![name.into(), object.text("spec.controller").into(), parameters(object).into(), age]
        }
        "NetworkPolicy" => {
            let selector =
                LabelSelector::from_value(object.at("spec.podSelector")).map(|s| s.to_string()).unwrap_or_default();
            vec![name.into(), or(&selector, "<none>").into(), age]
        }
        "ServiceCIDR" => vec![name.into(), strings(object, "spec.cidrs").join(",").into(), age],
        "IPAddress" => vec![name.into(), parent(object).into()],
        _ => return None,
    };
    Some(cells)
}

fn strings(object: &Value, path: &str) -> Vec<String> {
    object.items(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn external_address(service: &Value) -> String {
    let given = strings(service, "spec.externalIPs");
    match service.text("spec.type") {
        "ClusterIP" | "NodePort" if given.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => given.join(","),
        "ExternalName" => service.text("spec.externalName").to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<String> = Some(balancer(service)).filter(|b| !b.is_empty()).into_iter().collect();
            all.extend(given);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses that a load balancer has, sorted.
fn balancer(object: &Value) -> String {
    let addresses: BTreeSet<&str> = object
        .items("status.loadBalancer.ingress")
        .iter()
        .map(|i| or(i.text("ip"), i.text("hostname")))
        .filter(|a| !a.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = service
        .items("spec.ports")
        .iter()
        .map(|p| match p.int("nodePort") {
            0 => format!("{}/{}", p.int("port"), p.text("protocol")),
            node => format!("{}:{node}/{}", p.int("port"), p.text("protocol")),
        })
        .collect();
    or(&ports.join(","), "<none>").to_owned()
}

fn endpoints(object: &Value) -> String {
    let mut list = Vec::new();
    for subset in object.items("subsets") {
        let addresses = || subset.items("addresses").iter().map(|a| a.text("ip"));
        if subset.items("ports").is_empty() {
            list.extend(addresses().map(str::to_owned));
        }
        for port in subset.items("ports") {
            list.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{}", port.int("port")),
                false => format!("{ip}:{}", port.int("port")),
            }));
        }
    }
    let empty = if object.items("subsets").is_empty() { "<none>" } else { "" };
    clipped(&list, 3, empty)
}

fn slice_port(port: &Value) -> String {
    port.at("port").as_i64().map_or_else(|| port.at("name").as_str().unwrap_or("*").to_owned(), |n| n.to_string())
}

fn hosts(ingress: &Value) -> String {
    let hosts: Vec<String> =
        ingress.items("spec.rules").iter().map(|r| r.text("host").to_owned()).filter(|h| !h.is_empty()).collect();
    clipped(&hosts, 3, "*")
}

fn parameters(class: &Value) -> String {
    let given = class.at("spec.parameters");
    if given.is_null() {
        return "<none>".to_owned();
    }
    let group = given.text("apiGroup");
    let kind = if group.is_empty() { given.text("kind").to_owned() } else { format!("{}.{group}", given.text("kind")) };
    format!("{kind}/{}", given.text("name"))
}

fn parent(address: &Value) -> String {
    let parent = address.at("spec.parentRef");
    let (group, namespace, name) = (parent.text("group"), parent.text("namespace"), parent.text("name"));
    let resource = if group.is_empty() {
        parent.text("resource").to_owned()
    } else {
        format!("{}.{group}", parent.text("resource"))
    };
    if namespace.is_empty() { format!("{resource}/{name}") } else { format!("{resource}/{namespace}/{name}") }
}
