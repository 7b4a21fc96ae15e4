//! What the expressions of mutating policies make, put onto an object.

use crate::admission::webhooks::select::Target;
use cel::{List, Struct, Value};
use machinery::apply::{self, AnyPlace, Form, Place};
use machinery::schema::ListType;
use serde_json::{Map, Value as Json};

/// The object with an apply configuration (`Object{…}`) merged in. Nobody's ownership of fields changes.
pub(super) fn apply_configuration(object: &Json, value: &Value<'_>, target: &Target) -> Result<Json, String> {
    let Value::Struct(made) = value else {
        return Err(format!("unsupported return type from ApplyConfiguration expression: {}", value.type_name()));
    };
    check_names(value, "Object")?;
    let Some(place) = target.place() else {
        return Err(format!("an apply configuration cannot be merged into a {}", object["kind"]));
    };
    let mut configuration = value.to_json().map_err(|fault| fault.to_string())?;
    drop_absent(made, &mut configuration);
    for field in ["apiVersion", "kind"] {
        configuration[field] = object[field].clone();
    }
    let mut atomics = Vec::new();
    survey(&configuration, place, "", &mut atomics)
        .map_err(|why| format!("error applying patch: failed to convert patch object to typed object: {why}"))?;
    if !atomics.is_empty() {
        let list = atomics.join(", ");
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {list}"
        ));
    }
    let mut merged = object.clone();
    apply::merge(&mut merged, &configuration, place);
    Ok(merged)
}

/// Fields whose value is an absent optional are left out; JSON has null for them.
fn drop_absent(made: &Struct<'_>, json: &mut Json) {
    let Some(map) = json.as_object_mut() else { return };
    for (name, value) in &made.fields {
        match value {
            Value::Optional(None) => drop(map.remove(&**name)),
            Value::Struct(inner) => {
                if let Some(json) = map.get_mut(&**name) {
                    drop_absent(inner, json);
                }
            }
            _ => {}
        }
    }
}

/// Every `Object.a.b{…}` stands at the field that its name says.
fn check_names(value: &Value<'_>, path: &str) -> Result<(), String> {
    match value {
        Value::Struct(made) => {
            if *made.name != *path {
                return Err(format!(
                    "type mismatch: unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    &*made.name
                ));
            }
            made.fields.iter().try_for_each(|(name, value)| check_names(value, &format!("{path}.{name}")))
        }
        Value::List(list @ List::Made(_)) => list.iter().try_for_each(|item| check_names(&item, path)),
        Value::Map(map @ cel::Map::Made(_)) => map.entries().iter().try_for_each(|(_, value)| check_names(value, path)),
        _ => Ok(()),
    }
}

/// Finds what an apply configuration would replace as a whole, and fields that the schema does not have.
fn survey(value: &Json, place: AnyPlace<'_>, path: &str, atomics: &mut Vec<String>) -> Result<(), String> {
    match (place.form(value), value) {
        (Form::Map { atomic }, Json::Object(map)) => {
            if atomic {
                atomics.push(path.to_owned());
                return Ok(());
            }
            members(map, place, path, atomics)
        }
        (Form::List { kind, item }, Json::Array(items)) => {
            if kind == ListType::Atomic {
                atomics.push(path.to_owned());
                return Ok(());
            }
            let mut each = items.iter().enumerate();
            each.try_for_each(|(at, value)| survey(value, item, &format!("{path}[{at}]"), atomics))
        }
        _ => Ok(()),
    }
}

fn members(map: &Map<String, Json>, place: AnyPlace<'_>, path: &str, atomics: &mut Vec<String>) -> Result<(), String> {
    for (name, value) in map {
        let path = format!("{path}.{name}");
        let Some(member) = place.member(name) else {
            return Err(format!("{path}: field not declared in schema"));
        };
        survey(value, member.place, &path, atomics)?;
    }
    Ok(())
}

/// The object with a JSON patch (a list of `JSONPatch{…}`) applied. One whose test fails changes nothing.
pub(super) fn json_patch(object: &Json, value: &Value<'_>) -> Result<Json, String> {
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut patched = object.clone();
    for item in list.iter() {
        let Value::Struct(made) = &item else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
        };
        let value = made.fields.iter().find(|(name, _)| **name == *"value");
        if let Some((_, value @ Value::Struct(inner))) = value {
            check_names(value, &inner.name)?;
        }
        let operation = item.to_json().map_err(|fault| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {fault}")
        })?;
        let is_test = operation["op"] == "test";
        match machinery::patch::json_patch(&mut patched, &Json::Array(vec![operation])) {
            Ok(()) => {}
            Err(_) if is_test => return Ok(object.clone()),
            Err(status) => return Err(format!("JSON Patch: {}", status.message)),
        }
    }
    Ok(patched)
}
