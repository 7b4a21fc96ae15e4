//! What is wrong with policies, their bindings, and the match conditions of webhooks: their expressions, and what belongs to them.

use super::compile::{Expression, Wanted, variables};
use super::env::Options;
use crate::meta;
use machinery::field::{FieldError, Path};
use machinery::name;
use serde_json::Value as Json;

/// Longest `valueExpression`, in bytes.
const VALUE_EXPRESSION_MAX: usize = 5 * 1024;
/// Most audit annotations of a policy.
const ANNOTATIONS_MAX: usize = 20;
/// Most match conditions.
const CONDITIONS_MAX: usize = 64;
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTABLE: [&str; 2] = ["CREATE", "UPDATE"];

fn text<'a>(value: &'a Json, field: &str) -> &'a str {
    meta::text_at(value, &[field])
}

fn list<'a>(value: &'a Json, field: &str) -> &'a [Json] {
    meta::at(value, &[field]).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

/// What is wrong with an object of one of the kinds of admission.
pub(crate) fn object(object: &Json) -> Vec<FieldError> {
    let spec = Path::new("spec");
    let mut errors = Vec::new();
    match text(object, "kind") {
        "ValidatingAdmissionPolicy" => policy(object, &spec, false, &mut errors),
        "MutatingAdmissionPolicy" => policy(object, &spec, true, &mut errors),
        "ValidatingAdmissionPolicyBinding" => binding(&object["spec"], &spec, false, &mut errors),
        "MutatingAdmissionPolicyBinding" => binding(&object["spec"], &spec, true, &mut errors),
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            let options = Options { authorizer: true, ..Options::default() };
            for (at, hook) in list(object, "webhooks").iter().enumerate() {
                let path = Path::new("webhooks").index(at).child("matchConditions");
                for (at, condition) in list(hook, "matchConditions").iter().enumerate() {
                    let source = text(condition, "expression").trim();
                    compiled(source, source, &options, Wanted::Bool, &path.index(at).child("expression"), &mut errors);
                }
            }
        }
        _ => {}
    }
    errors
}

/// Compiles an expression that is not empty; what is wrong with it is told with its text.
fn compiled(source: &str, shown: &str, options: &Options, wanted: Wanted, path: &Path, errors: &mut Vec<FieldError>) {
    if source.is_empty() {
        return;
    }
    if let Err(why) = Expression::compile(source, &options.scene(), wanted).program {
        errors.push(FieldError::invalid(path, shown, why));
    }
}

fn policy(object: &Json, path: &Path, mutating: bool, errors: &mut Vec<FieldError>) {
    let empty = Json::Null;
    let spec = object.get("spec").unwrap_or(&empty);
    one_of(spec, "failurePolicy", &["Fail", "Ignore"], path, errors);
    let params = meta::at(spec, &["paramKind"]);
    if let Some(kind) = params {
        param_kind(kind, &path.child("paramKind"), errors);
    }
    let constraints = path.child("matchConstraints");
    match meta::at(spec, &["matchConstraints"]) {
        None => errors.push(FieldError::required(&constraints, "")),
        Some(value) => {
            resources(value, &constraints, mutating, errors);
            if list(value, "resourceRules").is_empty() {
                errors.push(FieldError::required(&constraints.child("resourceRules"), ""));
            }
        }
    }
    let mut options = Options { params: params.is_some(), authorizer: true, ..Options::default() };
    conditions(list(spec, "matchConditions"), &options, &path.child("matchConditions"), errors);
    composed(spec, &mut options, &path.child("variables"), errors);
    if mutating {
        mutations(spec, &options, path, errors);
    } else {
        validations(object, spec, &options, path, errors);
    }
}

fn param_kind(kind: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    match text(kind, "apiVersion") {
        "" => errors.push(FieldError::required(&path.child("apiVersion"), "")),
        text => {
            let (group, version) = text.split_once('/').unwrap_or(("", text));
            let path = path.child("apiVersion");
            if version.contains('/') {
                errors.push(FieldError::invalid(&path, text, format!("unexpected GroupVersion string: {text}")));
            } else if version.is_empty() {
                errors.push(FieldError::invalid(&path, text, "version must be specified"));
            } else {
                complain(name::dns1035_label(version), version, "", &path, errors);
            }
            if !group.is_empty() {
                complain(name::dns1123_subdomain(group), group, "", &path, errors);
            }
        }
    }
    match text(kind, "kind") {
        "" => errors.push(FieldError::required(&path.child("kind"), "")),
        kind => {
            let prefix = "may have mixed case, but should otherwise match: ";
            complain(name::dns1035_label(&kind.to_lowercase()), kind, prefix, &path.child("kind"), errors);
        }
    }
}

fn complain(wrong: Vec<String>, value: &str, prefix: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, value, format!("{prefix}{}", wrong.join(","))));
    }
}

/// A field that is required and has one of some values.
fn one_of(value: &Json, field: &str, known: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    match text(value, field) {
        "" => errors.push(FieldError::required(&path.child(field), "")),
        text if !known.contains(&text) => errors.push(FieldError::not_supported(&path.child(field), text, known)),
        _ => {}
    }
}

