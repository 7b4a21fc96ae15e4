//! Numbers that grow, and how they are written for those who collect them: Prometheus' text format.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in nanoseconds, with the texts that name them in seconds.
pub(crate) type Bounds = &'static [(u64, &'static str)];

/// How often something took how long. Costs a short search and two additions for each.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Bounds,
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: Bounds) -> Histogram {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), nanos: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = self.bounds.partition_point(|(bound, _)| *bound < nanos);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

/// Label names and values, written once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(String);

impl Labels {
    pub(crate) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
        let mut text = String::new();
        for (name, value) in pairs {
            if !text.is_empty() {
                text.push(',');
            }
            let _ = write!(text, "{name}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        Labels(text)
    }
}

/// A page as it is written.
#[derive(Default)]
pub(crate) struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    /// All of it.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// Begins a family; `kind` is `counter`, `gauge` or `histogram`.
    pub(crate) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value of the family.
    pub(crate) fn value(&mut self, labels: &Labels, value: impl Display) {
        let (name, Labels(labels)) = (self.name, labels);
        let _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }

    /// A histogram of the family.
    pub(crate) fn histogram(&mut self, labels: &Labels, histogram: &Histogram) {
        let (name, Labels(labels)) = (self.name, labels);
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let bound = histogram.bounds.get(at).map_or("+Inf", |(_, text)| text);
            let _ = writeln!(self.text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {sum}");
        }
        let seconds = Duration::from_nanos(histogram.nanos.load(Ordering::Relaxed)).as_secs_f64();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.text, "{name}_sum{braces} {seconds}\n{name}_count{braces} {sum}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_collectors_read_it() {
        let histogram = Histogram::new(&[(1_000_000, "0.001"), (1_000_000_000, "1")]);
        for millis in [1, 1, 500, 3000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.family("x_seconds", "histogram", "X.");
        page.histogram(&Labels::new([("a", "b\"c\\\n")]), &histogram);
        page.family("y", "gauge", "Y.");
        page.value(&Labels::default(), 3);
        let expected = "# HELP x_seconds X.\n# TYPE x_seconds histogram\n\
            x_seconds_bucket{a=\"b\\\"c\\\\\\n\",le=\"0.001\"} 2\n\
            x_seconds_bucket{a=\"b\\\"c\\\\\\n\",le=\"1\"} 3\n\
            x_seconds_bucket{a=\"b\\\"c\\\\\\n\",le=\"+Inf\"} 4\n\
            x_seconds_sum{a=\"b\\\"c\\\\\\n\"} 3.502\n\
            x_seconds_count{a=\"b\\\"c\\\\\\n\"} 4\n\
            # HELP y Y.\n# TYPE y gauge\ny 3\n";
        assert_eq!(page.finish(), expected);
    }
}
