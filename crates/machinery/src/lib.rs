//! What all kinds share: the API's vocabulary, free of any one kind.
//!
//! Objects are [`serde_json::Value`]s here. The crate says what is wrong with a request ([`Status`], [`field`]), which
//! objects a selector means ([`selector`]), how quantities, names and times are written ([`quantity`], [`name`],
//! [`time`]), how patches change an object ([`patch`], [`strategic`]), and what the fields of the built-in kinds are
//! ([`schema`]).
//!
//! Invariants: no input or output, no clock but [`time`], no kind by name outside the generated schema table. Everything
//! that parses what a client sent is total: it returns an error, it never panics, and its depth is bounded.

pub mod apply;
pub mod field;
pub mod jsonpath;
pub mod name;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
mod status;
pub mod strategic;
pub mod structural;
pub mod time;

pub use status::{ERRORS_MAX, Status, StatusCause, StatusDetails};
