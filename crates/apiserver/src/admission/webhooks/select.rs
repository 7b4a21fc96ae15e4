//! Whether a webhook is asked about a request, and in which version.

use super::conditions;
use super::hook::Hook;
use super::review::{Kind, Resource, Shown};
use super::rules::Subject;
use crate::context::{AdmissionRequest, Operation};
use crate::served::Served;
use crate::typing::Typing;
use machinery::Status;
use machinery::apply::{AnyPlace, Builtin};
use machinery::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;

/// The form in which a webhook sees a request.
#[derive(Clone)]
pub(crate) enum Target {
    /// Objects of the resource, in one of its versions.
    Version(Arc<Served>),
    /// An object of another kind, as some subresources take: only in the form it came in.
    AsIs,
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::Version(one), Target::Version(other)) => Arc::ptr_eq(one, other),
            (Target::AsIs, Target::AsIs) => true,
            _ => false,
        }
    }
}

impl Target {
    /// The request in this form.
    pub(crate) fn show(&self, request: &AdmissionRequest<'_>) -> Shown {
        let attributes = request.attributes;
        match self {
            Target::Version(served) => {
                let resource = &served.resource;
                let (group, version) = (resource.group.to_string(), resource.version.to_string());
                let form = |object: &Value| served.served_form(object.clone());
                Shown {
                    kind: Kind { group: group.clone(), version: version.clone(), kind: resource.kind.to_string() },
                    resource: Resource { group, version, resource: resource.plural.to_string() },
                    object: request.object.as_deref().map(form),
                    old_object: request.old_object.map(form),
                }
            }
            Target::AsIs => Shown {
                kind: own_kind(request),
                resource: Resource {
                    group: attributes.group.clone(),
                    version: attributes.version.clone(),
                    resource: attributes.resource.clone(),
                },
                object: request.object.as_deref().cloned(),
                old_object: request.old_object.cloned(),
            },
        }
    }

    /// The working form of an object that a webhook has changed: what its schema does not know is removed, what is left out
    /// defaulted.
    pub(crate) fn take(&self, object: Value) -> Result<Value, Status> {
        Ok(self.stored(self.complete(object)?))
    }

    /// A changed object in this form: what its schema does not know is removed, what is left out defaulted.
    pub(crate) fn complete(&self, mut object: Value) -> Result<Value, Status> {
        let Target::Version(served) = self else { return Ok(object) };
        served.typing.check(&mut object).map_err(|status| Status::internal(status.message))?;
        served.typing.default(&served.resource, &mut object);
        Ok(object)
    }

    /// The working form of an object of this form.
    pub(crate) fn stored(&self, object: Value) -> Value {
        match self {
            Target::Version(served) => served.working_form(object),
            Target::AsIs => object,
        }
    }

    /// The schema of the objects, as apply sees it; none of objects that are only shown as they came.
    pub(crate) fn place(&self) -> Option<AnyPlace<'_>> {
        let Target::Version(served) = self else { return None };
        match &served.typing {
            Typing::Builtin(ty) => Some(AnyPlace::Builtin(Builtin::new(*ty))),
            Typing::Custom(custom) => custom.sibling(&served.api_version).map(|schema| AnyPlace::custom(schema.root())),
        }
    }
}

/// The kind of the request's object, in the version it was sent in.
pub(crate) fn own_kind(request: &AdmissionRequest<'_>) -> Kind {
    let resource = &request.call.served.resource;
    let api_version = request.object.as_deref().and_then(|object| object["apiVersion"].as_str());
    let (group, version) = match api_version.filter(|_| *request.kind != *resource.kind) {
        Some(api_version) => api_version.split_once('/').unwrap_or(("", api_version)),
        None => (&*resource.group, &*resource.version),
    };
    Kind { group: group.to_owned(), version: version.to_owned(), kind: request.kind.to_owned() }
}

/// Configurations of admission itself, which no webhook may keep from being repaired.
pub(crate) fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    request.attributes.group == super::GROUP
        && matches!(
            request.kind,
            "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
        )
}

/// The form in which a webhook is to be asked about a request; none when it is not. Selectors that cannot be decided refuse the
/// request only when the rules match.
pub(super) fn target(hook: &Hook, request: &AdmissionRequest<'_>) -> Result<Option<Target>, Status> {
    let in_namespace = namespace_matches(&hook.namespaces, request);
    let selected = object_matches(&hook.objects, request);
    if matches!(in_namespace, Ok(false)) || matches!(selected, Ok(false)) {
        return Ok(None);
    }
    let matches = |subject: &Subject<'_>| hook.rules.iter().any(|rule| rule.matches(subject));
    let Some(target) = by_rules(&matches, hook.exact, request) else { return Ok(None) };
    in_namespace?;
    selected?;
    let attributes = request.attributes;
    match conditions::hold(&hook.conditions, &target, request) {
        Ok(holds) => Ok(holds.then_some(target)),
        Err(_) if hook.fails_open => Ok(None),
        Err(why) => Err(Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, why)),
    }
}

/// The form in which rules are about a request; none when they are not.
pub(crate) fn by_rules(
    rules: &dyn Fn(&Subject<'_>) -> bool,
    exact: bool,
    request: &AdmissionRequest<'_>,
) -> Option<Target> {
    let attributes = request.attributes;
    let served = &request.call.served;
    let is_namespace = attributes.group.is_empty() && attributes.resource == "namespaces";
    let subject = Subject {
        group: &attributes.group,
        version: &attributes.version,
        resource: &attributes.resource,
        subresource: &attributes.subresource,
        operation: request.operation,
        namespaced: !is_namespace && !attributes.namespace.is_empty(),
    };
    let own = *request.kind == *served.resource.kind;
    if rules(&subject) {
        return Some(own_form(request));
    }
    if exact || !own {
        return None;
    }
    let others = request.call.api.catalogue().equivalents(served);
    let matching = others.iter().find(|other| {
        let (group, version, plural) = (&other.resource.group, &other.resource.version, &other.resource.plural);
        rules(&Subject { group, version, resource: plural, ..subject })
    });
    matching.map(|served| Target::Version(Arc::clone(served)))
}

/// The form a request came in.
pub(crate) fn own_form(request: &AdmissionRequest<'_>) -> Target {
    let served = &request.call.served;
    if *request.kind == *served.resource.kind { Target::Version(Arc::clone(served)) } else { Target::AsIs }
}

/// Whether the namespace of a request is selected.
pub(crate) fn namespace_matches(
    selector: &Result<LabelSelector, String>,
    request: &AdmissionRequest<'_>,
) -> Result<bool, Status> {
    let attributes = request.attributes;
    let is_namespace = attributes.resource == "namespaces";
    if attributes.namespace.is_empty() && !is_namespace {
        return Ok(true);
    }
    let selector = selector.as_ref().map_err(Status::internal)?;
    if selector.is_everything() {
        return Ok(true);
    }
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    if is_namespace && attributes.subresource.is_empty() && written {
        return Ok(super::selects(selector, request.object.as_deref()));
    }
    let namespaces = request.call.api.storage().kind("", "namespaces")?;
    let namespace = namespaces.find("", &attributes.namespace)?;
    Ok(selector.matches(|key| namespace.label(key)))
}

/// Whether the object of a request is selected, as it was or as it is to be.
pub(crate) fn object_matches(
    selector: &Result<LabelSelector, String>,
    request: &AdmissionRequest<'_>,
) -> Result<bool, Status> {
    let selector = selector.as_ref().map_err(Status::internal)?;
    Ok(selector.is_everything()
        || super::selects(selector, request.object.as_deref())
        || super::selects(selector, request.old_object))
}
