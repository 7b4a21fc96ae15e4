//! Decoding. Total: whatever is sent ends in a value or an error, and nesting is bounded.

use super::MAGIC;
use crate::schema::{FieldRef, Member, Shape, StructRef, TypeRef};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Nesting beyond which a message is refused.
const DEPTH_MAX: usize = 100;

/// Why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not begin as an encoded object does.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// It names no kind.
    #[error("the encoded object names no kind")]
    NoKind,
    /// It names a kind that the reader does not know.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The version it names.
        api_version: String,
        /// The kind it names.
        kind: String,
    },
    /// A message ends within a field.
    #[error("unexpected EOF")]
    Short,
    /// A field has a wire type that its number does not allow, or there is no such type.
    #[error("wrong wire type {wire} for field {field}")]
    WireType {
        /// The field's number or name.
        field: String,
        /// The wire type found.
        wire: u8,
    },
    /// A text is not UTF-8.
    #[error("a string is not valid UTF-8")]
    NotText,
    /// Messages are nested too deeply.
    #[error("messages are nested too deeply")]
    TooDeep,
}

/// Decodes an object with its head. `find` gives the type of a version and kind; `expected` stands in for what the head leaves
/// out (clients may send options without their kind).
pub fn decode<'s>(
    body: &[u8],
    expected: Option<(&str, &str)>,
    find: impl FnOnce(&str, &str) -> Option<TypeRef<'s>>,
) -> Result<Value, ReadError> {
    let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ReadError::NoMagic)?);
    let (mut api_version, mut kind, mut message): (&str, &str, &[u8]) = ("", "", &[]);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Bytes(bytes)) => {
                let mut head = Reader(bytes);
                while let Some((number, value)) = head.next()? {
                    match (number, value) {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => message = bytes,
            _ => {}
        }
    }
    if let (true, Some(expected)) = (kind.is_empty(), expected) {
        (api_version, kind) = expected;
    }
    if kind.is_empty() {
        return Err(ReadError::NoKind);
    }
    let unknown = || ReadError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let mut object = decode_message(message, find(api_version, kind).ok_or_else(unknown)?)?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// Decodes a bare message of a struct type.
pub fn decode_message(message: &[u8], ty: TypeRef<'_>) -> Result<Value, ReadError> {
    let mut map = Map::new();
    if let Some(s) = ty.as_struct() {
        read_message(message, s, &mut map, 0)?;
    }
    Ok(Value::Object(map))
}

/// A field's value as it is on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    fn code(self) -> u8 {
        match self {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32 => 5,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next field, or none at the end.
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, ReadError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = (key >> 3) as u32;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.take(8)?.try_into().map_err(|_| ReadError::Short)?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ReadError::Short)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(ReadError::WireType { field: number.to_string(), wire: other as u8 }),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, ReadError> {
        let mut value = 0_u64;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(ReadError::Short)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ReadError> {
        if length > self.0.len() {
            return Err(ReadError::Short);
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }
}

fn text(bytes: &[u8]) -> Result<&str, ReadError> {
    std::str::from_utf8(bytes).map_err(|_| ReadError::NotText)
}

fn read_message(message: &[u8], s: StructRef<'_>, map: &mut Map<String, Value>, depth: usize) -> Result<(), ReadError> {
    if depth > DEPTH_MAX {
        return Err(ReadError::TooDeep);
    }
    let mut reader = Reader(message);
    while let Some((number, wire)) = reader.next()? {
        match s.wire_member(number) {
            Some(Member::Field(field)) => read_field(wire, field, map, depth)?,
            Some(Member::Inline(inner, _)) => match wire {
                Wire::Bytes(bytes) => read_message(bytes, inner, map, depth + 1)?,
                other => return Err(ReadError::WireType { field: number.to_string(), wire: other.code() }),
            },
            None => {}
        }
    }
    Ok(())
}

fn read_field(
    wire: Wire<'_>,
    field: FieldRef<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ReadError> {
    let ty = field.ty();
    let slot = map.entry(field.name().to_owned()).or_insert(Value::Null);
    let result = match ty.shape() {
        Shape::List(element) if !ty.is_wrapped() => read_element(wire, element, slot, depth),
        Shape::Map(element) => read_entry(wire, element, slot, depth),
        _ => read_single(wire, ty, depth).map(|value| *slot = value),
    };
    result.map_err(|e| match e {
        ReadError::WireType { field: inner, wire } if inner.is_empty() => {
            ReadError::WireType { field: field.name().to_owned(), wire }
        }
        other => other,
    })
}

fn read_element(wire: Wire<'_>, element: TypeRef<'_>, slot: &mut Value, depth: usize) -> Result<(), ReadError> {
    if slot.is_null() {
        *slot = json!([]);
    }
    let Some(list) = slot.as_array_mut() else { return Ok(()) };
    if let (Wire::Bytes(packed), Shape::Int32 | Shape::Int64 | Shape::Bool) = (wire, element.shape()) {
        let mut reader = Reader(packed);
        while !reader.0.is_empty() {
            let value = Wire::Varint(reader.varint()?);
            list.push(read_single(value, element, depth)?);
        }
        return Ok(());
    }
    list.push(read_single(wire, element, depth)?);
    Ok(())
}

fn read_entry(wire: Wire<'_>, element: TypeRef<'_>, slot: &mut Value, depth: usize) -> Result<(), ReadError> {
    let Wire::Bytes(bytes) = wire else {
        return Err(ReadError::WireType { field: String::new(), wire: wire.code() });
    };
    if slot.is_null() {
        *slot = json!({});
    }
    let (mut key, mut value) = ("", Value::Null);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, wire) => value = read_single(wire, element, depth)?,
            _ => {}
        }
    }
    if let Some(map) = slot.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
    Ok(())
}

