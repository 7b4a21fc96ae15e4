//! `get`: one object out of the cache.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::Format;
use crate::respond;
use http::{Response, StatusCode};
use machinery::{Status, protobuf};

/// Answers with the object's bytes as they are cached, in either format.
pub(super) async fn get(call: &Call) -> Result<Response<Body>, Status> {
    let store = call.served.store()?;
    let revision = super::options::revision(&call.query)?;
    store.reach(revision.unwrap_or(0)).await?;
    let entry = store.get(call.namespace(), call.name()).ok_or_else(|| call.served.not_found(call.name()))?;
    if let (true, Some(ty)) = (call.accept.is_plain_protobuf(), call.served.message_type()) {
        let bytes = protobuf::wrap(&call.served.api_version, &call.served.resource.kind, entry.message(ty));
        return Ok(respond::encoded(Format::Protobuf, StatusCode::OK, Body::full(bytes)));
    }
    call.answer(StatusCode::OK, &entry.object).await
}
