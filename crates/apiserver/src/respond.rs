//! From values and stored bytes to responses.

use crate::body::Body;
use crate::context::Peer;
use crate::negotiate::{Accept, Format};
use api::catalogue::split_api_version;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use http::{HeaderMap, Response, StatusCode};
use machinery::schema::Schema;
use machinery::{Status, protobuf};
use serde_json::Value;

/// An encoded answer.
pub(crate) fn encoded(format: Format, code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

/// Whether a large answer is packed: for a client elsewhere that takes gzip. On this machine bytes cost less than packing them.
pub(crate) fn takes_gzip(request: &HeaderMap, peer: &Peer) -> bool {
    let takes = |value: &HeaderValue| {
        let names = value.to_str().unwrap_or_default().split(',');
        names.map(|name| name.split(';').next().unwrap_or_default()).any(|name| name.trim() == "gzip")
    };
    peer.address.is_some_and(|address| !address.ip().to_canonical().is_loopback())
        && request.get_all(ACCEPT_ENCODING).iter().any(takes)
}

/// Packs an answer, when it is large.
pub(crate) fn packed(response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    match body.packed() {
        Ok(packed) => {
            parts.headers.remove(CONTENT_LENGTH);
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(parts, packed)
        }
        Err(body) => Response::from_parts(parts, body),
    }
}

/// A value, in the format accepted.
pub(crate) fn value(accept: Accept, code: StatusCode, value: &Value) -> Response<Body> {
    let (format, bytes) = encode(accept, value);
    encoded(format, code, Body::full(bytes))
}

/// A value's bytes, and the format they are in: JSON for what protobuf has no message for.
fn encode(accept: Accept, value: &Value) -> (Format, Bytes) {
    match accept.format {
        Format::Yaml => (Format::Yaml, serde_saphyr::to_string(value).unwrap_or_default().into()),
        Format::Protobuf => match as_protobuf(value) {
            Some(bytes) => (Format::Protobuf, bytes.into()),
            None => encode(Accept { format: Format::Json, ..accept }, value),
        },
        Format::Json if accept.pretty => (Format::Json, serde_json::to_vec_pretty(value).unwrap_or_default().into()),
        Format::Json => (Format::Json, serde_json::to_vec(value).unwrap_or_default().into()),
    }
}

/// An object as protobuf; none for a kind that has no message.
pub(crate) fn as_protobuf(value: &Value) -> Option<Vec<u8>> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = split_api_version(text("apiVersion"));
    let schema = Schema::builtin().kind(group, version, text("kind"))?;
    Some(protobuf::encode(value, schema))
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
