//! The paths of a group and version, with an operation for each verb.

use super::Dialect;
use super::schemas::Collector;
use crate::catalogue::{Resource, Subresource};
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const LIST: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE: [&str; 5] = [
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];

/// A group, version and kind.
type Kind<'a> = [&'a str; 3];

/// All paths of some resources.
pub(super) fn of<'r>(resources: impl Iterator<Item = &'r Resource>, schemas: &mut Collector) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        let base = format!("/{}", super::document_path(&resource.group, &resource.version));
        let mut maker = Maker { resource, schemas: &mut *schemas, tag: tag(&resource.group, &resource.version) };
        let own = if resource.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
        let collection = format!("{own}/{}", resource.plural);
        let item = format!("{collection}/{{name}}");
        if resource.namespaced && resource.allows("list") {
            paths.insert(format!("{base}/{}", resource.plural), maker.across());
        }
        paths.insert(collection, maker.collection());
        if ["get", "update", "patch", "delete"].iter().any(|v| resource.allows(v)) {
            paths.insert(item.clone(), maker.item());
        }
        for sub in &resource.subresources {
            paths.insert(format!("{item}/{}", sub.name), maker.subresource(sub));
        }
    }
    paths
}

fn tag(group: &str, version: &str) -> String {
    let short = group.split('.').next().unwrap_or_default();
    format!("{}_{version}", if short.is_empty() { "core" } else { short })
}

struct Maker<'a> {
    resource: &'a Resource,
    schemas: &'a mut Collector,
    tag: String,
}

impl<'a> Maker<'a> {
    fn kind(&self) -> Kind<'a> {
        let resource = self.resource;
        [&resource.group, &resource.version, &resource.kind]
    }

    /// The list over all namespaces.
    fn across(&mut self) -> Value {
        let list = self.list();
        json!({"get": list, "parameters": []})
    }

    fn list(&mut self) -> Value {
        let resource = self.resource;
        let result = [&*resource.group, &*resource.version, &*resource.list_kind];
        self.operation("list", self.kind(), &LIST, None, result)
    }

    fn collection(&mut self) -> Value {
        let mut path = Map::new();
        if self.resource.allows("list") {
            path.insert("get".to_owned(), self.list());
        }
        if self.resource.allows("create") {
            path.insert("post".to_owned(), self.operation("post", self.kind(), &WRITE, Some(self.kind()), self.kind()));
        }
        if self.resource.allows("deletecollection") {
            let parameters: Vec<&str> = LIST[1..].iter().chain(&DELETE).copied().filter(|p| *p != "watch").collect();
            path.insert(
                "delete".to_owned(),
                self.operation("deletecollection", self.kind(), &parameters, Some(OPTIONS), STATUS),
            );
        }
        path.insert("parameters".to_owned(), self.placeholders(false));
        path.into()
    }

    fn item(&mut self) -> Value {
        let verbs: Vec<&str> = self.resource.verbs.clone();
        let mut path = self.verbs(&verbs, self.kind());
        path.insert("parameters".to_owned(), self.placeholders(true));
        path.into()
    }

    fn subresource(&mut self, sub: &Subresource) -> Value {
        let mut path = self.verbs(&sub.verbs, [&*sub.group, &*sub.version, &*sub.kind]);
        if sub.verbs.contains(&"create") {
            let kind = [&*sub.group, &*sub.version, &*sub.kind];
            path.insert("post".to_owned(), self.operation("post", kind, &WRITE, Some(kind), kind));
        }
        path.insert("parameters".to_owned(), self.placeholders(true));
        path.into()
    }

    /// The verbs of one object.
    fn verbs(&mut self, verbs: &[&str], kind: Kind<'_>) -> Map<String, Value> {
        let mut path = Map::new();
        for verb in verbs {
            let (method, operation) = match *verb {
                "get" => ("get", self.operation("get", kind, &[], None, kind)),
                "update" => ("put", self.operation("put", kind, &WRITE, Some(kind), kind)),
                "delete" => ("delete", self.operation("delete", kind, &DELETE, Some(OPTIONS), STATUS)),
                "patch" => ("patch", self.patch(kind)),
                _ => continue,
            };
            path.insert(method.to_owned(), operation);
        }
        path
    }

    fn patch(&mut self, kind: Kind<'_>) -> Value {
        let parameters = ["dryRun", "fieldManager", "fieldValidation", "force"];
        let mut operation = self.operation("patch", kind, &parameters, None, kind);
        let body = json!({"type": "object"});
        // Custom kinds have no strategic merge.
        let strategic = !self.schemas.is_custom(kind);
        let patches: Vec<&str> =
            PATCHES.into_iter().filter(|patch| strategic || !patch.contains("strategic")).collect();
        match self.schemas.dialect {
            Dialect::V2 => {
                operation["consumes"] = json!(patches);
                if let Some(list) = operation["parameters"].as_array_mut() {
                    list.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
                }
            }
            Dialect::V3 => {
                let content: Map<String, Value> =
                    patches.iter().map(|p| ((*p).to_owned(), json!({"schema": body}))).collect();
                operation["requestBody"] = json!({"content": content, "required": true});
            }
        }
        operation
    }

    fn operation(
        &mut self,
        action: &str,
        kind: Kind<'_>,
        parameters: &[&str],
        body: Option<Kind<'_>>,
        result: Kind<'_>,
    ) -> Value {
        let mut list: Vec<Value> = parameters.iter().map(|name| self.parameter(name, "query", false)).collect();
        let result = self.schemas.kind(result[0], result[1], result[2]);
        let body = body.map(|b| self.schemas.kind(b[0], b[1], b[2]));
        let v2 = self.schemas.dialect == Dialect::V2;
        if let (true, Some(body)) = (v2, &body) {
            list.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
        }
        let answer = match v2 {
            true => json!({"description": "OK", "schema": result}),
            false => json!({"description": "OK", "content": {JSON: {"schema": result}}}),
        };
        let mut operation = json!({
            "tags": [self.tag],
            "parameters": list,
            "responses": {"200": answer, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": kind[0], "version": kind[1], "kind": kind[2]},
        });
        match body {
            Some(body) if !v2 => {
                operation["requestBody"] = json!({"content": {"*/*": {"schema": body}}, "required": true})
            }
            _ => {}
        }
        operation
    }

    /// The parameters in the path itself.
    fn placeholders(&self, name: bool) -> Value {
        let mut list = Vec::new();
        if name {
            list.push(self.parameter("name", "path", true));
        }
        if self.resource.namespaced {
            list.push(self.parameter("namespace", "path", true));
        }
        list.into()
    }

    fn parameter(&self, name: &str, place: &str, required: bool) -> Value {
        let ty = match name {
            "allowWatchBookmarks" | "force" | "orphanDependents" | "sendInitialEvents" | "watch" => "boolean",
            "ignoreStoreReadErrorWithClusterBreakingPotential" => "boolean",
            "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
            _ => "string",
        };
        let mut parameter = match self.schemas.dialect {
            Dialect::V2 => json!({"name": name, "in": place, "type": ty, "uniqueItems": true}),
            Dialect::V3 => json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}}),
        };
        if required {
            parameter["required"] = true.into();
        }
        parameter
    }
}

const OPTIONS: Kind<'static> = ["", "v1", "DeleteOptions"];
const STATUS: Kind<'static> = ["", "v1", "Status"];
