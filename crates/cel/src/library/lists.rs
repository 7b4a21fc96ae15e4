//! Functions on lists and sets.

use super::{Cost, Outcome, Run, fault, mismatch, operators, strings};
use crate::fault::{Fault, Fuel};
use crate::value::{List, Value};
use std::cmp::Ordering;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("isSorted", is_sorted, Cost::Traverse),
    ("sum", sum, Cost::Traverse),
    ("max", |args, fuel| extreme(args, fuel, Ordering::Greater, "max"), Cost::Traverse),
    ("min", |args, fuel| extreme(args, fuel, Ordering::Less, "min"), Cost::Traverse),
    ("indexOf", |args, fuel| index_of(args, fuel, false), Cost::Traverse),
    ("lastIndexOf", |args, fuel| index_of(args, fuel, true), Cost::Traverse),
    ("includes", includes, Cost::Traverse),
    ("slice", slice, Cost::Grow),
    ("flatten", flatten, Cost::Flatten),
    ("lists.range", range, Cost::Grow),
    (
        "reverse",
        |args, fuel| {
            let mut items = items(&args[0], fuel)?;
            items.reverse();
            Ok(Value::list(items))
        },
        Cost::Grow,
    ),
    ("distinct", distinct, Cost::SelfCompare(0)),
    (
        "sort",
        |args, fuel| {
            let items = items(&args[0], fuel)?;
            sorted(items.clone(), &items)
        },
        Cost::SelfCompare(0),
    ),
    (
        "@sortByAssociatedKeys",
        |args, fuel| {
            let (list, keys) = (items(&args[0], fuel)?, items(&args[1], fuel)?);
            sorted(list, &keys)
        },
        Cost::SelfCompare(1),
    ),
    ("first", |args, _| end(args, false), Cost::One),
    ("last", |args, _| end(args, true), Cost::One),
    (
        "sets.contains",
        |args, fuel| {
            let (a, b) = pair(args, fuel)?;
            covers(&a, &b, fuel).map(Value::Bool)
        },
        Cost::Pairs(1),
    ),
    (
        "sets.equivalent",
        |args, fuel| {
            let (a, b) = pair(args, fuel)?;
            Ok(Value::Bool(covers(&a, &b, fuel)? && covers(&b, &a, fuel)?))
        },
        Cost::Pairs(2),
    ),
    (
        "sets.intersects",
        |args, fuel| {
            let (a, b) = pair(args, fuel)?;
            for item in &a {
                if has(&b, item, fuel)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        },
        Cost::Pairs(1),
    ),
];

/// Most numbers of a range.
const RANGE_MAX: i64 = 1_000_000;

fn items<'a>(value: &Value<'a>, fuel: &mut Fuel) -> Result<Vec<Value<'a>>, Fault> {
    match value {
        Value::List(list) => {
            fuel.spend(list.len())?;
            Ok(list.iter().collect())
        }
        _ => Err(Fault::overload()),
    }
}

fn pair<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Result<(Vec<Value<'a>>, Vec<Value<'a>>), Fault> {
    Ok((items(&args[0], fuel)?, items(&args[1], fuel)?))
}

fn has(list: &[Value<'_>], item: &Value<'_>, fuel: &mut Fuel) -> Result<bool, Fault> {
    for element in list {
        if element.same(item, fuel)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn covers(list: &[Value<'_>], part: &[Value<'_>], fuel: &mut Fuel) -> Result<bool, Fault> {
    for item in part {
        if !has(list, item, fuel)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_sorted<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let items = items(&args[0], fuel)?;
    for pair in items.windows(2) {
        if operators::order(&pair[0], &pair[1])? == Ordering::Greater {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let mut items = items(&args[0], fuel)?.into_iter();
    // What the type of the elements was is not known of an empty list at this point.
    let Some(mut total) = items.next() else { return Ok(Value::Int(0)) };
    for item in items {
        total = operators::add(&[total, item], fuel)?;
    }
    Ok(total)
}

fn extreme<'a>(args: &[Value<'a>], fuel: &mut Fuel, wins: Ordering, name: &str) -> Outcome<'a> {
    let mut items = items(&args[0], fuel)?.into_iter();
    let Some(mut best) = items.next() else { return fault(format!("{name} called on empty list")) };
    for item in items {
        if operators::order(&item, &best)? == wins {
            best = item;
        }
    }
    Ok(best)
}

fn index_of<'a>(args: &[Value<'a>], fuel: &mut Fuel, last: bool) -> Outcome<'a> {
    match args {
        [Value::String(text), Value::String(part)] => strings::index_of(text, part, None, last),
        [Value::String(text), Value::String(part), Value::Int(from)] => {
            strings::index_of(text, part, Some(*from), last)
        }
        [Value::List(list), item] => place(list, item, fuel, last),
        _ => mismatch(),
    }
}

