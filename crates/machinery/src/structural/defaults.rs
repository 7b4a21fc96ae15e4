//! Defaulting.

use super::{DEFAULTS_BELOW, Node, Structural};
use serde_json::Value;

impl Structural {
    /// Sets what is absent and has a default, and puts the default in the place of a null that may not be. Applying it twice
    /// changes nothing.
    pub fn default(&self, object: &mut Value) {
        default(object, self.root());
    }
}

fn replaced(value: &Value, node: Node<'_>) -> bool {
    value.is_null() && !node.is_nullable()
}

fn default(value: &mut Value, node: Node<'_>) {
    if !node.has(DEFAULTS_BELOW) {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, field) in node.properties() {
                let Some(default) = field.default() else { continue };
                if map.get(name).is_none_or(|value| replaced(value, field)) {
                    map.insert(name.to_owned(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(field) = node.property(name) {
                    default(value, field);
                } else if let Some(values) = node.additional() {
                    element(value, values);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items() {
                list.iter_mut().for_each(|item| element(item, items));
            }
        }
        _ => {}
    }
}

fn element(value: &mut Value, node: Node<'_>) {
    if replaced(value, node)
        && let Some(default) = node.default()
    {
        *value = default.clone();
    }
    default(value, node);
}
