//! Times as the API writes them (RFC 3339, UTC).

use jiff::Timestamp;

/// Now, to the second: `metav1.Time`.
pub fn now() -> String {
    format(Timestamp::now())
}

/// Now, to the microsecond: `metav1.MicroTime`.
pub fn now_micro() -> String {
    format_micro(Timestamp::now())
}

/// A time as `metav1.Time`.
pub fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as `metav1.MicroTime`.
pub fn format_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Parses either form, with any offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_forms() {
        let at = super::parse("2026-11-24T08:00:01.5+02:00").unwrap();
        assert_eq!(super::format(at), "2026-11-24T06:00:01Z");
        assert_eq!(super::format_micro(at), "2026-11-24T06:00:01.500000Z");
        assert_eq!(super::parse("yesterday"), None);
    }
}
