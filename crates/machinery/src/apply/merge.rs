//! Putting an applied object onto the present one, and taking fields out again.

use super::element::Element;
use super::place::{Form, Items, Place};
use super::set::Set;
use crate::schema::ListType;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The present object with the applied one on top: members and items of the latter win, the others stay.
pub fn merge<'s, P: Place<'s>>(live: &Value, applied: &Value, place: P) -> Value {
    both(Some(live), Some(applied), place).unwrap_or_default()
}

fn both<'s, P: Place<'s>>(live: Option<&Value>, applied: Option<&Value>, place: P) -> Option<Value> {
    let (old, new) = match (live, applied) {
        (Some(old), Some(new)) => (old, new),
        (one, other) => return one.or(other).cloned(),
    };
    match place.form(new) {
        Form::Map { atomic: false } => match (old.as_object().filter(|map| !map.is_empty()), new.as_object()) {
            (Some(before), Some(after)) => members(before, after, place),
            // A null does not take away what others put there.
            (Some(_), None) => Some(old.clone()),
            (None, _) => Some(new.clone()),
        },
        Form::List { kind, item } if kind != ListType::Atomic => {
            let (before, after) = (items_of(old), items_of(new));
            if before.is_empty() && after.is_empty() {
                return Some(new.clone());
            }
            list(before, after, &Items::new(place, kind, item), item)
        }
        _ => Some(new.clone()),
    }
}

fn items_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members<'s, P: Place<'s>>(live: &Map<String, Value>, applied: &Map<String, Value>, place: P) -> Option<Value> {
    let mut out = live.clone();
    for (name, value) in applied {
        let Some(member) = place.member(name) else { continue };
        match both(live.get(name), Some(value), member.place) {
            Some(value) => out.insert(name.clone(), value),
            None => out.remove(name),
        };
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Items of both, in the order that the applied list gives those it names, the others where they were among them.
fn list<'s, P: Place<'s>>(live: &[Value], applied: &[Value], items: &Items<'s, P>, item: P) -> Option<Value> {
    let told = |values: &[Value]| -> Vec<(Element, usize)> {
        let elements = values.iter().enumerate().map(|(at, value)| items.element(value).ok().map(|found| (found, at)));
        elements.flatten().collect()
    };
    let (left, right) = (told(live), told(applied));
    // A live item that stands several times is not merged with, only replaced.
    let mut first: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, at) in &left {
        first.entry(element).and_modify(|found| *found = None).or_insert(Some(&live[*at]));
    }
    let wanted: BTreeMap<&Element, &Value> = right.iter().map(|(element, at)| (element, &applied[*at])).collect();
    let mut shared = right.iter().map(|(element, _)| element).filter(|element| first.contains_key(element)).peekable();
    let (mut done, mut out) = (BTreeSet::new(), Vec::with_capacity(left.len().max(right.len())));
    let (mut l, mut r) = (0, 0);
    let merged = |element: &Element| {
        let old = first.get(element).copied().flatten();
        both(old, wanted.get(element).copied(), item)
    };
    while l < left.len() || r < right.len() {
        if let (Some((old, _)), Some((new, _))) = (left.get(l), right.get(r)) {
            if old == new {
                done.insert(new);
                out.extend(merged(new));
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if wanted.contains_key(old) && shared.peek().is_some_and(|next| *next != old) {
                // It is shared, but its turn comes later.
                l += 1;
                continue;
            }
        }
        if let Some((old, at)) = left.get(l) {
            if !wanted.contains_key(old) {
                out.push(live[*at].clone());
                l += 1;
                continue;
            }
            if done.contains(old) {
                l += 1;
            }
        }
        if let Some((new, _)) = right.get(r) {
            done.insert(new);
            out.extend(merged(new));
            r += 1;
            if shared.peek().is_some_and(|next| *next == new) {
                shared.next();
            }
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

/// An object without the fields of a set.
pub(super) fn remove<'s, P: Place<'s>>(value: &Value, fields: &Set, place: P) -> Option<Value> {
    match (place.form(value), value) {
        (Form::Scalar(_), value) => Some(value.clone()),
        (Form::Map { atomic: false }, Value::Object(map)) if !map.is_empty() => remove_members(map, fields, place),
        (Form::List { kind, item }, Value::Array(values)) if kind != ListType::Atomic && !values.is_empty() => {
            remove_items(values, fields, &Items::new(place, kind, item), item)
        }
        _ => None,
    }
}

/// What is left of a member or item when what is below it was taken out: at least the empty object or list.
fn remainder<'s, P: Place<'s>>(value: &Value, below: &Set, place: P) -> Value {
    remove(value, below, place).unwrap_or_else(|| match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}

fn remove_members<'s, P: Place<'s>>(map: &Map<String, Value>, fields: &Set, place: P) -> Option<Value> {
    let (mut out, mut touched) = (Map::new(), false);
    for (name, value) in map {
        let value = match (fields.below(&Element::field(name)), place.member(name)) {
            (Some((true, _)), _) => continue,
            (Some((false, below)), Some(member)) => {
                touched = true;
                remainder(value, below, member.place)
            }
            _ => value.clone(),
        };
        out.insert(name.clone(), value);
    }
    (touched || !out.is_empty()).then_some(Value::Object(out))
}

fn remove_items<'s, P: Place<'s>>(values: &[Value], fields: &Set, items: &Items<'s, P>, item: P) -> Option<Value> {
    let (mut out, mut touched) = (Vec::with_capacity(values.len()), false);
    for value in values {
        let found = items.element(value).ok();
        let value = match found.as_ref().and_then(|element| fields.below(element)) {
            Some((true, _)) => continue,
            Some((false, below)) => {
                touched = true;
                remainder(value, below, item)
            }
            None => value.clone(),
        };
        out.push(value);
    }
    (touched || !out.is_empty()).then_some(Value::Array(out))
}

/// A set with the fields in it that the schema names and that only have members below them.
pub(super) fn with_named<'s, P: Place<'s>>(set: &Set, place: Option<P>) -> Set {
    let mut out = Set::default();
    for node in set.nodes() {
        // Of an item's place the kind of list does not matter.
        let (named, next) = match &node.element {
            Element::Field(name) => {
                let member = place.and_then(|place| place.member(name));
                (member.is_some_and(|member| member.named), member.map(|member| member.place))
            }
            Element::Key(_) => (false, place.and_then(item_place)),
            _ => (false, None),
        };
        let children = with_named(&node.children, next);
        out.push(|| node.element.clone(), node.owned || (named && !children.is_empty()), children);
    }
    out
}

fn item_place<'s, P: Place<'s>>(list: P) -> Option<P> {
    match list.form(&Value::Array(Vec::new())) {
        Form::List { item, .. } => Some(item),
        _ => None,
    }
}
