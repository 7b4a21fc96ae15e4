//! The watch cache: every stored object as bytes with a head, and the recent changes.
//!
//! One feed reads the store's changes in order and applies them to the cache of each kind; writers wait until it has passed their
//! revision, so that readers see every acknowledged write. Costs a parse of the head (all of the object for kinds with selectable
//! fields) for each write, and nothing for reads.

pub mod entry;
pub(crate) mod feed;
pub(crate) mod kind;
pub mod selection;

pub use kind::Delivery;
