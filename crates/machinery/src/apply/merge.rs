//! Putting an applied object onto the present one, and taking fields out again.

use super::element::Element;
use super::place::{Form, Items, Place};
use super::set::Set;
use crate::schema::ListType;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Puts an applied object on top of the present one: members and items of the former win, the others stay.
pub fn merge<'s, P: Place<'s>>(live: &mut Value, applied: &Value, place: P) {
    match (place.form(applied), &mut *live, applied) {
        (Form::Map { atomic: false }, Value::Object(before), Value::Object(after)) if !before.is_empty() => {
            members(before, after, place);
        }
        // A null does not take away what others put there.
        (Form::Map { atomic: false }, Value::Object(before), Value::Null) if !before.is_empty() => {}
        (Form::List { kind, item }, Value::Array(before), applied)
            if kind != ListType::Atomic && !before.is_empty() =>
        {
            let items = Items::new(place, kind, item);
            *before = list(std::mem::take(before), items_of(applied), &items, item);
        }
        _ => live.clone_from(applied),
    }
}

fn items_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members<'s, P: Place<'s>>(live: &mut Map<String, Value>, applied: &Map<String, Value>, place: P) {
    for (name, value) in applied {
        match (live.get_mut(name), place.member(name)) {
            (_, None) => {}
            (Some(old), Some(member)) => merge(old, value, member.place),
            (None, Some(_)) => drop(live.insert(name.clone(), value.clone())),
        }
    }
}

/// Items of both, in the order that the applied list gives those it names, the others where they were among them.
fn list<'s, P: Place<'s>>(live: Vec<Value>, applied: &[Value], items: &Items<'s, P>, item: P) -> Vec<Value> {
    let told = |values: &[Value]| -> Vec<Option<Element>> { values.iter().map(|v| items.element(v).ok()).collect() };
    let (left, right) = (told(&live), told(applied));
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let named: BTreeSet<&Element> = right.iter().flatten().collect();
    // Where the items that both have stand among the live ones.
    let mut places: BTreeMap<&Element, Vec<usize>> = BTreeMap::new();
    for (at, own) in left.iter().enumerate() {
        if let Some(own) = own.as_ref().filter(|own| named.contains(own)) {
            places.entry(own).or_default().push(at);
        }
    }
    let is_shared = |own: &Option<Element>| own.as_ref().is_some_and(|own| places.contains_key(own));
    let mut shared = right.iter().filter(|own| is_shared(own)).peekable();
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        let meet = l < left.len() && r < right.len() && left[l].is_some() && left[l] == right[r];
        if l < left.len() && !meet {
            if !is_shared(&left[l]) {
                out.extend(live[l].take());
                l += 1;
                continue;
            }
            if r < right.len() && shared.peek().is_some_and(|next| **next != left[l]) {
                // Its turn comes later.
                l += 1;
                continue;
            }
        }
        // What was merged out of its turn is not taken twice.
        l += usize::from(l < left.len() && (meet || live[l].is_none()));
        if r < right.len() {
            let own = right[r].as_ref().and_then(|own| places.get(own)).map_or(&[][..], Vec::as_slice);
            let mut olds: Vec<Value> = own.iter().filter_map(|at| live[*at].take()).collect();
            // A live item that stands several times is not merged with, only replaced.
            let mut value = if let [_] = olds.as_slice() { olds.remove(0) } else { Value::Null };
            merge(&mut value, &applied[r], item);
            out.push(value);
            if meet || shared.peek().is_some_and(|next| **next == right[r]) {
                shared.next();
            }
            r += 1;
        }
    }
    out
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

