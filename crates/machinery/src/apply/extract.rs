//! The fields that an applied object names, and checking such an object against its schema.

use super::element::Element;
use super::place::{Form, Items, Place, Scalar};
use super::set::Set;
use crate::schema::ListType;
use serde_json::Value;
use std::collections::BTreeMap;

/// The fields of an object.
pub fn extract<'s, P: Place<'s>>(object: &Value, place: P) -> Set {
    walk(object, place).1
}

/// Whether the value itself is a leaf, and the fields below it.
fn walk<'s, P: Place<'s>>(value: &Value, place: P) -> (bool, Set) {
    let mut set = Set::default();
    match (place.form(value), value) {
        (Form::Scalar(_) | Form::Map { atomic: true } | Form::List { kind: ListType::Atomic, .. }, _) => {
            return (true, set);
        }
        (Form::Map { .. }, Value::Object(map)) => {
            for (name, value) in map {
                let Some(member) = place.member(name) else { continue };
                let (leaf, below) = walk(value, member.place);
                let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                set.push(|| Element::field(name), leaf || empty || !member.named, below);
            }
        }
        (Form::List { kind, item }, Value::Array(values)) => {
            items(values, &Items::new(place, kind, item), item, &mut set)
        }
        _ => {}
    }
    (false, set)
}

fn items<'s, P: Place<'s>>(values: &[Value], items: &Items<'s, P>, item: P, set: &mut Set) {
    let mut found: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
    for value in values {
        if let Ok(element) = items.element(value) {
            found.entry(element).or_default().push(value);
        }
    }
    for (element, values) in found {
        let below = if let [value] = values.as_slice() { walk(value, item).1 } else { Set::default() };
        set.push(|| element, true, below);
    }
}

/// What is wrong with an object that is applied, with upstream's words: fields its schema does not have, values of the wrong
/// type, items that stand twice.
pub fn check<'s, P: Place<'s>>(object: &Value, place: P) -> Result<(), String> {
    let mut errors = Vec::new();
    validate(object, place, &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        _ => Err(format!("errors:\n  {}", errors.join("\n  "))),
    }
}

fn validate<'s, P: Place<'s>>(value: &Value, place: P, path: &mut String, errors: &mut Vec<String>) {
    let mut complain = |what: String| errors.push(if path.is_empty() { what } else { format!("{path}: {what}") });
    match (place.form(value), value) {
        (_, Value::Null) => {}
        (Form::Scalar(scalar), value) => {
            if let Some(what) = wrong_scalar(scalar, value) {
                complain(what);
            }
        }
        (Form::Map { .. }, Value::Object(map)) => {
            for (name, value) in map {
                let before = path.len();
                path.push('.');
                path.push_str(name);
                let declared = match place.member(name) {
                    Some(member) => {
                        validate(value, member.place, path, errors);
                        true
                    }
                    None => {
                        errors.push(format!("{path}: field not declared in schema"));
                        false
                    }
                };
                path.truncate(before);
                if !declared {
                    return;
                }
            }
        }
        (Form::List { kind, item }, Value::Array(values)) => validate_items(values, place, (kind, item), path, errors),
        (Form::Map { .. }, value) => complain(format!("expected map, got &{{{}}}", shown(value))),
        (Form::List { .. }, value) => complain(format!("expected list, got &{{{}}}", shown(value))),
    }
}

fn validate_items<'s, P: Place<'s>>(
    values: &[Value],
    list: P,
    (kind, item): (ListType, P),
    path: &mut String,
    errors: &mut Vec<String>,
) {
    let told_apart = (kind != ListType::Atomic).then(|| Items::new(list, kind, item));
    let mut seen = std::collections::BTreeSet::new();
    for (at, value) in values.iter().enumerate() {
        let element = match &told_apart {
            None => Element::Index(at),
            Some(items) => match items.element(value) {
                Ok(element) => element,
                Err(why) => return errors.push(format!("{path}: element {at}: {why}")),
            },
        };
        let before = path.len();
        path.push_str(&element.to_string());
        validate(value, item, path, errors);
        path.truncate(before);
        if told_apart.is_some() {
            let shown = element.to_string();
            if !seen.insert(element) {
                errors.push(format!("{path}: duplicate entries for key {shown}"));
            }
        }
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    let good = match scalar {
        Scalar::Numeric => value.is_number(),
        Scalar::String => value.is_string(),
        Scalar::Boolean => value.is_boolean(),
        Scalar::Any => !value.is_object() && !value.is_array(),
    };
    if good {
        return None;
    }
    let go_type = match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    };
    Some(match scalar {
        Scalar::Numeric => format!("expected numeric (int or float), got {go_type}"),
        Scalar::String => format!("expected string, got &value.valueUnstructured{{Value:{}}}", quoted(value)),
        Scalar::Boolean => format!("expected boolean, got &{{{}}}", shown(value)),
        Scalar::Any => format!("expected any scalar, got &{{{}}}", shown(value)),
    })
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let members = map.iter().map(|(name, value)| format!("{name}:{}", shown(value)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) | Value::Object(_) => {
            let ty = if value.is_array() { "[]interface {}" } else { "map[string]interface {}" };
            format!("{ty}{{{}}}", shown(value))
        }
        other => other.to_string(),
    }
}
