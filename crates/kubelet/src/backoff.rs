//! Back-off for what fails again and again: container restarts and image pulls.

use std::collections::HashMap;

/// The first delay, in nanoseconds.
pub const INITIAL_NS: i64 = 10_000_000_000;
/// The longest delay.
pub const MAX_NS: i64 = 300_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay_ns: i64,
    updated_ns: i64,
}

/// Delays by key: 10 s, doubled with each failure up to 300 s, forgotten after twice the longest delay without one.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// When the key may be tried again after a failure at `since_ns`, if that lies ahead of `now_ns`; and the delay.
    pub fn until(&self, key: &str, since_ns: i64, now_ns: i64) -> Option<(i64, i64)> {
        let entry = self.entries.get(key)?;
        if since_ns - entry.updated_ns > 2 * MAX_NS {
            return None;
        }
        let until = since_ns + entry.delay_ns;
        (now_ns < until).then_some((until, entry.delay_ns))
    }

    /// Notes a try after a failure at `since_ns`: the next one waits longer.
    pub fn next(&mut self, key: &str, since_ns: i64, now_ns: i64) {
        let delay_ns = match self.entries.get(key) {
            Some(entry) if since_ns - entry.updated_ns <= 2 * MAX_NS => (entry.delay_ns * 2).min(MAX_NS),
            _ => INITIAL_NS,
        };
        self.entries.insert(key.to_owned(), Entry { delay_ns, updated_ns: now_ns });
    }

    /// Forgets a key, after a success.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A delay as messages write it: `10s`, `1m20s`, `5m0s`.
pub fn delay_text(delay_ns: i64) -> String {
    let seconds = delay_ns / 1_000_000_000;
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn doubles_to_the_limit_and_is_forgotten_after_a_long_run() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        assert_eq!(backoff.until("k", now, now), None, "the first restart is at once");
        for want in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("k", now, now);
            assert_eq!(backoff.until("k", now, now), Some((now + want * S, want * S)));
            now += want * S;
            assert_eq!(backoff.until("k", now - want * S, now), None, "over when the delay is over");
        }
        now += 601 * S;
        assert_eq!(backoff.until("k", now, now), None, "forgotten after ten minutes");
        backoff.next("k", now, now);
        assert_eq!(backoff.until("k", now, now), Some((now + 10 * S, 10 * S)));
    }

    #[test]
    fn delays_are_written_as_go_writes_them() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(delay_text(seconds * S), text);
        }
    }
}
