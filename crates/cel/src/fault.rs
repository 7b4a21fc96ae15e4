//! What can go wrong while evaluating.

use std::borrow::Cow;
use std::fmt;

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It would cost more than it may.
    CostLimit,
    /// No function takes these values.
    Overload,
    /// Anything else, in cel-go's words.
    Message(Cow<'static, str>),
}

impl Fault {
    /// With a message.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Message(message.into())
    }

    pub(crate) fn overload() -> Fault {
        Fault::Overload
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::CostLimit => f.write_str("operation cancelled: actual cost limit exceeded"),
            Fault::Overload => f.write_str("no such overload"),
            Fault::Message(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Fault {}

/// Steps that one evaluation may take where the cost model counts none: elements copied, values compared. It bounds what an
/// expression that nests a value in itself again and again can ask for.
pub(crate) struct Fuel(u64);

impl Fuel {
    pub(crate) fn new() -> Fuel {
        Fuel(20_000_000)
    }

    pub(crate) fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        self.0 = self.0.saturating_sub(steps as u64);
        if self.0 == 0 { Err(Fault::CostLimit) } else { Ok(()) }
    }
}
