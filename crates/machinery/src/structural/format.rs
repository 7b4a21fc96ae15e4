//! Formats: what a text or number must look like. Those that are not known are not checked.

use super::Kind;
use super::pattern::translate;
use crate::name;
use base64::Engine;
use regex::Regex;
use serde_json::Number;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

/// A format that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    BsonObjectId,
    Uri,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Cidr,
    Mac,
    Uuid(Option<char>),
    Isbn,
    Isbn10,
    Isbn13,
    CreditCard,
    Ssn,
    HexColor,
    RgbColor,
    Byte,
    Password,
    Date,
    Duration,
    DateTime,
    ShortName,
    LongName,
    Int32,
    Int64,
    Float,
    Double,
}

impl Format {
    /// The format of a name, for a type; none when it is not checked there.
    pub(super) fn of(kind: Kind, int_or_string: bool, name: &str) -> Option<Format> {
        match kind {
            Kind::Integer => match name {
                "int32" => Some(Format::Int32),
                "int64" => Some(Format::Int64),
                _ => None,
            },
            Kind::Number => match name {
                "float" => Some(Format::Float),
                "double" => Some(Format::Double),
                _ => None,
            },
            Kind::Any | Kind::String if !int_or_string => Format::of_text(&name.replace('-', "")),
            _ => None,
        }
    }

    fn of_text(name: &str) -> Option<Format> {
        Some(match name {
            "bsonobjectid" => Format::BsonObjectId,
            "uri" => Format::Uri,
            "email" => Format::Email,
            "hostname" => Format::Hostname,
            "ipv4" => Format::Ipv4,
            "ipv6" => Format::Ipv6,
            "cidr" => Format::Cidr,
            "mac" => Format::Mac,
            "uuid" => Format::Uuid(None),
            "uuid3" => Format::Uuid(Some('3')),
            "uuid4" => Format::Uuid(Some('4')),
            "uuid5" => Format::Uuid(Some('5')),
            "isbn" => Format::Isbn,
            "isbn10" => Format::Isbn10,
            "isbn13" => Format::Isbn13,
            "creditcard" => Format::CreditCard,
            "ssn" => Format::Ssn,
            "hexcolor" => Format::HexColor,
            "rgbcolor" => Format::RgbColor,
            "byte" => Format::Byte,
            "password" => Format::Password,
            "date" => Format::Date,
            "duration" => Format::Duration,
            "datetime" => Format::DateTime,
            "k8sshortname" => Format::ShortName,
            "k8slongname" => Format::LongName,
            _ => return None,
        })
    }

    /// Whether a format of this name is known for a type (`schema.type` as written).
    pub(super) fn is_known(kind: &str, name: &str) -> bool {
        let kind = if kind.is_empty() { Kind::Any } else { Kind::parse(kind) };
        Format::of(kind, false, name).is_some()
    }

    /// The type a format of numbers bounds.
    pub(super) fn number_kind(self) -> Option<&'static str> {
        match self {
            Format::Int32 | Format::Int64 => Some("integer"),
            Format::Float | Format::Double => Some("number"),
            _ => None,
        }
    }

    /// Whether a number is in the range of the format.
    pub(super) fn holds(self, number: &Number) -> bool {
        match self {
            Format::Int32 => number.as_f64().is_some_and(|n| (-2_147_483_648.0..=2_147_483_647.0).contains(&n)),
            Format::Int64 => {
                number.is_i64() || number.as_f64().is_some_and(|n| (-9.3e18..9.223_372_036_854_776e18).contains(&n))
            }
            Format::Float => number.as_f64().is_some_and(|n| n.abs() <= f64::from(f32::MAX)),
            _ => true,
        }
    }

    /// Whether a text is of the format.
    pub(super) fn accepts(self, text: &str) -> bool {
        match self {
            Format::Password | Format::Int32 | Format::Int64 | Format::Float | Format::Double => true,
            Format::BsonObjectId => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            Format::Uri => is_uri(text),
            Format::Email => is_email(text),
            Format::Hostname => is_hostname(text),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Cidr => is_cidr(text),
            Format::Mac => is_mac(text),
            Format::Uuid(version) => is_uuid(text, version),
            Format::Isbn => is_isbn10(text) || is_isbn13(text),
            Format::Isbn10 => is_isbn10(text),
            Format::Isbn13 => is_isbn13(text),
            Format::CreditCard => is_credit_card(text),
            Format::Ssn => matches(&SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text),
            Format::HexColor => matches(&HEX_COLOR, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
            Format::RgbColor => is_rgb(text),
            Format::Byte => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
            Format::Date => is_date(text),
            Format::Duration => is_duration(text),
            Format::DateTime => is_date_time(text),
            Format::ShortName => name::dns1123_label(text).is_empty(),
            Format::LongName => name::dns1123_subdomain(text).is_empty(),
        }
    }
}

