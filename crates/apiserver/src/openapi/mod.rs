//! `/openapi/v2` and `/openapi/v3`.
//!
//! Documents of version 3, one a group and version, are made when they are asked for: clients keep them by their hash, and we need
//! not. Version 2 is everything in one document, which clients read anew for every change; it is put together of [`parts`].

mod parts;

pub(crate) use parts::Parts as KeptParts;

use crate::body::Body;
use crate::custom::Version;
use crate::served::{Catalogue, Served};
use crate::server::ApiServer;
use api::openapi::{Custom, Encoding};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;
use parts::Source;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The hash of the document of everything.
const ALL: (&str, &str) = ("*", "*");
const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What client-go asks for, whose type is no valid one.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Answers for OpenAPI; none when the path is another.
pub(crate) fn serve(
    api: &ApiServer,
    catalogue: &Catalogue,
    parts: &Parts,
    rest: &[&str],
) -> Option<Result<Response<Body>, Status>> {
    match *rest {
        ["v2"] => Some(everything(api, catalogue, parts)),
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
fn shown<'s>(customs: impl IntoIterator<Item = &'s Arc<Served>>) -> Vec<Custom> {
    let mut definitions: HashMap<String, Value> = HashMap::new();
    let show = |(served, version): (&Arc<Served>, &Arc<Version>)| {
        let definition = definitions.entry(version.definition().to_owned()).or_insert_with(|| version.define());
        Custom {
            resource: Arc::clone(&served.resource),
            schema: version.published(definition),
            selectable: version.selectable().map(str::to_owned).collect(),
        }
    };
    customs.into_iter().filter_map(|served| Some((served, served.custom()?))).map(show).collect()
}

fn everything(api: &ApiServer, catalogue: &Catalogue, parts: &Parts) -> Result<Response<Body>, Status> {
    let known = |name: &str| match name {
        JSON | "*/*" | "application/*" | "" => Some(Encoding::Json),
        V2_PROTOBUF | V2_PROTOBUF_OLD => Some(Encoding::Protobuf),
        _ => None,
    };
    let offered = format!("{JSON}, {V2_PROTOBUF}");
    let encoding = negotiate(parts, known, &offered)?;
    let mut definitions: BTreeMap<String, (String, Vec<Arc<Served>>)> = BTreeMap::new();
    for served in all(catalogue) {
        let Some(version) = served.custom() else { continue };
        let (tag, versions) = definitions.entry(version.definition().to_owned()).or_default();
        tag.push_str(&version.tag());
        versions.push(Arc::clone(served));
    }
    let mut sources = vec![Source::Builtin];
    sources.extend(definitions.into_values().map(|(tag, versions)| Source::Definition(tag, versions)));
    let foreign = api.chain.aggregator.as_ref().map(|aggregator| aggregator.available()).unwrap_or_default();
    sources.extend(foreign.into_iter().map(Source::Foreign));
    let hash = api::openapi::hash(ALL.0, ALL.1, sources.iter().map(Source::tag));
    let make = || Some(api.openapi.document(sources, api.chain.aggregator.clone(), encoding));
    let mut response = document(parts, &hash, make)?;
    if encoding == Encoding::Protobuf {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
    }
    Ok(response)
}

fn index(catalogue: &Catalogue, parts: &Parts) -> Result<Response<Body>, Status> {
    accepts_json(parts)?;
    let mut more = Vec::new();
    for group in catalogue.group_names() {
        for version in catalogue.versions(group) {
            let customs = catalogue.custom(group, version);
            if !customs.is_empty() {
                more.push((api::openapi::document_path(group, version), hash((group, version), &customs)));
            }
        }
    }
    let all = api::openapi::hash(ALL.0, ALL.1, more.iter().map(|(_, hash)| hash.as_str()));
    document(parts, &all, || {
        Some(Body::full(api::openapi::index(more.iter().map(|(path, hash)| (path.as_str(), hash.as_str())))))
    })
}

fn group_version(catalogue: &Catalogue, parts: &Parts, group: &str, version: &str) -> Result<Response<Body>, Status> {
    accepts_json(parts)?;
    let customs = catalogue.custom(group, version);
    let hash = hash((group, version), &customs);
    document(parts, &hash, || api::openapi::v3(group, version, &shown(customs.iter().copied())).map(Body::full))
}

fn document(parts: &Parts, hash: &str, make: impl FnOnce() -> Option<Body>) -> Result<Response<Body>, Status> {
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
    let mut response = if parts.headers.get(IF_NONE_MATCH) == Some(&tag) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(make().ok_or_else(Status::no_such_path)?)
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(ETAG, tag);
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if parts.uri.query().is_some_and(|query| query.contains(hash)) {
        // Whoever names the hash gets what never changes.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT"));
    }
    Ok(response)
}

/// The first form the client accepts that is known; 406 when there is none.
fn negotiate<T>(parts: &Parts, known: impl Fn(&str) -> Option<T>, offered: &str) -> Result<T, Status> {
    let mut clauses = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let any = clauses.peek().is_none().then_some("*/*");
    let names = clauses.flat_map(|value| value.split(','));
    let names = names.map(|clause| clause.split(';').next().unwrap_or_default().trim());
    let refused = || Status::not_acceptable(format!("only the following media types are accepted: {offered}"));
    any.into_iter().chain(names).find_map(known).ok_or_else(refused)
}

fn accepts_json(parts: &Parts) -> Result<(), Status> {
    negotiate(parts, |name| matches!(name, JSON | "*/*" | "application/*" | "").then_some(()), JSON)
}
