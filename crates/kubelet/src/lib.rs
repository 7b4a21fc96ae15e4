//! The kubelet: makes the pods bound to its node real, and says what became of them.
//!
//! Flow: the API's pods of this node (and static pods from a folder) come to [`pods`], which owns one [`worker`] for each.
//! A worker keeps what the runtime has of its pod, asks the pure [`plan`] what to do, does it ([`ops`]: volumes, sandbox,
//! image, container, hooks) beside itself, and makes the pod's [`status`], which the one [`writer`] takes back to the API.
//! Runtime events are pushed to workers by the pod's UID; [`probes`] push their results; a changed ConfigMap or Secret
//! ([`objects`]) does, too. [`node`] keeps the node's own object and lease; [`server`] answers for logs, exec, attach and
//! port-forward.
//!
//! Invariants:
//! - only its worker changes a pod; nothing else holds its state;
//! - a worker's stages go one way: running, ending, ended;
//! - what runs is adopted when the program starts again: no container is restarted for that;
//! - nothing is listed to find out what changed, but at the start and after lost events;
//! - what this node cannot do is refused with a message, never left out silently.
//!
//! It never knows the runtime behind `cri`, other components, or the store, and it never ends the process.
//! [`simulated`] has a runtime without containers, for tests, benches and nodes that only pretend.

pub mod admit;
pub mod backoff;
mod config;
pub mod container;
pub mod context;
pub mod directory;
pub mod downward;
pub mod env;
pub mod hooks;
pub mod http;
mod images;
pub mod inbox;
pub mod inotify;
pub mod labels;
pub mod logs;
pub mod node;
pub mod objects;
pub mod ops;
pub mod plan;
pub mod podnet;
mod pods;
pub mod probes;
pub mod pull;
pub mod resources;
mod run;
pub mod security;
pub mod server;
pub mod simulated;
pub mod spec;
pub mod state;
pub mod statics;
pub mod status;
pub mod tokens;
pub mod view;
pub mod volumes;
mod worker;
pub mod writer;

pub use config::{Config, Server};
pub use run::{Error, run};
