//! From values and stored bytes to responses.

use crate::body::Body;
use crate::negotiate::{Accept, Format};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use machinery::Status;
use serde_json::Value;

/// An encoded answer.
pub(crate) fn encoded(format: Format, code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

/// A value, in the format accepted.
pub(crate) fn value(accept: Accept, code: StatusCode, value: &Value) -> Response<Body> {
    encoded(accept.format, code, Body::full(encode(accept, value)))
}

/// A value's bytes.
pub(crate) fn encode(accept: Accept, value: &Value) -> Bytes {
    match accept.format {
        Format::Json if accept.pretty => serde_json::to_vec_pretty(value).unwrap_or_default().into(),
        Format::Json => serde_json::to_vec(value).unwrap_or_default().into(),
        Format::Yaml => serde_saphyr::to_string(value).unwrap_or_default().into(),
    }
}

/// An error.
pub(crate) fn status(accept: Accept, status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(accept, code, &status.to_value());
    if let Some(seconds) = status.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}
