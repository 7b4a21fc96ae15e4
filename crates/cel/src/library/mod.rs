//! What functions do, and what each call costs.

mod authorizer;
mod convert;
mod format;
mod lists;
mod named;
mod net;
pub(crate) mod opaque;
mod operators;
mod optional;
pub(crate) mod regex;
mod semver;
mod strings;
pub(crate) mod time;

pub use authorizer::{Authorizer, Check, Decision};

use crate::eval::{LIST_COST, REGEX_FACTOR, STRUCT_COST, TEXT_FACTOR};
use crate::fault::{Fault, Fuel};
use crate::value::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// What a call gives.
pub(crate) type Outcome<'a> = Result<Value<'a>, Fault>;

/// A function while evaluating. It looks at the values it is given: what the checker knew is not trusted.
pub(crate) type Run = for<'a> fn(&[Value<'a>], &mut Fuel) -> Outcome<'a>;

/// A function and its price.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    pub(crate) cost: Cost,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The function of a name.
pub(crate) fn function(name: &str) -> Option<&'static Function> {
    static TABLE: OnceLock<HashMap<&'static str, Function>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let all = [
            operators::FUNCTIONS,
            convert::FUNCTIONS,
            optional::FUNCTIONS,
            strings::FUNCTIONS,
            lists::FUNCTIONS,
            regex::FUNCTIONS,
            net::FUNCTIONS,
            opaque::FUNCTIONS,
            semver::FUNCTIONS,
            named::FUNCTIONS,
            authorizer::FUNCTIONS,
            time::FUNCTIONS,
        ];
        let one = |(name, run, cost): &(&'static str, Run, Cost)| (*name, Function { name, run: *run, cost: *cost });
        all.into_iter().flatten().map(one).collect()
    });
    table.get(name)
}

/// How the cost of a call follows from its arguments and result; the rules are cel-go's and Kubernetes'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cost {
    /// 1.
    One,
    /// A fixed cost.
    Fixed(u64),
    /// A pass over the text of this argument, this often.
    Text(usize, f64),
    /// A pass over the bytes or text converted; 1 for other conversions.
    Convert,
    /// A pass over a list.
    In,
    /// A pass over the shorter of two values.
    Equal,
    /// Likewise of two texts; 1 for others.
    Compare,
    /// A pass over both of two texts; 1 for others.
    Add,
    /// Every place of one text with every place of another.
    Contains,
    /// Every place of a text with every state of a pattern.
    Regex,
    /// A pass over everything in a container.
    Traverse,
    /// A pass over the result, twice.
    Join,
    /// A new list of the result's size.
    Grow,
    /// A new list of the first argument's size, as often as the second says.
    Flatten,
    /// Every element of this list with every other.
    SelfCompare(usize),
    /// Every element of one list with every one of another, this often.
    Pairs(u64),
    /// Parsing a selector.
    Selector,
    /// Comparing addresses.
    ContainsIp,
    /// Comparing networks.
    ContainsCidr,
    /// Checking a named format.
    Validate,
}

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

impl Cost {
    /// The cost of matching a text of so many characters with a pattern of so many.
    pub(crate) fn regex(text: u64, pattern: u64) -> u64 {
        scaled(text + 1, TEXT_FACTOR).saturating_mul(scaled(pattern, REGEX_FACTOR))
    }

