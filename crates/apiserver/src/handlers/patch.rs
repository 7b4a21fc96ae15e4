//! `patch`: JSON, merge and strategic merge patches.

use super::update::{Target, update};
use crate::body::Body;
use crate::call::Call;
use crate::decode::decode;
use crate::meta;
use http::{Response, StatusCode};
use machinery::{Status, patch, strategic};
use serde_json::Value;

const ACCEPTED: &str = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor";

/// Kinds without strategies for merging have no strategic merge.
const ACCEPTED_CUSTOM: &str = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Merge,
    Strategic,
}

impl Kind {
    fn of(media_type: &str) -> Result<Kind, Status> {
        match media_type {
            "application/json-patch+json" => Ok(Kind::Json),
            "application/merge-patch+json" => Ok(Kind::Merge),
            "application/strategic-merge-patch+json" => Ok(Kind::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(Status::not_implemented("server-side apply is not implemented yet; use client-side apply"))
            }
            _ => Err(Status::unsupported_media_type(ACCEPTED)),
        }
    }
}

/// Serves a PATCH of an object or a part of it.
pub(super) async fn patch(call: &mut Call, target: Target) -> Result<Response<Body>, Status> {
    let kind = Kind::of(&call.content_type)?;
    let change = decode("application/json", &call.body)?;
    let written = update(call, target, |call, entry| {
        let current = call.served.value(&entry.object);
        let patched = apply(call, kind, current, &change.value)?;
        call.served_patch(patched, &change.duplicates)
    })
    .await?;
    call.answer(StatusCode::OK, &written)
}

/// The object with the patch applied. Its `resourceVersion` stays only when the patch names one.
fn apply(call: &Call, kind: Kind, mut current: Value, change: &Value) -> Result<Value, Status> {
    let before = meta::text(&current, "resourceVersion").to_owned();
    match kind {
        Kind::Json => patch::json_patch(&mut current, change)?,
        Kind::Merge | Kind::Strategic if !change.is_object() => {
            return Err(Status::bad_request(
                "error decoding patch: json: cannot unmarshal value into Go value of type map[string]interface {}",
            ));
        }
        Kind::Merge => patch::merge_patch(&mut current, change)?,
        Kind::Strategic => match call.served.typing.builtin() {
            Some(schema) => strategic::apply(&mut current, change, schema)?,
            None => return Err(Status::unsupported_media_type(ACCEPTED_CUSTOM)),
        },
    }
    let named = match kind {
        Kind::Json => meta::text(&current, "resourceVersion") != before,
        _ => meta::at(change, &["metadata", "resourceVersion"]).is_some(),
    };
    if !named {
        meta::metadata(&mut current).remove("resourceVersion");
    }
    Ok(current)
}

impl Call {
    /// A patched object, checked and in the stored form.
    fn served_patch(&mut self, mut object: Value, duplicates: &[String]) -> Result<Value, Status> {
        let (api_version, kind) = (self.served.api_version.clone(), self.served.resource.kind.clone());
        self.identify(&mut object, &api_version, &kind)?;
        let object = self.complete(object, duplicates.to_vec())?;
        Ok(self.served.stored_form(object))
    }
}
