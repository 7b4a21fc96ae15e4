//! Values while evaluating. Those of objects under test are borrowed from their JSON, never copied.

use crate::decl::Decl;
use crate::fault::{Fault, Fuel};
use crate::library::opaque::Opaque;
use jiff::Timestamp;
use serde_json::Value as Json;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A value. Cloning is cheap: what is large is borrowed or shared.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `"text"`
    String(Text<'a>),
    /// `b"bytes"`
    Bytes(Arc<[u8]>),
    /// A time.
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// `[1, 2]`
    List(List<'a>),
    /// `{"a": 1}`, and structs read from JSON.
    Map(Map<'a>),
    /// A struct that the expression made: `Object{spec: …}`.
    Struct(Arc<Struct<'a>>),
    /// A type.
    Type(Arc<str>),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of a library.
    Opaque(Arc<Opaque>),
}

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Of an object or a program.
    Borrowed(&'a str),
    /// Made while evaluating.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// A list, borrowed or made.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of an object, with the type of its elements where one is declared.
    Json(&'a [Json], Option<&'a Decl>),
    /// Made while evaluating.
    Made(Arc<Vec<Value<'a>>>),
}

/// A map or a struct of an object, borrowed or made.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of an object, with its type where one is declared.
    Json(&'a serde_json::Map<String, Json>, Option<&'a Decl>),
    /// Made while evaluating; sorted by key.
    Made(Arc<Vec<(Value<'a>, Value<'a>)>>),
}

/// A struct that an expression made.
#[derive(Clone, Debug)]
pub struct Struct<'a> {
    /// The name of its type.
    pub name: Arc<str>,
    /// Its fields, in the order written.
    pub fields: Vec<(Arc<str>, Value<'a>)>,
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Made(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, element) => items.get(index).map(|item| Value::typed(item, *element)),
            List::Made(items) => items.get(index).cloned(),
        }
    }

    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

impl<'a> Map<'a> {
    /// A map of entries; of two with one key the last one stays.
    pub(crate) fn made(mut entries: Vec<(Value<'a>, Value<'a>)>) -> Map<'a> {
        entries.reverse();
        entries.sort_by(|a, b| key_order(&a.0, &b.0));
        entries.dedup_by(|b, a| key_order(&a.0, &b.0) == Ordering::Equal);
        Map::Made(Arc::new(entries))
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Made(entries) => entries.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a text key; of a struct with a declared type, the field as expressions name it.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, decl) => {
                let (json_name, ty) = match decl {
                    Some(decl) => decl.member(name)?,
                    None => (name, None),
                };
                map.get(json_name).map(|value| Value::typed(value, ty))
            }
            Map::Made(_) => self.get(&Value::String(Text::Shared(name.into()))),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(..), Value::String(name)) => self.field(name),
            (Map::Json(..), _) => None,
            (Map::Made(entries), key) => {
                let at = entries.binary_search_by(|(k, _)| key_order(k, key)).ok()?;
                Some(entries[at].1.clone())
            }
        }
    }

    /// Keys and values. Fields that a declared struct does not have are left out.
    pub fn entries(&self) -> Vec<(Value<'a>, Value<'a>)> {
        match self {
            Map::Json(map, decl) => {
                let entry = |(name, value): (&'a String, &'a Json)| {
                    let (shown, ty) = match decl {
                        Some(decl) => decl.shown(name)?,
                        None => (&**name, None),
                    };
                    Some((Value::String(Text::Borrowed(shown)), Value::typed(value, ty)))
                };
                map.iter().filter_map(entry).collect()
            }
            Map::Made(entries) => entries.to_vec(),
        }
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Value<'a>> {
        self.entries().into_iter().map(|(key, _)| key).collect()
    }
}

/// The order of keys: equal numbers are one key, whatever their type.
pub(crate) fn key_order(a: &Value<'_>, b: &Value<'_>) -> Ordering {
    let rank = |v: &Value<'_>| match v {
        Value::Bool(_) => 0,
        Value::Int(_) | Value::Uint(_) | Value::Double(_) => 1,
        _ => 2,
    };
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => (**a).cmp(b),
        _ => numeric_order(a, b).unwrap_or_else(|| rank(a).cmp(&rank(b))),
    }
}