fn place<'a>(list: &List<'a>, item: &Value<'a>, fuel: &mut Fuel, last: bool) -> Outcome<'a> {
    let len = list.len();
    for at in 0..len {
        let at = if last { len - 1 - at } else { at };
        if let Some(element) = list.get(at)
            && element.same(item, fuel)?
        {
            return Ok(Value::Int(at as i64));
        }
    }
    Ok(Value::Int(-1))
}

/// Whether a list has an element, or a value is equal to another.
fn includes<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    match &args[0] {
        list @ Value::List(_) => {
            let items = items(list, fuel)?;
            has(&items, &args[1], fuel).map(Value::Bool)
        }
        other => other.same(&args[1], fuel).map(Value::Bool),
    }
}

fn slice<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let [list, Value::Int(start), Value::Int(end)] = args else { return mismatch() };
    let items = items(list, fuel)?;
    if *start < 0 || *end < 0 {
        return fault(format!("cannot slice({start}, {end}), negative indexes not supported"));
    }
    if start > end {
        return fault(format!("cannot slice({start}, {end}), start index must be less than or equal to end index"));
    }
    match items.get(*start as usize..*end as usize) {
        Some(part) => Ok(Value::list(part.to_vec())),
        None => fault(format!("cannot slice({start}, {end}), list is length {}", items.len())),
    }
}

fn flatten<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let depth = match args {
        [_] => 1,
        [_, Value::Int(depth)] => *depth,
        _ => return mismatch(),
    };
    if depth < 0 {
        return fault("level must be non-negative");
    }
    let Value::List(list) = &args[0] else { return mismatch() };
    let mut flat = Vec::new();
    spread(list, depth.min(1000), &mut flat, fuel)?;
    Ok(Value::list(flat))
}

fn spread<'a>(list: &List<'a>, depth: i64, flat: &mut Vec<Value<'a>>, fuel: &mut Fuel) -> Result<(), Fault> {
    fuel.spend(list.len())?;
    for item in list.iter() {
        match item {
            Value::List(inner) if depth > 0 => spread(&inner, depth - 1, flat, fuel)?,
            other => flat.push(other),
        }
    }
    Ok(())
}

fn range<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let [Value::Int(n)] = args else { return mismatch() };
    if *n < 0 {
        return fault(format!("lists.range: size must be non-negative, got {n}"));
    }
    if *n > RANGE_MAX {
        return fault(format!("lists.range: size {n} exceeds maximum allowed ({RANGE_MAX})"));
    }
    fuel.spend(*n as usize)?;
    Ok(Value::list((0..*n).map(Value::Int).collect()))
}

fn distinct<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let mut kept: Vec<Value<'a>> = Vec::new();
    for item in items(&args[0], fuel)? {
        if !has(&kept, &item, fuel)? {
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

/// A list in the order of its keys; equal ones stay in theirs.
fn sorted<'a>(list: Vec<Value<'a>>, keys: &[Value<'a>]) -> Outcome<'a> {
    if list.len() != keys.len() {
        return fault("@sortByAssociatedKeys() expected a list of the same size as the associated keys list");
    }
    for pair in keys.windows(2) {
        let numeric = |v: &Value<'_>| matches!(v, Value::Int(_) | Value::Uint(_) | Value::Double(_));
        if std::mem::discriminant(&pair[0]) != std::mem::discriminant(&pair[1]) && !numeric(&pair[0]) {
            return fault("list elements must have the same type");
        }
        if operators::order(&pair[0], &pair[1]).is_err() {
            return fault("list elements must be comparable");
        }
    }
    let mut places: Vec<usize> = (0..list.len()).collect();
    places.sort_by(|a, b| operators::order(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::list(places.into_iter().map(|at| list[at].clone()).collect()))
}

fn end<'a>(args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let Value::List(list) = &args[0] else { return mismatch() };
    let at = if last { list.len().wrapping_sub(1) } else { 0 };
    Ok(list.get(at).map_or(Value::Optional(None), Value::some))
}
