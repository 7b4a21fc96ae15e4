//! Named formats of text: `format.dns1123Label().validate("…")`.

use super::net::Url;
use super::opaque::{Opaque, of, wrap};
use super::{Cost, Outcome, Run, mismatch, time};
use crate::value::Value;
use base64::Engine;
use machinery::name;

/// A named format.
#[derive(Debug)]
pub struct Named {
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// What is wrong with a text; empty when nothing is.
    check: fn(&str) -> Vec<String>,
    /// The length of the pattern that it counts as.
    size: u64,
}

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    (
        "format.named",
        |args, _| match &args[0] {
            Value::String(name) => {
                Ok(find(name).map_or(Value::Optional(None), |named| Value::some(wrap(Opaque::Format(named)))))
            }
            _ => mismatch(),
        },
        Cost::One,
    ),
    (
        "validate",
        |args, _| match (of(&args[0])?, &args[1]) {
            (Opaque::Format(named), Value::String(text)) => {
                let wrong = (named.check)(text);
                if wrong.is_empty() {
                    return Ok(Value::Optional(None));
                }
                Ok(Value::some(Value::list(wrong.into_iter().map(Value::string).collect())))
            }
            _ => mismatch(),
        },
        Cost::Validate,
    ),
    ("format.dns1123Label", |_, _| constant("dns1123Label"), Cost::One),
    ("format.dns1123Subdomain", |_, _| constant("dns1123Subdomain"), Cost::One),
    ("format.dns1035Label", |_, _| constant("dns1035Label"), Cost::One),
    ("format.qualifiedName", |_, _| constant("qualifiedName"), Cost::One),
    ("format.dns1123LabelPrefix", |_, _| constant("dns1123LabelPrefix"), Cost::One),
    ("format.dns1123SubdomainPrefix", |_, _| constant("dns1123SubdomainPrefix"), Cost::One),
    ("format.dns1035LabelPrefix", |_, _| constant("dns1035LabelPrefix"), Cost::One),
    ("format.labelValue", |_, _| constant("labelValue"), Cost::One),
    ("format.uri", |_, _| constant("uri"), Cost::One),
    ("format.uuid", |_, _| constant("uuid"), Cost::One),
    ("format.byte", |_, _| constant("byte"), Cost::One),
    ("format.date", |_, _| constant("date"), Cost::One),
    ("format.datetime", |_, _| constant("datetime"), Cost::One),
];

static FORMATS: [(&str, Named); 13] = [
    ("dns1123Label", Named { name: "DNS1123Label", check: name::dns1123_label, size: 30 }),
    ("dns1123Subdomain", Named { name: "DNS1123Subdomain", check: name::dns1123_subdomain, size: 60 }),
    ("dns1035Label", Named { name: "DNS1035Label", check: name::dns1035_label, size: 30 }),
    ("qualifiedName", Named { name: "QualifiedName", check: name::qualified_name, size: 60 }),
    ("dns1123LabelPrefix", Named { name: "DNS1123LabelPrefix", check: |s| name::dns1123_label(&whole(s)), size: 30 }),
    (
        "dns1123SubdomainPrefix",
        Named { name: "DNS1123SubdomainPrefix", check: |s| name::dns1123_subdomain(&whole(s)), size: 60 },
    ),
    ("dns1035LabelPrefix", Named { name: "DNS1035LabelPrefix", check: |s| name::dns1035_label(&whole(s)), size: 30 }),
    ("labelValue", Named { name: "LabelValue", check: name::label_value, size: 40 }),
    ("uri", Named { name: "URI", check: |s| Url::parse(s).err().into_iter().collect(), size: 1103 }),
    ("uuid", Named { name: "uuid", check: |s| wrong(is_uuid(s), "does not match the UUID format"), size: 71 }),
    ("byte", Named { name: "byte", check: |s| wrong(is_base64(s), "invalid base64"), size: 84 }),
    ("date", Named { name: "date", check: |s| wrong(is_date(s), "invalid date"), size: 71 }),
    ("datetime", Named { name: "datetime", check: |s| wrong(is_datetime(s), "invalid datetime"), size: 71 }),
];

fn find(name: &str) -> Option<&'static Named> {
    FORMATS.iter().find(|(known, _)| *known == name).map(|(_, named)| named)
}

fn constant<'a>(name: &str) -> Outcome<'a> {
    find(name).map_or_else(mismatch, |named| Ok(wrap(Opaque::Format(named))))
}

/// The length of the pattern that the format under validation counts as.
pub(super) fn pattern_size(args: &[Value<'_>]) -> u64 {
    match args.first().map(of) {
        Some(Ok(Opaque::Format(named))) => named.size,
        _ => 1,
    }
}

/// A prefix as the name it may become: the dash at its end stands for a letter.
fn whole(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => prefix.to_owned(),
    }
}

fn wrong(good: bool, message: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![message.to_owned()] }
}

/// 32 hexadecimal digits, with or without the dashes.
fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (at, len) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if at > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        match rest.get(..len) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => rest = &rest[len..],
            _ => return false,
        }
    }
    rest.is_empty()
}

fn is_base64(text: &str) -> bool {
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && time::parse_timestamp(&format!("{text}T00:00:00Z")).is_some()
}

fn is_datetime(text: &str) -> bool {
    time::parse_timestamp(text).is_some()
}
