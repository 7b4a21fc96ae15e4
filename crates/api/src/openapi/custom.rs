//! Custom kinds in OpenAPI: their own schemas, in the form each dialect understands.

use super::Dialect;
use crate::catalogue::Resource;
use crate::look::Look;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A version of a custom kind, as documents show it.
pub struct Custom {
    /// Its entry in the catalogue.
    pub resource: Arc<Resource>,
    /// Its schema (`openAPIV3Schema`); null for none.
    pub schema: Value,
    /// Its fields that objects can be selected by: `spec.color`.
    pub selectable: Vec<String>,
}

/// `io.x.v1.Widget`.
pub(super) fn model_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// References to what all objects have.
pub(super) struct Meta {
    pub(super) object: Value,
    pub(super) list: Value,
    pub(super) api_version: Value,
    pub(super) kind: Value,
}

fn described(reference: &Value, dialect: Dialect, text: &str) -> Value {
    match dialect {
        Dialect::V2 => {
            let mut value = reference.clone();
            value["description"] = text.into();
            value
        }
        Dialect::V3 => json!({"allOf": [reference], "description": text, "default": {}}),
    }
}

impl Custom {
    /// The schema of the kind.
    pub(super) fn object(&self, dialect: Dialect, meta: &Meta) -> Value {
        let open = self.schema.is_null()
            || (dialect == Dialect::V2 && self.schema.get(PRESERVE).is_some_and(|value| *value == true));
        // kubectl takes what a document does not name for forbidden, so for a kind without limits it names nothing.
        let mut schema = if open { json!({"type": "object"}) } else { converted(&self.schema, dialect, meta) };
        if !open {
            add_meta(&mut schema, dialect, meta, false);
        }
        self.mark(&mut schema, &self.resource.kind);
        schema
    }

    /// The schema of its list.
    pub(super) fn list(&self, dialect: Dialect, meta: &Meta, item: &Value) -> Value {
        let (kind, list) = (&self.resource.kind, &self.resource.list_kind);
        let mut schema = json!({
            "type": "object", "description": format!("{list} is a list of {kind}"), "required": ["items"],
            "properties": {
                "items": {"type": "array", "items": item, "description": format!("The {} of this list.", self.resource.plural)},
                "metadata": described(&meta.list, dialect, "Standard list metadata."),
                "apiVersion": meta.api_version, "kind": meta.kind,
            },
        });
        self.mark(&mut schema, list);
        schema
    }

    fn mark(&self, schema: &mut Value, kind: &str) {
        let resource = &self.resource;
        let group_version_kind = json!([{"group": resource.group, "version": resource.version, "kind": kind}]);
        schema["x-kubernetes-group-version-kind"] = group_version_kind;
        if !self.selectable.is_empty() {
            let fields = self.selectable.iter().map(|path| json!({"fieldPath": path}));
            schema["x-kubernetes-selectable-fields"] = fields.collect();
        }
    }
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// A schema without what is null or of no meaning to a dialect.
fn converted(schema: &Value, dialect: Dialect, meta: &Meta) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (field, value) in map {
        let value = match (&**field, value) {
            (_, Value::Null)
            | ("nullable" | "uniqueItems" | "exclusiveMinimum" | "exclusiveMaximum", Value::Bool(false)) => {
                continue;
            }
            ("allOf" | "anyOf" | "oneOf" | "not", _) if dialect == Dialect::V2 => continue,
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(name, schema)| (name.clone(), converted(schema, dialect, meta))).collect()
            }
            ("items" | "additionalProperties" | "not", Value::Object(_)) => converted(value, dialect, meta),
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                list.iter().map(|schema| converted(schema, dialect, meta)).collect()
            }
            _ => value.clone(),
        };
        out.insert(field.clone(), value);
    }
    let preserves = out.get(PRESERVE).is_some_and(|value| *value == true);
    if dialect == Dialect::V2 {
        simplify(&mut out, preserves, schema);
    }
    let mut out = Value::Object(out);
    if map.get(EMBEDDED).is_some_and(|value| *value == true) && !(preserves && dialect == Dialect::V2) {
        add_meta(&mut out, dialect, meta, true);
    }
    out
}

/// Version 2 knows no nullable values, and kubectl cannot cope with some more.
fn simplify(out: &mut Map<String, Value>, preserves: bool, schema: &Value) {
    if out.remove("nullable").is_some() {
        for field in ["type", "items", "properties"] {
            out.remove(field);
        }
    }
    if preserves {
        out.remove("items");
        out.remove("properties");
        if out.get("type").is_some_and(|kind| *kind == "object") {
            out.remove("type");
        }
    }
    if !out.contains_key("items") && out.get("type").is_some_and(|kind| *kind == "array") {
        out.remove("type");
    }
    let nullable = |name: &Value| {
        schema.at("properties").get(name.as_str().unwrap_or_default()).is_some_and(|p| p.flag("nullable"))
    };
    if let Some(Value::Array(required)) = out.get_mut("required") {
        required.retain(|name| !nullable(name));
        if required.is_empty() {
            out.remove("required");
        }
    }
}

/// What all objects have, and embedded ones as well.
fn add_meta(schema: &mut Value, dialect: Dialect, meta: &Meta, embedded: bool) {
    schema["properties"]["metadata"] = described(&meta.object, dialect, "Standard object's metadata.");
    schema["properties"]["apiVersion"] = meta.api_version.clone();
    schema["properties"]["kind"] = meta.kind.clone();
    if embedded {
        let mut required: Vec<Value> = schema.items("required").to_vec();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
        schema["required"] = required.into();
    }
}
