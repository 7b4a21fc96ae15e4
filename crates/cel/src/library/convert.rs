//! Conversions between types.

use super::{Cost, Outcome, Run, fault, mismatch, time};
use crate::fault::Fuel;
use crate::value::Value;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("bool", to_bool, Cost::One),
    ("int", to_int, Cost::One),
    ("uint", to_uint, Cost::One),
    ("double", to_double, Cost::One),
    ("string", to_string, Cost::Convert),
    (
        "bytes",
        |args, _| match &args[0] {
            Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
            Value::Bytes(_) => Ok(args[0].clone()),
            _ => mismatch(),
        },
        Cost::Convert,
    ),
    (
        "timestamp",
        |args, _| match &args[0] {
            Value::Timestamp(_) => Ok(args[0].clone()),
            Value::Int(seconds) => time::from_seconds(*seconds),
            Value::String(text) => time::parse_timestamp(text)
                .map_or_else(|| unconvertible("string", "timestamp"), |at| Ok(Value::Timestamp(at))),
            _ => mismatch(),
        },
        Cost::One,
    ),
    (
        "duration",
        |args, _| match &args[0] {
            Value::Duration(_) => Ok(args[0].clone()),
            Value::Int(nanos) => Ok(Value::Duration(*nanos)),
            Value::String(text) => time::parse_duration(text)
                .map_or_else(|| unconvertible("string", "duration"), |n| Ok(Value::Duration(n))),
            _ => mismatch(),
        },
        Cost::One,
    ),
];

fn unconvertible<'a>(from: &str, to: &str) -> Outcome<'a> {
    let name = |ty: &str| match ty {
        "timestamp" => "google.protobuf.Timestamp".to_owned(),
        "duration" => "google.protobuf.Duration".to_owned(),
        other => other.to_owned(),
    };
    fault(format!("type conversion error from '{}' to '{}'", name(from), name(to)))
}

fn to_bool<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match &args[0] {
        Value::Bool(_) => Ok(args[0].clone()),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => unconvertible("string", "bool"),
        },
        _ => mismatch(),
    }
}

/// Whole numbers that fit exactly between these are converted; others overflow.
const INT_LIMIT: f64 = 9_223_372_036_854_775_808.0;
const UINT_LIMIT: f64 = 18_446_744_073_709_551_616.0;

fn to_int<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match &args[0] {
        Value::Int(_) => Ok(args[0].clone()),
        Value::Uint(n) => i64::try_from(*n).map_or_else(|_| fault("integer overflow"), |n| Ok(Value::Int(n))),
        Value::Double(f) if *f > -INT_LIMIT && *f < INT_LIMIT => Ok(Value::Int(*f as i64)),
        Value::Double(_) => fault("integer overflow"),
        Value::String(text) => text.parse().map_or_else(|_| unconvertible("string", "int"), |n| Ok(Value::Int(n))),
        Value::Timestamp(at) => Ok(Value::Int(at.as_nanosecond().div_euclid(1_000_000_000) as i64)),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        _ => mismatch(),
    }
}

fn to_uint<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match &args[0] {
        Value::Uint(_) => Ok(args[0].clone()),
        Value::Int(n) => u64::try_from(*n).map_or_else(|_| fault("unsigned integer overflow"), |n| Ok(Value::Uint(n))),
        Value::Double(f) if *f >= 0.0 && *f < UINT_LIMIT => Ok(Value::Uint(*f as u64)),
        Value::Double(_) => fault("unsigned integer overflow"),
        Value::String(text) => text.parse().map_or_else(|_| unconvertible("string", "uint"), |n| Ok(Value::Uint(n))),
        _ => mismatch(),
    }
}

fn to_double<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    match &args[0] {
        Value::Double(_) => Ok(args[0].clone()),
        Value::Int(n) => Ok(Value::Double(*n as f64)),
        Value::Uint(n) => Ok(Value::Double(*n as f64)),
        Value::String(text) => {
            text.parse().map_or_else(|_| unconvertible("string", "double"), |f| Ok(Value::Double(f)))
        }
        _ => mismatch(),
    }
}

fn to_string<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    Ok(match &args[0] {
        Value::String(_) => args[0].clone(),
        Value::Bool(b) => Value::string(b.to_string()),
        Value::Int(n) => Value::string(n.to_string()),
        Value::Uint(n) => Value::string(n.to_string()),
        Value::Double(f) => Value::string(double(*f)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::string(text),
            Err(_) => return fault("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Timestamp(at) => Value::string(time::print_timestamp(*at)),
        Value::Duration(nanos) => Value::string(time::print_duration(*nanos)),
        Value::Opaque(opaque) => Value::string(opaque.to_string()),
        _ => return mismatch(),
    })
}

/// As Go's `%g` has it: exponents below -4 and from 21 on.
pub(super) fn double(f: f64) -> String {
    if f.is_nan() {
        return "NaN".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = if f == 0.0 { 0 } else { f.abs().log10().floor() as i32 };
    if (-4..21).contains(&magnitude) {
        return f.to_string();
    }
    let text = format!("{f:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}
