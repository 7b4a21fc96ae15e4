//! Places in an object and what is found wrong there.

use crate::look::Look;
use machinery::field::{ErrorKind, FieldError, Path};
use serde_json::Value;

/// A place in an object: kept on the stack, spelled only when something is wrong.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    above: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// A field of the object itself; dots in it lead further down.
    pub(super) const fn root(field: &'a str) -> At<'a> {
        At { above: None, step: Step::Field(field) }
    }

    /// A field below; dots in it lead further down.
    pub(super) fn field(&'a self, name: &'a str) -> At<'a> {
        At { above: Some(self), step: Step::Field(name) }
    }

    /// An element.
    pub(super) fn index(&'a self, index: usize) -> At<'a> {
        At { above: Some(self), step: Step::Index(index) }
    }

    /// A value of a map.
    pub(super) fn key(&'a self, key: &'a str) -> At<'a> {
        At { above: Some(self), step: Step::Key(key) }
    }

    /// The path, spelled.
    pub(super) fn path(&self) -> Path {
        match (self.above.map(At::path), self.step) {
            (None, Step::Field(name) | Step::Key(name)) => Path::new(name),
            (None, Step::Index(index)) => Path::default().index(index),
            (Some(above), Step::Field(name)) => above.child(name),
            (Some(above), Step::Index(index)) => above.index(index),
            (Some(above), Step::Key(key)) => above.key(key),
        }
    }
}

/// What is wrong with an object so far.
#[derive(Default)]
pub(super) struct Errors(pub(super) Vec<FieldError>);

impl Errors {
    fn push(&mut self, kind: ErrorKind, at: &At<'_>, value: Option<Value>, detail: impl Into<String>) {
        self.0.push(FieldError { kind, path: at.path(), value, detail: detail.into() });
    }

    pub(super) fn required(&mut self, at: &At<'_>, detail: &str) {
        self.push(ErrorKind::Required, at, None, detail);
    }

    pub(super) fn invalid(&mut self, at: &At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(ErrorKind::Invalid, at, Some(value.into()), detail);
    }

    pub(super) fn forbidden(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.push(ErrorKind::Forbidden, at, None, detail);
    }

    pub(super) fn duplicate(&mut self, at: &At<'_>, value: impl Into<Value>) {
        self.push(ErrorKind::Duplicate, at, Some(value.into()), "");
    }

    pub(super) fn not_found(&mut self, at: &At<'_>, value: impl Into<Value>) {
        self.push(ErrorKind::NotFound, at, Some(value.into()), "");
    }

    pub(super) fn not_found_because(&mut self, at: &At<'_>, value: impl Into<Value>, detail: String) {
        self.push(ErrorKind::NotFound, at, Some(value.into()), detail);
    }

    pub(super) fn too_many(&mut self, at: &At<'_>, count: usize, max: usize) {
        self.0.push(FieldError::too_many(&at.path(), count, max));
    }

    pub(super) fn too_long(&mut self, at: &At<'_>, max: usize) {
        self.0.push(FieldError::too_long(&at.path(), max));
    }

    /// One of these values was expected; they are listed in the order given, which is upstream's.
    pub(super) fn unsupported(&mut self, at: &At<'_>, value: impl Into<Value>, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        self.push(ErrorKind::NotSupported, at, Some(value.into()), format!("supported values: {}", list.join(", ")));
    }

    /// What a check of a text found, one error each.
    pub(super) fn texts(&mut self, at: &At<'_>, value: &str, wrong: Vec<String>) {
        for detail in wrong {
            self.invalid(at, value, detail);
        }
    }

    /// The field must be one of these; an empty one is left to `required`.
    pub(super) fn one_of(&mut self, at: &At<'_>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.unsupported(at, value, supported);
        }
    }

    /// A number must not be negative, where it is given.
    pub(super) fn non_negative(&mut self, at: &At<'_>, value: &Value) {
        if value.as_i64().is_some_and(|n| n < 0) {
            self.invalid(at, value.clone(), "must be greater than or equal to 0");
        }
    }

    /// A number must be in a range, where it is given.
    pub(super) fn in_range(&mut self, at: &At<'_>, value: &Value, from: i64, to: i64) {
        if value.as_i64().is_some_and(|n| n < from || n > to) {
            self.invalid(at, value.clone(), format!("must be between {from} and {to}, inclusive"));
        }
    }

    /// A field must stay as it was.
    pub(super) fn immutable(&mut self, at: &At<'_>, new: &Value, old: &Value) {
        if new != old {
            self.invalid(at, new.clone(), "field is immutable");
        }
    }

    /// The fields below an object's `spec` that must stay as they were.
    pub(super) fn immutable_fields(&mut self, new: &Value, old: &Value, fields: &[&str]) {
        for field in fields {
            self.immutable(&At::root(field), new.at(field), old.at(field));
        }
    }
}
