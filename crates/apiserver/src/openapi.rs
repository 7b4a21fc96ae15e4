//! `/openapi/v2` and `/openapi/v3`. Documents are made when asked for: clients keep them, and we need not.

use crate::body::Body;
use crate::custom::Version;
use crate::served::{Catalogue, Served};
use api::openapi::Custom;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;
use std::collections::HashMap;
use std::sync::Arc;

/// The hash of the document of everything.
const ALL: (&str, &str) = ("*", "*");

/// Answers for OpenAPI; none when the path is another.
pub(crate) fn serve(catalogue: &Catalogue, parts: &Parts, rest: &[&str]) -> Option<Result<Response<Body>, Status>> {
    match *rest {
        ["v2"] => {
            let customs = all(catalogue);
            Some(document(parts, &hash(ALL, &customs), || Some(api::openapi::v2(&shown(&customs)))))
        }
        ["v3"] => Some(index(catalogue, parts)),
        ["v3", "api", version] => Some(group_version(catalogue, parts, "", version)),
        ["v3", "apis", group, version] => Some(group_version(catalogue, parts, group, version)),
        _ => None,
    }
}

/// All custom resources, by group, version and name.
fn all(catalogue: &Catalogue) -> Vec<&Arc<Served>> {
    let groups = catalogue.group_names();
    let versions = groups.into_iter().flat_map(|group| {
        let versions = catalogue.versions(group);
        versions.into_iter().map(move |version| (group, version))
    });
    versions.flat_map(|(group, version)| catalogue.custom(group, version)).collect()
}

fn tags(customs: &[&Arc<Served>]) -> Vec<String> {
    customs.iter().filter_map(|served| served.custom()).map(|version| version.tag()).collect()
}

fn hash((group, version): (&str, &str), customs: &[&Arc<Served>]) -> String {
    let tags = tags(customs);
    api::openapi::hash(group, version, tags.iter().map(String::as_str))
}

/// Custom resources with their schemas, each definition read once.
fn shown(customs: &[&Arc<Served>]) -> Vec<Custom> {
    let mut definitions = HashMap::new();
    let show = |(served, version): (&Arc<Served>, &Arc<Version>)| Custom {
        resource: Arc::clone(&served.resource),
        schema: version.published(&mut definitions),
        selectable: version.selectable().map(str::to_owned).collect(),
    };
    customs.iter().filter_map(|served| Some((*served, served.custom()?))).map(show).collect()
}

fn index(catalogue: &Catalogue, parts: &Parts) -> Result<Response<Body>, Status> {
    let mut more = Vec::new();
    for group in catalogue.group_names() {
        for version in catalogue.versions(group) {
            let customs = catalogue.custom(group, version);
            if !customs.is_empty() {
                more.push((api::openapi::document_path(group, version), hash((group, version), &customs)));
            }
        }
    }
    let customs = all(catalogue);
    document(parts, &hash(ALL, &customs), || {
        Some(api::openapi::index(more.iter().map(|(path, hash)| (path.as_str(), hash.as_str()))))
    })
}

fn group_version(catalogue: &Catalogue, parts: &Parts, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let customs = catalogue.custom(group, version);
    let hash = hash((group, version), &customs);
    document(parts, &hash, || api::openapi::v3(group, version, &shown(&customs)))
}

fn document(parts: &Parts, hash: &str, make: impl FnOnce() -> Option<Vec<u8>>) -> Result<Response<Body>, Status> {
    if !accepts_json(parts) {
        return Err(Status::not_acceptable("only the following media types are accepted: application/json"));
    }
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
    if parts.uri.query().is_some_and(|query| query.contains(hash)) {
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
