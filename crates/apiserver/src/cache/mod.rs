//! The watch cache: every stored object as bytes with a head, and the recent changes.

pub mod entry;
