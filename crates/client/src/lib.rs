//! How every component speaks to the API: a client, shared informers, work queues, an event recorder.
//!
//! [`Client`] is `kube`'s. Inside the program its transport is a function call into the API server's request pipeline, from
//! elsewhere it is TLS; components cannot tell. Each is handed one that carries its own user.
//!
//! Flow: [`Informers`] keeps one list-and-watch for each kind (and field selector) however many ask; an [`Informer`] gives
//! the objects as they are and a stream of [`Delta`]s; a controller puts keys into a [`WorkQueue`] and works them off;
//! what people should know goes to the [`Recorder`].
//!
//! Invariants: a delta is sent after the cache shows it; a receiver that lags is told so and reads the cache again;
//! nothing polls; `managedFields` are dropped before an object is cached.

mod informer;
mod queue;
mod recorder;
pub mod select;

pub use informer::{Delta, Informer, Informers, Kind};
pub use kube::Client;
pub use queue::WorkQueue;
pub use recorder::{EventType, Recorder, reference};

/// `namespace/name`, or `name` for what has no namespace: the key of caches and queues.
pub fn key<K: kube::Resource>(object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

/// Splits a key into namespace (empty when there is none) and name.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}