fn read_single(wire: Wire<'_>, ty: TypeRef<'_>, depth: usize) -> Result<Value, ReadError> {
    let value = match (ty.shape(), wire) {
        (Shape::Bool, Wire::Varint(n)) => (n != 0).into(),
        (Shape::Int32, Wire::Varint(n)) => (n as i32).into(),
        (Shape::Int64, Wire::Varint(n)) => (n as i64).into(),
        (Shape::Double, Wire::Fixed64(bytes)) => f64::from_le_bytes(bytes).into(),
        (Shape::String, Wire::Bytes(bytes)) => text(bytes)?.into(),
        (Shape::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Shape::Time, Wire::Bytes(bytes)) => read_instant(bytes, time::format)?,
        (Shape::MicroTime, Wire::Bytes(bytes)) => read_instant(bytes, time::format_micro)?,
        (Shape::Quantity, Wire::Bytes(bytes)) => one_of(bytes, 1)?.map_or(Ok("0"), text)?.into(),
        (Shape::IntOrString, Wire::Bytes(bytes)) => read_int_or_string(bytes)?,
        (Shape::RawExtension | Shape::FieldsV1 | Shape::Any, Wire::Bytes(bytes)) => {
            let raw = one_of(bytes, 1)?.unwrap_or_default();
            serde_json::from_slice(raw).unwrap_or(Value::Null)
        }
        (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, Wire::Bytes(bytes)) => {
            read_schema_or(bytes, ty, depth)?
        }
        (Shape::Struct(s), Wire::Bytes(bytes)) => {
            let mut map = Map::new();
            read_message(bytes, s, &mut map, depth + 1)?;
            Value::Object(map)
        }
        (Shape::List(element), Wire::Bytes(bytes)) => {
            let (mut reader, mut list) = (Reader(bytes), Vec::new());
            while let Some((number, wire)) = reader.next()? {
                if number == 1 {
                    list.push(read_single(wire, element, depth + 1)?);
                }
            }
            Value::Array(list)
        }
        (_, wire) => return Err(ReadError::WireType { field: String::new(), wire: wire.code() }),
    };
    Ok(value)
}

/// The last occurrence of a field of bytes.
fn one_of(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, ReadError> {
    let (mut reader, mut found) = (Reader(message), None);
    while let Some((number, wire)) = reader.next()? {
        if let (true, Wire::Bytes(bytes)) = (number == wanted, wire) {
            found = Some(bytes);
        }
    }
    Ok(found)
}

fn read_instant(message: &[u8], format: fn(Timestamp) -> String) -> Result<Value, ReadError> {
    let (mut reader, mut seconds, mut nanos) = (Reader(message), None, 0);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => seconds = Some(n as i64),
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let at = seconds.and_then(|s| Timestamp::new(s, nanos).ok());
    Ok(at.map_or(Value::Null, |at| format(at).into()))
}

fn read_int_or_string(message: &[u8]) -> Result<Value, ReadError> {
    let (mut reader, mut is_text, mut whole, mut string) = (Reader(message), false, 0, "");
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => is_text = n == 1,
            (2, Wire::Varint(n)) => whole = n as i32,
            (3, Wire::Bytes(bytes)) => string = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { whole.into() })
}

