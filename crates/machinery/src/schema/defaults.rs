//! Defaults that the schema itself declares.

use super::{Shape, StructRef, TypeRef};
use serde_json::{Map, Value};

/// Sets every absent field that the schema declares a default for, wherever its parent is there. Kind-specific defaulting is
/// in the `api` crate.
pub fn apply_defaults(value: &mut Value, ty: TypeRef<'_>) {
    match (ty.shape(), value) {
        (Shape::Struct(s), Value::Object(map)) => defaults_of(map, s),
        (Shape::List(element), Value::Array(items)) if !is_scalar(element) => {
            items.iter_mut().for_each(|item| apply_defaults(item, element));
        }
        (Shape::Map(element), Value::Object(map)) if !is_scalar(element) => {
            map.values_mut().for_each(|item| apply_defaults(item, element));
        }
        _ => {}
    }
}

fn defaults_of(map: &mut Map<String, Value>, s: StructRef<'_>) {
    for (name, value) in map.iter_mut() {
        if let Some(field) = s.field(name) {
            apply_defaults(value, field.ty());
        }
    }
    for field in s.fields() {
        let Some(default) = field.default() else { continue };
        let absent =
            map.get(field.name()).is_none_or(|v| v.is_null() || (!field.ty().is_pointer() && v.as_str() == Some("")));
        if absent && let Ok(value) = serde_json::from_str(default) {
            map.insert(field.name().to_owned(), value);
        }
    }
}

fn is_scalar(ty: TypeRef<'_>) -> bool {
    !matches!(ty.shape(), Shape::Struct(_) | Shape::List(_) | Shape::Map(_))
}
