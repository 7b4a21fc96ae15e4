//! Nobody reads parameters by a policy that they may not read themselves: the check on writes of policies and bindings.
//!
//! Who names a kind of parameters in a policy must be allowed to get all of its objects; who names parameters in a binding, to get
//! or list those. Administrators need no check.

use crate::context::{AdmissionPlugin, AdmissionRequest, Attributes, Decision, UserInfo};
use crate::meta;
use async_trait::async_trait;
use machinery::Status;
use machinery::field::{FieldError, Path};
use serde_json::Value as Json;

const MASTERS: &str = "system:masters";

/// The plug-in.
pub(super) struct ParamGuard;

#[async_trait]
impl AdmissionPlugin for ParamGuard {
    fn name(&self) -> &'static str {
        "ParamGuard"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        if !super::is_exempt(request) || request.attributes.user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let wrong = if request.attributes.resource.ends_with("bindings") {
            of_binding(request, object)
        } else {
            of_policy(request, object)
        };
        let Some(wrong) = wrong else { return Ok(()) };
        Err(Status::invalid(super::GROUP, request.kind, meta::name(object), vec![wrong]))
    }
}

/// A part of a specification, where it is there and not as it was.
fn changed<'a>(request: &AdmissionRequest<'_>, object: &'a Json, path: &[&str]) -> Option<&'a Json> {
    let now = meta::at(object, path)?;
    let before = request.old_object.and_then(|old| meta::at(old, path));
    (before != Some(now)).then_some(now)
}

/// Group, version and resource of a kind; what is not known may be anything.
struct Target {
    group: String,
    version: String,
    resource: String,
}

impl Target {
    fn of(request: &AdmissionRequest<'_>, kind: &Json) -> Target {
        let (api_version, kind) = (meta::text_at(kind, &["apiVersion"]), meta::text_at(kind, &["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let served = request.call.api.catalogue().of_kind(api_version, kind);
        let resource = served.map_or_else(|| "*".to_owned(), |served| served.resource.plural.to_string());
        Target { group: group.to_owned(), version: version.to_owned(), resource }
    }

    fn any() -> Target {
        let any = || "*".to_owned();
        Target { group: any(), version: any(), resource: any() }
    }

    fn allows(self, request: &AdmissionRequest<'_>, verb: &str, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            user: request.attributes.user.clone(),
            verb: verb.to_owned(),
            group: self.group,
            version: self.version,
            resource: self.resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            resource_request: true,
            ..Attributes::default()
        };
        matches!(request.call.api.chain.authorizer.authorize(&attributes), Decision::Allow(_))
    }
}

fn of_policy(request: &AdmissionRequest<'_>, object: &Json) -> Option<FieldError> {
    let kind = changed(request, object, &["spec", "paramKind"])?;
    if Target::of(request, kind).allows(request, "get", "*", "*") {
        return None;
    }
    let text = |field: &str| meta::text_at(kind, &[field]);
    let why = format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        shown(&request.attributes.user),
        text("kind"),
        text("apiVersion"),
    );
    Some(FieldError::forbidden(&Path::new("spec").child("paramKind"), why))
}

fn of_binding(request: &AdmissionRequest<'_>, object: &Json) -> Option<FieldError> {
    let name = meta::text_at(object, &["spec", "policyName"]);
    let params = meta::at(object, &["spec", "paramRef"])?;
    changed(request, object, &["spec", "paramRef"]).or_else(|| changed(request, object, &["spec", "policyName"]))?;
    let text = |field: &str| meta::text_at(params, &[field]);
    let verb = if text("name").is_empty() { "list" } else { "get" };
    let resource = request.attributes.resource.replace("policybindings", "policies");
    let policy = request.call.api.storage().kind(super::GROUP, &resource).ok().and_then(|kind| kind.get("", name));
    let policy = policy.map(|entry| entry.value());
    let kind = policy.as_ref().and_then(|policy| meta::at(policy, &["spec", "paramKind"]));
    let target = kind.map_or_else(Target::any, |kind| Target::of(request, kind));
    let resolved = target.resource != "*";
    if target.allows(request, verb, text("namespace"), text("name")) {
        return None;
    }
    let user = shown(&request.attributes.user);
    let anything = format!("user {user} does not have {verb:?} permission for all groups, versions and resources");
    let determine = "to determine minimum required permissions and";
    let why = match (policy.is_some(), kind) {
        (false, _) => format!("unable to get policy {name} {determine} {anything}"),
        (true, Some(kind)) if !resolved => {
            let of = |field: &str| meta::text_at(kind, &[field]);
            format!("unable to resolve paramKind {}, Kind={} {determine} {anything}", of("apiVersion"), of("kind"))
        }
        _ => format!("user {user} does not have {verb:?} permission on the object referenced by paramRef"),
    };
    Some(FieldError::forbidden(&Path::new("spec").child("paramRef"), why))
}

/// A user as Go prints it.
fn shown(user: &UserInfo) -> String {
    let extra = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" ")));
    let extra: Vec<String> = extra.collect();
    format!("&{{{} {} [{}] map[{}]}}", user.name, user.uid, user.groups.join(" "), extra.join(" "))
}
