//! What definitions say of themselves: accepted names, conditions.

use super::definition::{Condition, Definition, Names};
use super::names::Verdict;
use crate::meta;
use crate::storage::KindStore;
use base64::Engine;
use machinery::Status;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Writes what was decided about names into the status of a definition that wants these names.
pub(super) async fn tell(definitions: &KindStore, definition: &Definition, verdict: &Verdict) -> Result<(), Status> {
    let result = definitions.update("", &definition.metadata.name, |object| {
        if meta::text(object, "uid") != definition.metadata.uid {
            return Ok(());
        }
        meta::member(object, "status").insert("acceptedNames".to_owned(), names_value(&verdict.names));
        set_condition(object, &verdict.accepted);
        set_condition(object, &verdict.established);
        Ok(())
    });
    match result.await {
        Err(status) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

fn names_value(names: &Names) -> Value {
    let mut map = Map::new();
    let mut put = |field: &str, value: Value, empty: bool| {
        if !empty {
            map.insert(field.to_owned(), value);
        }
    };
    put("plural", json!(names.plural), false);
    put("singular", json!(names.singular), names.singular.is_empty());
    put("shortNames", json!(names.short_names), names.short_names.is_empty());
    put("kind", json!(names.kind), false);
    put("listKind", json!(names.list_kind), names.list_kind.is_empty());
    put("categories", json!(names.categories), names.categories.is_empty());
    Value::Object(map)
}

/// Sets a condition; its time changes with its status only.
pub(crate) fn set_condition(object: &mut Value, condition: &Condition) {
    let mut value = json!({
        "type": condition.kind, "status": condition.status, "lastTransitionTime": machinery::time::now(),
        "reason": condition.reason, "message": condition.message,
    });
    let conditions = meta::member(object, "status").entry("conditions").or_insert(Value::Null);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|known| known["type"] == value["type"]) {
        Some(known) => {
            if known["status"] == value["status"] {
                value["lastTransitionTime"] = known["lastTransitionTime"].take();
            }
            *known = value;
        }
        None => list.push(value),
    }
}

/// How discovery names the version that objects are stored in.
pub(super) fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// A condition.
pub(crate) fn condition(kind: &str, good: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
    }
}
