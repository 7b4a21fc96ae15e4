//! `/openapi/v2` and `/openapi/v3`. Documents are made when asked for: clients keep them, and we need not.

use crate::body::Body;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;

/// The hash of the document of everything.
const ALL: (&str, &str) = ("*", "*");

/// Answers for OpenAPI; none when the path is another.
pub(crate) fn serve(parts: &Parts, rest: &[&str]) -> Option<Result<Response<Body>, Status>> {
    match *rest {
        ["v2"] => Some(document(parts, ALL, || Some(api::openapi::v2()))),
        ["v3"] => Some(document(parts, ALL, || Some(api::openapi::index([])))),
        ["v3", "api", version] => Some(group_version(parts, "", version)),
        ["v3", "apis", group, version] => Some(group_version(parts, group, version)),
        _ => None,
    }
}

fn group_version(parts: &Parts, group: &str, version: &str) -> Result<Response<Body>, Status> {
    document(parts, (group, version), || api::openapi::v3(group, version))
}

fn document(
    parts: &Parts,
    (group, version): (&str, &str),
    make: impl FnOnce() -> Option<Vec<u8>>,
) -> Result<Response<Body>, Status> {
    if !accepts_json(parts) {
        return Err(Status::not_acceptable("only the following media types are accepted: application/json"));
    }
    let hash = api::openapi::hash(group, version);
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
    let mut response = if parts.headers.get(IF_NONE_MATCH) == Some(&tag) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Body::full(make().ok_or_else(Status::no_such_path)?))
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ETAG, tag);
    if parts.uri.query().is_some_and(|query| query.contains(&hash)) {
        // Whoever names the hash gets what never changes.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT"));
    }
    Ok(response)
}

fn accepts_json(parts: &Parts) -> bool {
    let mut clauses = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let none = clauses.peek().is_none();
    let good = |clause: &str| {
        matches!(clause.split(';').next().unwrap_or_default().trim(), "application/json" | "*/*" | "application/*" | "")
    };
    none || clauses.flat_map(|value| value.split(',')).any(good)
}
