//! When a cron schedule is due: `minute hour day-of-month month day-of-week`, with names, steps, ranges and macros.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day of month and day of week are both given: either is enough (as cron has always done).
    either_day: bool,
    /// `@every`, in seconds.
    every: Option<i64>,
}

/// Why a text is no schedule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Error {
    /// It has not five fields.
    #[error("expected exactly 5 fields, found {0}")]
    Fields(usize),
    /// A field is not understood.
    #[error("failed to parse {0:?}")]
    Field(String),
    /// An unknown `@` word.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that is not due within so many years (the 30th of February) never is.
const YEARS_MAX: i16 = 5;

impl Schedule {
    /// Parses a schedule.
    pub(super) fn parse(text: &str) -> Result<Schedule, Error> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(period) = text.strip_prefix("@every ") {
            let seconds = seconds(period.trim()).ok_or_else(|| Error::Field(period.to_owned()))?;
            return Ok(Schedule { every: Some(seconds.max(1)), ..Schedule::none() });
        }
        if text.starts_with('@') {
            return Err(Error::Descriptor(text.to_owned()));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else { return Err(Error::Fields(fields.len())) };
        let star = |f: &str| f.starts_with('*') || f.starts_with('?');
        let mut weekdays = field(weekday, 0, 7, &WEEKDAYS, 0)?;
        // Sunday is 0 and 7.
        weekdays |= (weekdays >> 7) & 1;
        Ok(Schedule {
            minutes: field(minute, 0, 59, &[], 0)?,
            hours: field(hour, 0, 23, &[], 0)?,
            days: field(day, 1, 31, &[], 0)?,
            months: field(month, 1, 12, &MONTHS, 1)?,
            weekdays,
            either_day: !star(day) && !star(weekday),
            every: None,
        })
    }

    fn none() -> Schedule {
        Schedule { minutes: 0, hours: 0, days: 0, months: 0, weekdays: 0, either_day: false, every: None }
    }

    /// The first time after `after` that it is due, in `zone`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Some(seconds) = self.every {
            return Timestamp::from_second(after.as_second() + seconds).ok();
        }
        let local = zone.to_datetime(after);
        let first = local.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        let mut at = first;
        while at.year() - first.year() <= YEARS_MAX {
            match self.step(at) {
                Ok(()) => {
                    let due = zone.to_ambiguous_timestamp(at).compatible().ok()?;
                    // Where a clock is set back the same local time comes twice; it is due once.
                    if due > after {
                        return Some(due);
                    }
                    at = at.checked_add(1.minute()).ok()?;
                }
                Err(later) => at = later?,
            }
        }
        None
    }

    /// Whether it is due at `at`; if not, the next time worth looking at.
    fn step(&self, at: DateTime) -> Result<(), Option<DateTime>> {
        let has = |set: u64, n: i8| set >> n & 1 == 1;
        let midnight = at.date().at(0, 0, 0, 0);
        if !has(self.months, at.month()) {
            return Err(at.date().first_of_month().at(0, 0, 0, 0).checked_add(1.month()).ok());
        }
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        let due = if self.either_day { day || weekday } else { day && weekday };
        if !due {
            return Err(midnight.checked_add(1.day()).ok());
        }
        if !has(self.hours, at.hour()) {
            return Err(at.date().at(at.hour(), 0, 0, 0).checked_add(1.hour()).ok());
        }
        if has(self.minutes, at.minute()) { Ok(()) } else { Err(at.checked_add(1.minute()).ok()) }
    }
}

/// A field as a set of bits.
fn field(text: &str, low: u32, high: u32, names: &[&str], first_name: u32) -> Result<u64, Error> {
    let bad = || Error::Field(text.to_owned());
    let number = |s: &str| {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(s)).and_then(|i| u32::try_from(i).ok());
        named.map(|i| i + first_name).or_else(|| s.parse().ok()).filter(|n| (low..=high).contains(n))
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().ok().filter(|s| *s > 0).ok_or_else(bad)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (low, high),
            Some((from, to)) => (number(from).ok_or_else(bad)?, number(to).ok_or_else(bad)?),
            None => {
                let only = number(range).ok_or_else(bad)?;
                (only, if part.contains('/') { high } else { only })
            }
        };
        if from > to {
            return Err(bad());
        }
        let mut n = from;
        while n <= to {
            set |= 1 << n;
            n += step;
        }
    }
    Ok(set)
}

/// A duration as Go writes it: `1h30m`.
fn seconds(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0_i64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].chars().next()?;
        total += number
            * match unit {
                'h' => 3600,
                'm' => 60,
                's' => 1,
                _ => return None,
            };
        rest = &rest[digits + 1..];
    }
    Some(total).filter(|t| *t > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).expect("a test's zone exists");
        let after: Timestamp = after.parse().expect("a test's time is a time");
        Schedule::parse(schedule)
            .expect("it is well formed")
            .next(after, &zone)
            .map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn schedules_are_due() {
        let t = "2026-11-24T07:50:30Z";
        let rows = [
            ("* * * * *", "2026-11-24T07:51:00Z"),
            ("*/15 * * * *", "2026-11-24T08:00:00Z"),
            ("5/20 * * * *", "2026-11-24T08:05:00Z"),
            ("30 7 * * *", "2026-11-25T07:30:00Z"),
            ("0 0 1 jan *", "2027-01-01T00:00:00Z"),
            ("0 12 * * MON-fri", "2026-11-24T12:00:00Z"),
            ("0 0 13 * 5", "2026-11-27T00:00:00Z"),
            ("0 0 * * 7", "2026-11-29T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("0 0 30 2 *", "never"),
            ("@hourly", "2026-11-24T08:00:00Z"),
            ("@every 1h30m", "2026-11-24T09:20:30Z"),
        ];
        for (schedule, want) in rows {
            assert_eq!(next(schedule, t, "UTC"), want, "{schedule}");
        }
    }

    #[test]
    fn zones_have_their_own_days() {
        assert_eq!(next("0 9 * * *", "2026-11-24T07:50:30Z", "Asia/Seoul"), "2026-11-25T00:00:00Z");
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", "Europe/Berlin"),
            "2026-03-29T01:30:00Z",
            "the hour that is left out"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "a * * * *", "@often"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
