//! What is reached through the API and is no stored object: reviews, tokens, logs, exec, proxies.

use crate::body::{Body, RequestBody};
use crate::context::Attributes;
use crate::negotiate::{self, Accept, Shape};
use crate::storage::Storage;
use crate::{respond, table};
use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

/// The largest body read, in bytes.
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// For how long, and up to how many bytes, the rest of a body that is too large is taken in.
const LINGER: std::time::Duration = std::time::Duration::from_secs(3);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// A request to an [`Endpoint`]: authenticated and authorized.
pub struct EndpointRequest {
    /// Who wants what. For `connect` subresources the verb is still that of the HTTP method.
    pub attributes: Attributes,
    /// What follows the subresource in the URL (`proxy/a/b` → `a/b`).
    pub rest: String,
    /// Method, URL, headers, and `hyper::upgrade::OnUpgrade` among the extensions when the peer may upgrade.
    pub parts: Parts,
    /// The body, unread.
    pub body: RequestBody,
    /// All objects.
    pub storage: Arc<Storage>,
    /// `?dryRun=All`.
    pub dry_run: bool,
}

impl EndpointRequest {
    /// The whole body (at most [`BODY_BYTES_MAX`]).
    pub async fn read(&mut self) -> Result<Bytes, Status> {
        read_body(std::mem::replace(&mut self.body, empty_body())).await
    }

    /// The body as an object: JSON or YAML, by its content type.
    pub async fn object(&mut self) -> Result<Value, Status> {
        let body = self.read().await?;
        let media_type = negotiate::content_type(&self.parts.headers);
        crate::decode::decode(media_type, &body).map(|decoded| decoded.value)
    }

    /// Answers with an object, or its metadata alone; what is no stored object has no table.
    pub fn answer(&self, code: StatusCode, object: &Value) -> Result<Response<Body>, Status> {
        let accept = Accept::negotiate_object(&self.parts.headers)?;
        Ok(match accept.shape {
            Shape::Metadata { beta } => respond::value(accept, code, &table::partial(object, beta)),
            _ => respond::value(accept, code, object),
        })
    }
}

/// Serves a subresource, or a resource without storage.
#[async_trait]
pub trait Endpoint: Send + Sync {
    /// Serves one request. May answer with an upgrade; then it owns what follows.
    async fn serve(&self, request: EndpointRequest) -> Result<Response<Body>, Status>;
}

/// Where endpoints hang: group, resource, subresource (empty for the resource itself).
pub type EndpointKey = (&'static str, &'static str, &'static str);

/// Endpoints by where they hang.
pub type Endpoints = std::collections::HashMap<EndpointKey, Arc<dyn Endpoint>>;

/// A body with nothing in it.
pub(crate) fn empty_body() -> RequestBody {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Reads a body up to the limit; 413 beyond.
pub(crate) async fn read_body(mut body: RequestBody) -> Result<Bytes, Status> {
    if http_body::Body::size_hint(&body).lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large(body));
    }
    let (mut first, mut all) = (Bytes::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > BODY_BYTES_MAX {
            return Err(too_large(body));
        }
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// The refusal (413) of a body. One dropped half-read resets its HTTP/2 stream before the answer is out, and a client that sends first and reads later
/// never sees it: so the rest is taken in for a while, and thrown away.
fn too_large(mut body: RequestBody) -> Status {
    tokio::spawn(tokio::time::timeout(LINGER, async move {
        let mut left = LINGER_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    }));
    Status::too_large(format!("Request entity too large: limit is {BODY_BYTES_MAX}"))
}

/// A plain text answer.
pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
