//! Checking a decoded object against its type, and bringing it into the form upstream would write.

use super::{FieldRef, Shape, StructRef, TypeRef};
use crate::quantity::Quantity;
use crate::{Status, time};
use serde_json::{Map, Value};
use std::fmt::{self, Write};

/// Nesting beyond which an object is refused; the JSON parser stops earlier.
const DEPTH_MAX: usize = 200;
/// Unknown fields reported at most, as upstream.
const UNKNOWN_MAX: usize = 100;

/// A field that its kind does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// Where: `spec.containers[0].foo`.
    pub path: String,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown field {:?}", self.path)
    }
}

/// Checks an object against the type of its kind and brings it into the form upstream writes it in: fields the kind does not
/// have are reported and removed, nulls and omitted empties are dropped, fields that are always written are there (`status: {}`,
/// `resources: {}`), quantities and times are canonical. A value of the wrong type ends in a 400 with the decoder's words.
pub fn check(value: &mut Value, ty: TypeRef<'_>) -> Result<Vec<UnknownField>, Status> {
    let mut checker = Checker { unknown: Vec::new() };
    match checker.value(value, ty, &Frame { parent: None, step: Step::Root }, 0) {
        Ok(()) => Ok(checker.unknown),
        Err(wrong) => Err(Status::bad_request(match ty.as_struct() {
            Some(s) => format!("{0} in version {1:?} cannot be handled as a {0}: {wrong}", s.kind(), s.version()),
            None => wrong,
        })),
    }
}

/// Where the checker is; kept on the stack, spelled only when something is wrong.
struct Frame<'a> {
    parent: Option<&'a Frame<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    Field(StructRef<'a>, &'a str),
    Index(usize),
    Key(&'a str),
}

impl Frame<'_> {
    /// `spec.containers[0].env`.
    fn path(&self) -> String {
        let mut text = self.parent.map(Frame::path).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Index(at) => text += &format!("[{at}]"),
            Step::Field(_, name) | Step::Key(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text += name;
            }
        }
        text
    }

    /// ` into Go struct field PodSpec.spec.containers`, or ` into Go value`: what the decoder says of the place.
    fn target(&self) -> String {
        let (mut owner, mut names, mut at) = (None, Vec::new(), Some(self));
        while let Some(frame) = at {
            if let Step::Field(s, name) = frame.step {
                owner.get_or_insert(s);
                names.push(name);
            }
            at = frame.parent;
        }
        names.reverse();
        owner.map_or_else(|| "Go value".to_owned(), |s| format!("Go struct field {}.{}", s.kind(), names.join(".")))
    }
}

struct Checker {
    unknown: Vec<UnknownField>,
}

