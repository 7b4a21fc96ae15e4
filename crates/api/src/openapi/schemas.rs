//! The schemas of structs, as they are referred to.

use super::custom::{self, Custom, Meta};
use super::{Dialect, descriptions};
use machinery::schema::{FieldRef, ListType, Schema, Shape, StructRef, TypeRef};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// Gathers the structs that a document refers to.
pub(super) struct Collector {
    pub(super) dialect: Dialect,
    done: Map<String, Value>,
    queue: Vec<StructRef<'static>>,
    /// The kinds of each struct: group, version, kind.
    kinds: HashMap<usize, Vec<[&'static str; 3]>>,
    /// The models of custom kinds: by group, version and kind.
    custom: HashMap<[String; 3], String>,
}

impl Collector {
    pub(super) fn new(dialect: Dialect) -> Collector {
        let mut kinds: HashMap<usize, Vec<_>> = HashMap::new();
        for (group, version, kind, ty) in Schema::builtin().kinds() {
            if let Some(s) = ty.as_struct() {
                // Kinds of all groups are shown as the core group's.
                let (group, version) = if group == "*" { ("", "v1") } else { (group, version) };
                kinds.entry(s.index()).or_default().push([group, version, kind]);
            }
        }
        Collector { dialect, done: Map::new(), queue: Vec::new(), kinds, custom: HashMap::new() }
    }

    /// Makes custom kinds and their lists known.
    pub(super) fn add(&mut self, customs: &[Custom]) {
        if customs.is_empty() {
            return;
        }
        let table = Schema::builtin();
        let mut meta = |name| self.of(table.named(name).unwrap_or_else(|| unreachable!("{name} is in the table")));
        let (object, list) = (meta("meta.v1.ObjectMeta"), meta("meta.v1.ListMeta"));
        let text = |field| json!({"type": "string", "description": descriptions::of("", field)});
        let meta = Meta { object, list, api_version: text("apiVersion"), kind: text("kind") };
        for one in customs {
            let resource = &one.resource;
            let item = self.model(&resource.group, &resource.version, &resource.kind);
            let list = self.model(&resource.group, &resource.version, &resource.list_kind);
            let reference = json!({"$ref": format!("{}{item}", self.prefix())});
            self.done.insert(list, one.list(self.dialect, &meta, &reference));
            self.done.insert(item, one.object(self.dialect, &meta));
        }
    }

    /// Metadata is always among the schemas: custom kinds refer to it.
    pub(super) fn refer_to_metadata(&mut self) {
        for name in ["meta.v1.ObjectMeta", "meta.v1.ListMeta"] {
            if let Some(ty) = Schema::builtin().named(name) {
                self.of(ty);
            }
        }
    }

    /// The schemas of custom kinds only, by name.
    pub(super) fn own(mut self) -> Map<String, Value> {
        let own: HashSet<String> = self.custom.into_values().collect();
        self.done.retain(|name, _| own.contains(name));
        self.done
    }

    fn model(&mut self, group: &str, version: &str, kind: &str) -> String {
        let name = custom::model_name(group, version, kind);
        self.custom.insert([group.to_owned(), version.to_owned(), kind.to_owned()], name.clone());
        name
    }

    /// Whether a kind is a custom one.
    pub(super) fn is_custom(&self, kind: [&str; 3]) -> bool {
        !self.custom.is_empty() && self.custom.contains_key(&kind.map(str::to_owned))
    }

    fn prefix(&self) -> &'static str {
        match self.dialect {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        }
    }

    /// A reference to the schema of a kind.
    pub(super) fn kind(&mut self, group: &str, version: &str, kind: &str) -> Value {
        if let Some(name) =
            self.custom.get(&[group, version, kind].map(str::to_owned)).filter(|_| !self.custom.is_empty())
        {
            return json!({"$ref": format!("{}{name}", self.prefix())});
        }
        let s = Schema::builtin().kind(group, version, kind).and_then(TypeRef::as_struct);
        s.map_or_else(|| json!({"type": "object"}), |s| self.reference(s.model_name(), |c| c.queue.push(s)))
    }

