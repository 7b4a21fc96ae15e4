//! Health: `/healthz`, `/livez`, `/readyz`, the checks they are made of, and `/metrics`.

use crate::body::Body;
use crate::call::Call;
use crate::endpoint::text;
use crate::request::Query;
use crate::server::ApiServer;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;
use serde_json::json;
use std::fmt::Write;

/// Answers for health and metrics; none when the path is another.
pub(crate) fn serve(api: &ApiServer, parts: &Parts, query: &Query) -> Option<Result<Response<Body>, Status>> {
    let path = parts.uri.path().trim_end_matches('/');
    let (kind, check) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match (kind, check) {
        ("healthz" | "livez" | "readyz", "") => Some(Ok(health(api, kind, query))),
        ("healthz" | "livez" | "readyz", check) => one(api, kind, check),
        ("metrics", "") => Some(Ok(metrics(api))),
        _ => None,
    }
}

/// The checks behind a path, and whether each is good. Only what can fail is a check.
fn checks(api: &ApiServer, kind: &str) -> Vec<(&'static str, bool)> {
    let stored = !api.storage.is_lost();
    let mut checks = vec![("ping", true), ("etcd", stored)];
    if kind == "readyz" {
        checks.push(("etcd-readiness", stored));
        checks.push(("informer-sync", api.is_complete()));
    }
    checks.push(("poststarthook/crd-informer-synced", api.is_complete()));
    if kind == "readyz" {
        checks.push(("shutdown", !api.stopping().is_cancelled()));
    }
    checks
}

fn health(api: &ApiServer, kind: &str, query: &Query) -> Response<Body> {
    let mut excluded: Vec<&str> = query.all("exclude").filter(|name| !name.is_empty()).collect();
    let mut lines = String::new();
    let mut good = true;
    for (name, check) in checks(api, kind) {
        if excluded.contains(&name) {
            excluded.retain(|other| *other != name);
            let _ = writeln!(lines, "[+]{name} excluded: ok");
        } else if check {
            let _ = writeln!(lines, "[+]{name} ok");
        } else {
            good = false;
            let _ = writeln!(lines, "[-]{name} failed: reason withheld");
        }
    }
    if !excluded.is_empty() {
        let names = excluded.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(",");
        let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    if !good {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{kind} check failed\n"));
    }
    if query.raw("verbose").is_some() {
        return text(StatusCode::OK, format!("{lines}{kind} check passed\n"));
    }
    text(StatusCode::OK, "ok")
}

fn one(api: &ApiServer, kind: &str, name: &str) -> Option<Result<Response<Body>, Status>> {
    let (_, good) = checks(api, kind).into_iter().find(|(check, _)| *check == name)?;
    Some(Ok(if good {
        text(StatusCode::OK, "ok")
    } else {
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name} failed\n"))
    }))
}

/// `componentstatuses`, which upstream has given up: what we know of ourselves.
pub(crate) fn component_statuses(call: &Call) -> Result<Response<Body>, Status> {
    let good = !call.api.storage.is_lost();
    let (status, message) = if good { ("True", "ok") } else { ("False", "the store is lost") };
    let one = |name: &str| {
        let condition = json!({"type": "Healthy", "status": status, "message": message});
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
    };
    match (&*call.attributes.verb, call.name()) {
        ("list", _) => {
            let list =
                json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [one("etcd-0")]});
            Ok(crate::respond::value(call.accept, StatusCode::OK, &list))
        }
        ("get", "etcd-0") => call.answer_value(StatusCode::OK, one("etcd-0")),
        ("get", name) => Err(call.served.not_found(name)),
        (verb, _) => Err(Status::method_not_allowed("", "componentstatuses", verb)),
    }
}

fn metrics(api: &ApiServer) -> Response<Body> {
    let mut response = text(StatusCode::OK, crate::metrics::page(api));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
