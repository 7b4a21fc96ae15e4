//! The server side of exec, attach and port-forward.

pub mod channel;
mod channel_forward;
mod exec;
mod port_forward;
mod status;

pub use exec::{Process, Reader, Wanted, Writer, exec};
pub use port_forward::{PROTOCOL as PORT_FORWARD_PROTOCOL, port_forward};
pub use status::Outcome;

use std::future::Future;
use std::pin::Pin;

/// A session with a client, to be run by whoever answered its request. Ends when both sides are done.
pub type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The session of a request that was refused.
fn no_session() -> Session {
    Box::pin(std::future::ready(()))
}
