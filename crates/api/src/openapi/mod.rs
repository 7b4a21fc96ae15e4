//! What clients learn of the kinds: OpenAPI documents made from the catalogue and the schema table, and of what custom kinds say of
//! themselves.
//!
//! A document is made when it is asked for and not kept; making the largest takes a few milliseconds. Descriptions are upstream's,
//! found in `k8s-openapi` when this is built, and those of custom kinds.

mod custom;
mod descriptions;
mod paths;
mod schemas;

pub use custom::Custom;

use crate::catalogue;
use serde_json::{Map, Value, json};

/// Which form of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Version 2.0 (Swagger): all groups in one document.
    V2,
    /// Version 3.0: a document for each group and version.
    V3,
}

/// `/openapi/v3`: where the document of each group and version is. `more` are paths, with their hashes, of what is served beside
/// the built-in kinds.
pub fn index<'a>(more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut list = Map::new();
    let mut add = |path: &str, hash: &str| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        list.insert(path.to_owned(), json!({"serverRelativeURL": url}));
    };
    for group in catalogue::groups() {
        for version in &group.versions {
            add(&document_path(group.name, version), &hash(group.name, version, []));
        }
    }
    for (path, hash) in more {
        add(path, hash);
    }
    bytes(&json!({"paths": list}))
}

/// The document of a group and version, as `/openapi/v3/apis/GROUP/VERSION` serves it, with the custom kinds in it; none where
/// there are no kinds.
pub fn v3(group: &str, version: &str, customs: &[Custom]) -> Option<Vec<u8>> {
    if catalogue::in_version(group, version).next().is_none() && customs.is_empty() {
        return None;
    }
    let mut components = schemas::Collector::new(Dialect::V3);
    components.add(customs);
    let mut paths = paths::of(catalogue::in_version(group, version).map(|r| &**r), &mut components);
    paths.append(&mut paths::of(customs.iter().map(|custom| &*custom.resource), &mut components));
    Some(bytes(&json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {"schemas": components.finish(), "securitySchemes": {"BearerToken": bearer()}},
    })))
}

/// The document of everything, as `/openapi/v2` serves it.
pub fn v2(customs: &[Custom]) -> Vec<u8> {
    let mut components = schemas::Collector::new(Dialect::V2);
    components.add(customs);
    let builtin = catalogue::all().iter().map(|resource| &**resource);
    let all = paths::of(builtin.chain(customs.iter().map(|custom| &*custom.resource)), &mut components);
    bytes(&json!({
        "swagger": "2.0",
        "info": info(),
        "paths": all,
        "definitions": components.finish(),
        "securityDefinitions": {"BearerToken": bearer()},
        "security": [{"BearerToken": []}],
    }))
}

/// Names the content of a document, as an `ETag` and in the index: it changes with the kinds. `customs` tell the states of the custom
/// kinds in it.
pub fn hash<'a>(group: &'a str, version: &'a str, customs: impl IntoIterator<Item = &'a str>) -> String {
    let texts = [env!("CARGO_PKG_VERSION"), env!("DESCRIPTIONS_HASH"), catalogue::TEXT, group, version];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in texts.into_iter().chain(customs).flat_map(|t| t.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016X}")
}

/// `api/v1` or `apis/apps/v1`.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.37.2"})
}

fn bearer() -> Value {
    json!({"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"})
}

fn bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn document(group: &str, version: &str) -> Value {
        serde_json::from_slice(&v3(group, version, &[]).unwrap()).unwrap()
    }

    /// Collects every `$ref` of a document.
    fn references<'a>(value: &'a Value, into: &mut HashSet<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, inner)| match inner.as_str() {
                Some(target) if key == "$ref" => {
                    into.insert(target);
                }
                _ => references(inner, into),
            }),
            Value::Array(items) => items.iter().for_each(|i| references(i, into)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_has_its_target() {
        let check = |document: &Value, prefix: &str, schemas: &Value| {
            let mut found = HashSet::new();
            references(document, &mut found);
            assert!(found.len() > 10);
            for reference in found {
                assert!(schemas.get(reference.strip_prefix(prefix).unwrap()).is_some(), "{reference}");
            }
        };
        for group in catalogue::groups() {
            for version in &group.versions {
                let document = document(group.name, version);
                check(&document, "#/components/schemas/", &document["components"]["schemas"]);
            }
        }
        let document: Value = serde_json::from_slice(&v2(&[])).unwrap();
        check(&document, "#/definitions/", &document["definitions"]);
    }

    #[test]
    fn what_kubectl_looks_for() {
        let document = document("apps", "v1");
        let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let parameters: Vec<&str> =
            item["patch"]["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(parameters.contains(&name), "{name}");
        }
        let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!(item["patch"]["x-kubernetes-group-version-kind"], kind);
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([kind]));
        let env = &schemas["io.k8s.api.core.v1.Container"]["properties"]["env"];
        assert_eq!(
            (&env["x-kubernetes-patch-strategy"], &env["x-kubernetes-patch-merge-key"]),
            (&json!("merge"), &json!("name"))
        );
        assert_eq!(env["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.EnvVar");
        assert!(v3("apps", "v1beta1", &[]).is_none());
        let index: Value = serde_json::from_slice(&index([("apis/a.b/v1", "X")])).unwrap();
        assert_eq!(index["paths"]["apis/a.b/v1"]["serverRelativeURL"], "/openapi/v3/apis/a.b/v1?hash=X");
        assert!(index["paths"].get("api/v1").is_some());
    }
}
