//! Version 2 in protobuf, as client-go's discovery wants it: the messages of `gnostic`'s `openapiv2/OpenAPIv2.proto`.
//!
//! Only what our documents have in them is written. Fields of a message may come in several pieces, which readers put together:
//! so a document is the pieces of its parts, one after another.

use crate::look::Look;
use serde_json::{Map, Value};

/// A message as it grows.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Its bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }

    fn blob(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message in this one.
    pub(super) fn put(&mut self, number: u32, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.blob(number, &inner.0);
    }

    /// A text, when there is one.
    pub(super) fn text(&mut self, number: u32, text: &str) {
        if !text.is_empty() {
            self.blob(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, list: &Value) {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).for_each(|t| self.blob(number, t.as_bytes()));
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value == true {
            self.varint(u64::from(number) << 3);
            self.varint(1);
        }
    }

    fn integer(&mut self, number: u32, value: &Value) {
        if let Some(value) = value.as_i64().filter(|value| *value != 0) {
            self.varint(u64::from(number) << 3);
            self.varint(value.cast_unsigned());
        }
    }

    fn double(&mut self, number: u32, value: &Value) {
        if let Some(value) = value.as_f64().filter(|value| *value != 0.0) {
            self.varint(u64::from(number) << 3 | 1);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Any value, as YAML; JSON is YAML.
    fn any(&mut self, number: u32, value: &Value) {
        self.put(number, |any| any.text(2, &value.to_string()));
    }

    /// A name and what it stands for.
    fn named(&mut self, number: u32, name: &str, fill: impl FnOnce(&mut Message)) {
        self.put(number, |entry| {
            entry.text(1, name);
            entry.put(2, fill);
        });
    }

    fn extensions(&mut self, number: u32, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, |any| any.text(2, &value.to_string()));
        }
    }

    /// `Document.paths`
    pub(super) fn paths(&mut self, paths: &Map<String, Value>) {
        self.put(8, |message| paths.iter().for_each(|(path, item)| message.named(2, path, |m| m.path_item(item))));
    }

    /// `Document.definitions`
    pub(super) fn definitions(&mut self, schemas: &Map<String, Value>) {
        self.put(9, |message| schemas.iter().for_each(|(name, schema)| message.named(1, name, |m| m.schema(schema))));
    }

    fn schema(&mut self, schema: &Value) {
        let Value::Object(map) = schema else { return };
        for (number, field) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
            self.text(number, map.get(field).and_then(Value::as_str).unwrap_or_default());
        }
        for (field, value) in map {
            match (&**field, value) {
                ("default", value) => self.any(5, value),
                ("multipleOf", value) => self.double(6, value),
                ("maximum", value) => self.double(7, value),
                ("exclusiveMaximum", value) => self.flag(8, value),
                ("minimum", value) => self.double(9, value),
                ("exclusiveMinimum", value) => self.flag(10, value),
                ("maxLength", value) => self.integer(11, value),
                ("minLength", value) => self.integer(12, value),
                ("maxItems", value) => self.integer(14, value),
                ("minItems", value) => self.integer(15, value),
                ("uniqueItems", value) => self.flag(16, value),
                ("maxProperties", value) => self.integer(17, value),
                ("minProperties", value) => self.integer(18, value),
                ("required", value) => self.texts(19, value),
                ("enum", Value::Array(list)) => list.iter().for_each(|value| self.any(20, value)),
                ("additionalProperties", Value::Object(_)) => self.put(21, |m| m.put(1, |m| m.schema(value))),
                ("additionalProperties", value) => self.put(21, |m| m.flag(2, value)),
                ("type", Value::String(name)) => self.put(22, |m| m.text(1, name)),
                ("items", Value::Object(_)) => self.put(23, |m| m.put(1, |m| m.schema(value))),
                ("properties", Value::Object(properties)) => self.put(25, |m| {
                    properties.iter().for_each(|(name, schema)| m.named(1, name, |m| m.schema(schema)));
                }),
                ("example", value) => self.any(30, value),
                _ => {}
            }
        }
        self.extensions(31, map);
    }

    fn path_item(&mut self, item: &Value) {
        for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
            if let Some(operation) = item.get(method) {
                self.put(number, |message| message.operation(operation));
            }
        }
        item.items("parameters").iter().for_each(|parameter| self.parameter(9, parameter));
    }

    fn operation(&mut self, operation: &Value) {
        self.texts(1, operation.at("tags"));
        self.text(3, operation.text("description"));
        self.text(5, operation.text("operationId"));
        self.texts(6, operation.at("produces"));
        self.texts(7, operation.at("consumes"));
        operation.items("parameters").iter().for_each(|parameter| self.parameter(8, parameter));
        self.put(9, |responses| {
            for (code, response) in operation.entries("responses") {
                let fill = |message: &mut Message| message.put(1, |message| message.response(response));
                responses.named(1, code, fill);
            }
        });
        if let Some(map) = operation.as_object() {
            self.extensions(13, map);
        }
    }

    fn response(&mut self, response: &Value) {
        self.text(1, response.text("description"));
        if let Some(schema) = response.get("schema") {
            self.put(2, |item| item.put(1, |message| message.schema(schema)));
        }
    }

    fn parameter(&mut self, number: u32, parameter: &Value) {
        self.put(number, |item| {
            item.put(1, |one| match parameter.text("in") {
                "body" => one.put(1, |body| {
                    body.text(1, parameter.text("description"));
                    body.text(2, parameter.text("name"));
                    body.text(3, "body");
                    body.flag(4, parameter.at("required"));
                    body.put(5, |message| message.schema(parameter.at("schema")));
                }),
                place => one.put(2, |other| {
                    // What stands in a path has no say in empty values, and so one number less.
                    let (variant, first) = if place == "path" { (4, 5) } else { (3, 6) };
                    other.put(variant, |sub| {
                        sub.flag(1, parameter.at("required"));
                        sub.text(2, place);
                        sub.text(3, parameter.text("description"));
                        sub.text(4, parameter.text("name"));
                        sub.text(first, parameter.text("type"));
                        sub.flag(first + 14, parameter.at("uniqueItems"));
                    });
                }),
            });
        });
    }

    /// What a document begins with: all but paths and definitions.
    pub(super) fn head(&mut self, title: &str, version: &str, bearer: &Value) {
        self.text(1, "2.0");
        self.put(2, |info| {
            info.text(1, title);
            info.text(2, version);
        });
        self.put(12, |security| security.named(1, "BearerToken", |_| {}));
        self.put(13, |definitions| {
            definitions.named(1, "BearerToken", |item| {
                item.put(2, |key| {
                    for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
                        key.text(number, bearer.text(field));
                    }
                });
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_as_gnostic_numbers_them() {
        let mut message = Message::default();
        let schema = json!({"type": "string", "x-a": [1]});
        message.definitions(&Map::from_iter([("A".to_owned(), schema)]));
        // definitions { additional_properties { name: "A" value { type { value: "string" } vendor_extension { name: "x-a" value { yaml: "[1]" } } } } }
        let extension = [&[10, 3][..], b"x-a", &[18, 5, 18, 3], b"[1]"].concat();
        let value = [&[0xb2, 1, 8, 10, 6][..], b"string", &[0xfa, 1, 12], &extension].concat();
        let entry = [&[10, 1][..], b"A", &[18, u8::try_from(value.len()).unwrap()], &value].concat();
        let inner = [&[10, u8::try_from(entry.len()).unwrap()][..], &entry].concat();
        let expected = [&[74, u8::try_from(inner.len()).unwrap()][..], &inner].concat();
        assert_eq!(message.finish(), expected);
        // A path's parameter is one number below a query's.
        for (place, variant) in [("path", 0x22), ("query", 0x1a)] {
            let mut message = Message::default();
            message.parameter(9, &json!({"name": "n", "in": place, "type": "string"}));
            assert_eq!(message.finish()[6], variant);
        }
    }
}
