//! Evaluation, with the account of what it costs.

use crate::fault::{Fault, Fuel};
use crate::library::{Cost, Function};
use crate::plan::{Fold, Node, Pattern, Step};
use crate::value::{List, Map, Struct, Value, key_order};
use std::sync::Arc;

/// Where the values of variables come from.
pub trait Activation<'a> {
    /// The value of the variable of this index in the [`crate::Env`].
    fn variable(&self, index: usize) -> Result<Value<'a>, Fault>;
}

/// Values by index.
impl<'a> Activation<'a> for &[Value<'a>] {
    fn variable(&self, index: usize) -> Result<Value<'a>, Fault> {
        self.get(index).cloned().ok_or_else(|| Fault::new("no such attribute(s)"))
    }
}

/// Cost of a new list, map or struct; of reading a name or field; factors by character of text and of a pattern.
pub(crate) const LIST_COST: u64 = 10;
pub(crate) const MAP_COST: u64 = 30;
pub(crate) const STRUCT_COST: u64 = 40;
pub(crate) const TEXT_FACTOR: f64 = 0.1;
pub(crate) const REGEX_FACTOR: f64 = 0.25;

/// Evaluates; the cost comes with the result or the fault.
pub(crate) fn evaluate<'a>(
    root: &'a Node,
    activation: &dyn Activation<'a>,
    limit: u64,
) -> (Result<Value<'a>, Fault>, u64) {
    let mut machine = Machine { activation, locals: Vec::new(), cost: 0, limit, fuel: Fuel::new() };
    let result = machine.eval(root);
    (result, machine.cost)
}

struct Machine<'a, 'v> {
    activation: &'v dyn Activation<'a>,
    locals: Vec<Value<'a>>,
    cost: u64,
    limit: u64,
    fuel: Fuel,
}

