//! `get`: one object out of the cache.

use crate::body::Body;
use crate::call::Call;
use http::{Response, StatusCode};
use machinery::Status;

/// Answers with the object's bytes as they are cached.
pub(super) async fn get(call: &Call) -> Result<Response<Body>, Status> {
    let store = call.served.store()?;
    let revision = super::options::revision(&call.query)?;
    store.reach(revision.unwrap_or(0)).await?;
    let entry = store.get(call.namespace(), call.name()).ok_or_else(|| call.served.not_found(call.name()))?;
    call.answer(StatusCode::OK, &entry.object).await
}
