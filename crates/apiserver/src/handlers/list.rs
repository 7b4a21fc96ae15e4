//! `list`: cached bytes, one after the other.

use super::options::{Continue, ListOptions, Match};
use crate::body::Body;
use crate::cache::kind::Page;
use crate::call::Call;
use crate::encode;
use crate::negotiate::{Accept, Format, Shape};
use crate::respond;
use crate::storage::{EXPIRED, KindStore, Object, store_status};
use crate::table;
use api::catalogue::split_api_version;
use bytes::Bytes;
use http::{Response, StatusCode};
use machinery::schema::{Schema, TypeRef};
use machinery::{Status, protobuf};
use serde_json::{Value, json};
use store::Error;

const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Answers with the objects selected, or a page of them.
pub(super) async fn list(call: &Call) -> Result<Response<Body>, Status> {
    let store = call.served.store()?;
    let options = ListOptions::parse(call, false)?;
    match page(store, &options).await {
        Ok(page) => answer(call, page).await,
        Err(status) => match &options.token {
            Some(Continue { revision: Some(_), after }) if status.code == 410 => Ok(expired(call, after)),
            _ => Err(status),
        },
    }
}

/// The objects, as of the revision that the options ask for.
async fn page(store: &KindStore, options: &ListOptions) -> Result<Page, Status> {
    let limit = options.limit.unwrap_or(usize::MAX);
    let past = match (&options.token, options.matching, options.revision) {
        (Some(token), ..) => token.revision,
        (None, Some(Match::Exact), revision) => revision,
        // Upstream: a limited list at a revision is exact.
        (None, None, Some(revision)) if revision > 0 && options.limit.is_some() => Some(revision),
        (None, _, revision) => {
            store.reach(revision.unwrap_or(0)).await?;
            None
        }
    };
    let after = options.token.as_ref().map(|token| token.after.as_str());
    let Some(revision) = past else {
        return Ok(store.page_now(&options.selection, after, limit));
    };
    store.reach(revision).await?;
    store.page(&options.selection, after, limit, revision).await.map_err(|error| match (&error, after) {
        (Error::Compacted { .. }, Some(_)) => Status::expired(EXPIRED),
        (Error::Compacted { .. }, None) => Status::expired("The resourceVersion for the provided list is too old."),
        _ => store_status(&error),
    })
}

/// 410 with a token that goes on without consistency.
fn expired(call: &Call, after: &str) -> Response<Body> {
    let mut status = Status::expired(EXPIRED_CONTINUE).to_value();
    status["metadata"]["continue"] = Continue { revision: None, after: after.to_owned() }.encode().into();
    respond::value(call.accept, StatusCode::GONE, &status)
}

async fn answer(call: &Call, page: Page) -> Result<Response<Body>, Status> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        metadata["continue"] = Continue { revision: Some(page.revision), after: next.to_string() }.encode().into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    if call.accept == Accept::default() || call.accept.is_json_metadata().is_some() {
        return Ok(respond::encoded(Format::Json, StatusCode::OK, encoded(call, page, &metadata).await?));
    }
    if let (true, Some(ty)) = (call.accept.is_plain_protobuf(), call.served.message_type())
        && let Some(body) = messages(call, &page, &metadata, ty).await
    {
        return Ok(respond::encoded(Format::Protobuf, StatusCode::OK, body));
    }
    let objects: Vec<&Object> = page.entries.iter().map(|entry| &entry.object).collect();
    let objects = call.served.values(&objects).await?;
    let value = match call.accept.shape {
        Shape::Object => json!({
            "kind": call.served.resource.list_kind, "apiVersion": call.served.api_version,
            "metadata": metadata, "items": objects,
        }),
        Shape::Table { beta } => table::of(call, beta, objects, Some(metadata))?,
        Shape::Metadata { beta } => table::partial_list(metadata, objects, beta),
    };
    Ok(respond::value(call.accept, StatusCode::OK, &value))
}

