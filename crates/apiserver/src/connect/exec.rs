//! Exec, attach and port-forward: an upgrade, passed through to the kubelet.

use super::forward::{percent_encode, require_upgrade};
use super::{Connect, container};
use crate::body::Body;
use crate::endpoint::{Endpoint, EndpointRequest};
use crate::meta;
use crate::request::Query;
use async_trait::async_trait;
use http::{Response, Uri};
use machinery::Status;
use std::sync::Arc;

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Exec,
    Attach,
    PortForward,
}

pub(super) struct Exec(pub(super) Arc<Connect>, pub(super) What);

#[async_trait]
impl Endpoint for Exec {
    async fn serve(&self, request: EndpointRequest) -> Result<Response<Body>, Status> {
        let EndpointRequest { attributes, parts, body, .. } = request;
        let pod = self.0.pod(&attributes)?.value();
        let query = Query::parse(parts.uri.query());
        let path = path(self.1, &pod, &query)?;
        let kubelet = self.0.kubelet_of(&pod)?;
        require_upgrade(&parts)?;
        let uri: Uri = format!("https://{}{path}", kubelet.authority).parse().map_err(Status::internal)?;
        let answer = self.0.forward(&self.0.kubelets, parts, body, uri).await;
        answer.map_err(|error| Status::internal(format!("error dialing backend: {error}")))
    }
}

/// The kubelet's path and query.
fn path(what: What, pod: &serde_json::Value, query: &Query) -> Result<String, Status> {
    let (namespace, name) = (meta::text(pod, "namespace"), meta::name(pod));
    if what == What::PortForward {
        let ports: Vec<String> = query.all("ports").map(|port| format!("port={}", percent_encode(port))).collect();
        return Ok(format!("/portForward/{namespace}/{name}?{}", ports.join("&")));
    }
    let container = container(pod, query.get("container").unwrap_or_default())?;
    if what == What::Attach {
        check_state(pod, &container)?;
    }
    let (stdin, tty) = (query.flag("stdin"), query.flag("tty"));
    // As upstream: both outputs are on whatever the client says; a terminal has only one.
    let flags = [("input", stdin), ("output", true), ("error", !tty), ("tty", tty)];
    let mut pairs: Vec<String> =
        flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=1")).collect();
    if what == What::Exec {
        pairs.extend(query.all("command").map(|part| format!("command={}", percent_encode(part))));
    }
    let verb = if what == What::Exec { "exec" } else { "attach" };
    Ok(format!("/{verb}/{namespace}/{name}/{container}?{}", pairs.join("&")))
}

/// Nothing can be attached to in a pod that has ended.
fn check_state(pod: &serde_json::Value, container: &str) -> Result<(), Status> {
    let phase = meta::text_at(pod, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        let text = format!("cannot attach to container {container} in a completed pod; current phase is {phase}");
        return Err(Status::bad_request(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_at_the_kubelet() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c"}]}});
        let cases = [
            (
                What::Exec,
                "command=sh&command=-c&command=a%26b&stdout=true",
                "/exec/n/p/c?output=1&error=1&command=sh&command=-c&command=a%26b",
            ),
            (What::Exec, "command=sh&stdin=true&tty=true&container=c", "/exec/n/p/c?input=1&output=1&tty=1&command=sh"),
            (What::Attach, "stdin=1", "/attach/n/p/c?input=1&output=1&error=1"),
            (What::PortForward, "ports=80&ports=81", "/portForward/n/p?port=80&port=81"),
        ];
        for (what, query, expected) in cases {
            assert_eq!(path(what, &pod, &Query::parse(Some(query))).unwrap(), expected);
        }
        let ended =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Failed"}});
        assert!(path(What::Attach, &ended, &Query::parse(None)).is_err());
    }
}
