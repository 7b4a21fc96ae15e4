//! Mutating and validating webhooks: servers elsewhere that change or refuse what is written.
//!
//! Mutating webhooks are asked one after another, each seeing what those before it made; validating ones all at once, after
//! everything has changed. Both see a request in the version their rules name, converted when it was sent in another one. The
//! configurations of webhooks and policies are never shown to webhooks: a bad one could not be removed any more.

mod conditions;
mod hook;
pub(crate) mod review;
pub(crate) mod rules;
pub(crate) mod select;

use crate::context::{AdmissionPlugin, AdmissionRequest};
use crate::meta;
use crate::metrics::HookOutcome;
use crate::storage::Storage;
use crate::webhook::Caller;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hook::{Hook, Hooks};
use machinery::{Status, patch};
use review::{Shown, Verdict};
use select::Target;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

const GROUP: &str = "admissionregistration.k8s.io";

/// `MutatingAdmissionWebhook`.
pub(super) struct Mutating {
    hooks: Hooks,
    asker: Asker,
}

/// `ValidatingAdmissionWebhook`.
pub(super) struct Validating {
    hooks: Hooks,
    asker: Asker,
}

/// The two plug-ins.
pub(super) fn plugins(storage: &Arc<Storage>, caller: &Arc<Caller>) -> Result<[Arc<dyn AdmissionPlugin>; 2], Status> {
    let hooks = |resource: &str| Ok::<_, Status>(Hooks::new(storage.kind(GROUP, resource)?));
    let asker = Asker { caller: Arc::clone(caller) };
    Ok([
        Arc::new(Mutating { hooks: hooks("mutatingwebhookconfigurations")?, asker: asker.clone() }),
        Arc::new(Validating { hooks: hooks("validatingwebhookconfigurations")?, asker }),
    ])
}

/// Why a webhook did not allow a request.
enum Refused {
    /// It could not be asked, or what it said makes no sense: what then happens is its configuration's choice.
    Failed(String),
    /// It said no, or the request is bad by itself.
    Denied(Status),
}

impl Refused {
    /// What becomes of the request.
    fn settle(self, hook: &Hook) -> Result<(), Status> {
        match self {
            Refused::Denied(status) => Err(status),
            Refused::Failed(why) if hook.fails_open => {
                tracing::warn!(webhook = hook.name, why, "a webhook failed, the request goes on without it");
                Ok(())
            }
            Refused::Failed(why) => Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name))),
        }
    }
}

#[derive(Clone)]
struct Asker {
    caller: Arc<Caller>,
}

impl Asker {
    /// Asks one webhook, and counts how that went.
    async fn ask(
        &self,
        hook: &Hook,
        request: &AdmissionRequest<'_>,
        shown: &Shown,
        mutating: bool,
    ) -> Result<Verdict, Refused> {
        let began = Instant::now();
        let answer = self.call(hook, request, shown, mutating).await;
        let took = began.elapsed();
        let outcome = match &answer {
            Ok(_) => HookOutcome::Allowed,
            Err(Refused::Denied(status)) => HookOutcome::Refused(status.code),
            Err(Refused::Failed(_)) => HookOutcome::Failed { open: hook.fails_open },
        };
        let kind = if mutating { "admit" } else { "validating" };
        request.call.api.metrics.webhook((&hook.name, kind, request.operation.as_str()), took, &outcome);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        request.call.elsewhere.fetch_add(nanos, Ordering::Relaxed);
        answer
    }

    /// Asks one webhook; its warnings go to the client.
    async fn call(
        &self,
        hook: &Hook,
        request: &AdmissionRequest<'_>,
        shown: &Shown,
        mutating: bool,
    ) -> Result<Verdict, Refused> {
        if request.dry_run && !hook.harmless {
            let text = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Refused::Denied(Status::bad_request(text)));
        }
        let version = hook.review_version.ok_or_else(|| {
            let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            Refused::Failed(format!("could not create admission objects: {why}"))
        })?;
        let client =
            hook.client.as_ref().map_err(|why| Refused::Failed(format!("could not get REST client: {why}")))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review::encode(version, &uid, request, shown, select::own_kind(request));
        let answer = self.caller.call(client, body, hook.timeout).await;
        let answer = answer.map_err(|error| Refused::Failed(format!("failed to call webhook: {error}")))?;
        let mut verdict = review::verify(&answer, version, &uid, mutating).map_err(Refused::Failed)?;
        verdict.warnings.drain(..).for_each(|text| request.warnings.push(text));
        for (key, value) in &verdict.annotations {
            tracing::debug!(webhook = hook.name, key, value, "audit annotation");
        }
        if verdict.allowed { Ok(verdict) } else { Err(Refused::Denied(review::refusal(&hook.name, &verdict.result))) }
    }
}

