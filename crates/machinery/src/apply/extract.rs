//! The fields that an applied object names, and checking such an object against its schema.

use super::element::Element;
use super::place::{Form, Items, Place, Scalar};
use super::set::Set;
use crate::schema::ListType;
use serde_json::Value;

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
    let mut told = items.told(values).into_iter().peekable();
    while let Some((element, value)) = told.next() {
        let mut several = false;
        while told.next_if(|(next, _)| *next == element).is_some() {
            several = true;
        }
        let below = if several { Set::default() } else { walk(value, item).1 };
        set.push(|| element, true, below);
    }
}

/// What is wrong with an object that is applied, with upstream's words: fields its schema does not have, values of the wrong
/// type, items that stand twice.
pub fn check<'s, P: Place<'s>>(object: &Value, place: P) -> Result<(), String> {
    let mut errors = Vec::new();
    validate(object, place, &mut errors);
    let mut told =
        errors.into_iter().map(|Wrong { path, what }| if path.is_empty() { what } else { format!("{path}: {what}") });
    match (told.next(), told.next()) {
        (None, _) => Ok(()),
        (Some(one), None) => Err(one),
        (Some(one), Some(two)) => {
            Err(["errors:".to_owned(), one, two].into_iter().chain(told).collect::<Vec<_>>().join("\n  "))
        }
    }
}

struct Wrong {
    path: String,
    what: String,
}

fn wrong(what: impl Into<String>) -> Wrong {
    Wrong { path: String::new(), what: what.into() }
}

/// Puts a step before the paths of the errors since some.
fn below(errors: &mut [Wrong], step: impl Fn() -> String) {
    for error in errors {
        error.path.insert_str(0, &step());
    }
}

fn validate<'s, P: Place<'s>>(value: &Value, place: P, errors: &mut Vec<Wrong>) {
    match (place.form(value), value) {
        (_, Value::Null) => {}
        (Form::Scalar(scalar), value) => errors.extend(wrong_scalar(scalar, value).map(wrong)),
        (Form::Map { .. }, Value::Object(map)) => {
            for (name, value) in map {
                let (since, member) = (errors.len(), place.member(name));
                match member {
                    Some(member) => validate(value, member.place, errors),
                    None => errors.push(wrong("field not declared in schema")),
                }
                below(&mut errors[since..], || format!(".{name}"));
                if member.is_none() {
                    return;
                }
            }
        }
        (Form::List { kind, item }, Value::Array(values)) => validate_items(values, place, (kind, item), errors),
        (Form::Map { .. }, value) => errors.push(wrong(format!("expected map, got &{{{}}}", shown(value)))),
        (Form::List { .. }, value) => errors.push(wrong(format!("expected list, got &{{{}}}", shown(value)))),
    }
}

fn validate_items<'s, P: Place<'s>>(values: &[Value], list: P, (kind, item): (ListType, P), errors: &mut Vec<Wrong>) {
    let told_apart = (kind != ListType::Atomic).then(|| Items::new(list, kind, item));
    let mut seen = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let element = match &told_apart {
            None => Element::Index(at),
            Some(items) => match items.element(value) {
                Ok(element) => element,
                Err(why) => return errors.push(wrong(format!("element {at}: {why}"))),
            },
        };
        let since = errors.len();
        validate(value, item, errors);
        below(&mut errors[since..], || element.to_string());
        seen.push(element);
    }
    seen.sort();
    for pair in seen.windows(2).filter(|pair| pair[0] == pair[1]) {
        errors.push(wrong(format!("duplicate entries for key {}", pair[0])));
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
