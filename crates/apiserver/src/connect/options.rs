//! Admission of what reaches through the API server: its options as an object; and of requests for tokens.

use crate::body::RequestBody;
use crate::call::Call;
use crate::context::{Attributes, Operation, Warnings};
use crate::decode::decode;
use crate::endpoint::read_body;
use crate::negotiate::{self, Accept};
use crate::request::Query;
use crate::served::Served;
use crate::server::ApiServer;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http_body_util::{BodyExt, Full};
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

/// Lets admission refuse a connection, or refuse and change a request for a token; gives the body that goes on. `rest` is the path
/// after the subresource.
pub(crate) async fn admit(
    api: &Arc<ApiServer>,
    served: &Arc<Served>,
    (attributes, query, rest): (&Attributes, &Query, &str),
    parts: &mut Parts,
    body: RequestBody,
) -> Result<RequestBody, Status> {
    let call = || call(api, served, attributes, query);
    let place = (&*attributes.group, &*attributes.resource, &*attributes.subresource);
    if place == ("", "serviceaccounts", "token") && attributes.verb == "create" {
        let decoded = decode(negotiate::content_type(&parts.headers), &read_body(body).await?)?;
        let (call, mut request) = (call(), decoded.value);
        let dry_run = call.dry_run()?;
        if request.is_object() {
            call.admit_as("TokenRequest", Operation::Create, Some(&mut request), None, dry_run).await?;
            call.validate_as("TokenRequest", Operation::Create, Some(&mut request), None, dry_run).await?;
        }
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(Full::new(Bytes::from(request.to_string())).map_err(|never| match never {}).boxed_unsync());
    }
    let Some(kind) = kind(&attributes.resource, &attributes.subresource).filter(|_| attributes.group.is_empty()) else {
        return Ok(body);
    };
    if matches!(&*attributes.subresource, "exec" | "attach" | "portforward") {
        // A browser's upgrade is a GET: the right to read must not be one to run.
        api.chain.authorize(&Attributes { verb: "create".to_owned(), ..attributes.clone() })?;
    }
    let (call, mut options) = (call(), object(kind, query, rest));
    call.admit_as(kind, Operation::Connect, Some(&mut options), None, false).await?;
    call.validate_as(kind, Operation::Connect, Some(&mut options), None, false).await?;
    Ok(body)
}

fn call(api: &Arc<ApiServer>, served: &Arc<Served>, attributes: &Attributes, query: &Query) -> Call {
    Call {
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
    }
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
