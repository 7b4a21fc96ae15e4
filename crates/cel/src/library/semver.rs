//! Semantic versions.

use super::opaque::{Opaque, of, wrap};
use super::{Cost, Outcome, Run, fault, mismatch};
use crate::fault::{Fault, Fuel};
use crate::value::Value;
use std::cmp::Ordering;
use std::fmt;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    (
        "semver",
        |args, _| match parsed(args)? {
            Ok(version) => Ok(wrap(Opaque::Semver(version))),
            Err(why) => fault(why),
        },
        Cost::Text(0, 1.0),
    ),
    ("isSemver", |args, _| Ok(Value::Bool(parsed(args)?.is_ok())), Cost::Text(0, 1.0)),
    ("major", |args, fuel| number(args, fuel, 0), Cost::One),
    ("minor", |args, fuel| number(args, fuel, 1), Cost::One),
    ("patch", |args, fuel| number(args, fuel, 2), Cost::One),
];

/// A version: `1.2.3-rc.1+build`.
#[derive(Clone, Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: String,
}

impl Semver {
    /// Parses the strict form; the error says what is wrong.
    fn parse(text: &str) -> Result<Semver, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let (rest, build) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre) = rest.split_once('-').unwrap_or((rest, ""));
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts.as_slice() else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let numbers = [number_of("major", major)?, number_of("minor", minor)?, number_of("patch", patch)?];
        let pre: Vec<String> =
            if rest.contains('-') { pre.split('.').map(str::to_owned).collect() } else { Vec::new() };
        for part in &pre {
            identifier("Prerelease", part)?;
            if part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
            }
        }
        if text.contains('+') {
            build.split('.').try_for_each(|part| identifier("Build meta data", part))?;
        }
        Ok(Semver { numbers, pre, build: build.to_owned() })
    }

    /// The order of versions; builds do not count.
    pub(super) fn order(&self, other: &Semver) -> Ordering {
        let core = self.numbers.cmp(&other.numbers);
        let pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let pairs = self.pre.iter().zip(&other.pre).map(|(a, b)| identifier_order(a, b));
                pairs.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        };
        core.then(pre)
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if self.build.is_empty() { Ok(()) } else { write!(f, "+{}", self.build) }
    }
}

/// Numbers come before words, by value; words by letters.
fn identifier_order(a: &str, b: &str) -> Ordering {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

fn number_of(which: &str, text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {which} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        let which = which[..1].to_uppercase() + &which[1..];
        return Err(format!("{which} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("{which} number {text:?} is too large"))
}

fn identifier(which: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{which} is empty"));
    }
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(());
    }
    Err(format!("Invalid character(s) found in {} {text:?}", which.to_lowercase()))
}

/// The strict form of a loose one: without `v`, with three numbers, without leading zeros.
fn normalize(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in &mut parts {
        let trimmed = part.trim_start_matches('0');
        if trimmed.len() < part.len() && part.len() > 1 {
            let digit = trimmed.starts_with(|c: char| c.is_ascii_digit());
            *part = if digit { trimmed.to_owned() } else { format!("0{trimmed}") };
        }
    }
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    Ok(parts.join("."))
}

fn parsed(args: &[Value<'_>]) -> Result<Result<Semver, String>, Fault> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Ok(Semver::parse(text)),
        [Value::String(text), Value::Bool(true)] => Ok(normalize(text).and_then(|text| Semver::parse(&text))),
        _ => Err(Fault::overload()),
    }
}

fn number<'a>(args: &[Value<'a>], _: &mut Fuel, which: usize) -> Outcome<'a> {
    match of(&args[0])? {
        Opaque::Semver(version) => Ok(Value::Int(version.numbers[which] as i64)),
        _ => mismatch(),
    }
}