/// `matchConstraints` and `matchResources`.
fn resources(value: &Json, path: &Path, mutating: bool, errors: &mut Vec<FieldError>) {
    one_of(value, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    for field in ["namespaceSelector", "objectSelector"] {
        match meta::at(value, &[field]) {
            None => errors.push(FieldError::required(&path.child(field), "")),
            Some(selector) => {
                if let Err(why) = machinery::selector::LabelSelector::from_value(selector) {
                    errors.push(FieldError::invalid(&path.child(field), selector.clone(), why));
                }
            }
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (at, value) in list(value, field).iter().enumerate() {
            rule(value, &path.child(field).index(at), errors);
        }
    }
    if mutating {
        let path = path.child("resourceRules").child("operations");
        for operation in list(value, "resourceRules").iter().flat_map(|rule| list(rule, "operations")) {
            let operation = operation.as_str().unwrap_or_default();
            if !MUTABLE.contains(&operation) {
                errors.push(FieldError::not_supported(&path, operation, &MUTABLE));
            }
        }
    }
}

fn rule(rule: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    let texts = |field: &str| list(rule, field).iter().filter_map(Json::as_str).collect::<Vec<_>>();
    let names = texts("resourceNames");
    for (at, name) in names.iter().enumerate() {
        let path = path.child("resourceNames").index(at);
        name::path_segment(name).into_iter().for_each(|why| errors.push(FieldError::invalid(&path, *name, why)));
        if names[..at].contains(name) {
            errors.push(FieldError::duplicate(&path, *name));
        }
    }
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let (values, path) = (texts(field), path.child(field));
        if values.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        if values.len() > 1 && values.contains(&"*") && field != "resources" {
            let why = if field == "operations" {
                "if '*' is present, must not specify other operations"
            } else if field == "apiGroups" {
                "if '*' is present, must not specify other API groups"
            } else {
                "if '*' is present, must not specify other API versions"
            };
            errors.push(FieldError::invalid(&path, Json::from(values.clone()), why));
        }
        for (at, value) in values.iter().enumerate() {
            if field == "operations" && !OPERATIONS.contains(value) {
                errors.push(FieldError::not_supported(&path.index(at), *value, &OPERATIONS));
            }
            if value.is_empty() && matches!(field, "apiVersions" | "resources") {
                errors.push(FieldError::required(&path.index(at), ""));
            }
        }
    }
}

fn conditions(list_of: &[Json], options: &Options, path: &Path, errors: &mut Vec<FieldError>) {
    if list_of.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, list_of.len(), CONDITIONS_MAX));
    }
    for (at, condition) in list_of.iter().enumerate() {
        let path = path.index(at);
        let source = text(condition, "expression").trim();
        if source.is_empty() {
            errors.push(FieldError::required(&path.child("expression"), ""));
        }
        compiled(source, source, options, Wanted::Bool, &path.child("expression"), errors);
        let name = text(condition, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            let wrong = name::qualified_name(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(&path.child("name"), name, why)));
            if list_of[..at].iter().any(|other| text(other, "name") == name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
    }
}

/// Variables; those before are in sight of those after them, and of what follows.
fn composed(spec: &Json, options: &mut Options, path: &Path, errors: &mut Vec<FieldError>) {
    for (at, variable) in list(spec, "variables").iter().enumerate() {
        let path = path.index(at);
        let (name, source) = (text(variable, "name"), text(variable, "expression"));
        if name.trim().is_empty() {
            errors.push(FieldError::required(&path.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(&path.child("name"), name, "must be a valid CEL identifier"));
        }
        if source.trim().is_empty() {
            errors.push(FieldError::required(&path.child("expression"), "expression is not specified"));
            continue;
        }
        let made = variables(std::iter::once((name, source)), options);
        if let Some(Err(why)) = made.first().map(|variable| variable.expression.program.as_ref()) {
            errors.push(FieldError::invalid(&path.child("expression"), source, why.clone()));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && cel::escape(name).is_some_and(|escaped| escaped == name || name.contains("__"))
}

fn validations(object: &Json, spec: &Json, options: &Options, path: &Path, errors: &mut Vec<FieldError>) {
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(&path.child("validations"), why));
        errors.push(FieldError::required(&path.child("auditAnnotations"), why));
    }
    for (at, value) in validations.iter().enumerate() {
        validation(value, options, &path.child("validations").index(at), errors);
    }
    let path = path.child("auditAnnotations");
    if annotations.len() > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid(&path, Json::from(annotations.to_vec()), why));
    }
    for (at, annotation) in annotations.iter().enumerate() {
        let path = path.index(at);
        let (key, source) = (text(annotation, "key"), text(annotation, "valueExpression").trim());
        let full = format!("{}/{key}", meta::name(object));
        let wrong = name::qualified_name(&full).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(&path.child("key"), &*full, why)));
        if source.is_empty() {
            errors.push(FieldError::required(&path.child("valueExpression"), "valueExpression is not specified"));
        } else if source.len() > VALUE_EXPRESSION_MAX {
            let why = format!("must not exceed {VALUE_EXPRESSION_MAX} bytes in length");
            errors.push(FieldError::required(&path.child("valueExpression"), why));
        } else {
            let path = path.child("valueExpression");
            compiled(source, text(annotation, "valueExpression"), options, Wanted::StringOrNull, &path, errors);
        }
        if annotations[..at].iter().any(|other| text(other, "key") == key) {
            errors.push(FieldError::duplicate(&path.child("key"), key));
        }
    }
}

