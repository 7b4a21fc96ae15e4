//! What is served, told to clients: groups, versions, resources, OpenAPI, the program's version.

use crate::body::Body;
use crate::negotiate::Accept;
use crate::respond;
use crate::server::{ApiServer, Config};
use api::catalogue::{self, Resource};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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

/// The aggregated documents, made once.
pub(crate) struct Discovery {
    core: [Document; 2],
    groups: [Document; 2],
    version: Value,
}

const AGGREGATED: [(&str, &str); 2] = [("v2", "apidiscovery.k8s.io/v2"), ("v2beta1", "apidiscovery.k8s.io/v2beta1")];

impl Discovery {
    pub(crate) fn builtin(config: &Config) -> Discovery {
        let document = |core: bool| AGGREGATED.map(|(_, api_version)| Document::new(&aggregated(core, api_version)));
        Discovery { core: document(true), groups: document(false), version: version(config) }
    }
}

/// Answers a discovery request; none when the path is another.
pub(crate) fn serve(api: &ApiServer, parts: &Parts) -> Option<Result<Response<Body>, Status>> {
    let path = parts.uri.path().trim_end_matches('/');
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let document = match *segments.as_slice() {
        ["api"] | ["apis"] => {
            let documents = if segments[0] == "api" { &api.discovery.core } else { &api.discovery.groups };
            if let Some(index) = wants_aggregated(parts) {
                return Some(Ok(aggregated_response(&documents[index], parts, AGGREGATED[index].0)));
            }
            if segments[0] == "api" { versions(&api.config) } else { groups() }
        }
        ["api", version] => resources("", version)?,
        ["apis", name] => group(name)?,
        ["apis", group, version] => resources(group, version)?,
        ["version"] => api.discovery.version.clone(),
        [""] => paths(),
        ["openapi", ref rest @ ..] => return crate::openapi::serve(parts, rest),
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

fn aggregated(core: bool, api_version: &str) -> Value {
    let groups = catalogue::groups().iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        catalogue::in_version(group.name, version).map(|r| aggregated_resource(r)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({});
            if !group.name.is_empty() {
                metadata["name"] = group.name.into();
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

fn group_entry(group: &catalogue::Group) -> Value {
    let entry =
        |version: &&str| json!({"groupVersion": catalogue::api_version(group.name, version), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(entry).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

fn groups() -> Value {
    let groups = catalogue::groups().iter().filter(|group| !group.name.is_empty());
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.map(group_entry).collect::<Vec<_>>()})
}

fn group(name: &str) -> Option<Value> {
    let group = catalogue::groups().iter().find(|group| group.name == name && !name.is_empty())?;
    let mut value = group_entry(group);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in catalogue::in_version(group, version) {
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
    let group_version = catalogue::api_version(group, version);
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

fn paths() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in catalogue::groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    for path in ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}
