//! `patch`: JSON, merge and strategic merge patches, and the way to server-side apply.

use super::apply::{self, APPLY};
use super::update::{Target, update};
use crate::body::Body;
use crate::call::Call;
use crate::decode::decode;
use crate::meta;
use crate::ownership::Written;
use http::{Response, StatusCode};
use machinery::field::{FieldError, Path};
use machinery::{Status, patch, strategic};
use serde_json::Value;

const ACCEPTED: &str = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// Kinds without strategies for merging have no strategic merge.
const ACCEPTED_CUSTOM: &str = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

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
            _ => Err(Status::unsupported_media_type(ACCEPTED)),
        }
    }
}

/// Serves a PATCH of an object or a part of it.
pub(super) async fn patch(call: &mut Call, target: Target) -> Result<Response<Body>, Status> {
    if call.content_type == APPLY {
        return apply::apply(call, target).await;
    }
    let kind = Kind::of(&call.content_type)?;
    call.write_options()?;
    if call.query.raw("force").is_some() {
        let why = "may not be specified for non-apply patch";
        return Err(call.bad_option(FieldError::forbidden(&Path::new("force"), why)));
    }
    let change = decode("application/json", &call.body)?;
    let written = update(call, target, |call, live| {
        // Only a JSON patch can refer to who owns what.
        let current =
            if kind == Kind::Json { live.whole(&call.served) } else { live.served(&call.served).into_owned() };
        let patched = patched(call, kind, current, &change.value)?;
        call.served_patch(patched, &change.duplicates).map(Written::from)
    })
    .await?;
    call.answer(StatusCode::OK, &written).await
}

/// The object with the patch applied. Its `resourceVersion` stays only when the patch names one.
fn patched(call: &Call, kind: Kind, mut current: Value, change: &Value) -> Result<Value, Status> {
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
    /// Checks that a patched object still is of the kind served.
    pub(super) fn identify_patched(&self, object: &mut Value) -> Result<(), Status> {
        self.identify(object, &self.served.api_version, &self.served.resource.kind)
    }

    /// A patched object, checked.
    fn served_patch(&mut self, mut object: Value, duplicates: &[String]) -> Result<Value, Status> {
        self.identify_patched(&mut object)?;
        self.complete(object, duplicates.to_vec())
    }
}
