//! `list`: cached bytes, one after the other.

use super::options::{Continue, ListOptions, Match};
use crate::body::Body;
use crate::cache::kind::Page;
use crate::call::Call;
use crate::negotiate::{Accept, Format, Shape};
use crate::respond;
use crate::storage::{EXPIRED, KindStore, Object, store_status};
use crate::table;
use bytes::Bytes;
use http::{Response, StatusCode};
use machinery::Status;
use serde_json::{Value, json};
use std::collections::VecDeque;
use store::Error;

const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Answers with the objects selected, or a page of them.
pub(super) async fn list(call: &Call) -> Result<Response<Body>, Status> {
    let store = call.served.store()?;
    let options = ListOptions::parse(call, false)?;
    match page(store, &options).await {
        Ok(page) => answer(call, &page).await,
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

async fn answer(call: &Call, page: &Page) -> Result<Response<Body>, Status> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        metadata["continue"] = Continue { revision: Some(page.revision), after: next.to_string() }.encode().into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    if call.accept == Accept::default() {
        return Ok(respond::encoded(Format::Json, StatusCode::OK, encoded(call, page, &metadata).await?));
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
    if page.entries.iter().all(|entry| call.served.is_plain(&entry.object)) {
        return Ok(None);
    }
    let objects: Vec<&Object> = page.entries.iter().map(|entry| &entry.object).collect();
    let values = call.served.values(&objects).await?;
    Ok(Some(values.iter().map(|value| serde_json::to_vec(value).unwrap_or_default().into()).collect()))
}

/// The list as JSON out of cached bytes.
async fn encoded(call: &Call, page: &Page, metadata: &Value) -> Result<Body, Status> {
    let bodies = bodies(call, page).await?;
    let mut pieces = VecDeque::with_capacity(page.entries.len() * 2 + 2);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        call.served.resource.list_kind, call.served.api_version
    );
    pieces.push_back(Bytes::from(head));
    for (index, entry) in page.entries.iter().enumerate() {
        if index > 0 {
            pieces.push_back(Bytes::from_static(b","));
        }
        pieces.push_back(bodies.as_ref().map_or_else(|| entry.object.body.clone(), |bodies| bodies[index].clone()));
    }
    pieces.push_back(Bytes::from_static(b"]}\n"));
    Ok(Body::pieces(pieces))
}
