//! Patterns: regular expressions in Go's syntax, compiled when first needed.

use regex::Regex;
use std::fmt;
use std::sync::OnceLock;

/// Largest compiled form of a pattern, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A regular expression of a schema. One that cannot be compiled matches nothing.
#[derive(Clone)]
pub(super) struct Pattern {
    text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Pattern {
        Pattern { text: text.into(), compiled: OnceLock::new() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| translate(&self.text).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// Compiles a regular expression written for Go: its classes `\d`, `\w`, `\s` and `\b` are of ASCII, and within brackets only
/// ranges and escapes have a meaning.
pub fn translate(pattern: &str) -> Result<Regex, regex::Error> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    // Characters since a bracket was opened; a bracket that comes first stands for itself.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        match (c, &mut class) {
            ('\\', _) => escape(chars.next(), class.is_some(), &mut out),
            ('[', None) => {
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                class = Some(0);
                continue;
            }
            ('[', Some(_)) if chars.peek() == Some(&':') => posix(&mut chars, &mut out),
            (']', Some(0)) | ('[' | '&' | '~', Some(_)) => {
                out.push('\\');
                out.push(c);
            }
            (']', Some(_)) => {
                out.push(']');
                class = None;
            }
            ('-', Some(_)) if out.ends_with('-') => out.push_str("\\-"),
            _ => out.push(c),
        }
        if let Some(at) = &mut class {
            *at += 1;
        }
    }
    regex::RegexBuilder::new(&out).size_limit(COMPILED_BYTES_MAX).build()
}

fn escape(escaped: Option<char>, in_class: bool, out: &mut String) {
    match escaped {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
        Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
        Some('b') if !in_class => out.push_str("(?-u:\\b)"),
        Some('B') if !in_class => out.push_str("(?-u:\\B)"),
        Some(other) => {
            out.push('\\');
            out.push(other);
        }
        None => out.push('\\'),
    }
}

/// `[:alpha:]` and the like, whose opening bracket is read already.
fn posix(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    out.push('[');
    for c in chars.by_ref() {
        out.push(c);
        if c == ']' {
            return;
        }
    }
}
