//! Regular expressions in RE2's syntax. Matching takes linear time whatever the pattern.

use super::{Cost, Outcome, Run, fault, mismatch};
use crate::value::{Text, Value};
use ::regex::{Regex, RegexBuilder};

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("matches", |args, _| apply(Call::Matches, args), Cost::Regex),
    ("find", |args, _| apply(Call::Find, args), Cost::Regex),
    ("findAll", |args, _| apply(Call::FindAll, args), Cost::Regex),
];

/// What is asked of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Whether it occurs.
    Matches,
    /// Its first occurrence.
    Find,
    /// All of them, up to a limit.
    FindAll,
}

impl Call {
    /// The answer for a text.
    pub(crate) fn run<'a>(self, regex: &Regex, text: &Text<'a>, limit: Option<&Value<'_>>) -> Outcome<'a> {
        Ok(match self {
            Call::Matches => Value::Bool(regex.is_match(text)),
            Call::Find => Value::string(regex.find(text).map_or("", |found| found.as_str())),
            Call::FindAll => {
                let limit = match limit {
                    None => usize::MAX,
                    Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                    Some(_) => return mismatch(),
                };
                Value::list(regex.find_iter(text).take(limit).map(|found| Value::string(found.as_str())).collect())
            }
        })
    }
}

fn apply<'a>(call: Call, args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text), Value::String(pattern), rest @ ..] = args else { return mismatch() };
    match compile(pattern) {
        Ok(regex) => call.run(&regex, text, rest.first()),
        Err(why) if call == Call::Matches => fault(why),
        Err(why) => fault(format!("Illegal regex: {why}")),
    }
}

/// Largest compiled pattern, in bytes.
const SIZE_MAX: usize = 1 << 20;

/// Compiles a pattern; the error is one line.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(SIZE_MAX).dfa_size_limit(SIZE_MAX).build();
    built.map_err(|error| match error {
        ::regex::Error::CompiledTooBig(_) => "error parsing regexp: expression too large".to_owned(),
        other => {
            let text = other.to_string();
            let last = match text.lines().last().unwrap_or_default().trim_start_matches("error: ") {
                "unclosed group" => "missing closing )",
                "unclosed character class" => "missing closing ]",
                "unopened group" => "unexpected )",
                "repetition operator missing expression" => "missing argument to repetition operator",
                other => other,
            };
            format!("error parsing regexp: {last}: `{pattern}`")
        }
    })
}