impl<'a> Machine<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), Fault> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Fault::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> Result<Value<'a>, Fault> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Variable(index) => {
                self.charge(1)?;
                self.activation.variable(*index as usize)
            }
            Node::Local(at) => {
                self.charge(1)?;
                Ok(self.locals[*at as usize].clone())
            }
            Node::Select { operand, field, base } => {
                let operand = self.eval(operand)?;
                if let Value::Optional(_) = operand {
                    return self.optional_select(&operand, field);
                }
                self.charge(1 + u64::from(*base))?;
                select(&operand, field)
            }
            Node::Has { operand, field } => {
                let operand = self.eval(operand)?;
                has(&operand, field).map(Value::Bool)
            }
            Node::OptionalSelect { operand, field, base } => {
                let operand = self.eval(operand)?;
                self.charge(u64::from(*base))?;
                self.optional_select(&operand, field)
            }
            Node::Index { operand, index, optional, base } => {
                let (operand, index) = (self.eval(operand)?, self.free(index)?);
                self.charge(u64::from(*base))?;
                let found = if *optional { optional_index(&operand, &index) } else { self::index(&operand, &index) };
                self.charge(u64::from(!matches!(found, Ok(Value::Optional(None)))))?;
                found
            }
            Node::And(sides) => self.logic(&sides.0, &sides.1, false),
            Node::Or(sides) => self.logic(&sides.0, &sides.1, true),
            Node::NotStrictlyFalse(inner) => {
                let value = match self.eval(inner) {
                    Err(Fault::CostLimit) => return Err(Fault::CostLimit),
                    value => value,
                };
                self.charge(1)?;
                Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
            }
            Node::Conditional(parts) => match self.eval(&parts.0)? {
                Value::Bool(true) => self.free(&parts.1),
                Value::Bool(false) => self.free(&parts.2),
                _ => Err(Fault::overload()),
            },
            Node::Otherwise { optional, other, unwrap } => match self.eval(optional)? {
                Value::Optional(Some(value)) if *unwrap => Ok((*value).clone()),
                value @ Value::Optional(Some(_)) => Ok(value),
                Value::Optional(None) => self.eval(other),
                _ => Err(Fault::overload()),
            },
            Node::Call { function, args, cost } => self.call(function, args, *cost),
            Node::Regex(pattern) => self.pattern(pattern),
            Node::List { elements, optional } => self.list(elements, optional),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { value, result } => {
                let value = self.eval(value)?;
                self.locals.push(value);
                let result = self.eval(result);
                self.locals.pop();
                result
            }
        }
    }

    /// `&&` (decided by false) and `||` (decided by true): one side that decides makes up for an error of the other.
    fn logic(&mut self, left: &'a Node, right: &'a Node, decides: bool) -> Result<Value<'a>, Fault> {
        let left = self.eval(left);
        match left {
            Ok(Value::Bool(b)) if b == decides => return left,
            Err(Fault::CostLimit) => return left,
            _ => {}
        }
        let right = self.eval(right);
        match (&left, &right) {
            (_, Err(Fault::CostLimit)) => right,
            (_, Ok(Value::Bool(b))) if *b == decides => right,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => right,
            (Err(_), _) => left,
            (_, Err(_)) => right,
            _ => Err(Fault::overload()),
        }
    }

    /// A branch of a condition, or an index: the name that a chain of fields begins with costs nothing there.
    fn free(&mut self, node: &'a Node) -> Result<Value<'a>, Fault> {
        let mut base = node;
        while let Node::Select { operand, .. } | Node::Index { operand, .. } = base {
            base = operand;
        }
        let value = self.eval(node);
        if matches!(base, Node::Variable(_) | Node::Local(_)) {
            self.cost = self.cost.saturating_sub(1);
        }
        value
    }

    fn optional_select(&mut self, operand: &Value<'a>, field: &str) -> Result<Value<'a>, Fault> {
        let found = optional_select(operand, field);
        self.charge(u64::from(!matches!(found, Ok(Value::Optional(None)))))?;
        found
    }

    fn call(&mut self, function: &'static Function, args: &'a [Node], cost: Cost) -> Result<Value<'a>, Fault> {
        let mut values: [Value<'a>; 4] = [Value::Null, Value::Null, Value::Null, Value::Null];
        for (slot, arg) in values.iter_mut().zip(args) {
            *slot = match self.eval(arg) {
                Ok(value) => value,
                Err(fault) => {
                    self.charge(1)?;
                    return Err(fault);
                }
            };
        }
        let values = &values[..args.len().min(4)];
        let result = (function.run)(values, &mut self.fuel);
        let cost = cost.of(values, result.as_ref().ok());
        self.charge(cost)?;
        result
    }

    fn pattern(&mut self, pattern: &'a Pattern) -> Result<Value<'a>, Fault> {
        let Value::String(text) = self.eval(&pattern.text)? else { return Err(Fault::overload()) };
        let limit = match &pattern.limit {
            None => None,
            Some(limit) => Some(self.eval(limit)?),
        };
        self.charge(Cost::regex(crate::value::chars(&text) as u64, pattern.len))?;
        pattern.call.run(&pattern.regex, &text, limit.as_ref())
    }

    fn list(&mut self, elements: &'a [Node], optional: &[bool]) -> Result<Value<'a>, Fault> {
        let mut items = Vec::with_capacity(elements.len());
        for (element, optional) in elements.iter().zip(optional) {
            match (self.eval(element)?, optional) {
                (value, false) => items.push(value),
                (Value::Optional(value), true) => items.extend(value.map(|value| (*value).clone())),
                (value, true) => {
                    let what = format!("cannot initialize optional list element from non-optional value {value}");
                    return Err(Fault::new(what));
                }
            }
        }
        self.charge(LIST_COST)?;
        Ok(Value::list(items))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Result<Value<'a>, Fault> {
        let mut made = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = check_key(self.eval(key)?)?;
            match (self.eval(value)?, optional) {
                (value, false) => made.push((key, value)),
                (Value::Optional(value), true) => made.extend(value.map(|value| (key, (*value).clone()))),
                (value, true) => {
                    let what = format!("cannot initialize optional entry '{key}' from non-optional value {value}");
                    return Err(Fault::new(what));
                }
            }
        }
        self.charge(MAP_COST)?;
        Ok(Value::Map(Map::made(made)))
    }

    fn structure(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Node, bool)]) -> Result<Value<'a>, Fault> {
        let mut made = Vec::with_capacity(fields.len());
        for (field, value, optional) in fields {
            match (self.eval(value)?, optional) {
                (value, false) => made.push((Arc::clone(field), value)),
                (Value::Optional(value), true) => {
                    made.extend(value.map(|value| (Arc::clone(field), (*value).clone())));
                }
                (value, true) => {
                    let what = format!("cannot initialize optional entry '{field}' from non-optional value {value}");
                    return Err(Fault::new(what));
                }
            }
        }
        self.charge(STRUCT_COST)?;
        Ok(Value::Struct(Arc::new(Struct { name: Arc::clone(name), fields: made })))
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<Value<'a>, Fault> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let base = self.locals.len();
        self.locals.push(init);
        let outcome = match range {
            Value::List(list) => self.over_list(fold, base, &list),
            Value::Map(map) => self.over_map(fold, base, &map),
            _ => Err(Fault::overload()),
        };
        self.locals.truncate(base + 1);
        let result = match outcome {
            Ok(None) => self.eval(&fold.result),
            // The accumulator of a quantifier may be a fault; it ends the fold as it is.
            Ok(Some(fault)) | Err(fault) => Err(fault),
        };
        self.locals.truncate(base);
        result
    }

    fn over_list(&mut self, fold: &'a Fold, base: usize, list: &List<'a>) -> Result<Option<Fault>, Fault> {
        let mut fault = None;
        for (at, item) in list.iter().enumerate() {
            let vars = if fold.two { (Value::Int(at as i64), Some(item)) } else { (item, None) };
            if !self.step(fold, base, vars, &mut fault)? {
                break;
            }
        }
        Ok(fault)
    }

    fn over_map(&mut self, fold: &'a Fold, base: usize, map: &Map<'a>) -> Result<Option<Fault>, Fault> {
        let mut fault = None;
        for (key, value) in map.entries() {
            if !self.step(fold, base, (key, fold.two.then_some(value)), &mut fault)? {
                break;
            }
        }
        Ok(fault)
    }

    /// One element; false ends the fold. A fault of one element is kept: a later one may decide a quantifier all the same.
    fn step(
        &mut self,
        fold: &'a Fold,
        base: usize,
        (first, second): (Value<'a>, Option<Value<'a>>),
        fault: &mut Option<Fault>,
    ) -> Result<bool, Fault> {
        self.locals.truncate(base + 1);
        self.locals.push(first);
        self.locals.extend(second);
        if let Some(condition) = &fold.condition {
            match self.eval(condition)? {
                // With a fault in the accumulator the condition is not strictly false.
                Value::Bool(false) if fault.is_none() => return Ok(false),
                _ => {}
            }
        }
        match &fold.step {
            Step::Set(step) => self.set(step, base, fault),
            Step::Append(filter, element) => self.append(filter.as_ref(), element, base),
            Step::Insert(filter, key, value) => self.insert(filter.as_ref(), key.as_ref(), value, base),
        }
    }

    fn set(&mut self, step: &'a Node, base: usize, fault: &mut Option<Fault>) -> Result<bool, Fault> {
        match self.eval(step) {
            Err(Fault::CostLimit) => Err(Fault::CostLimit),
            Ok(value) => {
                // `fault || true` is true, `fault && false` is false; anything else leaves the fault.
                let decides = match step {
                    Node::Or(_) => matches!(value, Value::Bool(true)),
                    Node::And(_) => matches!(value, Value::Bool(false)),
                    _ => fault.is_none(),
                };
                if fault.is_none() || decides {
                    *fault = None;
                    self.locals[base] = value;
                }
                Ok(true)
            }
            Err(error) if matches!(step, Node::Or(_) | Node::And(_)) => {
                fault.get_or_insert(error);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the filter lets the element pass; what the accumulator's name costs is charged.
    fn passes(&mut self, filter: Option<&'a Node>) -> Result<bool, Fault> {
        let pass = match filter {
            None => true,
            Some(filter) => match self.eval(filter)? {
                Value::Bool(pass) => pass,
                _ => return Err(Fault::overload()),
            },
        };
        self.charge(u64::from(pass))?;
        Ok(pass)
    }

    fn append(&mut self, filter: Option<&'a Node>, element: &'a Node, base: usize) -> Result<bool, Fault> {
        if self.passes(filter)? {
            let value = self.eval(element)?;
            self.charge(LIST_COST + 1)?;
            if let Value::List(List::Made(items)) = &mut self.locals[base] {
                Arc::make_mut(items).push(value);
            }
        }
        Ok(true)
    }

    fn insert(
        &mut self,
        filter: Option<&'a Node>,
        key: Option<&'a Node>,
        value: &'a Node,
        base: usize,
    ) -> Result<bool, Fault> {
        if !self.passes(filter)? {
            return Ok(true);
        }
        let entries = match key {
            Some(key) => vec![(check_key(self.eval(key)?)?, self.eval(value)?)],
            None => match self.eval(value)? {
                Value::Map(map) => map.entries(),
                _ => return Err(Fault::overload()),
            },
        };
        self.charge(1)?;
        self.fuel.spend(entries.len())?;
        if let Value::Map(Map::Made(map)) = &mut self.locals[base] {
            let map = Arc::make_mut(map);
            for (key, value) in entries {
                match map.binary_search_by(|(known, _)| key_order(known, &key)) {
                    Ok(_) => return Err(Fault::new(format!("insert failed: key {key} already exists"))),
                    Err(at) => map.insert(at, (key, value)),
                }
            }
        }
        Ok(true)
    }
}

fn check_key(key: Value<'_>) -> Result<Value<'_>, Fault> {
    match key {
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::String(_) => Ok(key),
        other => Err(Fault::new(format!("unsupported key type: {}", other.type_name()))),
    }
}

fn no_key<'a>(key: impl std::fmt::Display) -> Result<Value<'a>, Fault> {
    Err(Fault::new(format!("no such key: {key}")))
}

fn select<'a>(operand: &Value<'a>, field: &str) -> Result<Value<'a>, Fault> {
    match operand {
        Value::Map(map) => map.field(field).map_or_else(|| no_key(field), Ok),
        Value::Struct(made) => match made.fields.iter().find(|(name, _)| **name == *field) {
            Some((_, value)) => Ok(value.clone()),
            None => Err(Fault::new(format!("no such field: {field}"))),
        },
        Value::Optional(Some(value)) => optional_select(value, field),
        Value::Optional(None) => Ok(Value::Optional(None)),
        _ => no_key(field),
    }
}

fn has(operand: &Value<'_>, field: &str) -> Result<bool, Fault> {
    match operand {
        Value::Map(map) => Ok(map.field(field).is_some()),
        Value::Struct(made) => Ok(made.fields.iter().any(|(name, _)| **name == *field)),
        Value::Optional(Some(value)) => has(value, field),
        Value::Optional(None) => Ok(false),
        _ => Err(Fault::new(format!("no such key: {field}"))),
    }
}

fn optional_select<'a>(operand: &Value<'a>, field: &str) -> Result<Value<'a>, Fault> {
    match operand {
        Value::Optional(Some(value)) => optional_select(value, field),
        Value::Optional(None) => Ok(Value::Optional(None)),
        operand if has(operand, field)? => select(operand, field).map(Value::some),
        _ => Ok(Value::Optional(None)),
    }
}

