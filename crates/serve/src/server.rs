//! Accepts connections, speaks TLS and HTTP on them, and drains at the end.

use crate::BoxError;
use crate::activity::Activity;
use crate::coalesce::Coalesced;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who is at the far end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate in DER, verified by TLS against the authority the server was configured with.
    pub certificate: Option<Arc<[u8]>>,
}

/// Bounds on what strangers can make a server hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its header (HTTP/1.1); also how long a connection may idle
    /// between two requests.
    pub header_timeout: Duration,
    /// Request line and header, bytes.
    pub header_bytes_max: usize,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a client may leave what it was answered unread; then its connection is broken off. Tunnels are not looked at.
    pub unread_timeout: Duration,
    /// HTTP/2 requests at once on one connection.
    pub streams_max: u32,
    /// How long requests may go on after the token was cancelled.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(90),
            header_bytes_max: 128 << 10,
            idle_timeout: Duration::from_secs(90),
            unread_timeout: Duration::from_secs(300),
            streams_max: 250,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// How long to wait when the system has no descriptor left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 streams that a client may reset before the server has looked at them (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 64;
/// Bytes a client may send on a stream, and on a connection, before the server has read them.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// When a silent connection is probed, how often, and how many probes may stay unanswered.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 3;

struct Shared<H> {
    handler: H,
    tls: Option<tokio_rustls::TlsAcceptor>,
    http: auto::Builder<TokioExecutor>,
    limits: Limits,
    token: CancellationToken,
}

/// Serves connections of `listener` until `token` is cancelled; then lets requests that are under way finish, at most
/// `limits.drain_timeout`, and breaks off the rest. Without `tls` it speaks plain HTTP.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    limits: Limits,
    handler: H,
    token: CancellationToken,
) where
    H: Fn(Peer, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    let free = Arc::new(Semaphore::new(limits.connections_max));
    let drain_timeout = limits.drain_timeout;
    let http = http_builder(&limits);
    let shared = Arc::new(Shared { handler, tls: tls.map(Into::into), http, limits, token: token.clone() });
    loop {
        let Some(permit) = token.run_until_cancelled(free.clone().acquire_owned()).await else { break };
        let Some(accepted) = token.run_until_cancelled(listener.accept()).await else { break };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, abort) = (shared.clone(), abort.clone());
        connections.spawn(async move {
            abort.run_until_cancelled(connection(&shared, stream, address)).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain_timeout, connections.wait()).await.is_err() {
        abort.cancel();
        connections.wait().await;
    }
}

fn http_builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes_max.max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

async fn connection<H, F, B>(shared: &Arc<Shared<H>>, mut stream: TcpStream, address: SocketAddr)
where
    H: Fn(Peer, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%address, %error, "socket options");
    }
    let Some(tls) = &shared.tls else {
        return http(shared, stream, Peer { address, certificate: None }).await;
    };
    let handshake = async {
        if speaks_plain_http(&stream).await? {
            stream.write_all(PLAIN_HTTP_ANSWER).await?;
            return Ok(None);
        }
        tls.accept(stream).await.map(Some)
    };
    match tokio::time::timeout(shared.limits.handshake_timeout, handshake).await {
        Ok(Ok(Some(stream))) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(|chain| chain.first()).map(|leaf| Arc::from(leaf.as_ref()));
            http(shared, stream, Peer { address, certificate }).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "TLS handshake timed out"),
    }
}

/// Small writes go out at once; a peer that is gone without a word is found out by the kernel.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A TLS handshake begins with byte 22, an HTTP request with a letter.
async fn speaks_plain_http(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0_u8; 1];
    Ok(stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase())
}

async fn http<H, F, B>(shared: &Arc<Shared<H>>, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer)
where
    H: Fn(Peer, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let address = peer.address;
    let activity = Activity::new();
    let service = service_fn(|request| {
        let begun = activity.request();
        let response = (shared.handler)(peer.clone(), request);
        async move { Ok::<_, Infallible>(response.await.map(|body| begun.answer(body))) }
    });
    let connection = shared.http.serve_connection_with_upgrades(TokioIo::new(Coalesced::new(io)), service);
    tokio::pin!(connection);
    let graceful = tokio::select! {
        result = &mut connection => return ended(address, result),
        () = shared.token.cancelled() => true,
        () = activity.idle(shared.limits.idle_timeout) => true,
        () = activity.unread(shared.limits.unread_timeout) => false,
    };
    if !graceful {
        return tracing::debug!(%address, "a client does not read what it is answered");
    }
    connection.as_mut().graceful_shutdown();
    // A client that has nothing under way has no say in when it ends.
    tokio::select! {
        result = &mut connection => ended(address, result),
        () = activity.idle(shared.limits.drain_timeout) => {}
        () = activity.unread(shared.limits.unread_timeout) => {}
    }
}

fn ended(address: SocketAddr, result: Result<(), BoxError>) {
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
    }
}
