//! Operators: logic, comparison, arithmetic with overflow, membership, size.

use super::{Cost, Outcome, Run, fault, mismatch};
use crate::fault::{Fault, Fuel};
use crate::value::{List, Value, chars, numeric_order};
use std::cmp::Ordering;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    (
        "!_",
        |args, _| match args {
            [Value::Bool(b)] => Ok(Value::Bool(!b)),
            _ => mismatch(),
        },
        Cost::One,
    ),
    ("_==_", |args, fuel| args[0].same(&args[1], fuel).map(Value::Bool), Cost::Equal),
    ("_!=_", |args, fuel| args[0].same(&args[1], fuel).map(|same| Value::Bool(!same)), Cost::Equal),
    ("_<_", |args, _| compare(args, |order| order == Ordering::Less), Cost::Compare),
    ("_<=_", |args, _| compare(args, |order| order != Ordering::Greater), Cost::Compare),
    ("_>_", |args, _| compare(args, |order| order == Ordering::Greater), Cost::Compare),
    ("_>=_", |args, _| compare(args, |order| order != Ordering::Less), Cost::Compare),
    ("_+_", add, Cost::Add),
    ("_-_", subtract, Cost::One),
    ("_*_", multiply, Cost::One),
    ("_/_", divide, Cost::One),
    ("_%_", modulo, Cost::One),
    (
        "-_",
        |args, _| match args {
            [Value::Int(n)] => n.checked_neg().map_or_else(overflow, |n| Ok(Value::Int(n))),
            [Value::Double(n)] => Ok(Value::Double(-n)),
            _ => mismatch(),
        },
        Cost::One,
    ),
    ("@in", |args, fuel| contained(&args[0], &args[1], fuel), Cost::In),
    (
        "size",
        |args, _| match &args[0] {
            Value::String(text) => Ok(Value::Int(chars(text) as i64)),
            Value::Bytes(bytes) => Ok(Value::Int(bytes.len() as i64)),
            Value::List(list) => Ok(Value::Int(list.len() as i64)),
            Value::Map(map) => Ok(Value::Int(map.len() as i64)),
            _ => mismatch(),
        },
        Cost::One,
    ),
    ("type", |args, _| Ok(Value::Type(args[0].type_name().into())), Cost::One),
    ("dyn", |args, _| Ok(args[0].clone()), Cost::One),
];

fn overflow<'a>() -> Outcome<'a> {
    fault("integer overflow")
}

fn unsigned_overflow<'a>() -> Outcome<'a> {
    fault("unsigned integer overflow")
}

/// The order of two values that have one.
pub(super) fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, Fault> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok((**a).cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Double(n), _) | (_, Value::Double(n)) if n.is_nan() => Err(Fault::new("NaN values cannot be ordered")),
        (a, b) => numeric_order(a, b).ok_or_else(Fault::overload),
    }
}

fn compare<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Outcome<'a> {
    order(&args[0], &args[1]).map(|order| Value::Bool(holds(order)))
}

fn contained<'a>(item: &Value<'_>, container: &Value<'_>, fuel: &mut Fuel) -> Outcome<'a> {
    match container {
        Value::List(list) => {
            for element in list.iter() {
                if element.same(item, fuel)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        Value::Map(map) => Ok(Value::Bool(map.get(item).is_some())),
        _ => mismatch(),
    }
}

/// The sum of two values.
pub(super) fn add<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_add(*b).map_or_else(overflow, |n| Ok(Value::Int(n))),
        [Value::Uint(a), Value::Uint(b)] => a.checked_add(*b).map_or_else(unsigned_overflow, |n| Ok(Value::Uint(n))),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => {
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Value::string(text))
        }
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([&**a, &**b].concat().into())),
        [Value::List(a), Value::List(b)] => concat(a, b, fuel),
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_add(*b).map_or_else(|| fault("duration overflow"), |n| Ok(Value::Duration(n)))
        }
        [Value::Timestamp(at), Value::Duration(n)] | [Value::Duration(n), Value::Timestamp(at)] => {
            super::time::shifted(*at, *n)
        }
        _ => mismatch(),
    }
}

fn concat<'a>(a: &List<'a>, b: &List<'a>, fuel: &mut Fuel) -> Outcome<'a> {
    fuel.spend(a.len() + b.len())?;
    let mut items = Vec::with_capacity(a.len() + b.len());
    items.extend(a.iter());
    items.extend(b.iter());
    Ok(Value::list(items))
}

fn subtract<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_sub(*b).map_or_else(overflow, |n| Ok(Value::Int(n))),
        [Value::Uint(a), Value::Uint(b)] => a.checked_sub(*b).map_or_else(unsigned_overflow, |n| Ok(Value::Uint(n))),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_sub(*b).map_or_else(|| fault("duration overflow"), |n| Ok(Value::Duration(n)))
        }
        [Value::Timestamp(at), Value::Duration(n)] => match n.checked_neg() {
            Some(n) => super::time::shifted(*at, n),
            None => fault("timestamp overflow"),
        },
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map_or_else(|_| fault("duration overflow"), |n| Ok(Value::Duration(n)))
        }
        _ => mismatch(),
    }
}

fn multiply<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map_or_else(overflow, |n| Ok(Value::Int(n))),
        [Value::Uint(a), Value::Uint(b)] => a.checked_mul(*b).map_or_else(unsigned_overflow, |n| Ok(Value::Uint(n))),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => mismatch(),
    }
}

fn divide<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fault("division by zero"),
        [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map_or_else(overflow, |n| Ok(Value::Int(n))),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => mismatch(),
    }
}

fn modulo<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fault("modulus by zero"),
        [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map_or_else(overflow, |n| Ok(Value::Int(n))),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => mismatch(),
    }
}
