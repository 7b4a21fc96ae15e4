//! Strategic merge patches: JSON merge patches that know which lists merge, and by which key.
//!
//! Directives: `$patch` (`merge`, `replace`, `delete`), `$retainKeys`, `$deleteFromPrimitiveList/FIELD` and
//! `$setElementOrder/FIELD`, as `kubectl apply` and `kubectl edit` send them. Fields that the type does not know merge as in a
//! JSON merge patch.

use crate::Status;
use crate::schema::{FieldRef, TypeRef};
use serde_json::{Map, Value};
use std::collections::HashSet;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";
/// Nesting beyond which a patch is refused; the JSON parser stops earlier.
const DEPTH_MAX: usize = 200;

type Object = Map<String, Value>;

/// Applies a patch to an object of a type. On an error the object is left half changed: the caller throws it away.
pub fn apply(target: &mut Value, patch: &Value, ty: TypeRef<'_>) -> Result<(), Status> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(Status::bad_request("a strategic merge patch and what it patches must be objects"));
    };
    merge_object(target, patch.clone(), Some(ty), 0)
}

fn merge_object(target: &mut Object, mut patch: Object, ty: Option<TypeRef<'_>>, depth: usize) -> Result<(), Status> {
    if depth > DEPTH_MAX {
        return Err(Status::bad_request("the patch is nested too deeply"));
    }
    match directive(&patch)? {
        Directive::Replace => {
            patch.remove(DIRECTIVE);
            *target = patch;
            return Ok(());
        }
        Directive::Delete => {
            target.clear();
            return Ok(());
        }
        Directive::Merge => {
            patch.remove(DIRECTIVE);
        }
    }
    retain_keys(target, &mut patch)?;
    set_orders(target, &mut patch, ty, depth)?;
    for (name, value) in patch {
        merge_field(target, name, value, ty, depth)?;
    }
    Ok(())
}

fn merge_field(
    target: &mut Object,
    name: String,
    value: Value,
    ty: Option<TypeRef<'_>>,
    depth: usize,
) -> Result<(), Status> {
    if let Some(list) = name.strip_prefix(DELETE_PREFIX) {
        return delete_primitives(target, list, &value);
    }
    if value.is_null() {
        target.remove(&name);
        return Ok(());
    }
    let place = Place::of(ty, &name);
    match (target.get_mut(&name), value) {
        (Some(Value::Object(old)), Value::Object(new)) if !place.replaces() => {
            merge_object(old, new, place.ty, depth + 1)
        }
        (Some(Value::Array(old)), Value::Array(new)) if place.merges_list() => {
            *old = merge_list(std::mem::take(old), new, None, place, depth + 1)?;
            Ok(())
        }
        (_, value) => {
            if let Some(value) = without_directives(value) {
                target.insert(name, value);
            }
            Ok(())
        }
    }
}

/// What the schema says of a field of the patched object.
#[derive(Clone, Copy)]
struct Place<'s> {
    field: Option<FieldRef<'s>>,
    ty: Option<TypeRef<'s>>,
}

impl<'s> Place<'s> {
    fn of(owner: Option<TypeRef<'s>>, name: &str) -> Place<'s> {
        let field = owner.and_then(|t| t.field(name));
        let ty = match field {
            Some(f) => Some(f.ty()),
            // The values of a map; a struct that lacks the field tells nothing.
            None => owner.filter(|t| t.as_struct().is_none()).and_then(TypeRef::element),
        };
        Place { field, ty }
    }

    fn strategy(self) -> impl Iterator<Item = &'s str> {
        self.field.map_or("", FieldRef::patch_strategy).split(',')
    }

    fn replaces(self) -> bool {
        self.strategy().any(|s| s == "replace")
    }

    fn merges_list(self) -> bool {
        self.strategy().any(|s| s == "merge")
    }

