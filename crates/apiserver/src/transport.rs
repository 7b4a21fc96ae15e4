//! The ways in: from inside the program by a function call, from the wire over TLS; both take the same road.

use crate::body::{Body, BodyError};
use crate::context::{Peer, UserInfo};
use crate::server::ApiServer;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Requests of one user of this program, for `kube::Client::new`.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<ApiServer>,
    user: Arc<UserInfo>,
    /// What the component calls itself, where its requests do not.
    agent: HeaderValue,
}

impl ApiServer {
    /// A transport for a component that acts as `user`.
    pub fn service(self: &Arc<Self>, user: UserInfo) -> InProcess {
        let mut user = user;
        if !user.groups.iter().any(|group| group == "system:authenticated") {
            user.groups.push("system:authenticated".to_owned());
        }
        let agent = HeaderValue::from_str(component(&user.name)).unwrap_or(HeaderValue::from_static("kijabi"));
        InProcess { api: Arc::clone(self), user: Arc::new(user), agent }
    }
}

/// The component behind a user of ours: what it owns is known by this name.
fn component(user: &str) -> &str {
    let Some(own) = user.strip_prefix("system:") else { return "kijabi" };
    match own.split_once(':') {
        Some(("node", _)) => "kubelet",
        // Controllers have accounts of their own.
        Some(("serviceaccount", _)) => "kube-controller-manager",
        _ => own,
    }
}

impl ApiServer {
    /// Serves a bound listener until `stop` is cancelled, then drains. Without `tls` it speaks plain HTTP, for tests.
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: serve::Limits,
        stop: CancellationToken,
    ) {
        let api = Arc::clone(self);
        let handler = move |peer: serve::Peer, request: Request<hyper::body::Incoming>| {
            let peer = Peer { address: Some(peer.address), certificate: peer.certificate, user: None };
            api.handle(request, peer)
        };
        serve::serve(listener, tls, limits, handler, stop).await;
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.agent.clone());
        let peer = Peer { user: Some(Arc::clone(&self.user)), ..Peer::default() };
        Box::pin(self.api.handle(request, peer).map(Ok))
    }
}