static SSN: OnceLock<Option<Regex>> = OnceLock::new();
static HEX_COLOR: OnceLock<Option<Regex>> = OnceLock::new();
static CARD: OnceLock<Option<Regex>> = OnceLock::new();
static DURATION: OnceLock<Option<Regex>> = OnceLock::new();
static DATE_TIME: OnceLock<Option<Regex>> = OnceLock::new();

fn matches(cell: &OnceLock<Option<Regex>>, pattern: &str, text: &str) -> bool {
    cell.get_or_init(|| translate(pattern).ok()).as_ref().is_some_and(|regex| regex.is_match(text))
}

/// An absolute URI or an absolute path, as of an HTTP request.
fn is_uri(text: &str) -> bool {
    let clean = !text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#');
    let absolute = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    clean && (absolute || text.starts_with('/'))
}

fn is_email(text: &str) -> bool {
    let text = text.trim();
    let address = text.strip_suffix('>').and_then(|text| text.rsplit_once('<')).map_or(text, |(_, address)| address);
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        let good = |part: &str| !part.is_empty() && !part.contains([' ', '<', '>', ',', '(', ')']);
        good(local) && good(domain) && !domain.contains('@') && !local.starts_with('.') && !local.ends_with('.')
    })
}

/// Labels of letters, digits, symbols and dashes; a name of several labels ends in one of letters.
fn is_hostname(text: &str) -> bool {
    let symbol = |c: char| "$+<=>^`|~".contains(c) || (!c.is_ascii() && !c.is_whitespace() && !c.is_control());
    let good = |label: &str| {
        (1..=63).contains(&label.chars().count())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || symbol(c))
    };
    let last = text.rsplit_once('.').map(|(_, last)| last);
    text.len() <= 255
        && text.split('.').all(good)
        && last.is_none_or(|last| last.chars().count() >= 2 && last.chars().all(char::is_alphabetic))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let bits = bits.parse::<u8>().ok().filter(|_| bits.bytes().all(|b| b.is_ascii_digit()));
    let max = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(_), _) => 32,
        (_, Ok(_)) => 128,
        _ => return false,
    };
    bits.is_some_and(|bits| bits <= max)
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| *c != '-').collect();
    let dashes_fit = {
        let mut at = 0;
        text.chars().all(|c| match c {
            '-' => matches!(at, 8 | 12 | 16 | 20),
            _ => {
                at += 1;
                true
            }
        }) && !text.contains("--")
    };
    dashes_fit
        && digits.len() == 32
        && digits.iter().all(char::is_ascii_hexdigit)
        && version.is_none_or(|version| digits[12] == version && (version == '3' || "89abAB".contains(digits[16])))
}

fn isbn_digits(text: &str) -> Vec<u32> {
    let clean = text.chars().filter(|c| !matches!(c, '-' | ' '));
    clean.map(|c| if c == 'X' { 10 } else { c.to_digit(10).unwrap_or(99) }).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let good = digits.len() == 10 && digits[..9].iter().all(|d| *d < 10) && digits[9] <= 10;
    good && digits.iter().zip((1..=10).rev()).map(|(d, weight)| d * weight).sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let good = digits.len() == 13 && digits.iter().all(|d| *d < 10);
    good && digits.iter().zip([1, 3].iter().cycle()).map(|(d, weight)| d * weight).sum::<u32>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    const PATTERN: &str = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$";
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn = digits.bytes().rev().enumerate().map(|(at, byte)| {
        let digit = u32::from(byte - b'0') * if at % 2 == 1 { 2 } else { 1 };
        if digit > 9 { digit - 9 } else { digit }
    });
    matches(&CARD, PATTERN, &digits) && luhn.sum::<u32>() % 10 == 0
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|text| text.strip_suffix(')'));
    let parts: Vec<&str> = inner.unwrap_or_default().split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// A duration of Go (`1h30m`, `22 ns`), or a number with a unit in words, as Scala writes it.
fn is_duration(text: &str) -> bool {
    const PATTERN: &str = r"^[+-]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$|^\s*-?\d+(\.\d+)?\s*(ns|nanos?|nanoseconds?|us|µs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)\s*$";
    matches(&DURATION, PATTERN, text)
}

fn is_date_time(text: &str) -> bool {
    const PATTERN: &str = r"^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})$";
    let number = |from: usize| text.get(from..from + 2).and_then(|part| part.parse::<u8>().ok());
    matches(&DATE_TIME, PATTERN, text)
        && text.get(..10).is_some_and(is_date)
        && number(11).is_some_and(|hour| hour < 24)
        && number(14).is_some_and(|minute| minute < 60)
        && number(17).is_some_and(|second| second < 61)
}