    fn key(self) -> &'s str {
        self.field.map_or("", FieldRef::merge_key)
    }

    fn element(self) -> Option<TypeRef<'s>> {
        self.ty.and_then(TypeRef::element)
    }
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Object) -> Result<Directive, Status> {
    match patch.get(DIRECTIVE) {
        None => Ok(Directive::Merge),
        Some(Value::String(word)) => match word.as_str() {
            "merge" => Ok(Directive::Merge),
            "replace" => Ok(Directive::Replace),
            "delete" => Ok(Directive::Delete),
            other => Err(Status::bad_request(format!("unknown patch type found: {other}"))),
        },
        Some(_) => Err(Status::bad_request("$patch must be a string")),
    }
}

/// Removes what `$retainKeys` does not list.
fn retain_keys(target: &mut Object, patch: &mut Object) -> Result<(), Status> {
    let Some(list) = patch.remove(RETAIN) else {
        return Ok(());
    };
    let keep: HashSet<&str> = match &list {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => return Err(Status::bad_request("invalid patch format of retainKeys")),
    };
    let plain = |name: &&String| !name.starts_with('$');
    if let Some(extra) =
        patch.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).filter(plain).find(|k| !keep.contains(k.as_str()))
    {
        return Err(Status::bad_request(format!("invalid patch format of retainKeys: {extra} is not in the list")));
    }
    target.retain(|name, _| keep.contains(name.as_str()));
    Ok(())
}

/// Carries out each `$setElementOrder/FIELD`, with the patch of the field itself.
fn set_orders(target: &mut Object, patch: &mut Object, ty: Option<TypeRef<'_>>, depth: usize) -> Result<(), Status> {
    let names: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in names {
        let name = &directive[ORDER_PREFIX.len()..];
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(Status::bad_request(format!("{directive} must be a list")));
        };
        let place = Place::of(ty, name);
        let new = match patch.get(name) {
            None => Vec::new(),
            Some(Value::Array(_)) if place.merges_list() => match patch.remove(name) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
            Some(_) => continue,
        };
        // Elements leave before the rest is put in order.
        let delete = format!("{DELETE_PREFIX}{name}");
        if let Some(gone) = patch.remove(&delete) {
            delete_primitives(target, name, &gone)?;
        }
        let old = match target.remove(name) {
            Some(Value::Array(items)) => items,
            Some(other) => {
                target.insert(name.to_owned(), other);
                continue;
            }
            None if new.is_empty() => continue,
            None => Vec::new(),
        };
        let merged = merge_list(old, new, Some(&order), place, depth + 1)?;
        target.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(())
}

