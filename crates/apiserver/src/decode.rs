//! From a body's bytes to a value, remembering keys that stand twice in one object.

use api::catalogue::split_api_version;
use machinery::schema::Schema;
use machinery::{Status, protobuf};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use serde_saphyr::options::DuplicateKeyPolicy;
use std::cell::RefCell;
use std::fmt;

/// Deepest nesting read.
const DEPTH_MAX: usize = 120;
/// What aliases may repeat of a YAML document, in its parser's events: a hundred letters can stand for millions.
const YAML_REPEATED_MAX: usize = 50_000;
/// How many duplicate keys are told at most.
const DUPLICATES_MAX: usize = 100;

/// What a body says.
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// Complaints about keys that stand twice.
    pub(crate) duplicates: Vec<String>,
}

/// The media type of upstream's binary encoding.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Decodes a body by its media type; 415 for one we do not read, 400 for a body that is not what it says.
pub(crate) fn decode(media_type: &str, body: &[u8]) -> Result<Decoded, Status> {
    match media_type {
        PROTOBUF => decode_protobuf(body, None),
        other => decode_text(other, body, false),
    }
}

/// The same, of an object that is to be stored; in JSON its `metadata.managedFields` stays text. `expected` is the version and kind
/// of a protobuf body that does not say.
pub(crate) fn decode_object(media_type: &str, body: &[u8], expected: (&str, &str)) -> Result<Decoded, Status> {
    match media_type {
        PROTOBUF => decode_protobuf(body, Some(expected)),
        other => decode_text(other, body, true),
    }
}

/// The same, of an object of a kind that has no protobuf message.
pub(crate) fn decode_custom(media_type: &str, body: &[u8]) -> Result<Decoded, Status> {
    match media_type {
        PROTOBUF => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml (got {media_type})"
        ))),
        other => decode_text(other, body, true),
    }
}

fn decode_protobuf(body: &[u8], expected: Option<(&str, &str)>) -> Result<Decoded, Status> {
    let find = |api_version: &str, kind: &str| {
        let (group, version) = split_api_version(api_version);
        Schema::builtin().kind(group, version, kind)
    };
    let value = protobuf::decode(body, expected, find).map_err(|error| Status::bad_request(error.to_string()))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

fn decode_text(media_type: &str, body: &[u8], owners_as_text: bool) -> Result<Decoded, Status> {
    let duplicates = RefCell::default();
    let owners_as_text = owners_as_text && media_type == "application/json";
    let seed = Seed { duplicates: &duplicates, path: None, depth: 0, owners_as_text };
    let value = match media_type {
        "application/json" => {
            let mut reader = serde_json::Deserializer::from_slice(body);
            let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
            value
                .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let options = serde_saphyr::options! {
                duplicate_keys: DuplicateKeyPolicy::PassThrough,
                legacy_octal_numbers: true,
                with_snippet: false,
                alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_REPEATED_MAX },
            };
            serde_saphyr::with_deserializer_from_slice_with_options(body, options, |reader| seed.deserialize(reader))
                .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))?
        }
        other => return Err(unsupported(other)),
    };
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// 415 with upstream's wording.
pub(crate) fn unsupported(media_type: &str) -> Status {
    Status::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {media_type})"
    ))
}

