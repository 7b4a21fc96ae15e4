//! Validation by the keywords of the schema, in upstream's order, paths and words, with ratcheting.

use super::{CLOSED, Format, INT_OR_STRING, Kind, Node, Rule, Structural};
use crate::field::{ErrorKind, FieldError, Path};
use crate::schema::ListType;
use serde_json::Value;

/// Errors told at most; beyond, the rest of the object is not looked at.
const ERRORS_MAX: usize = 500;

/// A value on a walk through an object.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The value.
    pub value: &'a Value,
    /// What it was, where the two can be told to be the same.
    pub old: Option<&'a Value>,
    /// The nearest value around it whose old state is known, with that: elements of atomic lists have none of their own.
    around: Option<(&'a Value, &'a Value)>,
}

impl Place<'_> {
    /// Whether nothing has changed here: not the value, or where that cannot be told, not what is around it. Compares values, so
    /// ask only when it matters (KEP-4008).
    pub fn is_unchanged(&self) -> bool {
        match self.old {
            Some(old) => old == self.value,
            None => self.around.is_some_and(|(now, old)| now == old),
        }
    }
}

/// What is called for each value whose schema has rules of its own (`x-kubernetes-validations`).
pub trait Hook {
    /// Evaluates the rules of a schema on a value at a path.
    fn check(&mut self, node: Node<'_>, place: Place<'_>, path: &Path) -> Vec<FieldError>;
}

impl Structural {
    /// What is wrong with a new object.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        run(self.root(), object, None, &Path::default())
    }

    /// What is wrong with a changed object; what was wrong before and has not changed is let pass.
    pub fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        run(self.root(), object, Some(old), &Path::default())
    }

    /// The same of one field of the object, as of its status.
    pub fn validate_field(&self, field: &str, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let node = self.root().property(field);
        node.map_or_else(Vec::new, |node| run(node, value, old, &Path::new(field)))
    }

    /// Walks the object and evaluates the rules of its schema by `hook`, old values beside new ones.
    pub fn evaluate(&self, object: &Value, old: Option<&Value>, hook: &mut dyn Hook) -> Vec<FieldError> {
        let mut errors = Vec::new();
        evaluate(self.root(), Place { value: object, old, around: None }, &Path::default(), hook, &mut errors);
        errors
    }
}

fn run(node: Node<'_>, value: &Value, old: Option<&Value>, path: &Path) -> Vec<FieldError> {
    let mut result = Outcome::default();
    check(node, value, old, path, true, &mut result);
    result.errors
}

/// What a check found, and how much of it was good: alternatives are compared by that.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    matches: usize,
}

impl Outcome {
    fn push(&mut self, error: FieldError) {
        if self.errors.len() < ERRORS_MAX && !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn error(&mut self, kind: ErrorKind, path: &Path, value: Option<Value>, detail: String) {
        self.push(FieldError { kind, path: path.clone(), value, detail });
    }

    fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: String) {
        self.error(ErrorKind::Invalid, path, Some(value.into()), detail);
    }

    /// An error that upstream tells of no field.
    fn composite(&mut self, detail: String) {
        self.error(ErrorKind::Invalid, &Path::default(), Some("".into()), detail);
    }

    fn merge(&mut self, other: Outcome) {
        self.matches += other.matches;
        other.errors.into_iter().for_each(|error| self.push(error));
    }
}

/// `in`: what upstream's validator calls the place of everything.
fn told(path: &Path, what: &str) -> String {
    format!("{} in body {what}", path.as_str())
}

