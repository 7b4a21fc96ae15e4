//! Field paths and what can be wrong with a field, in upstream's words.

use serde_json::Value;
use std::fmt;

/// The path of a field in an object: `spec.containers[0].name`, `metadata.labels[a/b]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path of one field; empty for the object itself.
    pub fn new(name: &str) -> Path {
        Path(name.to_owned())
    }

    /// A field below this one. Dots in `name` are taken as they are.
    pub fn child(&self, name: &str) -> Path {
        if self.0.is_empty() { Path::new(name) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// An element of this list.
    pub fn index(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    /// A value of this map.
    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field: the `reason` of a `StatusCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It must be given.
    Required,
    /// Its value is malformed.
    Invalid,
    /// Its value is none of the known ones.
    NotSupported,
    /// It may not be given (or changed) here.
    Forbidden,
    /// Its value stands elsewhere already.
    Duplicate,
    /// Its value is too long.
    TooLong,
    /// It has too many elements.
    TooMany,
    /// What it refers to is not there.
    NotFound,
    /// It has the wrong type.
    TypeInvalid,
    /// Our own fault.
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::NotFound => "Not found",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of wrong.
    pub kind: ErrorKind,
    /// Which field.
    pub path: Path,
    /// Its value, where the message shows it.
    pub value: Option<Value>,
    /// Why.
    pub detail: String,
}

impl FieldError {
    fn new(kind: ErrorKind, path: &Path, value: Option<Value>, detail: impl Into<String>) -> FieldError {
        FieldError { kind, path: path.clone(), value, detail: detail.into() }
    }

    /// `Required value`.
    pub fn required(path: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Required, path, None, detail)
    }

    /// `Invalid value: VALUE: detail`.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// `Unsupported value: VALUE: supported values: "a", "b"`.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let mut sorted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        sorted.sort();
        let detail = if sorted.is_empty() { String::new() } else { format!("supported values: {}", sorted.join(", ")) };
        FieldError::new(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// `Forbidden: detail`.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Forbidden, path, None, detail)
    }

    /// `Duplicate value: VALUE`.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> FieldError {
        FieldError::new(ErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(path: &Path, max: usize) -> FieldError {
        FieldError::new(ErrorKind::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// `Too many: N: must have at most MAX items`.
    pub fn too_many(path: &Path, count: usize, max: usize) -> FieldError {
        FieldError::new(ErrorKind::TooMany, path, Some(count.into()), format!("must have at most {max} items"))
    }

    /// `Not found: VALUE`.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> FieldError {
        FieldError::new(ErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// `Invalid value: VALUE: detail`, for a wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// `Internal error: detail`.
    pub fn internal(path: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Internal, path, None, detail)
    }

    /// The message without the path: the `message` of a `StatusCause`.
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        if let Some(value) = &self.value {
            text += ": ";
            text += &match value {
                Value::String(s) => quoted(s),
                Value::Null => "null".to_owned(),
                other => other.to_string(),
            };
        }
        if !self.detail.is_empty() {
            text += ": ";
            text += &self.detail;
        }
        text
    }
}

/// Text in quotes as Go writes it.
fn quoted(text: &str) -> String {
    if !text.contains(char::is_control) {
        return format!("{text:?}");
    }
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' | '\r' | '\t' | '"' | '\\' => out.extend(letter.escape_debug()),
            letter if u32::from(letter) < 0x80 && letter.is_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording() {
        let name = Path::new("spec").child("containers").index(0).child("name");
        for (error, text) in [
            (FieldError::required(&name, ""), "spec.containers[0].name: Required value"),
            (FieldError::invalid(&name, "A", "bad"), r#"spec.containers[0].name: Invalid value: "A": bad"#),
            (
                FieldError::not_supported(&name, "A", &["c", "b"]),
                r#"spec.containers[0].name: Unsupported value: "A": supported values: "b", "c""#,
            ),
            (
                FieldError::invalid(&name, "a\u{7}\u{1b}\n\"", ""),
                r#"spec.containers[0].name: Invalid value: "a\a\x1b\n\"""#,
            ),
            (FieldError::duplicate(&name.key("k"), 3), "spec.containers[0].name[k]: Duplicate value: 3"),
            (FieldError::too_long(&name, 63), "spec.containers[0].name: Too long: may not be more than 63 bytes"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
