//! The API server.

pub mod context;
