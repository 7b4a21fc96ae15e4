//! `ValidatingAdmissionPolicy`: policies that refuse, warn, or leave a note.

use super::definition::{Binding, Policy, Validation};
use super::scope::{OutOfBudget, RequestAuthorizer, Scope};
use super::source::{Hook, Source};
use super::{Subjects, conditions, params};
use crate::context::{AdmissionPlugin, AdmissionRequest};
use async_trait::async_trait;
use cel::Value;
use machinery::Status;
use serde_json::Value as Json;
use std::sync::Arc;

/// Longest message of a `messageExpression`, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;

/// The plug-in.
pub(super) struct Validating {
    pub(super) source: Source,
}

/// A refusal.
struct Denial {
    /// `… 'NAME' with binding 'B'`
    by: String,
    message: String,
    /// Empty for the default one.
    reason: String,
}

#[async_trait]
impl AdmissionPlugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let hooks = self.source.now();
        if hooks.is_empty() || super::is_exempt(request) {
            return Ok(());
        }
        decide(&hooks, request).await
    }
}

async fn decide(hooks: &[Hook], request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let mut subjects = Subjects::default();
    let authorizer = RequestAuthorizer::new(request);
    let mut first: Option<Denial> = None;
    for hook in hooks {
        let mut denials = Vec::new();
        ask(hook, request, &mut subjects, &authorizer, &mut denials).await?;
        first = first.or(denials.into_iter().next());
    }
    first.map_or(Ok(()), |denial| Err(refusal(request, &denial)))
}

fn refusal(request: &AdmissionRequest<'_>, denial: &Denial) -> Status {
    let attributes = request.attributes;
    let message = format!("{} denied request: {}", denial.by, denial.message);
    let mut status = Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &message);
    let (reason, code) = match &*denial.reason {
        "Unauthorized" => ("Unauthorized", 401),
        "Forbidden" => ("Forbidden", 403),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    status.reason = reason.into();
    status.code = code;
    status.with_cause("", "", message)
}

/// Asks one policy; an error of its configuration refuses, unless it fails open.
async fn ask(
    hook: &Hook,
    request: &AdmissionRequest<'_>,
    subjects: &mut Subjects,
    authorizer: &Arc<RequestAuthorizer>,
    denials: &mut Vec<Denial>,
) -> Result<(), Status> {
    let policy = &*hook.policy;
    let by = |binding: Option<&Binding>| match binding {
        Some(binding) => format!("ValidatingAdmissionPolicy '{}' with binding '{}'", policy.name, binding.name),
        None => format!("ValidatingAdmissionPolicy '{}'", policy.name),
    };
    let mut misconfigured = |binding: Option<&Binding>, why: String| {
        let what = if binding.is_some() { "binding" } else { "policy" };
        let message = format!("failed to configure {what}: {why}");
        if !policy.fails_open {
            denials.push(Denial { by: by(binding), message, reason: String::new() });
        }
    };
    let target = match policy.criteria.target(request) {
        Ok(Some(target)) => target,
        Ok(None) => return Ok(()),
        Err(status) => {
            misconfigured(None, status.message);
            return Ok(());
        }
    };
    let mut found = Vec::new();
    for binding in &hook.bindings {
        match binding.criteria.as_ref().map_or(Ok(true), |criteria| criteria.target(request).map(|t| t.is_some())) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(status) => {
                misconfigured(Some(binding), status.message);
                continue;
            }
        }
        match params::collect(policy, binding, request).await {
            Ok(params) => found.push((binding, params)),
            Err(why) => misconfigured(Some(binding), why),
        }
    }
    for (binding, params) in found {
        let subject = subjects.of(target.clone(), request)?;
        for params in &params {
            let mut scope = Scope::new(&subject.request, Arc::clone(authorizer), &policy.variables);
            scope.object = subject.shown.object.as_ref();
            scope.old_object = subject.shown.old_object.as_ref();
            scope.namespace = subject.namespace.as_ref();
            scope.params = params.as_ref();
            for (index, (message, reason)) in evaluate(policy, &scope) {
                act(request, binding, (index, &message), || by(Some(binding)), &reason, denials);
            }
            annotate(policy, binding, params.as_ref(), subject, authorizer, denials, &by);
        }
    }
    Ok(())
}