pub(super) fn item_place<'s, P: Place<'s>>(list: P) -> Option<P> {
    match list.form(&Value::Array(Vec::new())) {
        Form::List { item, .. } => Some(item),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Builtin;
    use super::*;
    use crate::apply::{compare, extract};
    use crate::schema::Schema;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod() -> Builtin<'static> {
        Builtin::new(Schema::builtin().kind("", "v1", "Pod").unwrap())
    }

    fn merged(mut live: Value, applied: &Value) -> Value {
        merge(&mut live, applied, pod());
        live
    }

    fn containers(names: &[&str]) -> Value {
        json!({"spec": {"containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}})
    }

    #[test]
    fn items_keep_the_applied_order() {
        for (live, applied, expected) in [
            (&["a", "b", "c"][..], &["c", "x", "a"][..], &["b", "c", "x", "a"][..]),
            (&["a", "b", "c"], &["b"], &["a", "b", "c"]),
            (&["a", "b"], &["x"], &["a", "b", "x"]),
            (&["a", "b"], &["b", "a"], &["b", "a"]),
            (&["a", "a", "b"], &["a"], &["a", "b"]),
            (&["a", "b", "a"], &["a", "c"], &["a", "b", "c"]),
            (&[], &["a"], &["a"]),
            (&["a"], &[], &["a"]),
        ] {
            assert_eq!(merged(containers(live), &containers(applied)), containers(expected), "{live:?} {applied:?}");
        }
    }

    #[test]
    fn nulls_and_empties() {
        for (live, applied, expected) in [
            (
                json!({"spec": {"nodeSelector": {"a": "b"}}}),
                json!({"spec": null}),
                json!({"spec": {"nodeSelector": {"a": "b"}}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "b"}}}),
                json!({"metadata": {"labels": null}}),
                json!({"metadata": {"labels": {"a": "b"}}}),
            ),
            (
                json!({"metadata": {"labels": {}}}),
                json!({"metadata": {"labels": null}}),
                json!({"metadata": {"labels": null}}),
            ),
            (
                json!({"spec": {"nodeSelector": {"a": "b"}}}),
                json!({"spec": {"nodeSelector": {"c": "d"}}}),
                json!({"spec": {"nodeSelector": {"c": "d"}}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "b"}}}),
                json!({"metadata": {"labels": {"c": "d"}}}),
                json!({"metadata": {"labels": {"a": "b", "c": "d"}}}),
            ),
        ] {
            assert_eq!(merged(live.clone(), &applied), expected, "{live} {applied}");
        }
    }

    /// Pods, with items that stand twice or without.
    fn any_pod(twice: bool) -> impl Strategy<Value = Value> {
        let port = (1..4_i64, any::<bool>()).prop_map(|(port, udp)| {
            if udp { json!({"containerPort": port, "protocol": "UDP"}) } else { json!({"containerPort": port}) }
        });
        let name = prop::sample::select(vec!["a", "b", "c", "d"]);
        let container = (name, prop::collection::vec(port, 1..3), "[x-z]")
            .prop_map(|(name, ports, image)| json!({"name": name, "image": image, "ports": ports}));
        let labels = prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
        (prop::collection::vec(container, 1..5), labels).prop_map(move |(mut containers, labels)| {
            if !twice {
                once(&mut containers, |container| container["name"].to_string());
                for container in &mut containers {
                    once(container["ports"].as_array_mut().unwrap(), Value::to_string);
                }
            }
            json!({"metadata": {"labels": labels}, "spec": {"containers": containers}})
        })
    }

    fn once(items: &mut Vec<Value>, key: impl Fn(&Value) -> String) {
        let mut seen = BTreeSet::new();
        items.retain(|item| seen.insert(key(item)));
    }

    proptest! {
        #[test]
        fn what_is_applied_is_there_and_nothing_else_changes(live in any_pod(true), applied in any_pod(false)) {
            let once = merged(live.clone(), &applied);
            prop_assert_eq!(merged(once.clone(), &applied), once.clone());
            let fields = extract(&applied, pod());
            let mine = compare(&applied, &once, pod());
            prop_assert!(!fields.intersects(&mine.set) && mine.removed.is_empty(), "{} {}", once, applied);
            // But for what was told apart by nothing in the live object, only applied fields change.
            if crate::apply::check(&live, pod()).is_ok() {
                let change = compare(&live, &once, pod());
                prop_assert!(change.set.is_within(&with_named(&fields, Some(pod()))) && change.removed.is_empty());
            }
        }

        #[test]
        fn what_is_removed_is_gone(object in any_pod(false)) {
            let fields = extract(&object, pod());
            let left = remove(&object, &with_named(&fields, Some(pod())), pod()).unwrap_or_default();
            prop_assert!(extract(&left, pod()).is_empty(), "{left}");
        }
    }
}
