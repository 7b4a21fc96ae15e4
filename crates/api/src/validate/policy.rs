//! Disruption budgets.

use super::at::{At, Errors};
use super::{meta, workloads};
use crate::look::Look;
use serde_json::Value;

const SPEC: At<'static> = At::root("spec");

pub(super) fn disruption_budget(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        errors.invalid(&SPEC, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let (value, at) = (spec.at(field), SPEC.field(field));
        if !value.is_null() {
            workloads::amount(value, &at, errors);
            workloads::no_more_than_all(value, &at, errors);
        }
    }
    meta::selector(spec.at("selector"), &SPEC.field("selector"), errors);
    if let Some(policy) = spec.at("unhealthyPodEvictionPolicy").as_str() {
        errors.one_of(&SPEC.field("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}