    /// The cost of a call.
    pub(crate) fn of(self, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size = |at: usize| args.get(at).map_or(1, Value::cost_size);
        let textual = matches!(args.first(), Some(Value::String(_) | Value::Bytes(_)));
        match self {
            Cost::One => 1,
            Cost::Fixed(cost) => cost,
            Cost::Text(at, times) => scaled(size(at), TEXT_FACTOR * times),
            Cost::Convert if textual => scaled(size(0), TEXT_FACTOR),
            Cost::In if matches!(args.get(1), Some(Value::List(_))) => size(1),
            Cost::Equal if matches!(args.first(), Some(Value::Opaque(_))) => 1,
            Cost::Equal => scaled(size(0).min(size(1)), TEXT_FACTOR),
            Cost::Compare if textual => scaled(size(0).min(size(1)), TEXT_FACTOR),
            Cost::Add if textual => scaled(size(0) + size(1), TEXT_FACTOR),
            Cost::Convert | Cost::In | Cost::Compare | Cost::Add => 1,
            Cost::Contains => scaled(size(0), TEXT_FACTOR).saturating_mul(scaled(size(1), TEXT_FACTOR)),
            Cost::Regex => Cost::regex(size(0), size(1)),
            Cost::Traverse => args.first().map_or(0, |value| traversal(value, 0)),
            Cost::Join => scaled(result.map_or(0, Value::cost_size), TEXT_FACTOR * 2.0),
            Cost::Grow => grown(result.map_or(0, Value::cost_size)),
            Cost::Flatten => match args.get(1) {
                Some(Value::Int(depth)) => grown(size(0).saturating_mul(u64::try_from(*depth).unwrap_or(1))),
                _ => grown(size(0)),
            },
            Cost::SelfCompare(at) => self_compare(&args[at]),
            Cost::Pairs(times) => 1 + times * size(0).saturating_mul(size(1)),
            Cost::Selector => {
                let per_requirement = (LIST_COST + STRUCT_COST) as f64;
                let requirements = scaled(size(1), 0.5);
                LIST_COST + scaled(size(1), TEXT_FACTOR) + scaled(requirements, per_requirement)
            }
            Cost::ContainsIp => scaled(2 * size(0), TEXT_FACTOR) + parsed(args),
            Cost::ContainsCidr => scaled(2 * size(0), TEXT_FACTOR) + scaled(size(0), TEXT_FACTOR) + 1 + parsed(args),
            Cost::Validate => Cost::regex(size(1), named::pattern_size(args)),
        }
    }
}

/// A call that makes a list.
fn grown(size: u64) -> u64 {
    size.saturating_add(1 + LIST_COST)
}

fn self_compare(list: &Value<'_>) -> u64 {
    let Value::List(list) = list else { return 1 };
    let textual = matches!(list.get(0), Some(Value::String(_) | Value::Bytes(_)));
    let factor = if textual { 2.0 + TEXT_FACTOR } else { 2.0 };
    grown((list.len() as f64 * list.len() as f64 * factor) as u64)
}

/// What it costs to parse a second argument that is still text.
fn parsed(args: &[Value<'_>]) -> u64 {
    match args.get(1) {
        Some(text @ Value::String(_)) => scaled(text.cost_size(), TEXT_FACTOR),
        _ => 0,
    }
}

/// Containers nest this deep at most for the purposes of cost.
const DEPTH_MAX: u8 = 16;

fn traversal(value: &Value<'_>, depth: u8) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TEXT_FACTOR) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TEXT_FACTOR) as u64,
        _ if depth > DEPTH_MAX => 1,
        Value::List(list) => list.iter().map(|item| traversal(&item, depth + 1)).sum(),
        Value::Map(map) => entries(map, depth),
        _ => 1,
    }
}

fn entries(map: &Map<'_>, depth: u8) -> u64 {
    map.entries().iter().map(|(key, value)| traversal(key, depth + 1) + traversal(value, depth + 1)).sum()
}

/// No function takes these values.
fn mismatch<'a>() -> Outcome<'a> {
    Err(Fault::overload())
}

fn fault<'a>(message: impl Into<std::borrow::Cow<'static, str>>) -> Outcome<'a> {
    Err(Fault::new(message))
}

/// Whether a template of `format` fits so many items; the error says why not.
pub(crate) fn check_template(template: &str, items: usize) -> Result<(), String> {
    format::check(template, items)
}

/// A value as `%s` shows it; none of what it cannot show.
pub(crate) fn shown(value: &Value<'_>) -> Option<String> {
    format::shown(value, &mut Fuel::new()).ok()
}
