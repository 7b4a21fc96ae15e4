//! The control socket: how `status`, `down` and `image` speak to the program that runs. HTTP/1.1 over a Unix socket that
//! only its owner may open.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// A request's body.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Opens the socket; one left by a program that was killed is replaced (the data folder is locked by now).
pub(crate) fn listen(path: &Path) -> Result<std::os::unix::net::UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener =
        std::os::unix::net::UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves requests with `handle` until the token is cancelled.
pub(crate) async fn serve<H, F>(listener: UnixListener, handle: H, token: CancellationToken)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let handle = Arc::new(handle);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let handle = Arc::clone(&handle);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            // A client that hangs up is no concern of ours.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An answer in JSON.
pub(crate) fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    Response::new(Full::from(serde_json::to_vec(value).unwrap_or_default()))
}

/// A refusal in words.
pub(crate) fn refusal(status: StatusCode, text: impl ToString) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_string()));
    *response.status_mut() = status;
    response
}

/// A request without a body.
pub(crate) fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed()
}

/// A file as a body.
pub(crate) fn file(file: tokio::fs::File) -> Body {
    use futures::TryStreamExt;
    BoxBody::new(StreamBody::new(tokio_util::io::ReaderStream::new(file).map_ok(Frame::data)))
}

/// Asks the program that runs; its refusal becomes the error.
pub(crate) async fn ask<T: DeserializeOwned>(socket: &Path, method: Method, path: &str, body: Body) -> Result<T> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot reach the cluster at {}; is it up?", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "kijabi").body(body)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    connection.abort();
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&bytes));
    }
    serde_json::from_slice(&bytes)
        .context("the running program answered with something this one does not understand; are both of one version?")
}
