//! `"%s has %d".format([…])`.

use super::{Outcome, convert, fault, time};
use crate::fault::{Fault, Fuel};
use crate::value::{List, Map, Value};

/// Digits after the point unless said otherwise.
const PRECISION: usize = 6;
/// Most digits after the point.
const PRECISION_MAX: usize = 1000;

/// The template with its clauses filled in, one item each.
pub(super) fn format<'a>(template: &str, items: &List<'a>, fuel: &mut Fuel) -> Outcome<'a> {
    let (mut text, mut rest, mut next) = (String::with_capacity(template.len()), template, 0);
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let precision = precision(&mut rest)?;
        let Some(letter) = rest.chars().next() else { return fault("unexpected end of string") };
        rest = &rest[letter.len_utf8()..];
        let Some(item) = items.get(next) else { return fault(format!("index {next} out of range")) };
        next += 1;
        text.push_str(&clause(letter, precision, &item, fuel)?);
    }
    text.push_str(rest);
    Ok(Value::string(text))
}

/// Whether a template has a clause for each of so many items.
pub(super) fn check(template: &str, items: usize) -> Result<(), String> {
    let (mut clauses, mut chars) = (0, template.chars());
    while let Some(c) = chars.next() {
        if c == '%' && chars.next().is_some_and(|next| next != '%') {
            clauses += 1;
        }
    }
    match clauses {
        n if n > items => Err(format!("index {items} out of range")),
        n if n < items => Err(format!("too many arguments supplied to string.format (expected {n}, got {items})")),
        _ => Ok(()),
    }
}

fn precision(rest: &mut &str) -> Result<usize, Fault> {
    let Some(after) = rest.strip_prefix('.') else { return Ok(PRECISION) };
    let len = after.bytes().take_while(u8::is_ascii_digit).count();
    let parsed = after[..len].parse().ok().filter(|precision| *precision <= PRECISION_MAX);
    *rest = &after[len..];
    parsed.ok_or_else(|| Fault::new("error while converting precision to integer"))
}

fn clause(letter: char, precision: usize, item: &Value<'_>, fuel: &mut Fuel) -> Result<String, Fault> {
    let wrong = |wanted: &str, clause: &str| {
        let name = item.type_name();
        Err(Fault::new(format!(
            "error during formatting: {clause} clause can only be used on {wanted}, was given {name}"
        )))
    };
    match (letter, item) {
        ('s', item) => shown(item, fuel),
        ('d', Value::Int(n)) => Ok(n.to_string()),
        ('d', Value::Uint(n)) => Ok(n.to_string()),
        ('d', _) => wrong("integers", "decimal"),
        ('f', item) => float(item).map_or_else(|| wrong("doubles", "fixed-point"), |f| Ok(fixed(f, precision))),
        ('e', item) => float(item).map_or_else(|| wrong("doubles", "scientific"), |f| Ok(scientific(f, precision))),
        ('b', Value::Int(n)) => Ok(signed(*n, format!("{:b}", n.unsigned_abs()))),
        ('b', Value::Uint(n)) => Ok(format!("{n:b}")),
        ('b', Value::Bool(b)) => Ok(u8::from(*b).to_string()),
        ('b', _) => wrong("integers and bools", "binary"),
        ('o', Value::Int(n)) => Ok(signed(*n, format!("{:o}", n.unsigned_abs()))),
        ('o', Value::Uint(n)) => Ok(format!("{n:o}")),
        ('o', _) => wrong("integers", "octal"),
        ('x' | 'X', item) => match hex(item) {
            Some(text) => Ok(if letter == 'X' { text.to_uppercase() } else { text }),
            None => wrong("integers, byte buffers, and strings", "hex"),
        },
        _ => Err(Fault::new(format!("could not parse formatting clause: unrecognized formatting clause \"{letter}\""))),
    }
}

fn signed(n: i64, digits: String) -> String {
    if n < 0 { format!("-{digits}") } else { digits }
}

fn float(item: &Value<'_>) -> Option<f64> {
    match item {
        Value::Double(f) => Some(*f),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(f: f64) -> Option<&'static str> {
    match f {
        f if f.is_nan() => Some("NaN"),
        f if f.is_infinite() => Some(if f > 0.0 { "\u{221e}" } else { "-\u{221e}" }),
        _ => None,
    }
}

/// With commas between thousands, as the locale `en_US` has it.
fn fixed(f: f64, precision: usize) -> String {
    if let Some(text) = special(f) {
        return text.to_owned();
    }
    let text = format!("{:.precision$}", f.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if f < 0.0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{fraction}") }
}

/// `1.5 × 10⁰³`, likewise.
fn scientific(f: f64, precision: usize) -> String {
    if let Some(text) = special(f) {
        return text.to_owned();
    }
    let text = format!("{f:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(("", exponent), |digits| ("\u{207b}", digits));
    let raised = |c: char| ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][c.to_digit(10).unwrap_or(0) as usize];
    let digits: String = format!("{digits:0>2}").chars().map(raised).collect();
    format!("{mantissa}×10{sign}{digits}")
}

fn hex(item: &Value<'_>) -> Option<String> {
    let bytes = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    match item {
        Value::Int(n) => Some(signed(*n, format!("{:x}", n.unsigned_abs()))),
        Value::Uint(n) => Some(format!("{n:x}")),
        Value::String(text) => Some(bytes(text.as_bytes())),
        Value::Bytes(raw) => Some(bytes(raw)),
        _ => None,
    }
}

/// `%s` of anything.
pub(super) fn shown(item: &Value<'_>, fuel: &mut Fuel) -> Result<String, Fault> {
    fuel.spend(1)?;
    Ok(match item {
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(f) => convert::double(*f),
        Value::Timestamp(at) => time::print_timestamp(*at),
        Value::Duration(nanos) => time::print_duration(*nanos),
        Value::Type(name) => name.to_string(),
        Value::List(list) => {
            let items = list.iter().map(|item| nested(&item, fuel)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => entries(map, fuel)?,
        other => {
            return Err(Fault::new(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            )));
        }
    })
}

fn entries(map: &Map<'_>, fuel: &mut Fuel) -> Result<String, Fault> {
    let mut shown = Vec::with_capacity(map.len());
    for (key, value) in map.entries() {
        shown.push(format!("{}:{}", nested(&key, fuel)?, nested(&value, fuel)?));
    }
    shown.sort();
    Ok(format!("{{{}}}", shown.join(", ")))
}

/// Within a container, as one would write it in an expression.
fn nested(item: &Value<'_>, fuel: &mut Fuel) -> Result<String, Fault> {
    Ok(match item {
        Value::String(text) => format!("{:?}", &**text),
        Value::Bytes(bytes) => format!("b{:?}", String::from_utf8_lossy(bytes)),
        Value::Double(f) if f.is_finite() => format!("{f:.PRECISION$}"),
        Value::Timestamp(at) => format!("timestamp({:?})", time::print_timestamp(*at)),
        Value::Duration(nanos) => format!("duration({:?})", time::print_duration(*nanos)),
        other => shown(other, fuel)?,
    })
}
