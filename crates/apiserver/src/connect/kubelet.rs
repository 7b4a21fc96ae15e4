//! Where a node's kubelet is.

use super::Connect;
use crate::meta;
use machinery::Status;
use serde_json::Value;
use std::net::IpAddr;

const PORT_DEFAULT: u64 = 10_250;

/// A kubelet's place: `https://HOST:PORT`.
pub(super) struct Kubelet {
    /// Host and port, the host in brackets when it is an IPv6 address.
    pub(super) authority: String,
    /// The host alone.
    pub(super) host: String,
    /// The port alone.
    pub(super) port: u64,
}

impl Connect {
    /// The kubelet of a node.
    pub(super) fn kubelet(&self, node: &str) -> Result<Kubelet, Status> {
        let node = self.storage.kind("", "nodes")?.find("", node)?.value();
        let port = meta::at(&node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
        let port = port.filter(|port| *port > 0).unwrap_or(PORT_DEFAULT);
        let addresses = meta::at(&node, &["status", "addresses"]).and_then(Value::as_array);
        let by_type = |wanted: &str| {
            let mut addresses = addresses.into_iter().flatten();
            let found = addresses.find(|address| meta::text_at(address, &["type"]) == wanted);
            found.map(|address| meta::text_at(address, &["address"]).to_owned())
        };
        let host = ["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(by_type);
        let missing = || Status::internal(format!("no preferred addresses found for node {:?}", meta::name(&node)));
        let host = host.ok_or_else(missing)?;
        if !is_host(&host) {
            return Err(Status::bad_request(format!("address {host:?} of node {:?} is none", meta::name(&node))));
        }
        Ok(Kubelet { authority: authority(&host, &port.to_string()), host, port })
    }

    /// The kubelet a pod runs under. 400 when it is not bound to a node yet.
    pub(super) fn kubelet_of(&self, pod: &Value) -> Result<Kubelet, Status> {
        match meta::text_at(pod, &["spec", "nodeName"]) {
            "" => Err(Status::bad_request(format!("pod {} does not have a host assigned", meta::name(pod)))),
            node => self.kubelet(node),
        }
    }
}

/// Whether a text is a name or an address and nothing else: a node says it of itself, and it becomes part of a URL.
fn is_host(text: &str) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(in_name))
}

/// `host:port`, for URLs.
pub(super) fn authority(host: &str, port: &str) -> String {
    let brackets = host.contains(':') && !host.starts_with('[');
    if brackets { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
