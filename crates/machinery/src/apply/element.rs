//! One step of a field's path: a field, an item of a list by its keys or its value, or an index.

use serde_json::{Map, Number, Value};
use std::cmp::Ordering;
use std::fmt::{self, Write};

/// A step. Ordered as upstream orders the members of a field set.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of an object: `f:NAME`.
    Field(Box<str>),
    /// An item of a keyed list, with its key fields sorted by name: `k:{"NAME":VALUE}`.
    Key(Box<[(Box<str>, Value)]>),
    /// An item of a set: `v:VALUE`.
    Value(Value),
    /// An item by its place: `i:3`.
    Index(usize),
}

impl Element {
    /// A field.
    pub fn field(name: &str) -> Element {
        Element::Field(name.into())
    }

    /// Reads `f:…`, `k:…`, `v:…` or `i:…`. `Ok(None)` for a kind of step that is not known, which a later version may know.
    pub fn parse(text: &str) -> Result<Option<Element>, String> {
        let (Some(kind), Some(":"), Some(rest)) = (text.get(..1), text.get(1..2), text.get(2..)) else {
            return Err(format!("missing colon: {text}"));
        };
        let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        Ok(Some(match kind {
            "f" => Element::field(rest),
            "v" => Element::Value(json(rest)?),
            "k" => match json(rest)? {
                // The map is sorted already.
                Value::Object(map) => Element::Key(map.into_iter().map(|(name, value)| (name.into(), value)).collect()),
                _ => return Err(format!("not an object: {rest}")),
            },
            "i" => Element::Index(rest.parse().map_err(|_| format!("not an index: {rest}"))?),
            _ => return Ok(None),
        }))
    }

    /// Writes it as [`Element::parse`] reads it.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Element::Field(name) => {
                out.push_str("f:");
                out.push_str(name);
            }
            Element::Key(fields) => {
                out.push_str("k:{");
                for (at, (name, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    json_string(out, name);
                    out.push(':');
                    json_value(out, value);
                }
                out.push('}');
            }
            Element::Value(value) => {
                out.push_str("v:");
                json_value(out, value);
            }
            Element::Index(index) => {
                let _ = write!(out, "i:{index}");
            }
        }
    }
}

/// Writes a value as Go does, which escapes what HTML takes for its own.
fn json_value(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => json_string(out, text),
        other => out.push_str(&other.to_string()),
    }
}

/// Writes a JSON string as Go does.
pub(super) fn json_string(out: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' if !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&'))) {
        out.push('"');
        out.push_str(text);
        return out.push('"');
    }
    let start = out.len();
    // Writing JSON to memory cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
    if text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        let escaped = out[start..].replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        let escaped = escaped.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
        out.truncate(start);
        out.push_str(&escaped);
    }
}

/// As in a conflict's message: `.name`, `[name="a"]`, `[="a"]`, `[3]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(fields) => {
                f.write_char('[')?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_char(']')
            }
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Element) -> Ordering {
        match (self, other) {
            (Element::Field(a), Element::Field(b)) => a.cmp(b),
            (Element::Key(a), Element::Key(b)) => compare_keys(a, b),
            (Element::Value(a), Element::Value(b)) => compare_values(a, b),
            (Element::Index(a), Element::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Element) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Element) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Element::Field(_) => 0,
            Element::Key(_) => 1,
            Element::Value(_) => 2,
            Element::Index(_) => 3,
        }
    }
}

fn compare_keys(a: &[(Box<str>, Value)], b: &[(Box<str>, Value)]) -> Ordering {
    for ((name, value), (other_name, other)) in a.iter().zip(b) {
        let order = name.cmp(other_name).then_with(|| compare_values(value, other));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// A total order of values: numbers by size, then text, booleans, lists, objects, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let differing = a.iter().zip(b).map(|(a, b)| compare_values(a, b)).find(|order| order.is_ne());
            differing.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => compare_objects(a, b),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_objects(a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
    for ((name, value), (other_name, other)) in a.iter().zip(b) {
        let order = name.cmp(other_name).then_with(|| compare_values(value, other));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// Whether two values are the same to apply: numbers by size, however they are written.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((name, a), (other, b))| name == other && same(a, b))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_in_order() {
        let texts = [
            "f:",
            "f:a",
            "f:a:b",
            "k:{\"a\":1,\"b\":\"x\"}",
            "k:{\"a\":80}",
            "k:{\"a\":443}",
            "k:{\"b\":1}",
            "v:1",
            "v:2.5",
            "v:10",
            "v:\"a\\u003cb\"",
            "v:true",
            "i:0",
            "i:12",
        ];
        let parsed: Vec<Element> = texts.iter().map(|text| Element::parse(text).unwrap().unwrap()).collect();
        for (element, text) in parsed.iter().zip(texts) {
            let mut out = String::new();
            element.write(&mut out);
            assert_eq!(out, text);
        }
        assert!(parsed.is_sorted_by(|a, b| a < b), "{parsed:?}");
        assert_eq!(Element::parse("v:1").unwrap(), Element::parse("v:1.0").unwrap());
        assert_eq!(Element::parse("q:x").unwrap(), None);
        for bad in ["", "f", "fx", "k:1", "k:{", "v:", "i:x", ".", "ff:a"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown() {
        for (text, shown) in
            [("f:a", ".a"), ("k:{\"a\":1,\"b\":\"x\"}", "[a=1,b=\"x\"]"), ("v:\"a\"", "[=\"a\"]"), ("i:3", "[3]")]
        {
            assert_eq!(Element::parse(text).unwrap().unwrap().to_string(), shown);
        }
    }
}