fn read_schema_or(message: &[u8], ty: TypeRef<'_>, depth: usize) -> Result<Value, ReadError> {
    let Some(schema) = ty.schema().named("apiextensions.v1.JSONSchemaProps") else { return Ok(Value::Null) };
    let shape = ty.shape();
    let (mut reader, mut list, mut value) = (Reader(message), Vec::new(), Value::Null);
    while let Some((number, wire)) = reader.next()? {
        match (number, shape, wire) {
            (1, Shape::SchemaOrBool, Wire::Varint(n)) if value.is_null() => value = (n != 0).into(),
            (2, Shape::SchemaOrStrings, Wire::Bytes(bytes)) => list.push(text(bytes)?.into()),
            (2, Shape::SchemaOrArray, wire) => list.push(read_single(wire, schema, depth + 1)?),
            (1 | 2, _, wire @ Wire::Bytes(_)) => value = read_single(wire, schema, depth + 1)?,
            _ => {}
        }
    }
    Ok(if value.is_null() && !list.is_empty() { Value::Array(list) } else { value })
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use crate::schema::{Schema, check};
    use proptest::prelude::*;

    fn find(api_version: &str, kind: &str) -> Option<TypeRef<'static>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Schema::builtin().kind(group, version, kind)
    }

    #[test]
    fn there_and_back() {
        let objects = [
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "ä", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": -1}, "resources": {"limits": {"cpu": "500m"}}}], "activeDeadlineSeconds": 9_000_000_000_i64},
                "status": {"podIPs": [{"ip": "::1"}]},
            }),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "AAEC", "b": ""}}),
            json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "c"},
                "spec": {"group": "g", "scope": "Cluster", "names": {"kind": "A", "plural": "as"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "minimum": 1.5, "default": {"x": [1, null]}, "items": [{"type": "string"}], "additionalProperties": false,
                    "dependencies": {"a": ["b"], "c": {"type": "object"}},
                }}}]},
            }),
        ];
        for mut object in objects {
            let ty = find(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
            check(&mut object, ty).unwrap();
            let mut back = decode(&encode(&object, ty), None, find).unwrap();
            check(&mut back, ty).unwrap();
            assert_eq!(back, object);
        }
    }

    #[test]
    fn a_list_in_pieces_is_a_list() {
        let ty = find("v1", "ConfigMapList").unwrap();
        assert_eq!(ty.field("items").unwrap().number(), 2);
        let map = |size: usize| json!({"metadata": {"name": "m"}, "data": {"k": "x".repeat(size)}});
        let items: Vec<Value> = [0, 1, 90, 127, 128, 16_000, 17_000].map(map).into();
        let whole =
            json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": items});
        let mut message = super::super::encode_message(&json!({"metadata": {"resourceVersion": "7"}}), ty);
        for item in whole["items"].as_array().unwrap() {
            let item = super::super::encode_message(item, find("v1", "ConfigMap").unwrap());
            let before = message.len();
            super::super::open_item(&mut message, item.len());
            assert_eq!(message.len() - before, super::super::item_head_len(item.len()));
            message.extend(item);
        }
        assert_eq!(super::super::wrap("v1", "ConfigMapList", &message), encode(&whole, ty));
    }

    #[test]
    fn bad_bodies() {
        assert_eq!(decode(b"{}", None, find), Err(ReadError::NoMagic));
        assert_eq!(decode(MAGIC, None, find), Err(ReadError::NoKind));
        assert_eq!(decode(b"k8s\0\x12\xff", None, find), Err(ReadError::Short));
        assert!(matches!(decode(MAGIC, Some(("v1", "Nothing")), find), Err(ReadError::UnknownKind { .. })));
        let pod = find("v1", "Pod").unwrap();
        assert!(matches!(decode_message(b"\x08\x01", pod), Err(ReadError::WireType { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for kind in ["Pod", "CustomResourceDefinition", "DeleteOptions"] {
                let version = if kind == "CustomResourceDefinition" { "apiextensions.k8s.io/v1" } else { "v1" };
                let _ = decode_message(&bytes, find(version, kind).unwrap());
            }
            let _ = decode(&[MAGIC.as_slice(), &bytes].concat(), Some(("v1", "Pod")), find);
        }
    }
}