/// Checks a value; `ratchet`: errors of a value that is as it was are forgotten.
fn check(node: Node<'_>, value: &Value, old: Option<&Value>, path: &Path, ratchet: bool, out: &mut Outcome) {
    let mut own = Outcome { matches: 1, ..Outcome::default() };
    check_type(node, value, path, &mut own);
    if value.is_null() {
        check_enum(node, value, path, &mut own);
    } else {
        check_value(node, value, old, path, &mut own);
    }
    if ratchet && !own.errors.is_empty() && old == Some(value) {
        own.errors.clear();
    }
    out.merge(own);
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a number without an exponent or fraction of weight, so that it can stand where an integer is wanted.
fn is_integral(number: f64) -> bool {
    number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0
}

fn check_type(node: Node<'_>, value: &Value, path: &Path, out: &mut Outcome) {
    let wanted = if node.has(INT_OR_STRING) { "integer,string" } else { node.kind().as_str() };
    let has = |name: &str| wanted.split(',').any(|one| one == name);
    let good = match value {
        _ if wanted.is_empty() => true,
        Value::Null => node.is_nullable(),
        Value::Number(number) if number.is_f64() => {
            has("number") || (has("integer") && number.as_f64().is_some_and(is_integral))
        }
        Value::Number(_) => has("integer") || has("number"),
        // Upstream leaves texts with a format to the format.
        Value::String(_) | Value::Array(_)
            if node.format().is_some() && !matches!(node.kind(), Kind::Integer | Kind::Number) =>
        {
            true
        }
        other => has(type_name(other)),
    };
    if good {
        out.matches += 1;
    } else {
        let found = type_name(value);
        let detail = told(path, &format!("must be of type {wanted}: {found:?}"));
        out.error(ErrorKind::TypeInvalid, path, Some(found.into()), detail);
    }
}

fn check_value(node: Node<'_>, value: &Value, old: Option<&Value>, path: &Path, out: &mut Outcome) {
    // One error about a text is enough, as upstream.
    let mut text_done = false;
    let (mut items_done, mut fields_done) = (false, false);
    for rule in node.rules() {
        if matches!(rule, Rule::MinItems(_) | Rule::MaxItems(_) | Rule::UniqueItems | Rule::Enum(_)) && !items_done {
            items_done = true;
            check_items(node, value, old, path, out);
        }
        if matches!(rule, Rule::Required(_)) && !fields_done {
            fields_done = true;
            check_fields(node, value, old, path, out);
        }
        match (rule, value) {
            (Rule::AnyOf(branches), _) => any_of(node, branches, value, old, path, out),
            (Rule::OneOf(branches), _) => one_of(node, branches, value, old, path, out),
            (Rule::AllOf(branches), _) => all_of(node, branches, value, old, path, out),
            (Rule::Not(branch), _) if branch_outcome(node, *branch, value, old, path).errors.is_empty() => {
                out.composite(format!("{:?} must not validate the schema (not)", path.as_str()));
            }
            (Rule::MaxLength(_) | Rule::MinLength(_) | Rule::Pattern(_), Value::String(text)) if !text_done => {
                text_done = check_text(rule, text, path, out);
            }
            (Rule::Format(format, name), value) => check_format(*format, name, value, path, out),
            (Rule::MultipleOf(_) | Rule::Maximum(..) | Rule::Minimum(..), Value::Number(_)) => {
                check_number(rule, value, path, out);
            }
            (Rule::MinItems(_) | Rule::MaxItems(_) | Rule::UniqueItems, Value::Array(list)) => {
                check_size(rule, list, path, out);
            }
            (Rule::Enum(_), _) => check_enum(node, value, path, out),
            (Rule::MinProperties(min), Value::Object(map)) if (map.len() as u64) < *min => {
                out.invalid(path, map.len(), told(path, &format!("should have at least {min} properties")));
            }
            (Rule::MaxProperties(max), Value::Object(map)) if map.len() as u64 > *max => {
                out.push(FieldError::too_many(path, map.len(), usize::try_from(*max).unwrap_or(usize::MAX)));
            }
            (Rule::Required(_), Value::Object(map)) => {
                for name in node.required().filter(|name| !map.contains_key(*name)) {
                    out.push(FieldError::required(&path.child(name), ""));
                }
            }
            _ => {}
        }
    }
    if !items_done {
        check_items(node, value, old, path, out);
    }
    if !fields_done {
        check_fields(node, value, old, path, out);
    }
}

fn branch_outcome(node: Node<'_>, branch: u32, value: &Value, old: Option<&Value>, path: &Path) -> Outcome {
    let mut out = Outcome::default();
    if let Some(branch) = node.at(branch) {
        check(branch, value, old, path, false, &mut out);
    }
    out
}

/// Of failed alternatives, the one that came farthest.
fn best(so_far: Option<Outcome>, next: Outcome) -> Option<Outcome> {
    match so_far {
        Some(best) if best.matches >= next.matches => Some(best),
        _ => Some(next),
    }
}

fn any_of(node: Node<'_>, branches: &[u32], value: &Value, old: Option<&Value>, path: &Path, out: &mut Outcome) {
    let mut failures = None;
    for branch in branches {
        let outcome = branch_outcome(node, *branch, value, old, path);
        if outcome.errors.is_empty() {
            out.merge(outcome);
            return;
        }
        failures = best(failures, outcome);
    }
    out.composite(format!("{:?} must validate at least one schema (anyOf)", path.as_str()));
    out.merge(failures.unwrap_or_default());
}

fn one_of(node: Node<'_>, branches: &[u32], value: &Value, old: Option<&Value>, path: &Path, out: &mut Outcome) {
    let (mut good, mut failures, mut first) = (0, None, None);
    for branch in branches {
        let outcome = branch_outcome(node, *branch, value, old, path);
        if outcome.errors.is_empty() {
            good += 1;
            failures = None;
            first.get_or_insert(outcome);
        } else if good == 0 {
            failures = best(failures, outcome);
        }
    }
    if good == 1 {
        out.merge(first.unwrap_or_default());
        return;
    }
    let why = if good == 0 { "Found none valid".to_owned() } else { format!("Found {good} valid alternatives") };
    out.composite(format!("{:?} must validate one and only one schema (oneOf). {why}", path.as_str()));
    out.merge(failures.unwrap_or_default());
}

fn all_of(node: Node<'_>, branches: &[u32], value: &Value, old: Option<&Value>, path: &Path, out: &mut Outcome) {
    let mut good = 0;
    for branch in branches {
        let outcome = branch_outcome(node, *branch, value, old, path);
        good += usize::from(outcome.errors.is_empty());
        out.merge(outcome);
    }
    if good != branches.len() {
        let why = if good == 0 { ". None validated" } else { "" };
        out.composite(format!("{:?} must validate all the schemas (allOf){why}", path.as_str()));
    }
}

/// Whether something was wrong.
fn check_text(rule: &Rule, text: &str, path: &Path, out: &mut Outcome) -> bool {
    let length = || text.chars().count() as u64;
    match rule {
        Rule::MaxLength(max) if length() > *max => {
            out.push(FieldError::too_long(path, usize::try_from(*max).unwrap_or(usize::MAX)));
        }
        Rule::MinLength(min) if length() < *min => {
            out.invalid(path, text, told(path, &format!("should be at least {min} chars long")));
        }
        Rule::Pattern(pattern) if !pattern.matches(text) => {
            out.invalid(path, text, told(path, &format!("should match '{}'", pattern.text())));
        }
        _ => {
            out.matches += 1;
            return false;
        }
    }
    true
}

fn check_format(format: Format, name: &str, value: &Value, path: &Path, out: &mut Outcome) {
    let wrong = match value {
        Value::String(text) => !format.accepts(text),
        Value::Number(number) => {
            if let Some(kind) = format.number_kind().filter(|_| !format.holds(number)) {
                let detail = format!("Checked value must be of type {kind} with format {name} in {}", path.as_str());
                out.composite(detail);
            }
            return;
        }
        _ => return,
    };
    if wrong {
        let detail = told(path, &format!("must be of type {name}: {value}"));
        out.error(ErrorKind::TypeInvalid, path, Some(value.clone()), detail);
    } else {
        out.matches += 1;
    }
}

fn check_number(rule: &Rule, value: &Value, path: &Path, out: &mut Outcome) {
    let number = value.as_f64().unwrap_or_default();
    let wrong = match rule {
        Rule::MultipleOf(factor) if !is_multiple(number, *factor) => format!("should be a multiple of {factor}"),
        Rule::Maximum(max, true) if number >= *max => format!("should be less than {max}"),
        Rule::Maximum(max, false) if number > *max => format!("should be less than or equal to {max}"),
        Rule::Minimum(min, true) if number <= *min => format!("should be greater than {min}"),
        Rule::Minimum(min, false) if number < *min => format!("should be greater than or equal to {min}"),
        _ => {
            out.matches += 1;
            return;
        }
    };
    out.invalid(path, value.clone(), told(path, &wrong));
}

fn is_multiple(number: f64, factor: f64) -> bool {
    let times = number / factor;
    factor > 0.0 && (times - times.round()).abs() <= f64::EPSILON * times.abs().max(1.0)
}

fn check_size(rule: &Rule, list: &[Value], path: &Path, out: &mut Outcome) {
    let size = list.len() as u64;
    match rule {
        Rule::MinItems(min) if size < *min => {
            out.invalid(path, size, told(path, &format!("should have at least {min} items")));
        }
        Rule::MaxItems(max) if size > *max => {
            out.push(FieldError::too_many(path, list.len(), usize::try_from(*max).unwrap_or(usize::MAX)));
        }
        Rule::UniqueItems if list.iter().enumerate().any(|(index, item)| list[..index].contains(item)) => {
            out.invalid(path, "", told(path, "shouldn't contain duplicates"));
        }
        _ => out.matches += 1,
    }
}

fn check_enum(node: Node<'_>, value: &Value, path: &Path, out: &mut Outcome) {
    let allowed = node.enumeration();
    let same = |one: &Value| one == value || (one.is_number() && value.is_number() && one.as_f64() == value.as_f64());
    if allowed.is_empty() || allowed.iter().any(same) {
        return;
    }
    let quoted = allowed.iter().map(|one| match one {
        Value::String(text) => format!("{text:?}"),
        other => format!("{:?}", other.to_string()),
    });
    let detail = format!("supported values: {}", quoted.collect::<Vec<_>>().join(", "));
    out.error(ErrorKind::NotSupported, path, Some(value.clone()), detail);
}

fn check_items(node: Node<'_>, value: &Value, old: Option<&Value>, path: &Path, out: &mut Outcome) {
    let (Value::Array(list), Some(items)) = (value, node.items()) else { return };
    for (index, item) in list.iter().enumerate() {
        check(items, item, correlated(node, item, old), &path.index(index), true, out);
    }
}

/// The old element that a new one of a list is the successor of: lists of type map tell by their keys.
fn correlated<'v>(node: Node<'_>, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
    if node.list_type() != Some(ListType::Map) {
        return None;
    }
    let same = |other: &&Value| node.map_keys().all(|key| other.get(key) == item.get(key));
    old?.as_array()?.iter().find(same)
}

