//! `/openapi/v2` and `/openapi/v3`, made by `api::openapi`.

use crate::body::Body;
use http::Response;
use http::request::Parts;
use machinery::Status;

/// Answers for OpenAPI; none when the path is another.
pub(crate) fn serve(parts: &Parts, rest: &[&str]) -> Option<Result<Response<Body>, Status>> {
    let _ = parts;
    match rest {
        ["v2"] | ["v3", ..] => Some(Err(Status::not_implemented("OpenAPI documents are not there yet"))),
        _ => None,
    }
}
