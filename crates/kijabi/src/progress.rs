//! What the user sees while the cluster starts.

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
    #[allow(clippy::print_stdout, reason = "this is the command line")]
    pub(crate) fn step(&self, text: impl std::fmt::Display) {
        println!("{:>7.0} ms  {text}", self.start.elapsed().as_secs_f64() * 1000.0);
    }

    /// Something to read, without a time.
    #[allow(clippy::print_stdout, reason = "this is the command line")]
    pub(crate) fn say(text: impl std::fmt::Display) {
        println!("{text}");
    }
}
