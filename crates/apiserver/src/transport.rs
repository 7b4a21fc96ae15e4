//! The way in from inside the program: a function call that takes the same road as a request on the wire.

use crate::body::{Body, BodyError};
use crate::context::{Peer, UserInfo};
use crate::server::ApiServer;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Requests of one user of this program, for `kube::Client::new`.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<ApiServer>,
    user: Arc<UserInfo>,
}

impl ApiServer {
    /// A transport for a component that acts as `user`.
    pub fn service(self: &Arc<Self>, user: UserInfo) -> InProcess {
        let mut user = user;
        if !user.groups.iter().any(|group| group == "system:authenticated") {
            user.groups.push("system:authenticated".to_owned());
        }
        InProcess { api: Arc::clone(self), user: Arc::new(user) }
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = Peer { user: Some(Arc::clone(&self.user)), ..Peer::default() };
        Box::pin(self.api.handle(request, peer).map(Ok))
    }
}
