//! Match conditions: expressions that must all hold for a policy or webhook to be asked.

use super::compile::{Expression, Wanted};
use super::env::Options;
use super::scope::{OutOfBudget, Scope};
use cel::Value;
use serde_json::Value as Json;

/// Compiles the conditions of a webhook.
pub(crate) fn compile(conditions: &[Json]) -> Vec<Expression> {
    if conditions.is_empty() {
        return Vec::new();
    }
    let scene = Options { authorizer: true, ..Options::default() }.scene();
    let source = |condition: &Json| condition["expression"].as_str().unwrap_or_default().trim().to_owned();
    conditions.iter().map(|condition| Expression::compile(&source(condition), &scene, Wanted::Bool)).collect()
}

/// Whether all hold. One that is false decides, whatever goes wrong with others; else the errors do.
pub(crate) fn hold<'a>(conditions: &'a [Expression], scope: &Scope<'a>) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let scope = scope.for_conditions();
    let mut errors = Vec::new();
    for condition in conditions {
        match scope.evaluate(condition) {
            Err(OutOfBudget) => return Err(OutOfBudget::TEXT.to_owned()),
            Ok(Ok(Value::Bool(false))) => return Ok(false),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => errors.push(error),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}
