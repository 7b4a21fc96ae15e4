//! Every built-in kind of the API: what is served, and how each kind behaves.
//!
//! The API server handles objects as [`serde_json::Value`]s in one generic pipeline; this crate is what it asks about a kind:
//!
//! 1. [`catalogue`]: which resources there are, with their verbs, short names, scope and subresources;
//! 2. [`default()`]: the fields that upstream's defaulting sets, after `machinery::schema::check` has brought the object into
//!    its written form;
//! 3. [`validate`]: what is wrong with an object, or with the change of one;
//!    [`warnings()`] what users should know of an object that is taken all the same;
//! 4. [`columns`]: how `kubectl get` shows it; [`fields`]: what field selectors can select by;
//! 5. [`openapi`]: what clients learn of the kinds.
//!
//! Invariants: no input or output; pure functions over values; never panics on what a client sent; a kind that nothing here
//! knows gets the generic behaviour (no defaults, metadata checks, name and age columns).

pub mod catalogue;
pub mod columns;
mod defaults;
pub mod fields;
mod look;
pub mod openapi;
pub mod validate;
mod warnings;

pub use defaults::default;
pub use warnings::{deprecation, warnings};