fn delete_primitives(target: &mut Object, list: &str, gone: &Value) -> Result<(), Status> {
    let Value::Array(gone) = gone else {
        return Err(Status::bad_request(format!("{DELETE_PREFIX}{list} must be a list")));
    };
    if let Some(Value::Array(items)) = target.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_list(
    old: Vec<Value>,
    new: Vec<Value>,
    order: Option<&[Value]>,
    place: Place<'_>,
    depth: usize,
) -> Result<Vec<Value>, Status> {
    let key = place.key();
    if key.is_empty() {
        return Ok(merge_scalars(old, new, order));
    }
    let mut merged = old.clone();
    let mut plain = Vec::with_capacity(new.len());
    let mut replaced = false;
    for item in new {
        let Value::Object(item) = item else {
            return Err(Status::bad_request("the elements of a list merged by key must be objects"));
        };
        match directive(&item)? {
            Directive::Merge => plain.push(item),
            Directive::Replace => replaced = true,
            Directive::Delete => {
                let id = identity(&item, key)?;
                merged.retain(|other| other.get(key) != Some(&id));
            }
        }
    }
    if replaced {
        return Ok(plain.into_iter().filter_map(|item| without_directives(Value::Object(item))).collect());
    }
    let mut named = Vec::with_capacity(plain.len());
    for item in plain {
        let id = identity(&item, key)?;
        named.push(id.clone());
        match merged.iter_mut().find(|other| other.get(key) == Some(&id)) {
            Some(Value::Object(other)) => merge_object(other, item, place.element(), depth)?,
            _ => merged.extend(without_directives(Value::Object(item))),
        }
    }
    let order: Vec<Value> = match order {
        Some(order) => order.iter().map(|o| o.get(key).cloned().unwrap_or(Value::Null)).collect(),
        None => named.clone(),
    };
    if let Some(stray) = named.iter().find(|id| !order.contains(id)) {
        return Err(Status::bad_request(format!(
            "the patch has an element {stray} that its $setElementOrder list lacks"
        )));
    }
    Ok(in_order(merged, &order, &old, |item| item.get(key).unwrap_or(&Value::Null)))
}

fn identity(item: &Object, key: &str) -> Result<Value, Status> {
    let missing = || {
        Status::bad_request(format!("map: {} does not contain declared merge key: {key}", Value::Object(item.clone())))
    };
    item.get(key).cloned().ok_or_else(missing)
}

/// Scalars: each once, the old ones first unless the order says otherwise.
fn merge_scalars(old: Vec<Value>, new: Vec<Value>, order: Option<&[Value]>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
    for item in old.iter().chain(&new) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    in_order(merged, order.unwrap_or(&new), &old, |item| item)
}

/// The elements that `order` names, in its order, interleaved with the others so that those keep their places among the
/// elements that were there before.
fn in_order(merged: Vec<Value>, order: &[Value], old: &[Value], id: impl Fn(&Value) -> &Value) -> Vec<Value> {
    let rank = |item: &Value| order.iter().position(|o| o == id(item));
    let before = |item: &Value| old.iter().position(|o| id(o) == id(item));
    let (mut ordered, mut others): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|item| rank(item).is_some());
    ordered.sort_by_key(&rank);
    others.sort_by_key(&before);
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let (mut ordered, mut others) = (ordered.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(next), Some(other)) = (ordered.peek(), others.peek()) {
        let other_first = matches!((before(other), before(next)), (Some(a), Some(b)) if a < b);
        result.extend(if other_first { others.next() } else { ordered.next() });
    }
    result.extend(ordered);
    result.extend(others);
    result
}

