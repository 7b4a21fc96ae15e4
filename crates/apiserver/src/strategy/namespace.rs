//! Namespaces: their own finalizers, and a phase that follows deletion.

use super::{Facts, Part, Strategy};
use crate::meta;
use serde_json::{Value, json};

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) struct NamespaceStrategy(pub(super) Facts);

impl NamespaceStrategy {
    fn label(object: &mut Value) {
        let name = meta::name(object).to_owned();
        let metadata = meta::metadata(object);
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(NAME_LABEL.to_owned(), name.into());
        }
    }
}

fn own_finalizers(object: &Value) -> Vec<Value> {
    meta::at(object, &["spec", "finalizers"]).and_then(Value::as_array).cloned().unwrap_or_default()
}

impl Strategy for NamespaceStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, object: &mut Value) {
        self.0.prepare_create(object);
        object["status"] = json!({"phase": "Active"});
        let mut finalizers = own_finalizers(object);
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        meta::member(object, "spec").insert("finalizers".to_owned(), finalizers.into());
        Self::label(object);
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        if part == Part::Finalize {
            meta::copy(object, old, "status");
        } else {
            self.0.prepare_update(part, object, old);
            meta::copy(object, old, "spec");
        }
        Self::label(object);
    }

    fn held(&self, object: &Value) -> bool {
        !own_finalizers(object).is_empty()
    }

    fn begin_deletion(&self, object: &mut Value) {
        meta::member(object, "status").insert("phase".to_owned(), "Terminating".into());
    }
}
