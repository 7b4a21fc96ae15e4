//! Functions on text. Places are counted in characters.

use super::{Cost, Outcome, Run, fault, format, mismatch};
use crate::fault::{Fault, Fuel};
use crate::value::{Text, Value};
use std::borrow::Cow;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("contains", |args, _| test(args, |text, part| text.contains(part)), Cost::Contains),
    ("startsWith", |args, _| test(args, |text, part| text.starts_with(part)), Cost::Text(1, 1.0)),
    ("endsWith", |args, _| test(args, |text, part| text.ends_with(part)), Cost::Text(1, 1.0)),
    (
        "charAt",
        |args, _| match args {
            [Value::String(text), Value::Int(at)] => char_at(text, *at),
            _ => mismatch(),
        },
        Cost::One,
    ),
    ("lowerAscii", |args, _| map(args, |text| text.to_ascii_lowercase().into()), Cost::Text(0, 1.0)),
    ("upperAscii", |args, _| map(args, |text| text.to_ascii_uppercase().into()), Cost::Text(0, 1.0)),
    ("trim", |args, _| map(args, |text| text.trim_matches(is_space).into()), Cost::Text(0, 1.0)),
    ("replace", replace, Cost::Text(0, 2.0)),
    ("split", split, Cost::Text(0, 2.0)),
    ("substring", substring, Cost::Text(0, 1.0)),
    ("join", join, Cost::Join),
    (
        "format",
        |args, fuel| match args {
            [Value::String(text), Value::List(items)] => format::format(text, items, fuel),
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    ("strings.quote", |args, _| map(args, |text| quote(text).into()), Cost::Text(0, 1.0)),
    (
        "jsonpatch.escapeKey",
        |args, _| map(args, |text| text.replace('~', "~0").replace('/', "~1").into()),
        Cost::Text(0, 1.0),
    ),
];

fn test<'a>(args: &[Value<'a>], holds: fn(&str, &str) -> bool) -> Outcome<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(holds(text, part))),
        _ => mismatch(),
    }
}

fn map<'a>(args: &[Value<'a>], change: for<'t> fn(&'t str) -> Cow<'t, str>) -> Outcome<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(change(text).as_ref())),
        _ => mismatch(),
    }
}

/// What Go takes for white space.
fn is_space(c: char) -> bool {
    c.is_whitespace()
}

fn out_of_range<'a>(at: i64) -> Outcome<'a> {
    fault(format!("index out of range: {at}"))
}

fn char_at<'a>(text: &str, at: i64) -> Outcome<'a> {
    let len = crate::value::chars(text) as i64;
    if at < 0 || at > len {
        return out_of_range(at);
    }
    let found = text.chars().nth(at as usize).map(String::from).unwrap_or_default();
    Ok(Value::string(found))
}

/// The first or last place of a part, from a place on (or back); -1 when there is none.
pub(super) fn index_of<'a>(text: &str, part: &str, from: Option<i64>, last: bool) -> Outcome<'a> {
    let len = crate::value::chars(text) as i64;
    if let Some(from) = from.filter(|from| *from < 0) {
        return out_of_range(from);
    }
    if part.is_empty() {
        return Ok(Value::Int(from.map_or(if last { len } else { 0 }, |from| from.min(len))));
    }
    if from.is_some_and(|from| from >= len) {
        return Ok(Value::Int(-1));
    }
    let place = |bytes: usize| text[..bytes].chars().count() as i64;
    let byte_of = |chars: i64| text.char_indices().nth(chars as usize).map_or(text.len(), |(at, _)| at);
    let found = match (last, from) {
        (false, from) => {
            let start = byte_of(from.unwrap_or(0));
            text[start..].find(part).map(|at| at + start)
        }
        (true, None) => text.rfind(part),
        (true, Some(from)) => {
            let start = byte_of(from);
            let end = (start + part.len()).min(text.len());
            let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            text[..end].rfind(part).filter(|at| *at <= start)
        }
    };
    Ok(Value::Int(found.map_or(-1, place)))
}

/// How many pieces or replacements are asked for; negative: all.
fn count(args: &[Value<'_>], at: usize) -> Result<Option<usize>, Fault> {
    match args.get(at) {
        None => Ok(None),
        Some(Value::Int(n)) => Ok(usize::try_from(*n).ok()),
        Some(_) => Err(Fault::overload()),
    }
}

fn replace<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    let [Value::String(text), Value::String(old), Value::String(new), ..] = args else { return mismatch() };
    let times = count(args, 3)?.unwrap_or(usize::MAX);
    // What the result would be at most; a text may not grow beyond what a request may hold.
    let places = if old.is_empty() { text.len() + 1 } else { text.len() / old.len() };
    if places.min(times).saturating_mul(new.len()) > TEXT_MAX {
        return Err(Fault::CostLimit);
    }
    Ok(Value::string(text.replacen(&**old, new, times)))
}

/// Longest text that one call may make, in bytes.
const TEXT_MAX: usize = 16 << 20;

fn split<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    let [Value::String(text), Value::String(separator), ..] = args else { return mismatch() };
    let limit = count(args, 2)?.unwrap_or(usize::MAX);
    let pieces: Vec<&str> = match (limit, separator.is_empty()) {
        (0, _) => Vec::new(),
        (_, false) => text.splitn(limit, &**separator).collect(),
        (_, true) => {
            let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).take(limit).collect();
            let end = |at: usize| bounds.get(at + 1).copied().unwrap_or(text.len());
            bounds.iter().enumerate().map(|(at, start)| &text[*start..end(at)]).collect()
        }
    };
    Ok(Value::list(pieces.into_iter().map(Value::string).collect()))
}

fn substring<'a>(args: &[Value<'a>], _: &mut Fuel) -> Outcome<'a> {
    let (text, start, end): (&Text<'a>, i64, Option<i64>) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return mismatch(),
    };
    let len = crate::value::chars(text) as i64;
    if let Some(end) = end.filter(|end| start > *end) {
        return fault(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let end = end.unwrap_or(len);
    match [start, end].into_iter().find(|at| *at < 0 || *at > len) {
        Some(at) => out_of_range(at),
        None => {
            let part: String = text.chars().skip(start as usize).take((end - start) as usize).collect();
            Ok(Value::string(part))
        }
    }
}

fn join<'a>(args: &[Value<'a>], fuel: &mut Fuel) -> Outcome<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return mismatch(),
    };
    fuel.spend(list.len())?;
    let mut text = String::new();
    for (at, item) in list.iter().enumerate() {
        let Value::String(item) = item else { return fault(format!("join: invalid input: {item}")) };
        if at > 0 {
            text.push_str(separator);
        }
        text.push_str(&item);
        if text.len() > TEXT_MAX {
            return Err(Fault::CostLimit);
        }
    }
    Ok(Value::string(text))
}

/// In double quotes, with escapes.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
