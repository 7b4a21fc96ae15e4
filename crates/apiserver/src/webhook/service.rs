//! From a Service to the address of one of its endpoints.

use crate::meta;
use crate::storage::{Selection, Storage};
use machinery::selector::LabelSelector;
use serde_json::Value;

/// The address of a ready endpoint behind a port of a Service, chosen at random. The error is upstream's text.
pub(crate) fn endpoint(storage: &Storage, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
    let lost = |status: machinery::Status| status.message;
    let service = storage.kind("", "services").map_err(lost)?.get(namespace, name);
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?.value();
    if meta::text_at(&service, &["spec", "type"]) == "ExternalName" {
        return Ok((meta::text_at(&service, &["spec", "externalName"]).to_owned(), port));
    }
    let ports = meta::at(&service, &["spec", "ports"]).and_then(Value::as_array);
    let number = |value: &&Value| value["port"].as_u64() == Some(u64::from(port));
    let found = ports.into_iter().flatten().find(number);
    let found = found.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = meta::text_at(found, &["name"]);
    let selector = LabelSelector::parse(&format!("kubernetes.io/service-name={name}"))?;
    let selection = Selection { namespace: Some(namespace.to_owned()), labels: Some(selector), ..Selection::default() };
    let slices = storage.kind("discovery.k8s.io", "endpointslices").map_err(lost)?.select(&selection);
    let ready: Vec<(String, u64)> = slices.iter().flat_map(|slice| ready(&slice.value(), port_name)).collect();
    let chosen = ready.get(fastrand::usize(..ready.len().max(1))).cloned();
    let (address, port) = chosen.ok_or_else(|| format!("no endpoints available for service {name:?}"))?;
    Ok((address, u16::try_from(port).unwrap_or(0)))
}

/// Addresses of ready endpoints with the number of the named port.
pub(crate) fn ready(slice: &Value, port_name: &str) -> Vec<(String, u64)> {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| meta::text_at(port, &["name"]) == port_name).and_then(|port| port["port"].as_u64());
    let Some(port) = port else { return Vec::new() };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true));
    ready.filter_map(|endpoint| Some((endpoint["addresses"][0].as_str()?.to_owned(), port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_endpoints() {
        let slice = json!({
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
            ],
        });
        assert_eq!(ready(&slice, "http"), [("10.0.0.1".to_owned(), 8080), ("10.0.0.3".to_owned(), 8080)]);
        assert_eq!(ready(&slice, "other"), []);
    }
}
