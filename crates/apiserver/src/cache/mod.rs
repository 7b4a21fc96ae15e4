//! The watch cache: every stored object as bytes with a head, and the recent changes.
//!
//! The store hands each change to the feed on its own thread, which applies it to the cache of the kind before the writer is
//! answered, so that readers see every acknowledged write. Costs a parse of the head (all of the object for kinds with selectable
//! fields) for each write, and nothing for reads.

pub mod entry;
pub(crate) mod feed;
pub(crate) mod kind;
pub mod selection;

pub use kind::Delivery;