struct Step<'a> {
    parent: Option<&'a Step<'a>>,
    name: &'a str,
    index: Option<usize>,
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None if self.parent.is_some() => write!(f, ".{}", self.name),
            None => f.write_str(self.name),
        }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    duplicates: &'a RefCell<Vec<String>>,
    path: Option<&'a Step<'a>>,
    depth: usize,
    /// Whether `metadata.managedFields` is kept as its text.
    owners_as_text: bool,
}

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Seed { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut list = Vec::new();
        loop {
            let step = Step { parent: self.path, name: "", index: Some(list.len()) };
            match items.next_element_seed(Seed { path: Some(&step), ..seed })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = members.next_key_seed(Key)? {
            let step = Step { parent: self.path, name: &key, index: None };
            let in_metadata = self.path.is_some_and(|at| at.parent.is_none() && at.name == "metadata");
            let value = if self.owners_as_text && in_metadata && key == "managedFields" {
                owners(members.next_value::<Box<RawValue>>()?)
            } else {
                members.next_value_seed(Seed { path: Some(&step), ..seed })?
            };
            let complaint = map.contains_key(&key).then(|| format!("duplicate field {:?}", step.to_string()));
            let mut duplicates = self.duplicates.borrow_mut();
            if duplicates.len() < DUPLICATES_MAX {
                duplicates.extend(complaint);
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A list as its text; anything else as what it is, for the checker to refuse.
fn owners(raw: Box<RawValue>) -> Value {
    let text = String::from(Box::<str>::from(raw));
    if text.starts_with('[') { Value::String(text) } else { serde_json::from_str(&text).unwrap_or_default() }
}

/// A key; YAML allows numbers and booleans there, JSON takes their text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        Err(E::custom("null is no key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies() {
        let yaml = "application/yaml";
        for (media_type, body, expected, duplicates) in [
            (
                "application/json",
                r#"{"a":[{"b":1,"b":2}],"c":null}"#,
                Some(json!({"a": [{"b": 2}], "c": null})),
                vec![r#"duplicate field "a[0].b""#],
            ),
            ("application/json", r#"{"a":1,"a":1.5}"#, Some(json!({"a": 1.5})), vec![r#"duplicate field "a""#]),
            ("application/json", r#"{"a":"#, None, vec![]),
            ("application/json", r#"{} x"#, None, vec![]),
            ("application/json", "", None, vec![]),
            (
                yaml,
                "a: 0644\nb: \"yes\"\nc: [x, 1.5, true]\nd: ~\n1: z\n",
                Some(json!({"a": 420, "b": "yes", "c": ["x", 1.5, true], "d": null, "1": "z"})),
                vec![],
            ),
            (yaml, "a: {b: 1}\na: {b: 2}\n", Some(json!({"a": {"b": 2}})), vec![r#"duplicate field "a""#]),
            (yaml, "a: [", None, vec![]),
            ("text/html", "", None, vec![]),
        ] {
            let found = decode(media_type, body.as_bytes());
            match (found, expected) {
                (Ok(found), Some(expected)) => assert_eq!(
                    (found.value, found.duplicates),
                    (expected, duplicates.into_iter().map(str::to_owned).collect()),
                    "{body}"
                ),
                (Err(_), None) => {}
                (found, expected) => panic!("{body}: {:?} instead of {expected:?}", found.map(|found| found.value)),
            }
        }
    }

    #[test]
    fn owners_stay_text() {
        let body = r#"{"metadata":{"name":"a","managedFields":[ {"a":{}} ]},"spec":{"metadata":{"managedFields":[]}}}"#;
        let found = decode_object("application/json", body.as_bytes(), ("v1", "Pod")).unwrap().value;
        assert_eq!(found["metadata"]["managedFields"], r#"[ {"a":{}} ]"#);
        assert_eq!(found["spec"]["metadata"]["managedFields"], json!([]));
        let found = decode("application/json", body.as_bytes()).unwrap().value;
        assert_eq!(found["metadata"]["managedFields"], json!([{"a": {}}]));
        assert!(decode_custom(PROTOBUF, b"").is_err_and(|status| status.code == 415));
    }

    #[test]
    fn deep_nesting_is_refused() {
        for (media_type, open, close) in
            [("application/json", "[", "]"), ("application/yaml", "[", "]"), ("application/json", "{\"a\":", "}")]
        {
            let middle = if close == "}" { "1" } else { "" };
            let body = format!("{}{middle}{}", open.repeat(100_000), close.repeat(100_000));
            assert_eq!(decode(media_type, body.as_bytes()).err().unwrap().code, 400);
        }
    }
}
