//! Decoding a stored object apart from who owns its fields: that list is large, and hardly anybody asks for it.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// An object without `metadata.managedFields`, and the text of these.
pub(crate) fn split(body: &[u8]) -> (Value, Option<Box<str>>) {
    let mut managed = None;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Seed { managed: &mut managed, place: Place::Object };
    let object = seed.deserialize(&mut reader).unwrap_or_default();
    (object, managed)
}

/// The other way round: the list is text inside the value, which [`crate::encode::encode`] writes as it is.
pub(crate) fn join(object: &mut Value, managed: Option<&str>) {
    let managed = managed.map(|text| Value::String(text.to_owned()));
    crate::meta::set(crate::meta::metadata(object), "managedFields", managed);
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Object,
    Metadata,
}

struct Seed<'a> {
    managed: &'a mut Option<Box<str>>,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = match (self.place, &*key) {
                (Place::Object, "metadata") => {
                    members.next_value_seed(Seed { managed: &mut *self.managed, place: Place::Metadata })?
                }
                (Place::Metadata, "managedFields") => {
                    *self.managed = Some(members.next_value::<&RawValue>()?.get().into());
                    continue;
                }
                _ => members.next_value()?,
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let object = json!({
            "kind": "Pod", "metadata": {"name": "a", "annotations": {"managedFields": "x"}, "managedFields": [{"manager": "m"}]},
            "spec": {"metadata": {"managedFields": 1}},
        });
        let body = crate::encode::encode(&object);
        let (mut bare, managed) = split(&body);
        let mut expected = object.clone();
        crate::meta::metadata(&mut expected).remove("managedFields");
        assert_eq!((&bare, managed.as_deref()), (&expected, Some(r#"[{"manager":"m"}]"#)));
        join(&mut bare, managed.as_deref());
        assert_eq!(crate::encode::encode(&bare), body);
        join(&mut bare, None);
        assert_eq!(bare, expected);
        assert_eq!(split(b"garbage"), (Value::Null, None));
    }
}
