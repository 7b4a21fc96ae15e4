//! What the user sees while the cluster starts.

use std::io::Write;
use std::time::Instant;

/// Prints steps with the time since the start.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { start: Instant::now() }
    }

    /// A step is done.
    pub(crate) fn step(&self, text: impl std::fmt::Display) {
        Progress::say(format_args!("{:>7.0} ms  {text}", self.start.elapsed().as_secs_f64() * 1000.0));
    }

    /// Something to read, without a time. A reader that went away (`kijabi up | head -1`) must not end the cluster.
    pub(crate) fn say(text: impl std::fmt::Display) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}
