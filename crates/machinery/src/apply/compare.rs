//! What differs between two states of an object: one walk over both.

use super::element::{Element, same};
use super::place::{Form, Items, Place};
use super::set::Set;
use crate::schema::ListType;
use serde_json::{Map, Value};

/// What became of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// New or with another value.
    pub set: Set,
    /// Gone.
    pub removed: Set,
}

/// What became of a field itself, apart from what is below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Set,
    Removed,
}

impl Change {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// Leaves out what is at or below the paths of a set.
    pub fn without(self, other: &Set) -> Change {
        Change { set: self.set.without(other), removed: self.removed.without(other) }
    }

    fn push(&mut self, element: impl Fn() -> Element, (fate, below): (Fate, Change)) {
        self.set.push(&element, fate == Fate::Set, below.set);
        self.removed.push(&element, fate == Fate::Removed, below.removed);
    }
}

/// Compares two states of an object.
pub fn compare<'s, P: Place<'s>>(old: &Value, new: &Value, place: P) -> Change {
    let mut change = walk(Some(old), Some(new), place).1;
    // Who owns the list of owners is not kept.
    let own = Set::of(&["metadata", "managedFields"]);
    if change.set.intersects(&own) || change.removed.intersects(&own) {
        change = change.without(&own);
    }
    change
}

fn walk<'s, P: Place<'s>>(old: Option<&Value>, new: Option<&Value>, place: P) -> (Fate, Change) {
    let mut change = Change::default();
    let fate = match (old, new) {
        (None, None) => Fate::Kept,
        (Some(one), None) | (None, Some(one)) => at(old, new, place, place.form(one), &mut change),
        (Some(before), Some(after)) => {
            let (was, is) = (place.form(before), place.form(after));
            let first = if kind_of(&was) == kind_of(&is) { Fate::Kept } else { at(old, new, place, was, &mut change) };
            let second = at(old, new, place, is, &mut change);
            if second == Fate::Kept { first } else { second }
        }
    };
    (fate, change)
}

fn kind_of<P>(form: &Form<P>) -> u8 {
    match form {
        Form::Scalar(_) => 0,
        Form::Map { .. } => 1,
        Form::List { .. } => 2,
    }
}

fn at<'s, P: Place<'s>>(
    old: Option<&Value>,
    new: Option<&Value>,
    place: P,
    form: Form<P>,
    change: &mut Change,
) -> Fate {
    let branched = match form {
        Form::Scalar(_) | Form::Map { atomic: true } | Form::List { kind: ListType::Atomic, .. } => false,
        Form::Map { .. } => {
            let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            // What is empty on both sides is a leaf, so that empty and null differ.
            let empty = before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty);
            if !empty {
                members(before, after, place, change);
            }
            !empty
        }
        Form::List { kind, item } => {
            let (before, after) = (items_of(old), items_of(new));
            let empty = before.is_empty() && after.is_empty();
            if !empty && before != after {
                list(before, after, &Items::new(place, kind, item), item, change);
            }
            !empty
        }
    };
    match (old, new) {
        (None, _) => Fate::Set,
        (_, None) => Fate::Removed,
        (Some(old), Some(new)) if !branched && !same(old, new) => Fate::Set,
        _ => Fate::Kept,
    }
}

fn items_of(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn members<'s, P: Place<'s>>(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    place: P,
    change: &mut Change,
) {
    let mut visit = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        if let Some(member) = place.member(name) {
            change.push(|| Element::field(name), walk(before, after, member.place));
        }
    };
    let (mut left, mut right) = (old.into_iter().flatten().peekable(), new.into_iter().flatten().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        let before = if order.is_le() { left.next() } else { None };
        let after = if order.is_ge() { right.next() } else { None };
        let name = before.or(after).map_or("", |(name, _)| name.as_str());
        visit(name, before.map(|(_, value)| value), after.map(|(_, value)| value));
    }
}

fn list<'s, P: Place<'s>>(old: &[Value], new: &[Value], items: &Items<'s, P>, item: P, change: &mut Change) {
    let (left, right) = (items.told(old), items.told(new));
    let (mut left, mut right) = (left.as_slice(), right.as_slice());
    while let Some(element) = least(left, right) {
        let (before, after) = (taken(&mut left, element), taken(&mut right, element));
        let found = match (before, after) {
            ([] | [_], [] | [_]) => {
                walk(before.first().map(|(_, value)| *value), after.first().map(|(_, value)| *value), item)
            }
            // Items that stand several times are one value together.
            ([_, _, ..], [_, _, ..]) => {
                let kept = before.len() == after.len() && before.iter().zip(after).all(|((_, a), (_, b))| same(a, b));
                (if kept { Fate::Kept } else { Fate::Set }, Change::default())
            }
            ([_, _, ..], _) => {
                change.removed.push(|| element.clone(), true, Set::default());
                walk(None, after.first().map(|(_, value)| *value), item)
            }
            (_, [_, _, ..]) => {
                change.set.push(|| element.clone(), true, Set::default());
                walk(before.first().map(|(_, value)| *value), None, item)
            }
        };
        change.push(|| element.clone(), found);
    }
}

/// Items with their path elements, sorted by these.
type Told<'v> = [(Element, &'v Value)];

fn least<'t>(left: &'t Told<'_>, right: &'t Told<'_>) -> Option<&'t Element> {
    match (left.first(), right.first()) {
        (Some((a, _)), Some((b, _))) => Some(a.min(b)),
        (one, other) => one.or(other).map(|(element, _)| element),
    }
}

/// Takes the items of an element off the front.
fn taken<'t, 'v>(told: &mut &'t Told<'v>, element: &Element) -> &'t Told<'v> {
    let count = told.iter().take_while(|(own, _)| own == element).count();
    let (taken, rest) = told.split_at(count);
    *told = rest;
    taken
}
