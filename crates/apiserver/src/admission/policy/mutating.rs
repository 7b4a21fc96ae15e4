//! `MutatingAdmissionPolicy`: policies that change what is written.

use super::definition::{Binding, Mutation, Policy};
use super::scope::{OutOfBudget, RequestAuthorizer, Scope};
use super::source::{Hook, Source};
use super::{Subject, conditions, params, patch};
use crate::admission::webhooks::select::Target;
use crate::context::{AdmissionPlugin, AdmissionRequest};
use async_trait::async_trait;
use machinery::Status;
use serde_json::Value as Json;
use std::sync::Arc;

/// The plug-in.
pub(super) struct Mutating {
    pub(super) source: Source,
}

/// Why a policy could not do its work.
struct Failure {
    message: String,
    /// The reason of the refusal is `Invalid`, not `Forbidden`.
    invalid: bool,
}

#[async_trait]
impl AdmissionPlugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let hooks = self.source.now();
        if hooks.is_empty() || super::is_exempt(request) {
            return Ok(());
        }
        let again = request.reinvocation.again;
        if again && request.reinvocation.left_by_policies.as_ref() != request.object.as_deref() {
            request.reinvocation.changed();
        }
        let mut failures = Vec::new();
        for hook in hooks.iter() {
            ask(hook, request, &mut failures).await?;
        }
        if !again && !request.reinvocation.asked.is_empty() {
            request.reinvocation.left_by_policies = request.object.as_deref().cloned();
        }
        if failures.is_empty() { Ok(()) } else { Err(refusal(request, failures)) }
    }
}

fn refusal(request: &AdmissionRequest<'_>, failures: Vec<Failure>) -> Status {
    let attributes = request.attributes;
    let mut status = Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, "");
    if let Some(first) = failures.first() {
        status.message.clone_from(&first.message);
        if first.invalid {
            status.reason = "Invalid".into();
        }
    }
    failures.into_iter().fold(status, |status, failure| status.with_cause("", "", failure.message))
}

/// Lets one policy change the object, once for each binding and parameter.
async fn ask(hook: &Hook, request: &mut AdmissionRequest<'_>, failures: &mut Vec<Failure>) -> Result<(), Status> {
    let policy = &*hook.policy;
    let mut fail = |binding: Option<&Binding>, why: String, invalid: bool| {
        if policy.fails_open {
            return;
        }
        let message = match binding {
            Some(binding) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
            None => format!("policy {:?} denied request: {why}", policy.name),
        };
        failures.push(Failure { message, invalid });
    };
    let target = match policy.criteria.target(request) {
        Ok(Some(target)) => target,
        Ok(None) => return Ok(()),
        Err(status) => {
            fail(None, format!("failed to configure policy: {}", status.message), false);
            return Ok(());
        }
    };
    for binding in &hook.bindings {
        match binding.criteria.as_ref().map_or(Ok(true), |criteria| criteria.target(request).map(|t| t.is_some())) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(status) => {
                fail(Some(binding), format!("failed to configure binding: {}", status.message), false);
                continue;
            }
        }
        let params = match params::collect(policy, binding, request).await {
            Ok(params) => params,
            Err(why) => {
                fail(Some(binding), format!("failed to configure binding: {why}"), false);
                continue;
            }
        };
        for params in params {
            if let Err(why) = invoke(policy, binding, &target, params.as_ref(), request)? {
                fail(Some(binding), why, true);
            }
        }
    }
    Ok(())
}

/// Applies the mutations of a policy in order. The inner error is the policy's, the outer one ends the request.
fn invoke(
    policy: &Policy,
    binding: &Binding,
    target: &Target,
    params: Option<&Json>,
    request: &mut AdmissionRequest<'_>,
) -> Result<Result<(), String>, Status> {
    let authorizer = RequestAuthorizer::new(request);
    let mut subject = Subject::new(target, request)?;
    match conditions::hold(&policy.conditions, &scope_of(policy, &subject, params, &authorizer)) {
        Ok(true) => {}
        Ok(false) => return Ok(Ok(())),
        Err(why) => return Ok(Err(why)),
    }
    let key = key_of(policy, binding, params);
    if request.reinvocation.again && !request.reinvocation.due.contains(&key) {
        return Ok(Ok(()));
    }
    let (mut changed, mut outcome) = (false, Ok(()));
    for mutation in &policy.mutations {
        if subject.shown.object.is_none() {
            break;
        }
        match mutate(mutation, target, &scope_of(policy, &subject, params, &authorizer)) {
            Ok(Some(object)) => {
                changed = true;
                if let Some(stored) = request.object.as_deref_mut() {
                    *stored = target.stored(object.clone());
                }
                subject.shown.object = Some(object);
            }
            Ok(None) => {}
            Err(why) => outcome = Err(why),
        }
    }
    if changed {
        request.reinvocation.changed();
        request.reinvocation.wanted = true;
    }
    if policy.reinvocable {
        request.reinvocation.asked.insert(key);
    }
    Ok(outcome)
}

fn scope_of<'a>(
    policy: &'a Policy,
    subject: &'a Subject,
    params: Option<&'a Json>,
    authorizer: &Arc<RequestAuthorizer>,
) -> Scope<'a> {
    let mut scope = Scope::new(&subject.request, Arc::clone(authorizer), &policy.variables);
    scope.object = subject.shown.object.as_ref();
    scope.old_object = subject.shown.old_object.as_ref();
    scope.namespace = subject.namespace.as_ref();
    scope.params = params;
    scope
}

/// What is asked again is told apart by policy, binding and parameters.
fn key_of(policy: &Policy, binding: &Binding, params: Option<&Json>) -> Arc<str> {
    let params =
        params.map(|params| format!("{}/{}", crate::meta::text(params, "namespace"), crate::meta::name(params)));
    format!("policy/{}/{}/{}", policy.name, binding.name, params.unwrap_or_default()).into()
}

/// The object as a mutation leaves it; none when it changes nothing.
fn mutate<'a>(mutation: &'a Mutation, target: &Target, scope: &Scope<'a>) -> Result<Option<Json>, String> {
    let Some(object) = scope.object else { return Ok(None) };
    if let Err(why) = &mutation.expression.program {
        return Err(why.clone());
    }
    let value = scope.evaluate(&mutation.expression).map_err(|OutOfBudget| OutOfBudget::TEXT.to_owned())??;
    let patched = if mutation.applies {
        patch::apply_configuration(object, &value, target)?
    } else {
        patch::json_patch(object, &value)?
    };
    let patched = target.complete(patched).map_err(|status| status.message)?;
    Ok((patched != *object).then_some(patched))
}
