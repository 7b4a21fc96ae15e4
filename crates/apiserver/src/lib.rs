//! The API server: the only meeting place of all components, and the only one that touches the store.
//!
//! Request → authn → authz → handler of the verb → admission → strategy of the kind → store → watch cache.
//! Objects are JSON values driven by the schema table on the way in, and encoded bytes with a parsed head on the way out:
//! nothing is decoded to be read.
//!
//! Invariants: nothing is acknowledged before it is durable and visible to readers; no lock is held while a client is slow; a slow
//! watcher is dropped, never waited for; in-process components take the same road as clients on the wire.
//! It never starts a controller, never talks to a runtime, and never decides anything for a pod.

pub mod admission;
pub mod aggregate;
pub mod alloc;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod cache;
mod call;
pub mod chain;
pub mod connect;
pub mod context;
mod convert;
mod custom;
mod decode;
mod discovery;
mod encode;
pub mod endpoint;
mod expire;
pub mod flow;
mod handlers;
mod health;
mod meta;
mod metrics;
mod negotiate;
mod openapi;
mod ownership;
mod parts;
mod request;
mod respond;
pub mod review;
pub mod security;
mod served;
pub mod server;
pub mod storage;
mod strategy;
mod subresource;
mod table;
pub mod token;
pub mod transport;
mod typing;
mod webhook;

pub use chain::{Allocator, Chain};
pub use server::{ApiServer, Config, open_storage};
