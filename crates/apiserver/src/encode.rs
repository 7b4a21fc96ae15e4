//! How objects are laid out as bytes: `kind` and `apiVersion` first, then `metadata`, so that the revision can be put in by a copy.
//!
//! The store keeps objects without `resourceVersion` (it is not known before the commit); the cache splices it in once.

use bytes::Bytes;
use serde_json::{Map, Value};
use std::io::Write;

const METADATA: &[u8] = b"\"metadata\":{";
const REVISION: &[u8] = b"\"resourceVersion\":\"";
/// What a revision takes at most: its name, twenty digits, a quote and a comma.
const REVISION_BYTES_MAX: usize = REVISION.len() + 22;
/// What a line of the watch protocol takes beside type and object.
const LINE_BYTES: usize = 24;

/// Encodes an object for the store: no `resourceVersion`, `kind`, `apiVersion` and `metadata` first.
pub(crate) fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let empty = Map::new();
    let object = object.as_object().unwrap_or(&empty);
    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        if let Some(value) = object.get(key) {
            member(&mut out, key, value);
        }
    }
    separate(&mut out);
    out.extend_from_slice(METADATA);
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        match value {
            // Who owns which fields is text already.
            Value::String(text) if key == "managedFields" => raw_member(&mut out, key, text),
            value => member(&mut out, key, value),
        }
    }
    out.push(b'}');
    for (key, value) in object {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            member(&mut out, key, value);
        }
    }
    out.push(b'}');
    out.into()
}

fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{') | None) {
        out.push(b',');
    }
}

fn member(out: &mut Vec<u8>, key: &str, value: &Value) {
    separate(out);
    // Writing JSON to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

fn raw_member(out: &mut Vec<u8>, key: &str, json: &str) {
    separate(out);
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    out.extend_from_slice(json.as_bytes());
}

/// Puts a revision into encoded bytes, replacing the one that is there.
pub(crate) fn splice(body: &[u8], revision: u64) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + REVISION_BYTES_MAX);
    splice_into(&mut out, body, revision);
    out.into()
}

/// An object as a line of the watch protocol, with its revision; and the object as a slice of that line.
pub(crate) fn splice_line(kind: &str, body: &[u8], revision: u64) -> (Bytes, Bytes) {
    let mut out = Vec::with_capacity(body.len() + REVISION_BYTES_MAX + kind.len() + LINE_BYTES);
    begin_line(&mut out, kind);
    let start = out.len();
    splice_into(&mut out, body, revision);
    let end = out.len();
    out.extend_from_slice(b"}\n");
    let line = Bytes::from(out);
    let body = line.slice(start..end);
    (line, body)
}

/// One line of the watch protocol.
pub(crate) fn watch_line(kind: &str, body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + kind.len() + LINE_BYTES);
    begin_line(&mut out, kind);
    out.extend_from_slice(body);
    out.extend_from_slice(b"}\n");
    out.into()
}

fn begin_line(out: &mut Vec<u8>, kind: &str) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

fn splice_into(out: &mut Vec<u8>, body: &[u8], revision: u64) {
    let Some(found) = find(body, METADATA) else {
        out.extend_from_slice(body);
        return;
    };
    let at = found + METADATA.len();
    let mut rest = &body[at..];
    if let Some(old) = rest.strip_prefix(REVISION) {
        let end = old.iter().position(|b| *b == b'"').map_or(old.len(), |end| end + 1);
        rest = &old[end..];
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    out.extend_from_slice(&body[..at]);
    out.extend_from_slice(REVISION);
    let _ = write!(out, "{revision}\"");
    if !rest.starts_with(b"}") {
        out.push(b',');
    }
    out.extend_from_slice(rest);
}

/// The metadata of an encoded object, as it stands there; none in what was not encoded by us.
pub(crate) fn metadata(body: &[u8]) -> Option<&[u8]> {
    let from = &body[find(body, METADATA)? + METADATA.len() - 1..];
    let (mut depth, mut at) = (0_u32, 0);
    while at < from.len() {
        match from[at] {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(&from[..=at]),
            b'}' => depth -= 1,
            b'"' => at += string_len(&from[at + 1..])?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// How long a string is, up to and with its closing quote.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The `PartialObjectMetadata` of an encoded object.
pub(crate) fn partial(body: &[u8], api_version: &str) -> Option<Vec<u8>> {
    let metadata = metadata(body)?;
    let mut out = Vec::with_capacity(metadata.len() + 80);
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(api_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(metadata);
    out.push(b'}');
    Some(out)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn revision_is_spliced_and_replaced() {
        let object = json!({"spec": {"metadata": {"x": 1}}, "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a\"b", "resourceVersion": "7", "annotations": {"metadata": "{}"}}});
        let stored = encode(&object);
        assert!(stored.starts_with(b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{"));
        let mut expected = object.clone();
        for revision in [1u64, 12345, u64::MAX] {
            expected["metadata"]["resourceVersion"] = json!(revision.to_string());
            let once = splice(&stored, revision);
            assert_eq!(serde_json::from_slice::<Value>(&once).unwrap(), expected);
            let twice = splice(&splice(&stored, 42), revision);
            assert_eq!(once, twice);
            let (line, body) = splice_line("ADDED", &stored, revision);
            assert_eq!((&body, &line), (&once, &watch_line("ADDED", &once)));
        }
    }

    #[test]
    fn metadata_is_cut_out() {
        for metadata in [
            json!({"name": "a"}),
            json!({"annotations": {"a": "\"}{\\", "b}": "{", "c": "\\\\\""}, "labels": {}, "managedFields": [{"fieldsV1": {"f:x": {}}}]}),
        ] {
            let object =
                json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"metadata": {"x": 1}}});
            let body = splice(&encode(&object), 7);
            let mut expected =
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
            expected["metadata"]["resourceVersion"] = json!("7");
            let found = partial(&body, "meta.k8s.io/v1").unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&found).unwrap(), expected);
        }
        for broken in [&b"{}"[..], b"{\"metadata\":{\"a", b"{\"metadata\":{\"a\\"] {
            assert_eq!(partial(broken, "v"), None);
        }
    }

    #[test]
    fn empty_metadata_is_still_json() {
        let spliced = splice(&encode(&json!({"kind": "X"})), 3);
        assert_eq!(
            serde_json::from_slice::<Value>(&spliced).unwrap(),
            json!({"kind": "X", "metadata": {"resourceVersion": "3"}})
        );
    }
}
