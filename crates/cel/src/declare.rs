//! The functions there are: their names and the types they take.

use crate::types::Type;
use std::collections::HashMap;
use std::sync::OnceLock;

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Whether the first argument stands before a dot.
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    /// How many type parameters it has.
    pub(crate) params: u32,
}

/// The overloads of a function.
pub(crate) fn overloads(name: &str) -> Option<&'static [Overload]> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Overload>>> = OnceLock::new();
    TABLE.get_or_init(table).get(name).map(Vec::as_slice)
}

fn table() -> HashMap<&'static str, Vec<Overload>> {
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in include_str!("functions.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, overload) = parse(line);
        table.entry(name).or_default().push(overload);
    }
    table
}

/// `name(args) -> result`, or `target:name(args) -> result`.
fn parse(line: &'static str) -> (&'static str, Overload) {
    let (call, result) = line.split_once(" -> ").unwrap_or((line, "dyn"));
    let (target, call) = match call.split_once(':') {
        // The ternary operator has a colon in its name.
        Some((target, call)) if !target.ends_with('_') => (Some(target), call),
        _ => (None, call),
    };
    let (name, args) = call.split_once('(').unwrap_or((call, ")"));
    let args = args.strip_suffix(')').unwrap_or(args);
    let mut types: Vec<Type> = target.map(ty).into_iter().collect();
    types.extend(split(args).into_iter().map(ty));
    let result = ty(result);
    let params = types.iter().chain([&result]).map(params_of).max().unwrap_or(0);
    (name, Overload { member: target.is_some(), args: types, result, params })
}

/// The parts between commas outside of parentheses.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

fn ty(text: &'static str) -> Type {
    if let Some((name, inner)) = text.split_once('(') {
        let inner = split(inner.strip_suffix(')').unwrap_or(inner));
        return match (name, inner.as_slice()) {
            ("list", [element]) => Type::list(ty(element)),
            ("map", [key, value]) => Type::map(ty(key), ty(value)),
            ("optional", [value]) => Type::optional(ty(value)),
            ("type", [of]) => Type::Type(ty(of).into()),
            _ => unreachable!("a bad type in the table of functions: {text}"),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        name => Type::Opaque(name),
    }
}

fn params_of(ty: &Type) -> u32 {
    match ty {
        Type::Param(n) => n + 1,
        Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => params_of(inner),
        Type::Map(of) => params_of(&of.0).max(params_of(&of.1)),
        _ => 0,
    }
}