fn validation(value: &Json, options: &Options, path: &Path, errors: &mut Vec<FieldError>) {
    let (source, message, expression) =
        (text(value, "expression"), text(value, "message"), text(value, "messageExpression"));
    if source.trim().is_empty() {
        errors.push(FieldError::required(&path.child("expression"), "expression is not specified"));
    } else {
        compiled(source, source, options, Wanted::Bool, &path.child("expression"), errors);
    }
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    if blank(expression) {
        let why = "must be non-empty if specified";
        errors.push(FieldError::invalid(&path.child("messageExpression"), expression, why));
    } else {
        let options = Options { authorizer: false, ..options.clone() };
        let path = path.child("messageExpression");
        compiled(expression, expression, &options, Wanted::String, &path, errors);
    }
    if blank(message) {
        errors.push(FieldError::invalid(&path.child("message"), message, "must be non-empty if specified"));
    } else if message.trim().contains('\n') {
        errors.push(FieldError::invalid(&path.child("message"), message, "must not contain line breaks"));
    }
    let reason = text(value, "reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        errors.push(FieldError::not_supported(&path.child("reason"), reason, &REASONS));
    }
}

fn mutations(spec: &Json, options: &Options, path: &Path, errors: &mut Vec<FieldError>) {
    let options = Options { patches: true, ..options.clone() };
    let mutations = list(spec, "mutations");
    if mutations.is_empty() {
        errors.push(FieldError::required(&path.child("mutations"), "mutations must contain at least one item"));
    }
    for (at, mutation) in mutations.iter().enumerate() {
        let path = path.child("mutations").index(at);
        let (own, other, wanted) = match text(mutation, "patchType") {
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Wanted::JsonPatches),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Wanted::Object),
            _ => {
                one_of(mutation, "patchType", &["ApplyConfiguration", "JSONPatch"], &path, errors);
                continue;
            }
        };
        let kind = text(mutation, "patchType");
        match meta::at(mutation, &[own]) {
            None => {
                let why = format!("must be specified when patchType is {kind}");
                errors.push(FieldError::required(&path.child(own), why));
            }
            Some(value) => {
                let (source, path) = (text(value, "expression").trim(), path.child(own).child("expression"));
                if source.is_empty() {
                    errors.push(FieldError::required(&path, ""));
                }
                compiled(source, source, &options, wanted, &path, errors);
            }
        }
        if meta::at(mutation, &[other]).is_some() {
            let why = format!("must not be specified when patchType is {kind}");
            errors.push(FieldError::invalid(&path.child(other), format!("{{{other}}}"), why));
        }
    }
    one_of(spec, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
}

fn binding(spec: &Json, path: &Path, mutating: bool, errors: &mut Vec<FieldError>) {
    match text(spec, "policyName") {
        "" => errors.push(FieldError::required(&path.child("policyName"), "")),
        name => {
            let wrong = name::dns1123_subdomain(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(&path.child("policyName"), name, why)));
        }
    }
    if let Some(params) = meta::at(spec, &["paramRef"]) {
        param_ref(params, &path.child("paramRef"), errors);
    }
    if let Some(value) = meta::at(spec, &["matchResources"]) {
        resources(value, &path.child("matchResources"), mutating, errors);
    }
    if !mutating {
        actions(spec, &path.child("validationActions"), errors);
    }
}

fn param_ref(params: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    let (name, selector) = (text(params, "name"), meta::at(params, &["selector"]));
    let wrong = name::path_segment(name).into_iter().filter(|_| !name.is_empty());
    errors.extend(wrong.map(|why| FieldError::invalid(&path.child("name"), name, why)));
    if !name.is_empty() && selector.is_some() {
        let why = "name and selector are mutually exclusive";
        errors.push(FieldError::forbidden(&path.child("name"), why));
        errors.push(FieldError::forbidden(&path.child("selector"), why));
    }
    if name.is_empty() && selector.is_none() {
        errors.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    one_of(params, "parameterNotFoundAction", &["Deny", "Allow"], path, errors);
}

fn actions(spec: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    const KNOWN: [&str; 3] = ["Audit", "Deny", "Warn"];
    let actions: Vec<&str> = list(spec, "validationActions").iter().filter_map(Json::as_str).collect();
    for (at, action) in actions.iter().enumerate() {
        if !KNOWN.contains(action) {
            errors.push(FieldError::not_supported(&path.index(at), *action, &KNOWN));
        }
        if actions[..at].contains(action) {
            errors.push(FieldError::duplicate(&path.index(at), *action));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, Json::from(actions.clone()), why));
    }
    if actions.is_empty() {
        errors.push(FieldError::required(path, "at least one validation action is required"));
    }
}
