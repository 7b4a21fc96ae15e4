//! Label and field selectors: which objects a request means.

use serde_json::Value;
use std::fmt;

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// `key in (a,b)`, `key=a`.
    In(String, Vec<String>),
    /// `key notin (a,b)`, `key!=a`: also true when the key is absent.
    NotIn(String, Vec<String>),
    /// `key`.
    Exists(String),
    /// `!key`.
    DoesNotExist(String),
    /// `key>n`: present, an integer, and greater.
    Greater(String, i64),
    /// `key<n`.
    Less(String, i64),
}

impl Requirement {
    fn matches<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Requirement::In(key, values) => label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::DoesNotExist(key) => label(key).is_none(),
            Requirement::Greater(key, n) => label(key).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
            Requirement::Less(key, n) => label(key).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Requirement::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Requirement::Exists(key) => f.write_str(key),
            Requirement::DoesNotExist(key) => write!(f, "!{key}"),
            Requirement::Greater(key, n) => write!(f, "{key}>{n}"),
            Requirement::Less(key, n) => write!(f, "{key}<{n}"),
        }
    }
}

/// A label selector: all requirements must hold; none at all selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Selects nothing.
    pub fn nothing() -> LabelSelector {
        LabelSelector { nothing: true, ..LabelSelector::default() }
    }

    /// True when every object is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Parses the query form: `a=b,c!=d,e in (f,g),!h,i,j>3`. The error says what stands where.
    pub fn parse(text: &str) -> Result<LabelSelector, String> {
        let mut tokens = Tokens { rest: text };
        let mut selector = LabelSelector::default();
        if tokens.peek() == Token::End {
            return Ok(selector);
        }
        loop {
            selector.requirements.push(requirement(&mut tokens)?);
            match tokens.next() {
                Token::End => return Ok(selector),
                Token::Symbol(",") if tokens.peek() != Token::End => {}
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    /// The selector that a map of labels is (`spec.selector` of a Service or ReplicationController).
    pub fn from_labels<K: Into<String>, V: Into<String>>(labels: impl IntoIterator<Item = (K, V)>) -> LabelSelector {
        let requirements = labels.into_iter().map(|(k, v)| Requirement::In(k.into(), vec![v.into()])).collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Reads a `metav1.LabelSelector`: null selects nothing, `{}` everything.
    pub fn from_value(value: &Value) -> Result<LabelSelector, String> {
        if value.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let mut requirements = Vec::new();
        for (key, label) in value.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![label.as_str().unwrap_or_default().to_owned()]));
        }
        for expression in value.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(expression_requirement(expression)?);
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Whether labels, looked up by key, are selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(&label))
    }

    /// Whether an object's `metadata.labels` are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.matches(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

