//! What clients learn of the kinds: OpenAPI documents made from the catalogue and the schema table, and of what custom kinds say of
//! themselves.
//!
//! A document is made when it is asked for and not kept; making the largest takes a few milliseconds. Descriptions are upstream's,
//! found in `k8s-openapi` when this is built, and those of custom kinds.

mod custom;
mod descriptions;
mod paths;
mod proto;
mod schemas;

pub use custom::Custom;

use crate::catalogue;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

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

/// How version 2 is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Text.
    Json,
    /// `gnostic`'s messages, as client-go wants them.
    Protobuf,
}

/// A part of the document of everything, as `/openapi/v2` serves it: put together by [`v2_frame`].
#[derive(Debug, Default)]
pub struct Part {
    /// Its definitions.
    pub definitions: Vec<u8>,
    /// Its paths.
    pub paths: Vec<u8>,
}

impl Part {
    fn new(paths: &Map<String, Value>, definitions: &Map<String, Value>, encoding: Encoding) -> Part {
        match encoding {
            Encoding::Json => Part { definitions: members(definitions), paths: members(paths) },
            Encoding::Protobuf => {
                let mut message = proto::Message::default();
                message.definitions(definitions);
                message.paths(paths);
                Part { definitions: message.finish(), paths: Vec::new() }
            }
        }
    }
}

/// What stands before the definitions of all parts, between these and the paths of all parts, and at the end; and what stands
/// between two parts.
pub fn v2_frame(encoding: Encoding) -> ([Vec<u8>; 3], &'static [u8]) {
    match encoding {
        Encoding::Json => {
            let (info, bearer) = (info(), bearer());
            let end = format!(
                "}},\"security\":[{{\"BearerToken\":[]}}],\"securityDefinitions\":{{\"BearerToken\":{bearer}}},\"swagger\":\"2.0\"}}"
            );
            let middle = format!("}},\"info\":{info},\"paths\":{{");
            ([b"{\"definitions\":{".to_vec(), middle.into(), end.into()], b",")
        }
        Encoding::Protobuf => {
            let (info, mut head) = (info(), proto::Message::default());
            let text = |field: &str| info[field].as_str().unwrap_or_default();
            head.head(text("title"), text("version"), &bearer());
            ([head.finish(), Vec::new(), Vec::new()], b"")
        }
    }
}

/// The built-in kinds, in version 2. Some two megabytes.
pub fn v2_builtin(encoding: Encoding) -> Part {
    let mut components = schemas::Collector::new(Dialect::V2);
    components.refer_to_metadata();
    let paths = paths::of(catalogue::all().iter().map(|resource| &**resource), &mut components);
    Part::new(&paths, &components.finish(), encoding)
}

/// Custom kinds, in version 2. They refer to definitions of the built-in part.
pub fn v2_custom(customs: &[Custom], encoding: Encoding) -> Part {
    let mut components = schemas::Collector::new(Dialect::V2);
    components.add(customs);
    let paths = paths::of(customs.iter().map(|custom| &*custom.resource), &mut components);
    Part::new(&paths, &components.own(), encoding)
}

/// What another server says of a group's version in its own document: its paths, and the definitions these refer to that are not
/// ours.
pub fn v2_foreign(document: &Value, group: &str, version: &str, encoding: Encoding) -> Part {
    let prefix = format!("/{}/", document_path(group, version));
    let all = |field: &str| document.get(field).and_then(Value::as_object).into_iter().flatten();
    let within =
        |path: &str| path.starts_with(&prefix) || path.strip_suffix('/').unwrap_or(path) == &prefix[..prefix.len() - 1];
    let paths: Map<String, Value> =
        all("paths").filter(|(path, _)| within(path)).map(|(path, item)| (path.clone(), item.clone())).collect();
    let known: Map<String, Value> = all("definitions").map(|(name, schema)| (name.clone(), schema.clone())).collect();
    let own = schemas::models();
    let mut definitions = Map::new();
    let mut left: Vec<&Value> = paths.values().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::Object(map) => {
                let target = map.get("$ref").and_then(Value::as_str).and_then(|it| it.strip_prefix("#/definitions/"));
                if let Some((name, schema)) = target.and_then(|name| known.get_key_value(name))
                    && !own.contains(name)
                    && !definitions.contains_key(name)
                {
                    definitions.insert(name.clone(), schema.clone());
                    left.push(schema);
                }
                left.extend(map.values());
            }
            Value::Array(list) => left.extend(list),
            _ => {}
        }
    }
    Part::new(&paths, &definitions, encoding)
}

/// The members of an object, without its braces.
fn members(map: &Map<String, Value>) -> Vec<u8> {
    let mut text = serde_json::to_vec(map).unwrap_or_default();
    text.pop();
    if !text.is_empty() {
        text.remove(0);
    }
    text
}

/// Names the content of a document, as an `ETag` and in the index: it changes with the kinds. `customs` tell the states of the custom
/// kinds in it.
pub fn hash<'a>(group: &'a str, version: &'a str, customs: impl IntoIterator<Item = &'a str>) -> String {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    static BUILTIN: LazyLock<u64> = LazyLock::new(|| {
        let texts = [env!("CARGO_PKG_VERSION"), env!("DESCRIPTIONS_HASH"), catalogue::TEXT];
        texts.into_iter().fold(START, fold)
    });
    let hash = [group, version].into_iter().chain(customs).fold(*BUILTIN, fold);
    format!("{hash:016X}")
}

/// FNV-1a of a text and a zero after it.
fn fold(hash: u64, text: &str) -> u64 {
    text.bytes().chain([0]).fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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

    /// Version 2, put together.
    fn whole(parts: &[Part]) -> Value {
        let ([start, middle, end], between) = v2_frame(Encoding::Json);
        let join =
            |of: fn(&Part) -> &Vec<u8>| parts.iter().map(|part| of(part).as_slice()).collect::<Vec<_>>().join(between);
        let text = [start, join(|part| &part.definitions), middle, join(|part| &part.paths), end].concat();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn what_others_serve_comes_with_what_it_refers_to() {
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let document = json!({
            "paths": {
                "/apis/m.io/v1/": {"get": {"responses": {"200": {"schema": reference("A")}}}},
                "/apis/m.io/v1/things": {"get": {"responses": {"200": {"schema": reference("B")}}}},
                "/apis/m.io/v10/things": {"get": {"responses": {"200": {"schema": reference("D")}}}},
                "/version/": {},
            },
            "definitions": {
                "A": {"type": "object"}, "D": {"type": "object"},
                "B": {"properties": {"c": reference("C"), "m": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")}},
                "C": {"properties": {"b": reference("B")}},
                "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "string"},
            },
        });
        let part = whole(&[v2_foreign(&document, "m.io", "v1", Encoding::Json)]);
        let names = |field: &str| part[field].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names("paths"), ["/apis/m.io/v1/", "/apis/m.io/v1/things"]);
        assert_eq!(names("definitions"), ["A", "B", "C"]);
        let empty = v2_foreign(&json!({"paths": 1}), "m.io", "v1", Encoding::Json);
        assert_eq!((empty.paths, empty.definitions), (Vec::new(), Vec::new()));
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
        let document = whole(&[v2_builtin(Encoding::Json)]);
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
