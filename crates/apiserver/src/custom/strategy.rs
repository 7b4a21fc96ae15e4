//! What is particular about custom kinds, and about their definitions.

use super::version::Version;
use crate::meta;
use crate::strategy::{Facts, Part, Strategy};
use machinery::field::FieldError;
use serde_json::{Value, json};
use std::sync::Arc;

/// The strategy of a version of a custom kind.
pub(super) struct CustomStrategy {
    facts: Facts,
    version: Arc<Version>,
}

impl CustomStrategy {
    pub(super) fn new(version: &Arc<Version>, status: bool) -> CustomStrategy {
        CustomStrategy { facts: Facts::custom(status), version: Arc::clone(version) }
    }
}

impl Strategy for CustomStrategy {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn prepare_create(&self, object: &mut Value) {
        if self.facts.status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        meta::metadata(object).insert("generation".to_owned(), json!(1));
    }

    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        if part == Part::Status { self.version.validate_status(object, old) } else { Vec::new() }
    }
}