fn expression_requirement(expression: &Value) -> Result<Requirement, String> {
    let key = expression.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    let values: Vec<String> = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    let operator = expression.get("operator").and_then(Value::as_str).unwrap_or_default();
    let number = || {
        values
            .first()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| "for 'Gt', 'Lt' operators, the value must be an integer".to_owned())
    };
    Ok(match operator {
        "In" => Requirement::In(key, values),
        "NotIn" => Requirement::NotIn(key, values),
        "Exists" => Requirement::Exists(key),
        "DoesNotExist" => Requirement::DoesNotExist(key),
        "Gt" => Requirement::Greater(key, number()?),
        "Lt" => Requirement::Less(key, number()?),
        other => return Err(format!("{other:?} is not a valid label selector operator")),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Word(&'a str),
    Symbol(&'a str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Word(s) | Token::Symbol(s) => s,
        }
    }
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn split(&self) -> (Token<'a>, &'a str) {
        let rest = self.rest.trim_start();
        for symbol in ["==", "!=", "=", "!", "(", ")", ",", ">", "<"] {
            if let Some(after) = rest.strip_prefix(symbol) {
                return (Token::Symbol(symbol), after);
            }
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(rest.len());
        if end == 0 { (Token::End, "") } else { (Token::Word(&rest[..end]), &rest[end..]) }
    }

    fn peek(&self) -> Token<'a> {
        self.split().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.split();
        self.rest = rest;
        token
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, String> {
    let negated = tokens.peek() == Token::Symbol("!");
    if negated {
        tokens.next();
    }
    let Token::Word(key) = tokens.next() else {
        return Err("found '', expected: identifier".to_owned());
    };
    check_key(key)?;
    let key = key.to_owned();
    if negated {
        return Ok(Requirement::DoesNotExist(key));
    }
    match tokens.peek() {
        Token::End | Token::Symbol(",") => return Ok(Requirement::Exists(key)),
        _ => {}
    }
    match tokens.next() {
        Token::Symbol("=" | "==") => Ok(Requirement::In(key, vec![value(tokens)?])),
        Token::Symbol("!=") => Ok(Requirement::NotIn(key, vec![value(tokens)?])),
        Token::Symbol(">") => Ok(Requirement::Greater(key, integer(tokens)?)),
        Token::Symbol("<") => Ok(Requirement::Less(key, integer(tokens)?)),
        Token::Word("in") => Ok(Requirement::In(key, values(tokens)?)),
        Token::Word("notin") => Ok(Requirement::NotIn(key, values(tokens)?)),
        other => Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match crate::name::qualified_name(key).first() {
        Some(problem) => Err(format!("key: Invalid value: {key:?}: {problem}")),
        None => Ok(()),
    }
}

fn value(tokens: &mut Tokens<'_>) -> Result<String, String> {
    match tokens.peek() {
        Token::Word(word) => {
            tokens.next();
            match crate::name::label_value(word).first() {
                Some(problem) => Err(format!("values[0]: Invalid value: {word:?}: {problem}")),
                None => Ok(word.to_owned()),
            }
        }
        Token::End | Token::Symbol(",") => Ok(String::new()),
        Token::Symbol(other) => Err(format!("found '{other}', expected: identifier")),
    }
}

fn integer(tokens: &mut Tokens<'_>) -> Result<i64, String> {
    let text = value(tokens)?;
    text.parse().map_err(|_| {
        format!("values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
    })
}

fn values(tokens: &mut Tokens<'_>) -> Result<Vec<String>, String> {
    if tokens.next() != Token::Symbol("(") {
        return Err("expected: '('".to_owned());
    }
    let mut all = Vec::new();
    loop {
        if tokens.peek() == Token::Symbol(")") {
            all.push(String::new());
        } else {
            all.push(value(tokens)?);
        }
        match tokens.next() {
            Token::Symbol(",") => {}
            Token::Symbol(")") => {
                all.sort();
                all.dedup();
                return Ok(all);
            }
            other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
        }
    }
}

/// A field selector: `status.phase=Running,spec.nodeName!=n1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// True for `=`, false for `!=`.
    pub equal: bool,
}

impl FieldSelector {
    /// Parses the query form. `\\`, `\,` and `\=` stand for the plain character.
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text, ',') {
            if part.is_empty() {
                continue;
            }
            terms.push(
                field_term(part).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?,
            );
        }
        Ok(FieldSelector { terms })
    }

    /// The same selector on fields of other names.
    #[must_use]
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> FieldSelector {
        for term in &mut self.terms {
            if let Some(name) = rename(&term.field) {
                term.field = name;
            }
        }
        self
    }

    /// The terms; all must hold.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// True when every object is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must be equal to, if the selector says so (for instance `metadata.name`).
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether fields, looked up by path (absent: empty), are selected.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (field(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}

fn split_unescaped(text: &str, at: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == at {
            parts.push(&text[start..i]);
            start = i + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn field_term(part: &str) -> Option<FieldTerm> {
    let at = part.find('=')?;
    let (field, equal) = match part[..at].strip_suffix('!') {
        Some(field) => (field, false),
        None => (&part[..at], true),
    };
    let rest = &part[at + 1..];
    let rest = if equal { rest.strip_prefix('=').unwrap_or(rest) } else { rest };
    let mut value = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => value.push(c),
                _ => return None,
            },
            '=' => return None,
            c => value.push(c),
        }
    }
    Some(FieldTerm { field: field.to_owned(), value, equal })
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |s: &str| s.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
        let all: Vec<String> = self
            .terms
            .iter()
            .map(|t| format!("{}{}{}", t.field, if t.equal { "=" } else { "!=" }, escape(&t.value)))
            .collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(selector: &str, labels: &[(&str, &str)]) -> bool {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        parsed.matches(|k| labels.iter().find(|(n, _)| *n == k).map(|(_, v)| *v))
    }

    #[test]
    fn label_selectors() {
        let labels = [("app", "web"), ("tier", ""), ("n", "5")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app == web , tier", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("missing notin (a)", true),
            ("!app", false),
            ("!missing", true),
            ("tier=", true),
            ("n>4,n<6", true),
            ("app>4", false),
        ] {
            assert_eq!(check(selector, &labels), expected, "{selector}");
        }
        for bad in ["=a", "a=b=c", "a in b", "a in (b", "a,", "a b", "a>x", "a=b c", "-a", "a=_"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn selector_objects() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]});
        let selector = LabelSelector::from_value(&selector).unwrap();
        assert!(selector.matches_object(&json!({"metadata": {"labels": {"a": "b", "c": "e"}}})));
        assert!(!selector.matches_object(&json!({"metadata": {"labels": {"a": "b"}}})));
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(|_| None));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(|_| None));
        assert_eq!(selector.to_string(), "a=b,c in (d,e)");
    }

    #[test]
    fn field_selectors() {
        let fields =
            |f: &str| [("status.phase", "Running"), ("x", "a,b")].iter().find(|(n, _)| *n == f).map(|(_, v)| *v);
        for (selector, expected) in [
            ("", true),
            ("status.phase=Running", true),
            ("status.phase!=Running", false),
            (r"x==a\,b", true),
            ("y=", true),
            ("y!=", false),
        ] {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(fields), expected, "{selector}");
        }
        assert!(FieldSelector::parse("a").is_err());
        assert!(FieldSelector::parse(r"a=b\c").is_err());
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,60}") {
            let _ = LabelSelector::parse(&text);
            if let Ok(fields) = FieldSelector::parse(&text) {
                prop_assert_eq!(FieldSelector::parse(&fields.to_string()).unwrap(), fields);
            }
        }

        #[test]
        fn label_selectors_round_trip(text in "!?[a-c]{1,2}((=|!=| in \\(|>)[a-c0-9]{0,2}\\)?)?(,[a-d])?") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
