//! Pod sandboxes and containers of a node: implements [`cri::RuntimeService`] and [`cri::ImageService`].
//!
//! A sandbox is a folder `sandboxes/<id>` of the data directory: `sandbox.json` (what it shall be, its addresses, whether
//! it is ready), one `<container>.json` and `<container>.record` for each container (what it shall be; how it fares, by
//! the shim), its `resolv.conf`, `hostname`, `/dev/shm`, network namespace and the shim's socket. Files are replaced
//! whole. Nothing else is remembered, so a new run of the program finds all as it was ([`Sandbox::open`]): it greets each
//! shim again, and what has no shim any more (the machine was restarted) it reports as not ready and exited.
//!
//! # Flow
//!
//! `run_pod_sandbox` (`pod.rs`): folder, cgroup, network namespace; then the network and the shim at the same time.
//! `create_container` (`create.rs`): snapshot, cgroup, specification. `start_container` (`start.rs`): the shim does it.
//! Exits come from each shim by push (`watch.rs`) and go on to [`cri::RuntimeService::events`]. Streams are in
//! `streams.rs`, images in `images.rs`, adoption and reset in `adopt.rs`.
//!
//! # Invariants
//!
//! - A state is visible in `*_status` before its event is sent.
//! - A failed `run_pod_sandbox` or `create_container` leaves nothing.
//! - No lock is held while something is waited for, but each sandbox's own order of stop and remove.
//!
//! It never restarts anything and never decides what runs: that is the kubelet's.

mod adopt;
mod create;
mod files;
mod images;
mod pod;
mod service;
mod start;
mod state;
mod streams;
mod watch;

pub use adopt::OpenError;
pub use service::Sandbox;
pub use state::Config;
