//! Encoding. Messages are written from their end, so that the length of each is known when its head is written.

use super::MAGIC;
use crate::schema::{FieldRef, Member, Shape, StructRef, TypeRef};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

/// An object with its head: `k8s\0`, version, kind and message.
pub fn encode(object: &Value, ty: TypeRef<'_>) -> Vec<u8> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    wrap(text("apiVersion"), text("kind"), &encode_message(object, ty))
}

/// A message with its head.
pub fn wrap(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = open(api_version, kind, message.len());
    out.reserve(message.len() + CLOSE.len());
    out.extend_from_slice(message);
    out.extend_from_slice(CLOSE);
    out
}

/// What goes before a message of a length; [`CLOSE`] goes behind it.
pub fn open(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut head = Writer::default();
    head.varint(length as u64);
    head.tag(2, BYTES);
    let start = head.0.len();
    head.text(kind, 2);
    head.text(api_version, 1);
    head.head(1, start);
    head.0.extend(MAGIC.iter().rev());
    head.finish()
}

/// Content encoding and type, which are written although empty, as upstream does.
pub const CLOSE: &[u8] = &[0x1a, 0, 0x22, 0];

/// What goes before an item of a length in a list's message.
pub fn open_item(out: &mut impl Extend<u8>, length: usize) {
    // Every list has its items in field 2.
    out.extend([(2 << 3) | BYTES as u8]);
    let mut left = length;
    while left > 0x7f {
        out.extend([(left & 0x7f) as u8 | 0x80]);
        left >>= 7;
    }
    out.extend([left as u8]);
}

/// How many bytes [`open_item`] writes.
pub fn item_head_len(length: usize) -> usize {
    1 + (usize::BITS - (length | 1).leading_zeros()).div_ceil(7) as usize
}

/// The bare message of an object.
pub fn encode_message(object: &Value, ty: TypeRef<'_>) -> Vec<u8> {
    let mut out = Writer::default();
    out.body(object, ty);
    out.finish()
}

/// A watch event as it is streamed: its length in four bytes, then a `WatchEvent` holding an encoded object.
pub fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut head = Writer::default();
    head.varint(object.len() as u64);
    head.tag(1, BYTES);
    head.varint((head.0.len() + object.len()) as u64);
    head.tag(2, BYTES);
    head.text(kind, 1);
    let length = u32::try_from(head.0.len() + object.len()).unwrap_or(u32::MAX);
    head.0.extend(length.to_be_bytes().iter().rev());
    let mut out = head.finish();
    out.reserve(object.len());
    out.extend_from_slice(object);
    out
}

