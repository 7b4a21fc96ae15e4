//! CustomResourceDefinitions: stored versions, and instances that are deleted first.

use super::{Facts, Part, Strategy};
use crate::custom;
use crate::meta;
use machinery::field::FieldError;
use serde_json::{Value, json};

pub(super) struct DefinitionStrategy(pub(super) Facts);

impl Strategy for DefinitionStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, object: &mut Value) {
        self.0.prepare_create(object);
        object["status"] =
            json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        store_version(object);
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        self.0.prepare_update(part, object, old);
        if part == Part::Main {
            store_version(object);
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        custom::rules::verify(object, None)
    }

    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        if part == Part::Main { custom::rules::verify(object, Some(old)) } else { Vec::new() }
    }

    fn held(&self, object: &Value) -> bool {
        !meta::deleting(object)
    }

    fn begin_deletion(&self, object: &mut Value) {
        let mut finalizers = meta::finalizers(object);
        if !finalizers.iter().any(|finalizer| finalizer == custom::CLEANUP) {
            finalizers.push(custom::CLEANUP.to_owned());
        }
        meta::metadata(object).insert("finalizers".to_owned(), json!(finalizers));
        custom::mark_terminating(object);
    }
}

/// Notes the storage version among those that objects may be stored in.
fn store_version(object: &mut Value) {
    let versions = meta::at(object, &["spec", "versions"]).and_then(Value::as_array).into_iter().flatten();
    let storage = versions.into_iter().find(|version| version.get("storage").is_some_and(|storage| storage == true));
    let Some(name) = storage.and_then(|version| version.get("name")).cloned() else { return };
    let stored = meta::member(object, "status").entry("storedVersions").or_insert(Value::Null);
    if !stored.is_array() {
        *stored = json!([]);
    }
    if let Some(list) = stored.as_array_mut().filter(|list| !list.contains(&name)) {
        list.push(name);
    }
}
