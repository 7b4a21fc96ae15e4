//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386).

use crate::Status;
use json_patch::PatchOperation;
use serde_json::Value;

/// Most operations one JSON patch may have, as upstream.
pub const OPERATIONS_MAX: usize = 10_000;

/// Bytes that the copies of one JSON patch may add up to, as upstream: each could double the document.
pub const COPY_BYTES_MAX: usize = 3 << 20;
/// Deepest nesting that a patch may make; no body that is read is deeper.
const DEPTH_MAX: usize = 120;
/// Values that one patch may move: what it takes or copies, and what stands in the lists it puts something into.
const MOVED_MAX: usize = 20_000_000;

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
    let mut patched = document.clone();
    let mut spent = Spent::default();
    for (index, operation) in patch.0.iter().enumerate() {
        spent.on(operation, &patched).map_err(|why| refused(&why))?;
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = index;
            refused(&error.to_string())
        })?;
    }
    *document = patched;
    Ok(())
}

fn refused(why: &str) -> Status {
    Status::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {why}"))
}

/// What the operations of a patch have cost so far.
#[derive(Default)]
struct Spent {
    copied_bytes: usize,
    moved: usize,
}

impl Spent {
    /// Adds one operation on a document, or says which bound it would break.
    fn on(&mut self, operation: &PatchOperation, document: &Value) -> Result<(), String> {
        let place = operation.path().as_str();
        if let Some(list) = document.pointer(parent(place)).and_then(Value::as_array) {
            self.moved += list.len();
        }
        let there = |from: &str| document.pointer(from).map(Weight::of).unwrap_or_default();
        let weight = match operation {
            PatchOperation::Add(add) => Weight::of(&add.value),
            PatchOperation::Replace(replace) => Weight::of(&replace.value),
            PatchOperation::Move(moved) => {
                if let Some(list) = document.pointer(parent(moved.from.as_str())).and_then(Value::as_array) {
                    self.moved += list.len();
                }
                there(moved.from.as_str())
            }
            PatchOperation::Copy(copy) => {
                let weight = there(copy.from.as_str());
                self.copied_bytes += weight.bytes;
                weight
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => Weight::default(),
        };
        self.moved += weight.values;
        if self.copied_bytes > COPY_BYTES_MAX {
            let copied = self.copied_bytes;
            return Err(format!(
                "Unable to copy, the accumulated size increase of copy is {copied}, exceeding the limit {COPY_BYTES_MAX}"
            ));
        }
        if place.matches('/').count() + weight.depth > DEPTH_MAX {
            return Err(format!("the patched object would be nested deeper than {DEPTH_MAX}"));
        }
        if self.moved > MOVED_MAX {
            return Err(format!("the patch moves more than {MOVED_MAX} values"));
        }
        Ok(())
    }
}

fn parent(pointer: &str) -> &str {
    pointer.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// How much there is of a value.
#[derive(Default)]
struct Weight {
    values: usize,
    /// About what it takes as JSON.
    bytes: usize,
    depth: usize,
}

impl Weight {
    fn of(value: &Value) -> Self {
        let mut weight = Self::default();
        let mut left = vec![(value, 0)];
        while let Some((value, depth)) = left.pop() {
            weight.values += 1;
            weight.depth = weight.depth.max(depth);
            weight.bytes += match value {
                Value::String(text) => text.len() + 2,
                _ => 4,
            };
            match value {
                Value::Array(list) => left.extend(list.iter().map(|item| (item, depth + 1))),
                Value::Object(map) => {
                    weight.bytes += map.keys().map(|key| key.len() + 4).sum::<usize>();
                    left.extend(map.values().map(|value| (value, depth + 1)));
                }
                _ => {}
            }
        }
        weight
    }
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

    #[test]
    fn patches_that_would_swell_or_sink_the_document_are_refused() {
        let mut large: Vec<Value> = vec![json!(0); 100_000];
        large.push(json!("x"));
        let document = json!({"data": {"a": "x".repeat(1000)}, "list": large, "x": {}});
        // Each copies all there is: the document doubles.
        let doubling: Vec<Value> =
            (0..40).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")})).collect();
        // Each puts the deep one below a new one: it sinks by one, at the price of three operations.
        let sinking = (0..3_000).flat_map(|_| {
            [
                json!({"op": "add", "path": "/y", "value": {}}),
                json!({"op": "move", "from": "/x", "path": "/y/x"}),
                json!({"op": "move", "from": "/y", "path": "/x"}),
            ]
        });
        let pushing: Vec<Value> = (0..9_999).map(|_| json!({"op": "add", "path": "/list/0", "value": 1})).collect();
        let moving: Vec<Value> = (0..4_000)
            .flat_map(|_| {
                [
                    json!({"op": "move", "from": "/list", "path": "/l"}),
                    json!({"op": "move", "from": "/l", "path": "/list"}),
                ]
            })
            .collect();
        for (patch, expected) in [
            (doubling, "Unable to copy, the accumulated size increase of copy"),
            (sinking.collect(), "nested deeper than 120"),
            (pushing, "moves more than"),
            (moving, "moves more than"),
        ] {
            let mut patched = document.clone();
            let status = json_patch(&mut patched, &Value::Array(patch)).unwrap_err();
            assert!(status.code == 422 && status.message.contains(expected), "{}", status.message);
            assert!(patched == document);
        }
    }
}
