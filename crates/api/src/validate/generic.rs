//! What the schema alone says: required fields and values out of a list. For kinds without checks of their own.

use super::at::{At, Errors};
use machinery::schema::{FieldRef, Schema, Shape, StructRef, TypeRef};
use serde_json::{Map, Value};

/// Fields (struct, name) that the schema requires and that may be empty all the same: a node without storage drivers, the core
/// group.
const MAY_BE_EMPTY: [(&str, &str); 2] = [("CSINodeSpec", "drivers"), ("GroupResource", "group")];

/// Checks all but the metadata of an object.
pub(super) fn check(group: &str, version: &str, kind: &str, object: &Value, errors: &mut Errors) {
    let ty = Schema::builtin().kind(group, version, kind);
    let (Some(Value::Object(map)), Some(s)) = (Some(object), ty.and_then(TypeRef::as_struct)) else { return };
    for field in s.fields().filter(|f| !matches!(f.name(), "metadata" | "status" | "kind" | "apiVersion")) {
        check_field(map, s, field, &At::root(field.name()), errors);
    }
}

fn check_field(map: &Map<String, Value>, owner: StructRef<'_>, field: FieldRef<'_>, at: &At<'_>, errors: &mut Errors) {
    let value = map.get(field.name()).unwrap_or(&Value::Null);
    if is_empty(value) {
        if field.is_required()
            && !MAY_BE_EMPTY.contains(&(owner.kind(), field.name()))
            && !matches!(field.ty().shape(), Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Struct(_))
        {
            errors.required(at, "");
        }
        return;
    }
    if let Value::String(text) = value {
        let values: Vec<&str> = field.enumeration().collect();
        if !values.is_empty() {
            errors.one_of(at, text, &values);
        }
        return;
    }
    let elements: Vec<&str> = field.element_enumeration().collect();
    if let (Value::Array(items), false) = (value, elements.is_empty()) {
        for (index, item) in items.iter().enumerate() {
            errors.one_of(&at.index(index), item.as_str().unwrap_or_default(), &elements);
        }
        return;
    }
    check_value(value, field.ty(), at, errors);
}

fn check_value(value: &Value, ty: TypeRef<'_>, at: &At<'_>, errors: &mut Errors) {
    match (ty.shape(), value) {
        (Shape::Struct(s), Value::Object(map)) => check_struct(map, s, at, errors),
        (Shape::List(element), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check_value(item, element, &at.index(index), errors);
            }
        }
        (Shape::Map(element), Value::Object(map)) => {
            for (key, item) in map {
                check_value(item, element, &at.key(key), errors);
            }
        }
        _ => {}
    }
}

fn check_struct(map: &Map<String, Value>, s: StructRef<'_>, at: &At<'_>, errors: &mut Errors) {
    for field in s.fields() {
        check_field(map, s, field, &at.field(field.name()), errors);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
