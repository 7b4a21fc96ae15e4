//! Protobuf against upstream's own encoding of the golden objects.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::protobuf::{decode, decode_message, encode, encode_message};
use machinery::schema::{Schema, check};
use serde_json::Value;

#[test]
fn bytes_as_upstream() {
    let mut count = 0;
    for line in include_str!("../testdata/objects.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (group, version) = api::catalogue::split_api_version(case["in"]["apiVersion"].as_str().unwrap());
        let kind = case["in"]["kind"].as_str().unwrap();
        let ty = Schema::builtin().kind(group, version, kind).unwrap();
        let Some(expected) = case["protobuf"].as_str().map(|text| STANDARD.decode(text).unwrap()) else { continue };
        let mut object = case["defaulted"].clone();
        // Raw JSON is kept as the client spelled it, which no value can tell.
        if kind != "ControllerRevision" {
            assert_eq!(encode_message(&object, ty), expected, "{kind} {}", object["metadata"]["name"]);
        }
        if let Some(body) = case["encoded"].as_str() {
            let body = STANDARD.decode(body).unwrap();
            assert_eq!(encode(&object, ty), body, "the whole body of {kind}");
            assert_eq!(decode(&body, None, |_, _| Some(ty)).unwrap()["kind"], object["kind"]);
        }
        let mut back = decode_message(&expected, ty).unwrap();
        for field in ["apiVersion", "kind"] {
            back[field] = object[field].clone();
        }
        for value in [&mut back, &mut object] {
            check(value, ty).unwrap();
            empty_to_null(value);
        }
        assert_eq!(back, object, "{kind}");
        count += 1;
    }
    assert!(count > 100, "{count}");
}

/// Protobuf does not tell an empty list from none.
fn empty_to_null(value: &mut Value) {
    match value {
        Value::Array(items) if items.is_empty() => *value = Value::Null,
        Value::Array(items) => items.iter_mut().for_each(empty_to_null),
        Value::Object(map) => map.values_mut().for_each(empty_to_null),
        _ => {}
    }
}