/// The bytes of each object, when they are not all as they are cached.
async fn bodies(call: &Call, page: &Page) -> Result<Option<Vec<Bytes>>, Status> {
    let plain = page.entries.iter().all(|entry| call.served.is_plain(&entry.object));
    if let Some(beta) = call.accept.is_json_metadata() {
        let version = table::version(beta);
        if plain {
            let cut = page.entries.iter().map(|entry| encode::partial(&entry.object.body, version));
            if let Some(bodies) = cut.map(|body| body.map(Bytes::from)).collect() {
                return Ok(Some(bodies));
            }
        }
        let objects: Vec<&Object> = page.entries.iter().map(|entry| &entry.object).collect();
        let values = call.served.values(&objects).await?;
        return Ok(Some(values.iter().map(|value| json_bytes(&table::partial(value, beta))).collect()));
    }
    if plain {
        return Ok(None);
    }
    let objects: Vec<&Object> = page.entries.iter().map(|entry| &entry.object).collect();
    let values = call.served.values(&objects).await?;
    Ok(Some(values.iter().map(json_bytes).collect()))
}

fn json_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// The list as JSON out of cached bytes.
async fn encoded(call: &Call, page: Page, metadata: &Value) -> Result<Body, Status> {
    let bodies = bodies(call, &page).await?;
    let (kind, version) = match call.accept.is_json_metadata() {
        Some(beta) => ("PartialObjectMetadataList", table::version(beta)),
        None => (&*call.served.resource.list_kind, &*call.served.api_version),
    };
    let mut head =
        Some(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["));
    let tail: &[u8] = b"]}\n";
    let objects = match &bodies {
        Some(bodies) => bodies.iter().map(Bytes::len).sum::<usize>(),
        None => page.entries.iter().map(|entry| entry.object.body.len()).sum(),
    };
    let commas = page.entries.len().saturating_sub(1);
    let length = head.as_ref().map_or(0, String::len) + objects + commas + tail.len();
    let (mut entries, mut converted) = (page.entries.into_iter(), bodies.map(Vec::into_iter));
    let (mut comma, mut tail) = (false, Some(tail));
    Ok(Body::pieces(length, move |out| {
        if let Some(head) = head.take() {
            out.extend_from_slice(head.as_bytes());
            return true;
        }
        let Some(entry) = entries.next() else {
            return tail.take().is_some_and(|tail| {
                out.extend_from_slice(tail);
                true
            });
        };
        if std::mem::replace(&mut comma, true) {
            out.extend_from_slice(b",");
        }
        match converted.as_mut().and_then(Iterator::next) {
            Some(body) => out.extend_from_slice(&body),
            None => out.extend_from_slice(&entry.object.body),
        }
        true
    }))
}

/// How many objects are brought into another form before others have a turn.
const ENCODED_AT_ONCE: usize = 64;

/// The list as protobuf out of cached messages; none for a list that has no message.
async fn messages(call: &Call, page: &Page, metadata: &Value, ty: TypeRef<'static>) -> Option<Body> {
    let (kind, version) = (&*call.served.resource.list_kind, &*call.served.api_version);
    let (group, bare) = split_api_version(version);
    let list = Schema::builtin().kind(group, bare, kind)?;
    let first = protobuf::encode_message(&json!({"metadata": metadata}), list);
    let mut length = first.len();
    for (index, entry) in page.entries.iter().enumerate() {
        let message = entry.message(ty).len();
        length += message + protobuf::item_head_len(message);
        if index % ENCODED_AT_ONCE == ENCODED_AT_ONCE - 1 {
            tokio::task::consume_budget().await;
        }
    }
    let open = protobuf::open(version, kind, length);
    let length = open.len() + length + protobuf::CLOSE.len();
    let mut head = Some([open, first].concat());
    let mut entries = page.entries.clone().into_iter();
    let mut tail = Some(protobuf::CLOSE);
    Some(Body::pieces(length, move |out| {
        if let Some(head) = head.take() {
            out.extend_from_slice(&head);
        } else if let Some(entry) = entries.next() {
            let message = entry.message(ty);
            protobuf::open_item(out, message.len());
            out.extend_from_slice(message);
        } else if let Some(tail) = tail.take() {
            out.extend_from_slice(tail);
        } else {
            return false;
        }
        true
    }))
}