/// Does what a binding wants done about a failed validation.
fn act(
    request: &AdmissionRequest<'_>,
    binding: &Binding,
    (index, message): (usize, &str),
    by: impl Fn() -> String,
    reason: &str,
    denials: &mut Vec<Denial>,
) {
    for action in &binding.actions {
        match &**action {
            "Deny" => {
                denials.push(Denial { by: by(), message: message.to_owned(), reason: reason.to_owned() });
            }
            "Warn" => request.warnings.push(format!("Validation failed for {}: {message}", by())),
            "Audit" => {
                tracing::info!(
                    policy = binding.policy,
                    binding = binding.name,
                    expression = index,
                    message,
                    "validation.policy.admission.k8s.io/validation_failure"
                );
            }
            _ => {}
        }
    }
}

/// The failed validations: their index, message and reason.
fn evaluate<'a>(policy: &'a Policy, scope: &Scope<'a>) -> Vec<(usize, (String, String))> {
    let failed = |why: String| {
        let failure = (0, (why, String::new()));
        if policy.fails_open { Vec::new() } else { vec![failure] }
    };
    match conditions::hold(&policy.conditions, scope) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(why) => return failed(why),
    }
    let mut results = Vec::new();
    for validation in &policy.validations {
        match scope.evaluate(&validation.expression) {
            Ok(result) => results.push(result),
            Err(OutOfBudget) => return failed(OutOfBudget::TEXT.to_owned()),
        }
    }
    let mut failures = Vec::new();
    for (index, (validation, result)) in policy.validations.iter().zip(results).enumerate() {
        match result {
            Ok(Value::Bool(true)) => {}
            Ok(_) => match message(validation, scope) {
                Ok(message) => failures.push((index, (message, validation.reason.clone()))),
                Err(OutOfBudget) => {
                    return failed(format!("failed messageExpression: {}", OutOfBudget::TEXT));
                }
            },
            Err(_) if policy.fails_open => {}
            Err(why) => failures.push((index, (why, String::new()))),
        }
    }
    failures
}

/// What is told of a failed validation.
fn message<'a>(validation: &'a Validation, scope: &Scope<'a>) -> Result<String, OutOfBudget> {
    if let Some(expression) = &validation.message_expression {
        match scope.evaluate(expression)? {
            Ok(Value::String(text)) => {
                let text = text.trim();
                if !text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains('\n') {
                    return Ok(text.to_owned());
                }
            }
            Ok(_) => {}
            Err(why) => tracing::debug!(why, "a messageExpression failed"),
        }
    }
    if !validation.message.is_empty() {
        return Ok(validation.message.clone());
    }
    Ok(format!("failed expression: {}", validation.expression.source.trim()))
}

/// Audit annotations: they go to the log until there is an audit log. Only their errors matter to the request.
fn annotate(
    policy: &Policy,
    binding: &Binding,
    params: Option<&Json>,
    subject: &super::Subject,
    authorizer: &Arc<RequestAuthorizer>,
    denials: &mut Vec<Denial>,
    by: &dyn Fn(Option<&Binding>) -> String,
) {
    if policy.annotations.is_empty() {
        return;
    }
    let mut scope = Scope::new(&subject.request, Arc::clone(authorizer), &policy.variables);
    scope.object = subject.shown.object.as_ref();
    scope.old_object = subject.shown.old_object.as_ref();
    scope.namespace = subject.namespace.as_ref();
    scope.params = params;
    if !matches!(conditions::hold(&policy.conditions, &scope), Ok(true)) {
        return;
    }
    for (key, expression) in &policy.annotations {
        let error = match scope.evaluate(expression) {
            Err(OutOfBudget) => OutOfBudget::TEXT.to_owned(),
            Ok(Err(why)) => why,
            Ok(Ok(Value::String(text))) => {
                tracing::debug!(policy = policy.name, key, value = text.trim(), "audit annotation");
                continue;
            }
            Ok(Ok(_)) => continue,
        };
        if !policy.fails_open {
            denials.push(Denial { by: by(Some(binding)), message: error, reason: String::new() });
        }
    }
}