/// The place a number means in a list.
fn place(index: &Value<'_>) -> Result<i64, Fault> {
    match index {
        Value::Int(n) => Ok(*n),
        Value::Uint(n) => i64::try_from(*n).map_err(|_| Fault::new(format!("index out of bounds: {n}"))),
        Value::Double(n) if *n == n.trunc() && n.abs() < 9.0e15 => Ok(*n as i64),
        other => Err(Fault::new(format!("unsupported index type '{}' in list", other.type_name()))),
    }
}

fn index<'a>(operand: &Value<'a>, key: &Value<'a>) -> Result<Value<'a>, Fault> {
    match operand {
        Value::List(list) => {
            let at = place(key)?;
            let found = usize::try_from(at).ok().and_then(|at| list.get(at));
            found.ok_or_else(|| Fault::new(format!("index out of bounds: {at}")))
        }
        Value::Map(map) => map.get(key).map_or_else(|| no_key(key), Ok),
        Value::Optional(Some(value)) => optional_index(value, key),
        Value::Optional(None) => Ok(Value::Optional(None)),
        _ => Err(Fault::overload()),
    }
}

fn optional_index<'a>(operand: &Value<'a>, key: &Value<'a>) -> Result<Value<'a>, Fault> {
    let found = match operand {
        Value::Optional(Some(value)) => return optional_index(value, key),
        Value::Optional(None) => None,
        Value::List(list) => usize::try_from(place(key)?).ok().and_then(|at| list.get(at)),
        Value::Map(map) => map.get(key),
        _ => return Err(Fault::overload()),
    };
    Ok(found.map_or(Value::Optional(None), Value::some))
}
