//! `resource.Quantity`: `100m`, `1.5Gi`, `2e3`.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An exact number, to a billionth. Ordered and equal by value, however it is written.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    /// Billionths.
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
pub const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO: i128 = 1_000_000_000;
/// Larger values are cut to this, as upstream does at 2^63 - 1.
const CAP: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::DecimalSi };

    /// A whole number, written plainly.
    pub fn new(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// Thousandths.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nano: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A whole number of bytes, written with `Ki`, `Mi`, ….
    pub fn from_bytes(bytes: u64) -> Quantity {
        Quantity { nano: (i128::from(bytes) * NANO).min(CAP), format: Format::BinarySi }
    }

    /// Parses; the error is upstream's text.
    pub fn parse(text: &str) -> Result<Quantity, &'static str> {
        let split = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|c| c.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return Err(MALFORMED);
        }
        let scale = Scale::parse(suffix).ok_or(MALFORMED)?;
        let nano = scale.apply(whole, fraction);
        Ok(Quantity { nano: if negative { -nano } else { nano }, format: scale.format() })
    }

    /// The value, rounded up to a whole number.
    pub fn value(&self) -> i64 {
        self.ceil(NANO)
    }

    /// Thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        self.ceil(NANO / 1000)
    }

    /// The next whole number, written alike.
    pub fn rounded_up(self) -> Quantity {
        Quantity { nano: self.nano + (-self.nano).rem_euclid(NANO), format: self.format }
    }

    /// Bytes (or any count) as unsigned; negative values are 0.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.value()).unwrap_or(0)
    }

    /// As a floating-point number.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// True for zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// -1, 0 or 1.
    pub fn signum(&self) -> i8 {
        self.nano.signum() as i8
    }

    fn ceil(&self, unit: i128) -> i64 {
        let up = self.nano.div_euclid(unit) + i128::from(self.nano.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }
}

/// The suffix of a quantity.
enum Scale {
    /// 1024 to this power.
    Binary(u32),
    /// 10 to this power, written as a letter.
    Decimal(i32),
    /// 10 to this power, written with `e`.
    Exponent(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<Scale> {
        if let Some(power) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix) {
            return Some(Scale::Binary(power as u32 + 1));
        }
        if let Some(power) = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].iter().position(|s| *s == suffix) {
            return Some(Scale::Decimal((power as i32 - 3) * 3));
        }
        let exponent = suffix.strip_prefix(['e', 'E'])?;
        if !exponent.trim_start_matches(['+', '-']).bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        exponent.parse().ok().filter(|e| (-1000..=1000).contains(e)).map(Scale::Exponent)
    }

    fn format(&self) -> Format {
        match self {
            Scale::Binary(_) => Format::BinarySi,
            Scale::Decimal(_) => Format::DecimalSi,
            Scale::Exponent(_) => Format::DecimalExponent,
        }
    }

    /// The number in billionths, rounded up and capped.
    fn apply(&self, whole: &str, fraction: &str) -> i128 {
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        match self {
            Scale::Binary(power) => {
                let factor = 1024_i128.pow(*power);
                let whole = parse_capped(whole).saturating_mul(factor).saturating_mul(NANO);
                let (digits, len) = (parse_capped(&fraction[..fraction.len().min(18)]), fraction.len().min(18) as u32);
                let part = divide_up(digits.saturating_mul(NANO).saturating_mul(factor), 10_i128.pow(len));
                whole.saturating_add(part).min(CAP)
            }
            Scale::Decimal(power) | Scale::Exponent(power) => decimal(whole, fraction, power + 9),
        }
    }
}

/// `whole.fraction` times 10 to `power`, rounded up, capped.
fn decimal(whole: &str, fraction: &str, power: i32) -> i128 {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let shift = power - fraction.len() as i32;
    if digits.is_empty() {
        return 0;
    }
    if digits.len() as i32 + shift > 30 {
        return CAP;
    }
    if shift >= 0 {
        return parse_capped(digits).saturating_mul(10_i128.saturating_pow(shift as u32)).min(CAP);
    }
    let keep = digits.len() as i32 + shift;
    if keep < 0 {
        return 1;
    }
    let (kept, cut) = digits.split_at(keep as usize);
    (parse_capped(kept) + i128::from(cut.bytes().any(|c| c != b'0'))).min(CAP)
}

fn parse_capped(digits: &str) -> i128 {
    if digits.is_empty() { 0 } else { digits.parse().unwrap_or(CAP).min(CAP) }
}

fn divide_up(a: i128, b: i128) -> i128 {
    a / b + i128::from(a % b != 0)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nano % NANO == 0 && (self.nano / NANO).abs() >= 1024 {
            let (mut value, mut power) = (self.nano / NANO, 0);
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut value, mut power) = (self.nano, -3_i32);
        while value % 1000 == 0 && power < 6 {
            value /= 1000;
            power += 1;
        }
        match self.format {
            Format::DecimalExponent if power == 0 => write!(f, "{value}"),
            Format::DecimalExponent => write!(f, "{value}e{}", power * 3),
            _ => write!(f, "{value}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(power + 3) as usize]),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}
impl Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: (self.nano + other.nano).clamp(-CAP, CAP), format }
    }
}
impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: (self.nano - other.nano).clamp(-CAP, CAP), format }
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_and_print() {
        for (text, canonical, value, milli) in [
            ("0", "0", 0, 0),
            ("100m", "100m", 1, 100),
            ("0.1", "100m", 1, 100),
            ("1.5", "1500m", 2, 1500),
            ("1000m", "1", 1, 1000),
            ("1Gi", "1Gi", 1 << 30, 1000 << 30),
            ("1.5Gi", "1536Mi", 3 << 29, 1500 << 30),
            ("1024Mi", "1Gi", 1 << 30, 1000 << 30),
            ("100Ki", "100Ki", 102_400, 102_400_000),
            ("1000Ki", "1000Ki", 1_024_000, 1_024_000_000),
            ("1000", "1k", 1000, 1_000_000),
            ("1500k", "1500k", 1_500_000, 1_500_000_000),
            ("2e3", "2e3", 2000, 2_000_000),
            ("1E3", "1e3", 1000, 1_000_000),
            ("-5", "-5", -5, -5000),
            ("+.5", "500m", 1, 500),
            ("1n", "1n", 1, 1),
            ("0.5Mi", "512Ki", 1 << 19, 1000 << 19),
            ("0.5", "500m", 1, 500),
            ("9Ei", "9223372036854775807", i64::MAX, i64::MAX),
        ] {
            let q = Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((q.to_string().as_str(), q.value(), q.milli_value()), (canonical, value, milli), "{text}");
        }
        for bad in ["", "x", "1.2.3", "1x", "1e", "--1", "1 Gi", "1ki", "e3", "."] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printing_keeps_the_value(text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,12})?(n|u|m|k|M|G|Ki|Mi|Gi|Ti|e-?[0-9]{1,2})?") {
            if let Ok(q) = Quantity::parse(&text) {
                let again = Quantity::parse(&q.to_string()).unwrap();
                prop_assert_eq!(q, again);
                prop_assert_eq!(q.to_string(), again.to_string());
            }
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = Quantity::parse(&text);
        }
    }
}
