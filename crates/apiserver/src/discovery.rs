//! What is served, told to clients: groups, versions, resources, OpenAPI, the program's version.

use crate::body::Body;
use crate::negotiate::Accept;
use crate::respond;
use crate::served::Catalogue;
use crate::server::{ApiServer, Config};
use api::catalogue::{Resource, api_version};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// An encoded document and its tag.
struct Document {
    body: Bytes,
    tag: HeaderValue,
}

impl Document {
    fn new(value: &Value) -> Document {
        let body = Bytes::from(value.to_string());
        let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&body)));
        Document { body, tag: HeaderValue::from_str(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\"")) }
    }
}

/// The aggregated documents of a catalogue, each made when it is first asked for: of the core group and of all others, in each
/// version.
#[derive(Default)]
pub(crate) struct Documents([[OnceLock<Document>; 2]; 2]);

const AGGREGATED: [(&str, &str); 2] = [("v2", "apidiscovery.k8s.io/v2"), ("v2beta1", "apidiscovery.k8s.io/v2beta1")];

impl Documents {
    fn get(&self, catalogue: &Catalogue, core: bool, version: usize) -> &Document {
        let make = || Document::new(&aggregated(catalogue, core, AGGREGATED[version].1));
        self.0[usize::from(core)][version].get_or_init(make)
    }
}

/// Answers a discovery request; none when the path is another.
pub(crate) fn serve(api: &ApiServer, parts: &Parts) -> Option<Result<Response<Body>, Status>> {
    let path = parts.uri.path().trim_end_matches('/');
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let catalogue = api.catalogue();
    let document = match *segments.as_slice() {
        ["api"] | ["apis"] => {
            if let Some(index) = wants_aggregated(parts) {
                let document = catalogue.documents.get(&catalogue, segments[0] == "api", index);
                return Some(Ok(aggregated_response(document, parts, AGGREGATED[index].0)));
            }
            if segments[0] == "api" { versions(&api.config) } else { groups(&catalogue) }
        }
        ["api", version] => resources(&catalogue, "", version)?,
        ["apis", name] => group(&catalogue, name)?,
        ["apis", group, version] => resources(&catalogue, group, version)?,
        ["version"] => version(&api.config),
        [""] => paths(&catalogue),
        ["openapi", ref rest @ ..] => return crate::openapi::serve(api, &catalogue, parts, rest),
        _ => return None,
    };
    let accept = match Accept::negotiate(&parts.headers) {
        Ok(accept) => accept,
        Err(status) => return Some(Err(status)),
    };
    Some(Ok(respond::value(Accept { shape: crate::negotiate::Shape::Object, ..accept }, StatusCode::OK, &document)))
}

/// Which aggregated version the client prefers to the plain document, if any.
fn wants_aggregated(parts: &Parts) -> Option<usize> {
    let headers = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for clause in headers.flat_map(|value| value.split(',')) {
        let mut pieces = clause.split(';').map(str::trim);
        if pieces.next() != Some("application/json") {
            continue;
        }
        let (mut list, mut group, mut version) = (false, false, None);
        let mut plain = true;
        for piece in pieces {
            match piece.split_once('=') {
                Some(("as", value)) => (list, plain) = (value == "APIGroupDiscoveryList", false),
                Some(("g", value)) => group = value == "apidiscovery.k8s.io",
                Some(("v", value)) => version = AGGREGATED.iter().position(|(name, _)| *name == value),
                _ => {}
            }
        }
        if plain {
            return None;
        }
        if list && group && version.is_some() {
            return version;
        }
    }
    None
}

fn aggregated_response(document: &Document, parts: &Parts, version: &str) -> Response<Body> {
    if parts.headers.get(IF_NONE_MATCH) == Some(&document.tag) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(ETAG, document.tag.clone());
        return response;
    }
    let mut response = Response::new(Body::full(document.body.clone()));
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(media_type) = HeaderValue::from_str(&media_type) {
        response.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    response.headers_mut().insert(ETAG, document.tag.clone());
    response.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated(catalogue: &Catalogue, core: bool, api_version: &str) -> Value {
    let groups = catalogue.group_names().into_iter().filter(|group| group.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions = catalogue.versions(group).into_iter().map(|version| {
                let resources = catalogue.resources(group, version);
                let resources: Vec<Value> = resources.iter().map(|resource| aggregated_resource(resource)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            let versions: Vec<Value> = versions.collect();
            let mut metadata = json!({});
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}

fn versions(config: &Config) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": config.address}],
    })
}

fn group_entry(catalogue: &Catalogue, group: &str) -> Value {
    let entry = |version: &str| json!({"groupVersion": api_version(group, version), "version": version});
    let versions: Vec<Value> = catalogue.versions(group).into_iter().map(entry).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

fn groups(catalogue: &Catalogue) -> Value {
    let groups = catalogue.group_names().into_iter().filter(|group| !group.is_empty());
    let groups: Vec<Value> = groups.map(|group| group_entry(catalogue, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group(catalogue: &Catalogue, name: &str) -> Option<Value> {
    if name.is_empty() || catalogue.versions(name).is_empty() {
        return None;
    }
    let mut value = group_entry(catalogue, name);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn resources(catalogue: &Catalogue, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in catalogue.resources(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        if !resource.storage_version_hash.is_empty() {
            entry["storageVersionHash"] = json!(resource.storage_version_hash);
        }
        list.push(entry);
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "", "namespaced": resource.namespaced,
                "kind": sub.kind, "verbs": sub.verbs,
            });
            if (&sub.group, &sub.version) != (&resource.group, &resource.version) {
                entry["group"] = json!(sub.group);
                entry["version"] = json!(sub.version);
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return None;
    }
    let group_version = api_version(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// What clients parse: major and minor as numbers, the rest as text.
fn version(config: &Config) -> Value {
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": config.git_version, "gitCommit": config.git_commit, "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "go1.26.0", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
    })
}

fn paths(catalogue: &Catalogue) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in catalogue.group_names().into_iter().filter(|group| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(catalogue.versions(group).into_iter().map(|version| format!("/apis/{group}/{version}")));
    }
    for path in ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}