impl Checker {
    fn value(&mut self, value: &mut Value, ty: TypeRef<'_>, at: &Frame<'_>, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("exceeded max depth".to_owned());
        }
        let good = match ty.shape() {
            Shape::Bool => value.is_boolean(),
            Shape::String => value.is_string(),
            Shape::Int32 => return integer(value, ty, at, i64::from(i32::MIN)..=i64::from(i32::MAX)),
            Shape::Int64 => return integer(value, ty, at, i64::MIN..=i64::MAX),
            Shape::Double => value.is_number(),
            Shape::Bytes => return bytes(value, ty, at),
            Shape::Time => return instant(value, at, time::format),
            Shape::MicroTime => return instant(value, at, time::format_micro),
            Shape::Quantity => return quantity(value),
            Shape::Duration => value.is_string(),
            Shape::IntOrString if value.is_string() => true,
            Shape::IntOrString => return int_or_string(value, at),
            Shape::RawExtension | Shape::FieldsV1 | Shape::Any => true,
            Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
                return self.schema_or(value, ty, at, depth);
            }
            Shape::Struct(s) => match value {
                Value::Object(map) => return self.object(map, s, at, depth),
                _ => false,
            },
            Shape::List(element) => match value {
                Value::Array(items) => return self.list(items, element, at, depth),
                _ => false,
            },
            Shape::Map(element) => match value {
                Value::Object(map) => return self.map(map, element, at, depth),
                _ => false,
            },
        };
        if good { Ok(()) } else { Err(mismatch(&described(value), &ty.go_name(), at)) }
    }

    fn object(
        &mut self,
        map: &mut Map<String, Value>,
        s: StructRef<'_>,
        at: &Frame<'_>,
        depth: usize,
    ) -> Result<(), String> {
        let mut wrong = None;
        map.retain(|name, value| {
            let Some(field) = s.field(name) else {
                self.report(at, name);
                return false;
            };
            if value.is_null() {
                return false;
            }
            let frame = Frame { parent: Some(at), step: Step::Field(s, field.name()) };
            if let Err(e) = self.value(value, field.ty(), &frame, depth + 1) {
                wrong.get_or_insert(e);
            }
            !is_omitted(value, field)
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        fill(map, s);
        Ok(())
    }

    fn report(&mut self, at: &Frame<'_>, name: &str) {
        if self.unknown.len() < UNKNOWN_MAX {
            let mut path = at.path();
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            self.unknown.push(UnknownField { path });
        }
    }

    fn list(&mut self, items: &mut [Value], element: TypeRef<'_>, at: &Frame<'_>, depth: usize) -> Result<(), String> {
        for (index, item) in items.iter_mut().enumerate() {
            let frame = Frame { parent: Some(at), step: Step::Index(index) };
            self.element(item, element, &frame, depth)?;
        }
        Ok(())
    }

    fn map(
        &mut self,
        map: &mut Map<String, Value>,
        element: TypeRef<'_>,
        at: &Frame<'_>,
        depth: usize,
    ) -> Result<(), String> {
        for (key, item) in map.iter_mut() {
            let frame = Frame { parent: Some(at), step: Step::Key(key) };
            self.element(item, element, &frame, depth)?;
        }
        Ok(())
    }

    fn element(&mut self, item: &mut Value, ty: TypeRef<'_>, at: &Frame<'_>, depth: usize) -> Result<(), String> {
        if item.is_null() {
            *item = zero(ty);
            return Ok(());
        }
        self.value(item, ty, at, depth + 1)
    }

    /// The unions of custom resource schemas.
    fn schema_or(&mut self, value: &mut Value, ty: TypeRef<'_>, at: &Frame<'_>, depth: usize) -> Result<(), String> {
        let schema = ty.schema.named("apiextensions.v1.JSONSchemaProps");
        match (ty.shape(), value, schema) {
            (_, value @ Value::Object(_), Some(schema)) => self.value(value, schema, at, depth + 1),
            (Shape::SchemaOrArray, Value::Array(items), Some(schema)) => self.list(items, schema, at, depth),
            (Shape::SchemaOrBool, Value::Bool(_), _) => Ok(()),
            (Shape::SchemaOrStrings, Value::Array(items), _) if items.iter().all(Value::is_string) => Ok(()),
            (Shape::SchemaOrBool, _, _) => Err("boolean or JSON schema expected".to_owned()),
            _ => Err("array or JSON schema expected".to_owned()),
        }
    }
}

/// Adds the fields of a struct that are written even when empty.
fn fill(map: &mut Map<String, Value>, s: StructRef<'_>) {
    for at in &s.data().always {
        let data = &s.data().fields[*at as usize];
        if !map.contains_key(data.name) {
            map.insert(data.name.to_owned(), zero(FieldRef { schema: s.schema, data }.ty()));
        }
    }
}

impl super::Schema {
    /// An object of a type as Go writes one that nobody has filled in.
    pub fn zero(ty: TypeRef<'_>) -> Value {
        ty.as_struct().map_or(Value::Null, |s| {
            let mut map = Map::new();
            fill(&mut map, s);
            Value::Object(map)
        })
    }
}

/// What Go writes for the zero value of a type.
fn zero(ty: TypeRef<'_>) -> Value {
    if ty.is_pointer() {
        return Value::Null;
    }
    match ty.shape() {
        Shape::Bool => false.into(),
        Shape::String => "".into(),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Duration => "0s".into(),
        Shape::Struct(s) => {
            let mut map = Map::new();
            fill(&mut map, s);
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

/// Whether Go leaves this value out when it writes the field.
fn is_omitted(value: &Value, field: FieldRef<'_>) -> bool {
    if !field.omits_empty() || field.ty().is_pointer() {
        return false;
    }
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => {
            n.as_f64() == Some(0.0) && !matches!(field.ty().shape(), Shape::IntOrString | Shape::Quantity | Shape::Any)
        }
        Value::String(s) => s.is_empty() && !matches!(field.ty().shape(), Shape::IntOrString | Shape::Any),
        Value::Array(items) => items.is_empty() && !matches!(field.ty().shape(), Shape::Any),
        Value::Object(map) => map.is_empty() && matches!(field.ty().shape(), Shape::Map(_)),
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

fn mismatch(what: &str, ty: &str, at: &Frame<'_>) -> String {
    format!("json: cannot unmarshal {what} into {} of type {ty}", at.target())
}

fn integer(value: &Value, ty: TypeRef<'_>, at: &Frame<'_>, range: std::ops::RangeInclusive<i64>) -> Result<(), String> {
    match value {
        Value::Number(n) if n.as_i64().is_some_and(|n| range.contains(&n)) => Ok(()),
        Value::Number(n) => Err(mismatch(&format!("number {n}"), &ty.go_name(), at)),
        other => Err(mismatch(&described(other), &ty.go_name(), at)),
    }
}

fn int_or_string(value: &Value, at: &Frame<'_>) -> Result<(), String> {
    match value {
        Value::Number(n) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
        Value::Number(n) => Err(mismatch(&format!("number {n}"), "int32", at)),
        other => Err(mismatch(&described(other), "int32", at)),
    }
}

/// Base64 with padding; an offending byte is named by its place.
fn bytes(value: &Value, ty: TypeRef<'_>, at: &Frame<'_>) -> Result<(), String> {
    let Value::String(text) = value else {
        return Err(mismatch(&described(value), &ty.go_name(), at));
    };
    let digits = text.trim_end_matches('=');
    let bad = digits.bytes().position(|b| !b.is_ascii_alphanumeric() && b != b'+' && b != b'/');
    match bad {
        Some(at) => Err(format!("illegal base64 data at input byte {at}")),
        None if text.len() % 4 != 0 || text.len() - digits.len() > 2 => {
            Err(format!("illegal base64 data at input byte {}", digits.len()))
        }
        None => Ok(()),
    }
}

/// A time, written anew in UTC unless it is canonical already.
fn instant(value: &mut Value, at: &Frame<'_>, format: fn(jiff::Timestamp) -> String) -> Result<(), String> {
    let Value::String(text) = value else {
        return Err(mismatch(&described(value), "string", at));
    };
    match time::parse(text) {
        Some(parsed) => {
            let canonical = format(parsed);
            if canonical != *text {
                *text = canonical;
            }
            Ok(())
        }
        None => {
            let mut wrong = String::new();
            let _ = write!(
                wrong,
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            );
            Err(wrong)
        }
    }
}

/// A quantity, written anew in its canonical form.
fn quantity(value: &mut Value) -> Result<(), String> {
    let text = match value {
        Value::String(text) => std::borrow::Cow::Borrowed(text.trim()),
        Value::Number(n) => n.to_string().into(),
        _ => return Err(Quantity::parse("").err().unwrap_or_default().to_owned()),
    };
    let canonical = Quantity::parse(&text)?.to_string();
    if !matches!(value, Value::String(s) if *s == canonical) {
        *value = canonical.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Schema;
    use super::*;
    use serde_json::json;

    fn checked(kind: (&str, &str, &str), mut value: Value) -> Result<(Value, Vec<String>), String> {
        let ty = Schema::builtin().kind(kind.0, kind.1, kind.2).unwrap();
        let unknown = check(&mut value, ty).map_err(|e| e.message)?;
        Ok((value, unknown.iter().map(ToString::to_string).collect()))
    }

    const POD: (&str, &str, &str) = ("", "v1", "Pod");
    const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

    #[test]
    fn wrong_types_in_the_decoders_words() {
        let cases = [
            (
                POD,
                json!({"spec": {"containers": "x"}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                DEPLOYMENT,
                json!({"spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}}}),
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.template.spec.containers.ports.containerPort of type int32",
            ),
            (
                POD,
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                POD,
                json!({"spec": {"priority": 3_000_000_000_u64}}),
                "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                POD,
                json!({"spec": {"restartPolicy": true}}),
                "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (POD, json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
            (
                POD,
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (("", "v1", "Secret"), json!({"data": {"a": "!"}}), "illegal base64 data at input byte 0"),
        ];
        for (kind, value, message) in cases {
            let expected = format!("{0} in version \"v1\" cannot be handled as a {0}: {message}", kind.2);
            assert_eq!(checked(kind, value).unwrap_err(), expected);
        }
    }

    #[test]
    fn unknown_fields_are_named_and_pruned() {
        let (value, unknown) =
            checked(POD, json!({"foo": 1, "spec": {"containers": [{"name": "a", "imag": "b"}]}})).unwrap();
        assert_eq!(unknown, ["unknown field \"foo\"", "unknown field \"spec.containers[0].imag\""]);
        assert_eq!(value["spec"]["containers"], json!([{"name": "a", "resources": {}}]));
        assert!(value.get("foo").is_none());
    }

    #[test]
    fn the_written_form() {
        let given = json!({
            "metadata": {"name": "a", "labels": {}, "creationTimestamp": null},
            "spec": {"hostNetwork": false, "nodeName": "", "containers": [{"name": "a", "resources": {"limits": {"cpu": "0.5", "memory": 1024}}}], "volumes": null},
        });
        let expected = json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1024"}}}]},
            "status": {},
        });
        assert_eq!(checked(POD, given).unwrap().0, expected);
    }

    #[test]
    fn schemas_of_custom_resources_nest() {
        let kind = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let given = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {"a": {"items": {"tipe": "x"}, "additionalProperties": false}}}}}]}});
        let (_, unknown) = checked(kind, given).unwrap();
        assert_eq!(unknown.len(), 1, "{unknown:?}");
        assert!(unknown[0].ends_with("tipe\""));
    }
}
