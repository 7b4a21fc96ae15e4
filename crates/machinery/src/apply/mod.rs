//! Server-side apply and the ownership of fields (KEP-555).
//!
//! A [`Set`] is a set of field paths, stored as `FieldsV1`. [`compare`] finds what a write changed, [`extract`] what an applied
//! object names, [`merge`] puts the latter onto the present object. [`Write`] puts them together: after an update the writer owns
//! what it changed, after an apply what it applied; what an applier no longer applies and nobody else owns is taken out.
//!
//! What lists and objects are told apart by comes from a schema, through [`Place`]; the built-in kinds' is [`Builtin`], that
//! of custom ones [`AnyPlace`].

mod compare;
mod custom;
mod element;
mod extract;
mod managers;
mod merge;
mod place;
mod set;
mod update;

pub use compare::{Change, compare};
pub use custom::AnyPlace;
pub use element::Element;
pub use extract::{check, extract};
pub use managers::{Manager, Managers, Operation};
pub use merge::merge;
pub use place::{Builtin, Form, Member, Place, Scalar};
pub use set::{FieldPath, Set};
pub use update::{Applied, ApplyError, Conflict, Versions, Write};
