//! Lists of type set and map: no element twice.

use super::{LISTS_BELOW, Node, Structural};
use crate::field::{FieldError, Path};
use crate::schema::ListType;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

impl Structural {
    /// The duplicates in lists of type set or map.
    pub fn validate_lists(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check(object, self.root(), &Path::default(), &mut errors);
        errors
    }
}

fn check(value: &Value, node: Node<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if !node.has(LISTS_BELOW) {
        return;
    }
    match value {
        Value::Array(list) => {
            match node.list_type() {
                Some(ListType::Set) => {
                    for index in repeated(list.iter().map(Value::to_string)) {
                        errors.push(FieldError::duplicate(&path.index(index), list[index].clone()));
                    }
                }
                Some(ListType::Map) => check_map(list, node, path, errors),
                _ => {}
            }
            if let Some(items) = node.items() {
                for (index, item) in list.iter().enumerate() {
                    check(item, items, &path.index(index), errors);
                }
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(values) = node.additional() {
                    check(value, values, &path.key(key), errors);
                }
                if let Some(field) = node.property(key) {
                    check(value, field, &path.child(key), errors);
                }
            }
        }
        _ => {}
    }
}

fn check_map(list: &[Value], node: Node<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(index) = list.iter().position(|item| !item.is_null() && !item.is_object()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(index), list[index].clone(), detail));
        return;
    }
    let keys: Vec<Value> = list
        .iter()
        .map(|item| {
            let key = |name: &str| item.get(name).map(|value| (name.to_owned(), value.clone()));
            Value::Object(node.map_keys().filter_map(key).collect::<Map<_, _>>())
        })
        .collect();
    for index in repeated(keys.iter().map(Value::to_string)) {
        errors.push(FieldError::duplicate(&path.index(index), json!(keys[index])));
    }
}

/// The index of the first repetition of each text that stands more than once.
fn repeated(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut repeated = Vec::new();
    for (index, text) in texts.enumerate() {
        let times = seen.entry(text).or_default();
        *times += 1;
        if *times == 2 {
            repeated.push(index);
        }
    }
    repeated
}