/// Bytes in reverse.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn finish(mut self) -> Vec<u8> {
        self.0.reverse();
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        let (mut bytes, mut count) = ([0_u8; 10], 0);
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            bytes[count] = if value == 0 { low } else { low | 0x80 };
            count += 1;
            if value == 0 {
                break;
            }
        }
        self.0.extend(bytes[..count].iter().rev());
    }

    fn tag(&mut self, number: u32, wire: u64) {
        self.varint(u64::from(number) << 3 | wire);
    }

    /// Length and tag of what was written since `start`.
    fn head(&mut self, number: u32, start: usize) {
        self.varint((self.0.len() - start) as u64);
        self.tag(number, BYTES);
    }

    fn blob(&mut self, bytes: &[u8], number: u32) {
        let start = self.0.len();
        self.0.extend(bytes.iter().rev());
        self.head(number, start);
    }

    fn text(&mut self, text: &str, number: u32) {
        self.blob(text.as_bytes(), number);
    }

    fn integer(&mut self, value: i64, number: u32) {
        self.varint(value as u64);
        self.tag(number, VARINT);
    }

    fn body(&mut self, value: &Value, ty: TypeRef<'_>) {
        if let Some(s) = ty.as_struct() {
            self.message(value.as_object(), s);
        }
    }

    fn message(&mut self, map: Option<&Map<String, Value>>, s: StructRef<'_>) {
        for member in s.wire_members().rev() {
            match member {
                Member::Field(field) => {
                    self.field(map.and_then(|m| m.get(field.name())).unwrap_or(&Value::Null), field)
                }
                Member::Inline(inner, number) => {
                    let start = self.0.len();
                    self.message(map, inner);
                    self.head(number, start);
                }
            }
        }
    }

    fn field(&mut self, value: &Value, field: FieldRef<'_>) {
        let (ty, number) = (field.ty(), field.number());
        match (ty.shape(), value) {
            (Shape::List(element), _) if !ty.is_wrapped() => {
                for item in value.as_array().into_iter().flatten().rev() {
                    self.single(item, element, number);
                }
            }
            (Shape::Map(element), _) => {
                for (key, item) in value.as_object().into_iter().flatten().rev() {
                    let start = self.0.len();
                    self.single(item, element, 2);
                    self.text(key, 1);
                    self.head(number, start);
                }
            }
            (Shape::Bytes | Shape::Any | Shape::FieldsV1, Value::Null) => {}
            (_, Value::Null) if ty.is_pointer() => {}
            _ => self.single(value, ty, number),
        }
    }

    /// One value with its tag; null stands for zero.
    fn single(&mut self, value: &Value, ty: TypeRef<'_>, number: u32) {
        let start = self.0.len();
        match ty.shape() {
            Shape::Bool => return self.integer(i64::from(value.as_bool().unwrap_or_default()), number),
            Shape::Int32 | Shape::Int64 => return self.integer(value.as_i64().unwrap_or_default(), number),
            Shape::Double => {
                self.0.extend(value.as_f64().unwrap_or_default().to_le_bytes().iter().rev());
                return self.tag(number, FIXED64);
            }
            Shape::String => return self.text(value.as_str().unwrap_or_default(), number),
            Shape::Bytes => {
                return self.blob(&STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default(), number);
            }
            Shape::Time | Shape::MicroTime => self.instant(value),
            Shape::Quantity => self.text(value.as_str().unwrap_or("0"), 1),
            Shape::Duration => {}
            Shape::IntOrString => {
                let (text, whole) = (value.as_str(), value.as_i64().unwrap_or_default());
                self.text(text.unwrap_or_default(), 3);
                self.integer(whole, 2);
                self.integer(i64::from(text.is_some()), 1);
            }
            Shape::RawExtension if value.is_null() => {}
            Shape::RawExtension | Shape::FieldsV1 | Shape::Any => self.text(&value.to_string(), 1),
            Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => self.schema_or(value, ty),
            Shape::Struct(s) => self.message(value.as_object(), s),
            Shape::List(element) => {
                for item in value.as_array().into_iter().flatten().rev() {
                    self.single(item, element, 1);
                }
            }
            Shape::Map(_) => {}
        }
        self.head(number, start);
    }

    fn instant(&mut self, value: &Value) {
        if let Some(at) = value.as_str().and_then(time::parse) {
            self.integer(i64::from(at.subsec_nanosecond()), 2);
            self.integer(at.as_second(), 1);
        }
    }

    fn schema_or(&mut self, value: &Value, ty: TypeRef<'_>) {
        let Some(schema) = ty.schema().named("apiextensions.v1.JSONSchemaProps") else { return };
        let with_bool = ty.shape() == Shape::SchemaOrBool;
        match value {
            Value::Object(_) => self.single(value, schema, if with_bool { 2 } else { 1 }),
            Value::Array(items) => {
                for item in items.iter().rev() {
                    match item {
                        Value::String(text) => self.text(text, 2),
                        item => self.single(item, schema, 2),
                    }
                }
            }
            _ => {}
        }
        if with_bool {
            // A schema allows, too.
            self.integer(i64::from(value.as_bool().unwrap_or(value.is_object())), 1);
        }
    }
}
