//! Serving and calling HTTP over TLS, and the streaming protocols of Kubernetes on top.
//!
//! Three rooms:
//!
//! - [`server`]: [`serve`] accepts connections on a bound listener until its token is cancelled, then drains. TLS with
//!   optional client certificates, HTTP/1.1 and 2, limits on everything a stranger can send. The handler is a closure
//!   `Fn(Peer, Request<Incoming>) -> impl Future<Output = Response<B>>`.
//! - [`client`]: a pooled HTTP client with TLS whose server name may be an address; upgrades; [`client::tunnel`] joins an
//!   upgraded connection from a client to one towards a server.
//! - [`remote`]: the server side of `kubectl exec`, `attach` and `port-forward` over WebSockets. The kubelet uses it so:
//!
//! ```text
//! // exec and attach. `request` is the http::Request<hyper::body::Incoming> of the wire.
//! let wanted = remote::Wanted::from_query(request.uri().query().unwrap_or_default());
//! let (response, session) = remote::exec(request, wanted, async move {
//!     let streams = runtime.exec(&id, &command, options).await.map_err(|e| e.to_string())?;   // cri::ProcessStreams
//!     Ok(remote::Process {
//!         stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr,
//!         resize: Box::new(move |width, height| { let _ = streams.resize.try_send(TerminalSize { width, height }); }),
//!         exit: Box::pin(async move { … streams.exit.await … /* Result<i32, String> */ }),
//!     })
//! });
//! tasks.spawn(session);          // runs until both sides are done; drop or abort it to break off
//! return response;               // 101, or a refusal (then `session` ends at once)
//!
//! // port-forward: the closure is called once for each connection of the client.
//! let (response, session) = remote::port_forward(request, move |port| async move {
//!     runtime.port_forward(&sandbox, port).await.map(|c| Box::new(c) as Box<dyn Duplex>).map_err(|e| e.to_string())
//! });
//! ```
//!
//! Invariants: every queue has a bound; a slow reader slows its sender, not its neighbours on other connections; every
//! task belongs to the future that started it.
//! It never knows what it serves: no Kubernetes objects but the `Status` that ends an exec, no users, no routes.

mod activity;
pub mod client;
mod coalesce;
pub mod remote;
pub mod server;
pub mod spdy;
pub mod websocket;

pub use server::{Limits, Peer, serve};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::io::{AsyncRead, AsyncWrite};

/// Any error, for boundaries where nobody asks which.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A request or response body of any kind.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A connection: something to read from and write to.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without content.
pub fn empty() -> Body {
    full(Bytes::new())
}