/// The order of two numbers of any type; none for NaN and for what is no number.
pub(crate) fn numeric_order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let whole = |v: &Value<'_>| match v {
        Value::Int(n) => Some(i128::from(*n)),
        Value::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => compare_double(*a, whole(b)?),
        (a, Value::Double(b)) => compare_double(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

/// A floating-point number against a whole one, exactly.
fn compare_double(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a >= 1.9e19 || a <= -1.9e19 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let floor = a.floor();
    Some((floor as i128).cmp(&b).then(if a > floor { Ordering::Greater } else { Ordering::Equal }))
}

impl<'a> Value<'a> {
    /// Text made here.
    pub fn string(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    /// A list made here.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Made(Arc::new(items)))
    }

    /// A present optional.
    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    /// JSON of no declared type: whole numbers are `int`.
    pub fn json(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(n) => Value::Int(n),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::String(Text::Borrowed(s)),
            Json::Array(items) => Value::List(List::Json(items, None)),
            Json::Object(map) => Value::Map(Map::Json(map, None)),
        }
    }

    /// JSON of a declared type.
    pub fn typed(json: &'a Json, decl: Option<&'a Decl>) -> Value<'a> {
        match decl {
            Some(decl) => decl.value(json),
            None => Value::json(json),
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Json(_, Some(decl))) => decl.object_name().unwrap_or("map"),
            Value::Map(_) => "map",
            Value::Struct(made) => &made.name,
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// The size for the purposes of cost: of text in characters, of containers in elements, else 1.
    pub(crate) fn cost_size(&self) -> u64 {
        match self {
            Value::String(text) => chars(text) as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Optional(Some(value)) => value.cost_size(),
            Value::Opaque(opaque) => opaque.cost_size(),
            _ => 1,
        }
    }

    /// Whether two values are equal, as the specification has it: numbers by value, everything else by type and value.
    pub fn equals(&self, other: &Value<'_>) -> Result<bool, Fault> {
        self.same(other, &mut Fuel::new())
    }

    pub(crate) fn same(&self, other: &Value<'_>, fuel: &mut Fuel) -> Result<bool, Fault> {
        fuel.spend(1)?;
        Ok(match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => **a == **b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::List(a), Value::List(b)) => return same_lists(a, b, fuel),
            (Value::Map(a), Value::Map(b)) => return same_maps(a, b, fuel),
            (Value::Struct(a), Value::Struct(b)) => return same_structs(a, b, fuel),
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::Optional(Some(a)), Value::Optional(Some(b))) => return a.same(b, fuel),
            (Value::Optional(a), Value::Optional(b)) => a.is_none() && b.is_none(),
            (Value::Opaque(a), Value::Opaque(b)) => a == b,
            (a, b) => numeric_order(a, b) == Some(Ordering::Equal),
        })
    }

    /// As JSON; the fault names what has none.
    pub fn to_json(&self) -> Result<Json, Fault> {
        self.json_of(&mut Fuel::new())
    }

    fn json_of(&self, fuel: &mut Fuel) -> Result<Json, Fault> {
        fuel.spend(1)?;
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(n) => (*n).into(),
            Value::Uint(n) => (*n).into(),
            Value::Double(f) if *f == f.trunc() && f.abs() < 9.0e15 => (*f as i64).into(),
            Value::Double(f) => serde_json::Number::from_f64(*f).map_or(Json::Null, Json::Number),
            Value::String(text) => (**text).into(),
            Value::Timestamp(at) => crate::library::time::print_timestamp(*at).into(),
            Value::Duration(nanos) => crate::library::time::print_duration(*nanos).into(),
            Value::Bytes(bytes) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD.encode(bytes).into()
            }
            Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|item| item.json_of(fuel)).collect::<Result<_, _>>()?),
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::Map(map) => {
                let mut json = serde_json::Map::new();
                for (key, value) in map.entries() {
                    let Value::String(key) = key else {
                        return Err(Fault::new(format!("unsupported map key type {}", key.type_name())));
                    };
                    json.insert(key.to_string(), value.json_of(fuel)?);
                }
                Json::Object(json)
            }
            Value::Struct(made) => {
                let mut json = serde_json::Map::new();
                for (name, value) in &made.fields {
                    json.insert(name.to_string(), value.json_of(fuel)?);
                }
                Json::Object(json)
            }
            Value::Optional(Some(value)) => value.json_of(fuel)?,
            Value::Opaque(opaque) => opaque.to_string().into(),
            Value::Type(_) => return Err(Fault::new("a type has no JSON")),
        })
    }
}

fn same_lists(a: &List<'_>, b: &List<'_>, fuel: &mut Fuel) -> Result<bool, Fault> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b.iter()) {
        if !a.same(&b, fuel)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_maps(a: &Map<'_>, b: &Map<'_>, fuel: &mut Fuel) -> Result<bool, Fault> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (key, value) in a.entries() {
        match b.get(&key) {
            Some(other) if value.same(&other, fuel)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn same_structs(a: &Struct<'_>, b: &Struct<'_>, fuel: &mut Fuel) -> Result<bool, Fault> {
    if a.name != b.name || a.fields.len() != b.fields.len() {
        return Ok(false);
    }
    for (name, value) in &a.fields {
        match b.fields.iter().find(|(other, _)| other == name) {
            Some((_, other)) if value.same(other, fuel)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Length in characters.
pub(crate) fn chars(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

impl fmt::Display for Value<'_> {
    /// As `%s` of `format` shows it; of what it cannot show, the type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Optional(None) => f.write_str("none"),
            Value::Optional(Some(value)) => write!(f, "optional({value})"),
            Value::Opaque(opaque) => opaque.fmt(f),
            other => match crate::library::shown(other) {
                Some(text) => f.write_str(&text),
                None => f.write_str(other.type_name()),
            },
        }
    }
}
