//! Conditions of the common shape (`metav1.Condition`).

use crate::meta;
use machinery::field::{FieldError, Path};
use machinery::name;
use serde_json::Value;

const REASON_MAX: usize = 1 << 10;
const MESSAGE_MAX: usize = 32 << 10;
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// What is wrong with a list of conditions.
pub(super) fn check(list: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, condition) in list.iter().enumerate() {
        let at = path.index(index);
        let text = |field: &str| meta::text_at(condition, &[field]);
        let kind = text("type");
        if list[..index].iter().any(|other| meta::text_at(other, &["type"]) == kind) {
            errors.push(FieldError::duplicate(&at, kind));
        }
        match kind {
            "" => errors.push(FieldError::required(&at.child("type"), "is required")),
            _ => errors.extend(
                name::qualified_name(kind).into_iter().map(|why| FieldError::invalid(&at.child("type"), kind, why)),
            ),
        }
        match text("status") {
            "" => errors.push(FieldError::required(&at.child("status"), "")),
            "False" | "True" | "Unknown" => {}
            other => {
                errors.push(FieldError::not_supported(&at.child("status"), other, &["False", "True", "Unknown"]));
            }
        }
        if let Some(observed) = meta::at(condition, &["observedGeneration"]).and_then(Value::as_i64).filter(|o| *o < 0)
        {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&at.child("observedGeneration"), observed, detail));
        }
        if text("lastTransitionTime").is_empty() {
            errors.push(FieldError::required(&at.child("lastTransitionTime"), ""));
        }
        reason(text("reason"), &at.child("reason"), errors);
        if text("message").len() > MESSAGE_MAX {
            errors.push(FieldError::too_long(&at.child("message"), MESSAGE_MAX));
        }
    }
}

fn reason(reason: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if reason.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let bytes = reason.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let ends = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|last| last.is_ascii_alphanumeric() || (*last == b'_' && bytes.len() > 1));
    if !ends || !bytes.iter().all(inner) {
        errors.push(FieldError::invalid(path, reason, REASON));
    }
    if reason.len() > REASON_MAX {
        errors.push(FieldError::too_long(path, REASON_MAX));
    }
}
