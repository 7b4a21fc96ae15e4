//! What keeps flow control's objects in order: the bootstrap objects are there and as they should be, and each schema says whether
//! its level exists.
//!
//! Upstream looks every minute, here every change is looked at. A user who wants an own version of a bootstrap object sets its
//! annotation `apf.kubernetes.io/autoupdate-spec` to `false`; the objects `exempt` and `catch-all` are put back all the same.

use super::{GROUP, bootstrap};
use crate::meta;
use crate::storage::{KindStore, Storage};
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Those without which no request would find its level.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Looks after them until `stop`.
pub(crate) async fn run(storage: Arc<Storage>, stop: CancellationToken) {
    let kind = |resource: &str| storage.kind(GROUP, resource);
    let (Ok(schemas), Ok(levels)) = (kind("flowschemas"), kind("prioritylevelconfigurations")) else { return };
    while !stop.is_cancelled() {
        let (mut of_schemas, mut of_levels) = (schemas.subscribe().1, levels.subscribe().1);
        loop {
            if let Err(status) = look(&schemas, &levels).await {
                tracing::warn!(error = %status.message, "the objects of flow control cannot be kept in order");
            }
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                changed = of_schemas.recv() => changed.is_some(),
                changed = of_levels.recv() => changed.is_some(),
            };
            if !changed {
                break;
            }
        }
    }
}

async fn look(schemas: &KindStore, levels: &KindStore) -> Result<(), Status> {
    for object in bootstrap::levels() {
        keep(levels, object).await?;
    }
    for object in bootstrap::schemas() {
        keep(schemas, object).await?;
    }
    for entry in schemas.list(None) {
        let schema = entry.value();
        let level = meta::text_at(&schema, &["spec", "priorityLevelConfiguration", "name"]).to_owned();
        let wanted = dangling(&level, levels.get("", &level).is_some());
        if is_told(&schema, &wanted) {
            continue;
        }
        let told = schemas.update("", entry.name(), |object| {
            if !is_told(object, &wanted) {
                tell(object, &wanted);
            }
            Ok(())
        });
        match told.await {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// Makes a bootstrap object that is missing, and puts back the specification of one that is not the user's.
async fn keep(kind: &KindStore, object: Value) -> Result<(), Status> {
    let name = meta::name(&object).to_owned();
    let done = match kind.get("", &name) {
        None => kind.create(object).await,
        Some(entry) => {
            let stored = entry.value();
            if stored["spec"] == object["spec"] || !ours(&stored) {
                return Ok(());
            }
            let put_back = |stored: &mut Value| {
                stored["spec"] = object["spec"].clone();
                let generation = meta::generation(stored) + 1;
                meta::metadata(stored).insert("generation".to_owned(), generation.into());
                Ok(())
            };
            kind.update("", &name, put_back).await
        }
    };
    match done {
        Err(status) if status.code != 409 && status.code != 404 => Err(status),
        _ => Ok(()),
    }
}

/// Whether a bootstrap object is kept as it was made.
fn ours(stored: &Value) -> bool {
    MANDATORY.contains(&meta::name(stored))
        || match meta::text_at(stored, &["metadata", "annotations", bootstrap::AUTO_UPDATE]) {
            "true" => true,
            "false" => false,
            // Whoever never changed it has no wishes.
            _ => meta::generation(stored) == 1,
        }
}

/// The condition of a schema about its level.
pub(super) fn dangling(level: &str, exists: bool) -> Value {
    let (status, reason, what) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {what}");
    json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": machinery::time::now()})
}

fn conditions(schema: &Value) -> impl Iterator<Item = &Value> {
    meta::at(schema, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten()
}

fn is_told(schema: &Value, wanted: &Value) -> bool {
    let same = |one: &Value| ["type", "status", "reason", "message"].iter().all(|field| one[field] == wanted[field]);
    conditions(schema).any(same)
}

fn tell(schema: &mut Value, wanted: &Value) {
    let others = conditions(schema).filter(|one| one["type"] != "Dangling").cloned();
    let mut all: Vec<Value> = others.collect();
    all.push(wanted.clone());
    meta::member(schema, "status").insert("conditions".to_owned(), all.into());
}
