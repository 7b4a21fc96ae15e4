//! From the JSON of a schema to the table of its nodes.

use super::format::Format;
use super::pattern::Pattern;
use super::*;
use serde_json::Map;
use std::collections::HashMap;

/// Schemas nested deeper than this are cut; no body that the API server reads is.
const DEPTH_MAX: usize = 150;

pub(super) fn compile(schema: &Value) -> Structural {
    let mut compiler = Compiler::default();
    let root = compiler.node(schema, 0);
    let (mut text, mut names) = (String::new(), Vec::new());
    for name in &compiler.names {
        text += name;
        names.push(count(text.len()));
    }
    Structural {
        nodes: compiler.nodes.into(),
        root,
        properties: compiler.properties.into(),
        rules: compiler.rules.into(),
        defaults: compiler.defaults.into(),
        keys: compiler.keys.into(),
        names: names.into(),
        text: text.into(),
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(NONE)
}

#[derive(Default)]
struct Compiler {
    nodes: Vec<NodeData>,
    known: HashMap<NodeData, u32>,
    properties: Vec<(u32, u32)>,
    known_properties: HashMap<Box<[(u32, u32)]>, Span>,
    rules: Vec<Rule>,
    /// Lists of rules by their text.
    known_rules: HashMap<String, Span>,
    defaults: Vec<Value>,
    keys: Vec<u32>,
    known_keys: HashMap<Box<[u32]>, Span>,
    names: Vec<Box<str>>,
    known_names: HashMap<Box<str>, u32>,
}

impl Compiler {
    fn name(&mut self, name: &str) -> u32 {
        if let Some(id) = self.known_names.get(name) {
            return *id;
        }
        let id = count(self.names.len());
        self.names.push(name.into());
        self.known_names.insert(name.into(), id);
        id
    }

    fn names_of(&mut self, list: Option<&Value>) -> Vec<u32> {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(|name| self.name(name)).collect()
    }

    fn node(&mut self, schema: &Value, depth: usize) -> u32 {
        let empty = Map::new();
        let map = schema.as_object().filter(|_| depth < DEPTH_MAX).unwrap_or(&empty);
        let kind = map.get("type").and_then(Value::as_str).map_or(Kind::Any, Kind::parse);
        let mut flags = flags(map);
        let items = match map.get("items") {
            Some(items @ Value::Object(_)) => self.node(items, depth + 1),
            _ => NONE,
        };
        let additional = match map.get("additionalProperties") {
            Some(values @ Value::Object(_)) => self.node(values, depth + 1),
            _ => NONE,
        };
        let properties = self.properties_of(map, depth);
        let default = match map.get("default") {
            Some(value) if !value.is_null() => {
                flags |= DEFAULTS_BELOW;
                self.defaults.push(value.clone());
                count(self.defaults.len() - 1)
            }
            _ => NONE,
        };
        let keys = self.names_of(map.get("x-kubernetes-list-map-keys"));
        let keys = self.key_span(keys);
        let rules = self.rules_of(map, kind, depth);
        let below = [items, additional].into_iter().filter(|id| *id != NONE);
        let below = below.chain(properties.of(&self.properties).iter().map(|(_, id)| *id));
        let mut inherited = 0;
        for id in below {
            inherited |= self.nodes[id as usize].flags & (DEFAULTS_BELOW | LISTS_BELOW | EMBEDDED_BELOW);
        }
        let data = NodeData { kind, flags: flags | inherited, items, additional, default, properties, rules, keys };
        self.intern(data)
    }

    fn intern(&mut self, data: NodeData) -> u32 {
        if let Some(id) = self.known.get(&data) {
            return *id;
        }
        let id = count(self.nodes.len());
        self.nodes.push(data);
        self.known.insert(data, id);
        id
    }

    fn properties_of(&mut self, map: &Map<String, Value>, depth: usize) -> Span {
        let Some(Value::Object(properties)) = map.get("properties") else { return Span::default() };
        let mut sorted: Vec<(&String, &Value)> = properties.iter().collect();
        sorted.sort_by_key(|(name, _)| *name);
        let list: Box<[(u32, u32)]> =
            sorted.into_iter().map(|(name, schema)| (self.name(name), self.node(schema, depth + 1))).collect();
        if let Some(span) = self.known_properties.get(&list) {
            return *span;
        }
        let span = Span { start: count(self.properties.len()), len: count(list.len()) };
        self.properties.extend_from_slice(&list);
        self.known_properties.insert(list, span);
        span
    }

    fn key_span(&mut self, keys: Vec<u32>) -> Span {
        if keys.is_empty() {
            return Span::default();
        }
        let keys = keys.into_boxed_slice();
        if let Some(span) = self.known_keys.get(&keys) {
            return *span;
        }
        let span = Span { start: count(self.keys.len()), len: count(keys.len()) };
        self.keys.extend_from_slice(&keys);
        self.known_keys.insert(keys, span);
        span
    }

    fn rules_of(&mut self, map: &Map<String, Value>, kind: Kind, depth: usize) -> Span {
        let rules = self.list_rules(map, kind, depth);
        if rules.is_empty() {
            return Span::default();
        }
        let text = format!("{rules:?}");
        if let Some(span) = self.known_rules.get(&text) {
            return *span;
        }
        let span = Span { start: count(self.rules.len()), len: count(rules.len()) };
        self.rules.extend(rules);
        self.known_rules.insert(text, span);
        span
    }

    /// The rules of a schema, in the order upstream checks them.
    fn list_rules(&mut self, map: &Map<String, Value>, kind: Kind, depth: usize) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut branches = |field: &str| -> Option<Box<[u32]>> {
            let list = map.get(field)?.as_array().filter(|list| !list.is_empty())?;
            Some(list.iter().map(|schema| self.node(schema, depth + 1)).collect())
        };
        rules.extend(branches("anyOf").map(Rule::AnyOf));
        rules.extend(branches("oneOf").map(Rule::OneOf));
        rules.extend(branches("allOf").map(Rule::AllOf));
        if let Some(not @ Value::Object(_)) = map.get("not") {
            rules.push(Rule::Not(self.node(not, depth + 1)));
        }
        let size = |field: &str| map.get(field).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok());
        let number = |field: &str| map.get(field).and_then(Value::as_f64);
        let flag = |field: &str| map.get(field).and_then(Value::as_bool).unwrap_or(false);
        let text = |field: &str| map.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        rules.extend(size("maxLength").map(Rule::MaxLength));
        rules.extend(size("minLength").map(Rule::MinLength));
        rules.extend(text("pattern").map(|text| Rule::Pattern(Box::new(Pattern::new(text)))));
        if let Some(format) = text("format")
            && let Some(known) = Format::of(kind, flag("x-kubernetes-int-or-string"), format)
        {
            rules.push(Rule::Format(known, format.into()));
        }
        rules.extend(number("multipleOf").map(Rule::MultipleOf));
        rules.extend(number("maximum").map(|bound| Rule::Maximum(bound, flag("exclusiveMaximum"))));
        rules.extend(number("minimum").map(|bound| Rule::Minimum(bound, flag("exclusiveMinimum"))));
        rules.extend(size("minItems").map(Rule::MinItems));
        rules.extend(size("maxItems").map(Rule::MaxItems));
        if flag("uniqueItems") {
            rules.push(Rule::UniqueItems);
        }
        let values = |field: &str| map.get(field).and_then(Value::as_array).filter(|list| !list.is_empty());
        rules.extend(values("enum").map(|list| Rule::Enum(list.as_slice().into())));
        rules.extend(size("minProperties").map(Rule::MinProperties));
        rules.extend(size("maxProperties").map(Rule::MaxProperties));
        let required = self.names_of(map.get("required"));
        if !required.is_empty() {
            rules.push(Rule::Required(required.into()));
        }
        rules.extend(values("x-kubernetes-validations").map(|list| Rule::Validations(list.as_slice().into())));
        rules
    }
}

fn flags(map: &Map<String, Value>) -> u16 {
    let flag = |field: &str| map.get(field).and_then(Value::as_bool).unwrap_or(false);
    let mut flags = 0;
    for (field, bit) in [
        ("nullable", NULLABLE),
        ("x-kubernetes-preserve-unknown-fields", PRESERVE),
        ("x-kubernetes-embedded-resource", EMBEDDED | EMBEDDED_BELOW),
        ("x-kubernetes-int-or-string", INT_OR_STRING),
    ] {
        if flag(field) {
            flags |= bit;
        }
    }
    flags |= match map.get("additionalProperties") {
        Some(Value::Bool(false)) => ADDITIONAL | CLOSED,
        Some(Value::Bool(true) | Value::Object(_)) => ADDITIONAL,
        _ => 0,
    };
    flags |= match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => LIST_SET | LISTS_BELOW,
        Some("map") => LIST_MAP | LISTS_BELOW,
        Some("atomic") => LIST_ATOMIC,
        _ => 0,
    };
    if map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic") {
        flags |= ATOMIC_MAP;
    }
    flags
}
