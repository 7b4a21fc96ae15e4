//! Pulls.
#[derive(Default)]
pub(crate) struct Pulls;
