//! The node runtime boundary: what the kubelet asks of whatever runs pods on a node.
//!
//! The traits have the shape of the CRI gRPC services (`runtime.v1`), so that a gRPC facade and a remote
//! runtime stay thin adapters. Three things differ on purpose:
//!
//! - events are pushed ([`RuntimeService::events`]), so that nobody lists to find out what changed;
//! - streams (exec, attach, port-forward) are given as byte streams of this process instead of URLs;
//! - identifiers are chosen by the runtime and are stable over a restart of the program.
//!
//! # The life of a pod sandbox
//!
//! `run_pod_sandbox` makes the namespaces, the network and the pod's cgroup; then containers are created in it
//! (`create_container`), started, and stopped; `stop_pod_sandbox` ends all that still runs and gives the network back;
//! `remove_pod_sandbox` removes its files. Stop and remove are idempotent: an unknown id is a success.
//! A sandbox and its containers outlive this program; after a restart `list_*` reports them as before.
//!
//! Invariant: nothing here knows Kubernetes' API types.

mod image;
mod runtime;
mod stream;

pub use image::*;
pub use runtime::*;
pub use stream::*;

/// Why a request to the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sandbox, container or image does not exist.
    #[error("{kind} {id} not found")]
    NotFound {
        /// `pod sandbox`, `container` or `image`.
        kind: &'static str,
        /// The id or reference asked for.
        id: String,
    },
    /// The request contradicts the state of the thing (for instance exec in an exited container). Do not retry as it is.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request itself is wrong: a bad image reference, a missing command, an unusable mount. Do not retry as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// The image cannot be pulled: registry refused, not found there, bad content. Retry with back-off.
    #[error("{0}")]
    PullFailed(String),
    /// The time given for the request ran out.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The runtime or the kernel failed; the text says at which step. Retry with back-off.
    #[error("{0}")]
    Internal(String),
}

/// The result of a request to the runtime.
pub type Result<T> = std::result::Result<T, Error>;
