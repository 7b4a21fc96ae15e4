//! A container's log, streamed from its kubelet.

use super::forward::percent_encode;
use super::{Connect, container};
use crate::body::Body;
use crate::endpoint::{Endpoint, EndpointRequest, empty_body, text};
use crate::request::Query;
use async_trait::async_trait;
use futures::SinkExt;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use machinery::Status;
use machinery::field::{FieldError, Path};
use serve::websocket::Message;
use std::sync::Arc;

/// Of a kubelet's complaint, this much goes to the user.
const ERROR_BYTES_MAX: usize = 2_048;
/// Options that go on as they are.
const OPTIONS: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

pub(super) struct Logs(pub(super) Arc<Connect>);

#[async_trait]
impl Endpoint for Logs {
    async fn serve(&self, request: EndpointRequest) -> Result<Response<Body>, Status> {
        let EndpointRequest { attributes, mut parts, .. } = request;
        let pod = self.0.pod(&attributes)?.value();
        let query = Query::parse(parts.uri.query());
        validate(&query, &attributes.name)?;
        let container = container(&pod, query.get("container").unwrap_or_default())?;
        if crate::meta::text_at(&pod, &["spec", "nodeName"]).is_empty() {
            // There is no log yet, and no mistake.
            return Ok(text(StatusCode::OK, ""));
        }
        let kubelet = self.0.kubelet_of(&pod)?;
        let options: Vec<String> = OPTIONS
            .iter()
            .filter_map(|option| query.get(option).map(|value| format!("{option}={}", percent_encode(value))))
            .collect();
        let (namespace, name, options) = (&attributes.namespace, &attributes.name, options.join("&"));
        let uri = format!("https://{}/containerLogs/{namespace}/{name}/{container}?{options}", kubelet.authority);
        let uri: Uri = uri.parse().map_err(Status::internal)?;
        let mut get = Request::new(empty_body());
        *get.uri_mut() = uri.clone();
        let answer =
            self.0.kubelets.send(get).await.map_err(|error| Status::internal(format!("Get {uri:?}: {error}")))?;
        let answer = check(answer, &attributes.name).await?;
        if serve::websocket::is_websocket(&parts.headers) {
            return self.over_websocket(&mut parts, answer);
        }
        let mut response = text(StatusCode::OK, "");
        *response.body_mut() = Body::stream(answer.into_body());
        Ok(response)
    }
}

impl Logs {
    /// Some clients read logs as the binary messages of a WebSocket.
    fn over_websocket(
        &self,
        parts: &mut http::request::Parts,
        answer: Response<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.headers_mut() = parts.headers.clone();
        std::mem::swap(request.extensions_mut(), &mut parts.extensions);
        let (response, opening) = match serve::websocket::accept(&mut request, &["binary.k8s.io"]) {
            Ok(accepted) => accepted,
            Err(refusal) => return Ok(refusal.map(Body::Stream)),
        };
        let stop = self.0.stop.clone();
        self.0.tunnels.spawn(stop.run_until_cancelled_owned(async move {
            let Ok(mut socket) = opening.open().await else { return };
            let mut body = answer.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if socket.send(Message::Binary(data)).await.is_err() {
                    return;
                }
            }
            let _ = socket.close(None).await;
        }));
        Ok(response.map(Body::Stream))
    }
}

fn validate(query: &Query, pod: &str) -> Result<(), Status> {
    let mut errors = Vec::new();
    for (option, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        match query.number::<i64>(option)? {
            Some(number) if number < least => {
                let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
                errors.push(FieldError::invalid(&Path::new(option), number, why));
            }
            _ => {}
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::new(""), why));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "PodLogOptions", pod, errors)) }
}

/// Turns a kubelet's refusal into a Status.
async fn check(answer: Response<Incoming>, pod: &str) -> Result<Response<Incoming>, Status> {
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await;
    let body = body.map(|collected| collected.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    Err(match code {
        StatusCode::BAD_REQUEST => Status::bad_request(body),
        StatusCode::NOT_FOUND => {
            let mut status = Status::not_found("", "pods", pod);
            status.message = format!("the server could not find the requested resource ( pods/log {pod}): {body}");
            status
        }
        _ => Status::internal(body),
    })
}
