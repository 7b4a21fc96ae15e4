//! Reading and changing `metadata`.

use serde_json::{Map, Value};

/// A member of `metadata` as text; empty when absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "name")
}

/// A value deep inside, by the names on the way.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// Text deep inside; empty when absent.
pub(crate) fn text_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata`, made when it is not there.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    member(object, "metadata")
}

/// A member that is an object, made so when it is not.
pub(crate) fn member<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else { unreachable!("made an object above") };
    let member = map.entry(field).or_insert(Value::Null);
    if !member.is_object() {
        *member = Value::Object(Map::new());
    }
    let Value::Object(member) = member else { unreachable!("made an object above") };
    member
}

/// Sets a member of an object, or removes it when there is no value.
pub(crate) fn set(object: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => object.insert(field.to_owned(), value),
        None => object.remove(field),
    };
}

/// Makes a top-level member what it is in another object.
pub(crate) fn copy(object: &mut Value, from: &Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        set(object, field, from.get(field).cloned());
    }
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = at(object, &["metadata", "finalizers"]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// `metadata.generation`.
pub(crate) fn generation(object: &Value) -> i64 {
    at(object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether the object is being deleted.
pub(crate) fn deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some()
}

/// Makes `metadata.resourceVersion` that of another object.
pub(crate) fn copy_revision(object: &mut Value, from: &Value) {
    let revision = at(from, &["metadata", "resourceVersion"]).cloned();
    set(metadata(object), "resourceVersion", revision);
}
