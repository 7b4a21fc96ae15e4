//! Admission policies: expressions that refuse or change what is written.
//!
//! `source` keeps the policies in force compiled; `criteria` says which requests they are about and in which version they see
//! them; `params` finds what bindings give them; `scope` evaluates their expressions within a budget. Nothing is compiled for a
//! request: what a policy says is compiled when it changes.

pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod conditions;
mod criteria;
mod definition;
pub(crate) mod env;
mod guard;
mod mutating;
mod params;
mod patch;
pub(crate) mod scope;
mod source;
mod validating;
pub(crate) mod verify;

use crate::admission::webhooks::review::Shown;
use crate::admission::webhooks::select::{Target, own_kind};
use crate::context::{AdmissionPlugin, AdmissionRequest};
use crate::storage::Storage;
use machinery::Status;
use serde_json::{Value as Json, json};
use source::Source;
use std::sync::Arc;

/// The API group of policies.
const GROUP: &str = "admissionregistration.k8s.io";

/// The plug-in of mutating policies.
pub(super) fn mutating(storage: &Arc<Storage>) -> Result<Arc<dyn AdmissionPlugin>, Status> {
    let source = Source::new(storage, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings")?;
    Ok(Arc::new(mutating::Mutating { source }))
}

/// The plug-in of validating policies.
pub(super) fn validating(storage: &Arc<Storage>) -> Result<Arc<dyn AdmissionPlugin>, Status> {
    let source = Source::new(storage, "validatingadmissionpolicies", "validatingadmissionpolicybindings")?;
    Ok(Arc::new(validating::Validating { source }))
}

/// The plug-in that keeps parameters from those who may not read them.
pub(super) fn guard() -> Arc<dyn AdmissionPlugin> {
    Arc::new(guard::ParamGuard)
}

/// Policies and their bindings, which no policy may keep from being repaired.
fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    request.attributes.group == GROUP
        && matches!(
            &*request.attributes.resource,
            "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

/// A request in the form that policies see it in.
pub(crate) struct Subject {
    pub(crate) shown: Shown,
    pub(crate) request: Json,
    pub(crate) namespace: Option<Json>,
}

impl Subject {
    /// A request in a form.
    pub(crate) fn new(target: &Target, request: &AdmissionRequest<'_>) -> Result<Subject, Status> {
        let shown = target.show(request);
        let own = own_kind(request);
        let kind = |kind: &crate::admission::webhooks::review::Kind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let resource = json!({
            "group": shown.resource.group, "version": shown.resource.version, "resource": shown.resource.resource,
        });
        let value = scope::request_value(request, &kind(&shown.kind), &resource, &kind(&own));
        Ok(Subject { request: value, namespace: namespace_of(request)?, shown })
    }
}

/// The namespace that an object is in; 404 when it is not there. A Namespace is in none.
fn namespace_of(request: &AdmissionRequest<'_>) -> Result<Option<Json>, Status> {
    let attributes = request.attributes;
    let is_namespace = attributes.group.is_empty() && request.kind == "Namespace";
    if attributes.namespace.is_empty() || is_namespace {
        return Ok(None);
    }
    let namespaces = request.call.api.storage().kind("", "namespaces")?;
    Ok(Some(namespaces.find("", &attributes.namespace)?.value()))
}

/// A request in the forms that some policies see it in, each made once.
#[derive(Default)]
struct Subjects(Vec<(Target, Subject)>);

impl Subjects {
    fn of(&mut self, target: Target, request: &AdmissionRequest<'_>) -> Result<&Subject, Status> {
        let at = match self.0.iter().position(|(known, _)| *known == target) {
            Some(at) => at,
            None => {
                let subject = Subject::new(&target, request)?;
                self.0.push((target, subject));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}
