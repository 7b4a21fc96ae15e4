//! Pruning: removing what the schema does not know.

use super::{EMBEDDED_BELOW, Node, Structural};
use serde_json::Value;
use std::fmt::Write;

/// Unknown fields told at most.
const UNKNOWN_MAX: usize = 100;

/// Where the pruner is; spelled only when a field is unknown.
#[derive(Clone, Copy)]
struct At<'a> {
    above: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl At<'_> {
    fn spell(&self, text: &mut String) {
        if let Some(above) = self.above {
            above.spell(text);
        }
        match self.step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
        }
    }
}

fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

impl Structural {
    /// Removes the fields that the schema does not know, and nulls where null is no value and there is no default; the paths of the
    /// fields removed, sorted. The object's `apiVersion`, `kind` and `metadata` stay as they are, likewise those of embedded objects.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut pruner = Pruner { unknown: Vec::new() };
        pruner.prune(object, Some(self.root()), (true, false), None);
        drop_nulls(object, Some(self.root()));
        pruner.unknown.sort();
        pruner.unknown
    }

    /// The same of any value, not an object of its own.
    pub fn prune_value(&self, value: &mut Value) -> Vec<String> {
        let mut pruner = Pruner { unknown: Vec::new() };
        pruner.prune(value, Some(self.root()), (self.root().is_embedded(), false), None);
        pruner.unknown
    }

    /// Calls `visit` for every embedded object (not for the object itself), with its path.
    pub fn visit_embedded<E>(
        &self,
        object: &mut Value,
        visit: &mut dyn FnMut(&str, &mut Value) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.root().has(EMBEDDED_BELOW) {
            return Ok(());
        }
        embedded(object, self.root(), None, visit)
    }
}

struct Pruner {
    unknown: Vec<String>,
}

impl Pruner {
    fn report(&mut self, at: At<'_>) {
        if self.unknown.len() < UNKNOWN_MAX {
            let mut text = String::new();
            at.spell(&mut text);
            self.unknown.push(text);
        }
    }

    /// `embedded`: apiVersion, kind and metadata stay whatever the schema says; `keep`: unknown fields do, on this level.
    fn prune(
        &mut self,
        value: &mut Value,
        node: Option<Node<'_>>,
        (embedded, keep): (bool, bool),
        above: Option<&At<'_>>,
    ) {
        let preserve = keep || node.is_some_and(Node::preserves_unknown);
        match value {
            Value::Object(map) => map.retain(|key, value| {
                let at = At { above, step: Step::Key(key) };
                if embedded && is_meta(key) {
                    return true;
                }
                match node.and_then(|node| node.property(key)) {
                    Some(property) => self.prune(value, Some(property), (property.is_embedded(), false), Some(&at)),
                    None => match node {
                        Some(node) if node.is_map() => {
                            let values = node.additional();
                            self.prune(value, values, (values.is_some_and(Node::is_embedded), false), Some(&at));
                        }
                        _ if preserve => {}
                        _ => {
                            self.report(at);
                            return false;
                        }
                    },
                }
                true
            }),
            Value::Array(list) => {
                let items = node.and_then(Node::items);
                if preserve && items.is_none() {
                    return;
                }
                for (index, item) in list.iter_mut().enumerate() {
                    let at = At { above, step: Step::Index(index) };
                    self.prune(item, items, (items.is_some_and(Node::is_embedded), preserve), Some(&at));
                }
            }
            _ => {}
        }
    }
}

/// Removes nulls of maps whose schema neither allows null nor has a default to put in its place.
fn drop_nulls(value: &mut Value, node: Option<Node<'_>>) {
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let field = node.and_then(|node| node.property(key).or_else(|| node.additional()));
            if value.is_null() && field.is_some_and(|field| !field.is_nullable() && field.default().is_none()) {
                return false;
            }
            drop_nulls(value, field);
            true
        }),
        Value::Array(list) => {
            let items = node.and_then(Node::items);
            list.iter_mut().for_each(|item| drop_nulls(item, items));
        }
        _ => {}
    }
}

fn embedded<E>(
    value: &mut Value,
    node: Node<'_>,
    above: Option<&At<'_>>,
    visit: &mut dyn FnMut(&str, &mut Value) -> Result<(), E>,
) -> Result<(), E> {
    if node.is_embedded() && value.is_object() {
        let mut path = String::new();
        if let Some(above) = above {
            above.spell(&mut path);
        }
        visit(&path, value)?;
    }
    if !node.has(EMBEDDED_BELOW) {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let at = At { above, step: Step::Key(key) };
                if let Some(field) = node.property(key).or_else(|| node.additional()) {
                    embedded(value, field, Some(&at), visit)?;
                }
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                let at = At { above, step: Step::Index(index) };
                if let Some(items) = node.items() {
                    embedded(item, items, Some(&at), visit)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