#[async_trait]
impl AdmissionPlugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let hooks = self.hooks.now();
        if hooks.is_empty() || select::is_exempt(request) {
            return Ok(());
        }
        let again = request.reinvocation.again;
        if again && request.reinvocation.left.as_ref() != request.object.as_deref() {
            request.reinvocation.changed();
        }
        for hook in hooks.iter() {
            let Some(target) = select::target(hook, request)? else { continue };
            // Who was not asked in the first round is not asked in the second either.
            if again && !request.reinvocation.due.contains(&hook.uid) {
                continue;
            }
            if self.change(hook, &target, request).await? {
                request.reinvocation.changed();
                request.reinvocation.wanted = true;
            }
            if hook.reinvocable {
                request.reinvocation.asked.insert(Arc::clone(&hook.uid));
            }
        }
        let asked_again = !request.reinvocation.asked.is_empty() || !request.reinvocation.due.is_empty();
        if asked_again && !again {
            request.reinvocation.left = request.object.as_deref().cloned();
        }
        Ok(())
    }
}

impl Mutating {
    /// Asks a webhook and changes the object as it says; whether that changed anything.
    async fn change(&self, hook: &Hook, target: &Target, request: &mut AdmissionRequest<'_>) -> Result<bool, Status> {
        let shown = target.show(request);
        let patch = match self.asker.ask(hook, request, &shown, true).await {
            Ok(verdict) => verdict.patch,
            Err(refused) => return refused.settle(hook).map(|()| false),
        };
        let Some(patch) = patch.filter(|patch| patch.as_array().is_some_and(|operations| !operations.is_empty()))
        else {
            return Ok(false);
        };
        let (Some(before), Some(object)) = (shown.object, request.object.as_deref_mut()) else {
            return Err(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            )));
        };
        let mut patched = before.clone();
        patch::json_patch(&mut patched, &patch).map_err(|status| Status::internal(status.message))?;
        if patched == before {
            return Ok(false);
        }
        if patched["kind"] != before["kind"] || patched["apiVersion"] != before["apiVersion"] {
            return Err(Status::internal(format!("admission webhook {:?} attempted to change the kind", hook.name)));
        }
        *object = target.take(patched)?;
        Ok(true)
    }
}

#[async_trait]
impl AdmissionPlugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let hooks = self.hooks.now();
        if hooks.is_empty() || select::is_exempt(request) {
            return Ok(());
        }
        let mut forms: Vec<(Target, Shown)> = Vec::new();
        let mut wanted: Vec<(&Hook, usize)> = Vec::new();
        for hook in hooks.iter() {
            let Some(target) = select::target(hook, request)? else { continue };
            let known = forms.iter().position(|(known, _)| *known == target);
            let form = known.unwrap_or_else(|| {
                let shown = target.show(request);
                forms.push((target, shown));
                forms.len() - 1
            });
            wanted.push((hook, form));
        }
        let mut asked: FuturesUnordered<_> = wanted
            .into_iter()
            .map(|(hook, form)| {
                let shown = &forms[form].1;
                async move {
                    self.asker
                        .ask(hook, request, shown, false)
                        .await
                        .or_else(|refused| refused.settle(hook).map(|()| Verdict::default()))
                }
            })
            .collect();
        let mut outcome = Ok(());
        while let Some(verdict) = asked.next().await {
            outcome = outcome.and(verdict.map(drop));
        }
        outcome
    }
}

/// The labels of an object are selected.
pub(crate) fn selects(selector: &machinery::selector::LabelSelector, object: Option<&Value>) -> bool {
    object.is_some_and(|object| {
        object.is_object() && meta::at(object, &["metadata"]).is_some() && selector.matches_object(object)
    })
}
