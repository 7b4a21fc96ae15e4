//! Values that may be absent.

use super::{Cost, Outcome, Run, fault, mismatch};
use crate::fault::Fuel;
use crate::value::Value;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("optional.of", |args, _| Ok(Value::some(args[0].clone())), Cost::One),
    ("optional.none", |_, _| Ok(Value::Optional(None)), Cost::One),
    (
        "optional.ofNonZeroValue",
        |args, _| Ok(if is_zero(&args[0]) { Value::Optional(None) } else { Value::some(args[0].clone()) }),
        Cost::One,
    ),
    (
        "value",
        |args, _| match &args[0] {
            Value::Optional(Some(value)) => Ok((**value).clone()),
            Value::Optional(None) => fault("optional.none() dereference"),
            _ => mismatch(),
        },
        Cost::One,
    ),
    (
        "hasValue",
        |args, _| match &args[0] {
            Value::Optional(value) => Ok(Value::Bool(value.is_some())),
            _ => mismatch(),
        },
        Cost::One,
    ),
    ("optional.unwrap", unwrap, Cost::One),
    ("unwrapOpt", unwrap, Cost::One),
];

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) | Value::Bool(false) | Value::Int(0) | Value::Uint(0) => true,
        Value::Double(f) => *f == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Struct(made) => made.fields.is_empty(),
        _ => false,
    }
}

fn unwrap<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let Value::List(list) = &args[0] else { return mismatch() };
    fuel.spend(list.len())?;
    let mut items = Vec::new();
    for item in list.iter() {
        match item {
            Value::Optional(value) => items.extend(value.map(|value| (*value).clone())),
            _ => return mismatch(),
        }
    }
    Ok(Value::list(items))
}