fn check_fields(node: Node<'_>, value: &Value, old: Option<&Value>, path: &Path, out: &mut Outcome) {
    let Value::Object(map) = value else { return };
    let old = old.and_then(Value::as_object);
    for (name, value) in map {
        let was = old.and_then(|old| old.get(name));
        match node.property(name) {
            Some(property) => check(property, value, was, &path.child(name), true, out),
            None => match node.additional() {
                Some(values) => check(values, value, was, &path.child(name), true, out),
                None if node.has(CLOSED) => {
                    let detail = format!("{}.{name} in body is a forbidden property", path.as_str());
                    out.invalid(path, name.as_str(), detail);
                }
                None => {}
            },
        }
    }
}

fn evaluate(node: Node<'_>, place: Place<'_>, path: &Path, hook: &mut dyn Hook, errors: &mut Vec<FieldError>) {
    if !node.validations().is_empty() {
        errors.extend(hook.check(node, place, path));
    }
    let Place { value, old, around } = place;
    let around = old.map(|old| (value, old)).or(around);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let place = Place { value, old: old.and_then(|old| old.get(name)), around };
                if let Some(field) = node.property(name) {
                    evaluate(field, place, &path.child(name), hook, errors);
                } else if let Some(values) = node.additional() {
                    evaluate(values, place, &path.key(name), hook, errors);
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = node.items() else { return };
            for (index, value) in list.iter().enumerate() {
                let place = Place { value, old: correlated(node, value, old), around };
                evaluate(items, place, &path.index(index), hook, errors);
            }
        }
        _ => {}
    }
}
