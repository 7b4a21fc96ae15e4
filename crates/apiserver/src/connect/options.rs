//! Admission of what reaches through the API server: its options as an object.

use crate::call::Call;
use crate::context::{Attributes, Operation, Warnings};
use crate::negotiate::Accept;
use crate::request::Query;
use crate::served::Served;
use crate::server::ApiServer;
use bytes::Bytes;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// The kind of the options that a subresource takes; none when it does not connect to anything.
fn kind(resource: &str, subresource: &str) -> Option<&'static str> {
    Some(match (resource, subresource) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", "proxy") => "PodProxyOptions",
        ("services", "proxy") => "ServiceProxyOptions",
        ("nodes", "proxy") => "NodeProxyOptions",
        _ => return None,
    })
}

fn object(kind: &str, query: &Query, path: &str) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    let flags: &[&str] = match kind {
        "PodExecOptions" | "PodAttachOptions" => &["stdin", "stdout", "stderr", "tty"],
        _ => &[],
    };
    for flag in flags.iter().filter(|flag| query.flag(flag)) {
        options[*flag] = true.into();
    }
    if let Some(container) = query.get("container").filter(|_| !flags.is_empty()) {
        options["container"] = container.into();
    }
    match kind {
        "PodExecOptions" => options["command"] = query.all("command").collect::<Vec<_>>().into(),
        "PodPortForwardOptions" => {
            let ports: Vec<u16> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
            options["ports"] = ports.into();
        }
        "PodProxyOptions" | "ServiceProxyOptions" | "NodeProxyOptions" if !path.is_empty() => {
            options["path"] = format!("/{path}").into();
        }
        _ => {}
    }
    options
}

/// Lets admission refuse a connection. `rest` is the path after the subresource.
pub(crate) async fn admit(
    api: &Arc<ApiServer>,
    served: &Arc<Served>,
    attributes: &Attributes,
    query: &Query,
    rest: &str,
) -> Result<(), Status> {
    let Some(kind) = kind(&attributes.resource, &attributes.subresource).filter(|_| attributes.group.is_empty()) else {
        return Ok(());
    };
    let mut options = object(kind, query, rest);
    let call = Call {
        api: Arc::clone(api),
        served: Arc::clone(served),
        attributes: attributes.clone(),
        query: query.clone(),
        accept: Accept::default(),
        content_type: String::new(),
        user_agent: String::new(),
        body: Bytes::new(),
        warnings: Warnings::default(),
        elsewhere: Default::default(),
    };
    call.admit_as(kind, Operation::Connect, Some(&mut options), None, false).await?;
    call.validate_as(kind, Operation::Connect, Some(&mut options), None, false).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_objects() {
        for (resource, subresource, query, expected) in [
            (
                "pods",
                "exec",
                "container=c&stdin=1&command=sh&command=-c",
                json!({"kind": "PodExecOptions", "apiVersion": "v1", "container": "c", "stdin": true, "command": ["sh", "-c"]}),
            ),
            (
                "pods",
                "portforward",
                "ports=80&ports=x",
                json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80]}),
            ),
            ("services", "proxy", "a=b", json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/p"})),
        ] {
            let kind = kind(resource, subresource).unwrap_or_default();
            assert_eq!(object(kind, &Query::parse(Some(query)), "p"), expected);
        }
        assert_eq!(kind("pods", "log"), None);
    }
}
