//! The kubelet's HTTPS server: logs, exec, attach, port-forward, and what there is to know of this node.
//!
//! Only those with a certificate of the cluster's authority and a name that may call get an answer; health is for all who
//! come that far. Requests that stream are tasks of the server and end with the kubelet.

mod info;
mod logs;
mod query;
mod streams;

use crate::config::Server;
use crate::context::Shared;
use crate::directory::{Directory, Entry};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use query::Query;
use serve::{Body, Limits, Peer};
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// What handlers share.
struct Handlers {
    context: Shared,
    directory: Directory,
    allowed: Vec<String>,
    sessions: TaskTracker,
}

/// Serves until the kubelet ends.
pub async fn run(server: Server, context: Shared, directory: Directory) {
    let token = context.token.clone();
    let sessions = TaskTracker::new();
    let handlers = Arc::new(Handlers { context, directory, allowed: server.allowed_names, sessions: sessions.clone() });
    let handler = move |peer: Peer, request: Request<Incoming>| {
        let handlers = handlers.clone();
        async move { handlers.answer(&peer, request).await }
    };
    serve::serve(server.listener, Some(server.tls), Limits::default(), handler, token).await;
    sessions.close();
    sessions.wait().await;
}

/// An answer in plain text.
fn text(code: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(serve::full(message));
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(serve::full(value.to_string()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Why a caller gets no answer, or none.
fn refused(certificate: Option<&[u8]>, allowed: &[String]) -> Option<Response<Body>> {
    let Some(certificate) = certificate else { return Some(text(StatusCode::UNAUTHORIZED, "Unauthorized")) };
    let Ok(subject) = pki::Subject::of(certificate) else {
        return Some(text(StatusCode::UNAUTHORIZED, "Unauthorized"));
    };
    let may = allowed.contains(&subject.common_name) || subject.organizations.iter().any(|o| o == "system:masters");
    let message = format!("Forbidden (user={}, verb=proxy, resource=nodes)", subject.common_name);
    (!may).then(|| text(StatusCode::FORBIDDEN, message))
}

impl Handlers {
    async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if parts == ["healthz"] {
            return text(StatusCode::OK, "ok");
        }
        if let Some(refusal) = refused(peer.certificate.as_deref(), &self.allowed) {
            return refusal;
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let get = request.method() == Method::GET;
        match parts.as_slice() {
            ["containerLogs", namespace, pod, container] if get => self.logs(namespace, pod, container, &query).await,
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.exec(request, namespace, pod, container, &query)
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.attach(request, namespace, pod, container)
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(request, namespace, pod)
            }
            ["pods"] if get => self.pods(),
            ["runningpods"] if get => self.pods(),
            ["stats", "summary"] if get => self.summary().await,
            ["metrics"] if get => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn find(&self, namespace: &str, pod: &str) -> Result<Entry, Box<Response<Body>>> {
        let missing = || Box::new(text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found\n")));
        self.directory.find(namespace, pod).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_call() {
        let now = std::time::SystemTime::now();
        let authority = pki::Authority::create("ca", now).unwrap();
        let certificate = |name: &str, groups: &[&str]| {
            let identity = authority.issue(&pki::Profile::client(name, groups), now).unwrap();
            identity.certificate().unwrap().to_vec()
        };
        let allowed = ["kube-apiserver-kubelet-client".to_owned()];
        for (name, groups, want) in [
            ("kube-apiserver-kubelet-client", &[][..], None),
            ("admin", &["system:masters"][..], None),
            ("system:node:n1", &["system:nodes"][..], Some(403)),
        ] {
            let got = refused(Some(&certificate(name, groups)), &allowed).map(|r| r.status().as_u16());
            assert_eq!(got, want, "{name}");
        }
        assert_eq!(refused(None, &allowed).unwrap().status(), 401);
        assert_eq!(refused(Some(b"x"), &allowed).unwrap().status(), 401);
    }
}
