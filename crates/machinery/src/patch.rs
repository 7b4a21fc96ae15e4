//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386).

use crate::Status;
use serde_json::Value;

/// Most operations one JSON patch may have, as upstream.
pub const OPERATIONS_MAX: usize = 10_000;

/// Applies a JSON patch; the document is unchanged when it fails.
pub fn json_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {operations}"
        )));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    json_patch::patch(document, &patch).map_err(|e| Status {
        code: 422,
        ..Status::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {e}"))
    })
}

/// Applies a merge patch.
pub fn merge_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: a merge patch must be a JSON object"));
    }
    json_patch::merge(document, patch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both() {
        let mut document = json!({"a": 1, "b": {"c": 2}});
        merge_patch(&mut document, &json!({"b": {"c": null, "d": 3}})).unwrap();
        assert_eq!(document, json!({"a": 1, "b": {"d": 3}}));
        json_patch(&mut document, &json!([{"op": "replace", "path": "/a", "value": 5}])).unwrap();
        assert_eq!(document["a"], 5);
        let failed = json_patch(
            &mut document,
            &json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b/d", "value": 4}]),
        );
        assert_eq!(failed.unwrap_err().code, 422);
        assert_eq!(document["a"], 5, "a failed patch changes nothing");
        assert_eq!(json_patch(&mut document, &json!({"op": "x"})).unwrap_err().code, 400);
        assert_eq!(merge_patch(&mut document, &json!(3)).unwrap_err().code, 400);
    }
}
