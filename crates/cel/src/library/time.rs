//! Times and spans of time.

use super::{Cost, Outcome, Run, fault, mismatch};
use crate::value::Value;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};
use std::fmt::Write;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("getFullYear", |args, _| part(args, |at| i64::from(at.year()), None), Cost::One),
    ("getMonth", |args, _| part(args, |at| i64::from(at.month()) - 1, None), Cost::One),
    ("getDayOfYear", |args, _| part(args, |at| i64::from(at.day_of_year()) - 1, None), Cost::One),
    ("getDayOfMonth", |args, _| part(args, |at| i64::from(at.day()) - 1, None), Cost::One),
    ("getDate", |args, _| part(args, |at| i64::from(at.day()), None), Cost::One),
    ("getDayOfWeek", |args, _| part(args, |at| i64::from(at.weekday().to_sunday_zero_offset()), None), Cost::One),
    ("getHours", |args, _| part(args, |at| i64::from(at.hour()), Some(3_600 * NANOS)), Cost::One),
    ("getMinutes", |args, _| part(args, |at| i64::from(at.minute()), Some(60 * NANOS)), Cost::One),
    ("getSeconds", |args, _| part(args, |at| i64::from(at.second()), Some(NANOS)), Cost::One),
    ("getMilliseconds", |args, _| part(args, |at| i64::from(at.millisecond()), Some(NANOS / 1_000)), Cost::One),
];

const NANOS: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A part of a time in its zone, or how often a unit (in nanoseconds) fits into a span.
fn part<'a>(args: &[Value<'a>], of: fn(&Zoned) -> i64, unit: Option<i64>) -> Outcome<'a> {
    match (args, unit) {
        ([Value::Timestamp(at)], _) => Ok(Value::Int(of(&at.to_zoned(TimeZone::UTC)))),
        ([Value::Timestamp(at), Value::String(zone)], _) => match time_zone(zone) {
            Some(zone) => Ok(Value::Int(of(&at.to_zoned(zone)))),
            None => fault(format!("unknown time zone {}", &**zone)),
        },
        ([Value::Duration(nanos)], Some(unit)) => Ok(Value::Int(nanos / unit)),
        _ => mismatch(),
    }
}

/// A name of the time zone database, or `+01:30`.
fn time_zone(name: &str) -> Option<TimeZone> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return if matches!(name, "" | "UTC" | "Z") { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() };
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().ok()?;
    let minutes: i32 = minutes.parse().ok().filter(|m| (0..60).contains(m))?;
    let seconds = (hours.checked_mul(60)? + minutes).checked_mul(60)?;
    Offset::from_seconds(if negative { -seconds } else { seconds }).ok().map(TimeZone::fixed)
}

/// A time so many nanoseconds later.
pub(super) fn shifted<'a>(at: Timestamp, nanos: i64) -> Outcome<'a> {
    let later = at.checked_add(SignedDuration::from_nanos(nanos)).ok();
    let fits = later.filter(|at| {
        SECONDS.contains(&at.as_nanosecond().div_euclid(i128::from(NANOS)).try_into().unwrap_or(i64::MAX))
    });
    fits.map_or_else(|| fault("timestamp overflow"), |at| Ok(Value::Timestamp(at)))
}

/// A time so many seconds after 1970.
pub(super) fn from_seconds<'a>(seconds: i64) -> Outcome<'a> {
    let at = SECONDS.contains(&seconds).then(|| Timestamp::from_second(seconds).ok()).flatten();
    at.map_or_else(|| fault("timestamp overflow"), |at| Ok(Value::Timestamp(at)))
}

/// RFC 3339, with any offset, in the years 1 to 9999.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !matches!(bytes[10], b'T' | b't') || bytes[0] == b'-' || bytes[0] == b'+' {
        return None;
    }
    let at: Timestamp = text.parse().ok()?;
    SECONDS.contains(&at.as_second()).then_some(at)
}

/// RFC 3339 in UTC, with as many digits of a second as there are.
pub(crate) fn print_timestamp(at: Timestamp) -> String {
    at.to_string()
}

/// Go's notation: `1h30m`, `-1.5s`, `0`; nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        total += amount(digits, unit)?;
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn amount(digits: &str, unit: &str) -> Option<i128> {
    let unit: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(15)];
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole * unit + part * unit / 10_i128.pow(fraction.len() as u32))
}

/// Seconds, as CEL writes spans: `5400s`, `0.5s`.
pub(crate) fn print_duration(nanos: i64) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (seconds, rest) = (nanos / NANOS as u64, nanos % NANOS as u64);
    let mut text = format!("{sign}{seconds}");
    if rest > 0 {
        let _ = write!(text, ".{}", format!("{rest:09}").trim_end_matches('0'));
    }
    text + "s"
}
