//! The downward API: what a container may know of its own pod.

use crate::resources::{limit, request};
use crate::spec;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use machinery::quantity::Quantity;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the pod has from its node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// Thousandths of a CPU the node can give: the limit of containers without one.
    pub allocatable_cpu_milli: i64,
    /// Bytes of memory the node can give.
    pub allocatable_memory: i64,
}

/// Labels or annotations as the downward API writes them: `key="value"` lines, sorted.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (i, (k, v)) in map.into_iter().flatten().enumerate() {
        let newline = if i == 0 { "" } else { "\n" };
        let _ = write!(out, "{newline}{k}={}", quote(v));
    }
    out
}

/// A string in double quotes as Go writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

/// The value of a field of the pod.
pub fn field(pod: &Pod, path: &str, facts: &NodeFacts) -> Result<String, String> {
    let meta = &pod.metadata;
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    let s = spec::spec(pod);
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => s.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => s.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The value of a request or limit, in units of the divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    facts: &NodeFacts,
) -> Result<String, String> {
    let other = selector.container_name.as_deref().filter(|n| !n.is_empty() && *n != own.name);
    let other = match other {
        Some(name) => Some(spec::container(pod, name).ok_or_else(|| format!("container {name} not found"))?.1),
        None => None,
    };
    let c = other.as_deref().unwrap_or(own);
    let (of, name) = selector.resource.split_once('.').unwrap_or(("", ""));
    let r = c.resources.as_ref();
    let fallback = match name {
        "cpu" => Quantity::from_milli(facts.allocatable_cpu_milli),
        "memory" => Quantity::new(facts.allocatable_memory),
        _ => Quantity::new(0),
    };
    let value = match of {
        "limits" => limit(r, name).filter(|q| !q.is_zero()).unwrap_or(fallback),
        "requests" => request(r, name).unwrap_or_else(|| Quantity::new(0)),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().and_then(|d| Quantity::parse(&d.0).ok()).filter(|d| !d.is_zero());
    Ok(divide_up(&value, divisor.as_ref(), name == "cpu").to_string())
}

fn divide_up(value: &Quantity, divisor: Option<&Quantity>, milli: bool) -> i64 {
    let (a, b) = if milli {
        (value.milli_value(), divisor.map_or(1000, Quantity::milli_value))
    } else {
        (value.value(), divisor.map_or(1, Quantity::value))
    };
    a.div_euclid(b.max(1)) + i64::from(a.rem_euclid(b.max(1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y\n"}},
            "spec": {"containers": [], "nodeName": "node", "serviceAccountName": "sa"}}))
        .unwrap();
        let facts = NodeFacts {
            host_ips: vec!["10.0.0.1".into()],
            pod_ips: vec!["10.1.0.5".into(), "fd00::5".into()],
            ..NodeFacts::default()
        };
        for (path, want) in [
            ("metadata.name", "p"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"x\\\"y\\n\"\nb=\"2\""),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "10.0.0.1"),
            ("status.podIP", "10.1.0.5"),
            ("status.podIPs", "10.1.0.5,fd00::5"),
        ] {
            assert_eq!(field(&pod, path, &facts).as_deref(), Ok(want), "{path}");
        }
        assert!(field(&pod, "spec.hostname", &facts).is_err());
    }

    #[test]
    fn resources_round_up_and_fall_back_to_the_node() {
        let c: Container = serde_json::from_value(json!({"name": "c", "resources": {
            "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}))
        .unwrap();
        let none: Container = serde_json::from_value(json!({"name": "d"})).unwrap();
        let pod = Pod::default();
        let facts = NodeFacts { allocatable_cpu_milli: 2000, allocatable_memory: 1 << 30, ..NodeFacts::default() };
        for (c, field, divisor, want) in [
            (&c, "limits.cpu", None, "2"),
            (&c, "limits.cpu", Some("1m"), "1500"),
            (&c, "requests.cpu", Some("1m"), "250"),
            (&c, "limits.memory", Some("1Mi"), "64"),
            (&c, "requests.memory", None, "67108864"),
            (&none, "limits.cpu", None, "2"),
            (&none, "limits.memory", None, "1073741824"),
            (&none, "requests.cpu", None, "0"),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": field, "divisor": divisor.unwrap_or("0")})).unwrap();
            assert_eq!(resource(&pod, c, &selector, &facts).as_deref(), Ok(want), "{field} {divisor:?}");
        }
    }
}
