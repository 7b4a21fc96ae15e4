//! Admission policies, their bindings, and webhook configurations: what they say in expressions is compiled before it is stored.

use super::{Facts, Part, Strategy};
use crate::admission::policy::verify;
use machinery::field::FieldError;
use serde_json::Value;

/// A kind of `admissionregistration.k8s.io`.
pub(super) struct PolicyStrategy(pub(super) Facts);

impl Strategy for PolicyStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        verify::object(object)
    }

    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        // What was accepted once stays accepted.
        let same = ["spec", "webhooks"].into_iter().all(|field| object.get(field) == old.get(field));
        if part != Part::Main || same { Vec::new() } else { verify::object(object) }
    }
}