    /// All schemas referred to, by name.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(s) = self.queue.pop() {
            let schema = self.structure(s);
            self.done.insert(s.model_name(), schema);
        }
        self.done
    }

    /// A reference; `add` makes the target known the first time.
    fn reference(&mut self, name: String, add: impl FnOnce(&mut Collector)) -> Value {
        let target = format!("{}{name}", self.prefix());
        if !self.done.contains_key(&name) {
            self.done.insert(name, Value::Null);
            add(self);
        }
        json!({"$ref": target})
    }

    fn structure(&mut self, s: StructRef<'static>) -> Value {
        let properties: Map<String, Value> = s.fields().map(|f| (f.name().to_owned(), self.property(s, f))).collect();
        let required: Vec<&str> = s.fields().filter(|f| f.is_required()).map(FieldRef::name).collect();
        let mut schema = json!({"type": "object"});
        let description = descriptions::of_struct(s, "");
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if s.is_atomic() {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(kinds) = self.kinds.get(&s.index()) {
            let list =
                kinds.iter().map(|[group, version, kind]| json!({"group": group, "version": version, "kind": kind}));
            schema["x-kubernetes-group-version-kind"] = list.collect();
        }
        schema
    }

    fn property(&mut self, owner: StructRef<'static>, field: FieldRef<'static>) -> Value {
        let base = self.of(field.ty());
        let mut facts = facts(field);
        let description = descriptions::of_struct(owner, field.name());
        if !description.is_empty() {
            facts.insert("description".to_owned(), description.into());
        }
        if let Value::Object(base) = base {
            if base.contains_key("$ref") && self.dialect == Dialect::V3 && !facts.is_empty() {
                // Beside a reference, version 3 ignores everything.
                facts.insert("allOf".to_owned(), json!([base]));
            } else {
                facts.extend(base);
            }
        }
        let elements: Vec<&str> = field.element_enumeration().collect();
        if !elements.is_empty()
            && let Some(items) = facts.get_mut("items")
        {
            items["enum"] = elements.into();
        }
        Value::Object(facts)
    }

    /// The schema of a type, structs by reference.
    fn of(&mut self, ty: TypeRef<'static>) -> Value {
        match ty.shape() {
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Duration => json!({"type": "string"}),
            Shape::Any => json!({}),
            Shape::Struct(s) => self.reference(s.model_name(), |c| c.queue.push(s)),
            Shape::List(element) => json!({"type": "array", "items": self.of(element)}),
            Shape::Map(element) => json!({"type": "object", "additionalProperties": self.of(element)}),
            shape => {
                let (name, schema) = special(shape, self.dialect);
                self.reference(name.to_owned(), |c| {
                    c.done.insert(name.to_owned(), schema);
                })
            }
        }
    }
}

/// The names of all models of the built-in table.
pub(super) fn models() -> HashSet<String> {
    let special = [Shape::Time, Shape::MicroTime, Shape::Quantity, Shape::IntOrString, Shape::FieldsV1, Shape::Any];
    let special = special.into_iter().map(|shape| special_name(shape).to_owned());
    Schema::builtin().structs().map(StructRef::model_name).chain(special).collect()
}

fn special_name(shape: Shape<'_>) -> &'static str {
    special(shape, Dialect::V2).0
}

/// What the table says of a field beyond its type.
fn facts(field: FieldRef<'_>) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut set = |name: &str, value: Value| {
        facts.insert(name.to_owned(), value);
    };
    if let Some(default) = field.default().and_then(|text| serde_json::from_str(text).ok()) {
        set("default", default);
    }
    let values: Vec<&str> = field.enumeration().collect();
    if !values.is_empty() {
        set("enum", values.into());
    }
    if let Some(list) = field.list_type() {
        let name = match list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        set("x-kubernetes-list-type", name.into());
    }
    let keys: Vec<&str> = field.map_keys().collect();
    if !keys.is_empty() {
        set("x-kubernetes-list-map-keys", keys.into());
    }
    if let Some(atomic) = field.map_type() {
        set("x-kubernetes-map-type", if atomic { "atomic" } else { "granular" }.into());
    }
    if !field.patch_strategy().is_empty() {
        set("x-kubernetes-patch-strategy", field.patch_strategy().into());
    }
    if !field.merge_key().is_empty() {
        set("x-kubernetes-patch-merge-key", field.merge_key().into());
    }
    facts
}

/// Types with a form of their own, which upstream names too.
fn special(shape: Shape<'_>, dialect: Dialect) -> (&'static str, Value) {
    let either = |one: &str, other: &str| match dialect {
        Dialect::V2 => json!({"type": "string"}),
        Dialect::V3 => json!({"oneOf": [{"type": one}, {"type": other}]}),
    };
    match shape {
        Shape::Time => ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", json!({"type": "string", "format": "date-time"})),
        Shape::MicroTime => {
            ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", json!({"type": "string", "format": "date-time"}))
        }
        Shape::Quantity => ("io.k8s.apimachinery.pkg.api.resource.Quantity", either("string", "number")),
        Shape::IntOrString => {
            let mut schema = either("integer", "string");
            schema["format"] = "int-or-string".into();
            ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", schema)
        }
        Shape::FieldsV1 => ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", json!({"type": "object"})),
        Shape::SchemaOrArray => {
            ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", json!({}))
        }
        Shape::SchemaOrBool => {
            ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", json!({}))
        }
        Shape::SchemaOrStrings => {
            ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", json!({}))
        }
        _ => ("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"})),
    }
}