/// A value that is new to the target: without directives, nulls, and elements that are only deletions.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            let plain = map.into_iter().filter(|(name, v)| !is_directive(name) && !v.is_null());
            Some(Value::Object(plain.filter_map(|(name, v)| Some((name, without_directives(v)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(
            items.into_iter().filter(|i| !is_replace_marker(i)).filter_map(without_directives).collect(),
        )),
        other => Some(other),
    }
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN || name.starts_with(DELETE_PREFIX) || name.starts_with(ORDER_PREFIX)
}

/// `{"$patch": "replace"}` among the elements of a list.
fn is_replace_marker(item: &Value) -> bool {
    item.as_object().is_some_and(|map| map.len() == 1 && map.get(DIRECTIVE).and_then(Value::as_str) == Some("replace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(kind: (&str, &str, &str), mut target: Value, patch: Value) -> Result<Value, Status> {
        apply(&mut target, &patch, Schema::builtin().kind(kind.0, kind.1, kind.2).unwrap())?;
        Ok(target)
    }

    fn spec(target: Value, patch: Value) -> Value {
        patched(("", "v1", "Pod"), json!({"spec": target}), json!({"spec": patch})).unwrap()["spec"].take()
    }

    #[test]
    fn lists_merge_by_key() {
        let containers = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1", "env": [{"name": "X", "value": "1"}]}]});
        let cases = [
            (
                json!({"containers": [{"name": "b", "image": "2"}]}),
                json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2", "env": [{"name": "X", "value": "1"}]}]),
            ),
            (
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!([{"name": "b", "image": "1", "env": [{"name": "X", "value": "1"}]}]),
            ),
            (
                json!({"containers": [{"$patch": "replace"}, {"name": "c", "image": "3"}]}),
                json!([{"name": "c", "image": "3"}]),
            ),
            (json!({"containers": [{"name": "a", "$patch": "replace", "image": "9"}]}), json!([])),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "env": null}]}),
                json!([{"name": "b", "image": "1"}, {"name": "a", "image": "1"}]),
            ),
            (
                json!({"containers": [{"name": "c", "image": "3", "env": null}]}),
                json!([{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "1", "env": [{"name": "X", "value": "1"}]}]),
            ),
        ];
        for (patch, expected) in cases {
            assert_eq!(spec(containers.clone(), patch.clone())["containers"], expected, "{patch}");
        }
    }

    #[test]
    fn scalars_maps_and_retained_keys() {
        let meta = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}});
        let result = patched(
            ("", "v1", "Pod"),
            meta,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"], "labels": {"x": null, "z": "3"}}}),
        );
        assert_eq!(result.unwrap(), json!({"metadata": {"finalizers": ["c", "b"], "labels": {"y": "2", "z": "3"}}}));
        let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}, "emptyDir": null}]});
        assert_eq!(spec(volumes, patch)["volumes"], json!([{"name": "v", "hostPath": {"path": "/"}}]));
        // A list without a strategy is replaced.
        assert_eq!(
            spec(
                json!({"containers": [{"name": "a", "args": ["x"]}]}),
                json!({"containers": [{"name": "a", "args": ["y"]}]})
            )["containers"][0]["args"],
            json!(["y"])
        );
    }

    #[test]
    fn bad_patches() {
        for patch in [
            json!({"spec": {"containers": [{"image": "x"}]}}),
            json!({"spec": {"$patch": "explode"}}),
            json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
            json!([]),
        ] {
            let target = json!({"spec": {"containers": [{"name": "a"}]}});
            assert_eq!(patched(("", "v1", "Pod"), target, patch).unwrap_err().code, 400);
        }
    }

    fn any_spec() -> impl Strategy<Value = Value> {
        let env = prop::collection::btree_map("[A-C]", "[a-b]{0,2}", 0..3)
            .prop_map(|m| m.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>());
        let container = ("[x-z]", env).prop_map(|(image, env)| (image, env));
        prop::collection::btree_map("[a-d]", container, 0..4).prop_map(|m| {
            let list: Vec<Value> =
                m.into_iter().map(|(name, (image, env))| json!({"name": name, "image": image, "env": env})).collect();
            json!({"spec": {"containers": list}})
        })
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3).prop_map(Value::from),
            "[a-c]|merge|replace|delete".prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            let key = "name|spec|containers|env|\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$deleteFromPrimitiveList/args|args";
            prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), prop::collection::btree_map(key, inner, 0..4).prop_map(|m| m.into_iter().collect())]
        })
    }

    proptest! {
        #[test]
        fn an_object_patched_with_itself_stays(object in any_spec()) {
            prop_assert_eq!(patched(("", "v1", "Pod"), object.clone(), object.clone()).unwrap(), object);
        }

        #[test]
        fn a_patch_takes_hold_and_a_second_time_changes_nothing(old in any_spec(), new in any_spec()) {
            let once = patched(("", "v1", "Pod"), old, new.clone()).unwrap();
            for container in new["spec"]["containers"].as_array().unwrap() {
                let found = once["spec"]["containers"].as_array().unwrap().iter().find(|c| c["name"] == container["name"]).unwrap();
                prop_assert_eq!(&found["image"], &container["image"]);
            }
            prop_assert_eq!(patched(("", "v1", "Pod"), once.clone(), new).unwrap(), once);
        }

        #[test]
        fn anything_ends_without_a_panic(old in any_json(), patch in any_json()) {
            let _ = patched(("", "v1", "Pod"), old, patch);
        }
    }
}
