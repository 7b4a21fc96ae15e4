//! Type checking of validating policies against the kinds they name, built-in and custom, told in their status. It never changes
//! what a policy does.

use super::compile::variables;
use super::env::Options;
use crate::custom::rules;
use crate::meta;
use crate::served::{Catalogue, Served};
use crate::server::ApiServer;
use cel::{Decl, DeclTypes, Program, Type, Types};
use machinery::schema::{Schema, Shape, TypeRef};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Most kinds that one policy is checked against.
const KINDS_MAX: usize = 10;

/// Checks policies as they appear and change, until the token is cancelled.
pub(crate) async fn run(api: std::sync::Weak<ApiServer>, stop: CancellationToken) {
    let subscription = api.upgrade().and_then(|api| {
        let policies = api.storage().kind(super::GROUP, "validatingadmissionpolicies").ok()?;
        Some((policies.subscribe(), policies))
    });
    let Some(((present, mut changes), policies)) = subscription else { return };
    let mut due: Vec<Json> = present.iter().map(|entry| entry.value()).collect();
    loop {
        for policy in due.drain(..) {
            let Some(api) = api.upgrade() else { return };
            let generation = meta::generation(&policy);
            if meta::deleting(&policy) || policy["status"]["observedGeneration"] == json!(generation) {
                continue;
            }
            let status = status(&policy, &api.catalogue());
            let written = policies.update("", meta::name(&policy), |object| {
                if meta::generation(object) == generation {
                    let conditions = object["status"].get("conditions").cloned();
                    object["status"] = status.clone();
                    if let Some(conditions) = conditions {
                        object["status"]["conditions"] = conditions;
                    }
                }
                Ok(())
            });
            if let Err(status) = written.await {
                tracing::debug!(
                    policy = meta::name(&policy),
                    message = status.message,
                    "no type checking in the status"
                );
            }
        }
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = changes.recv() => event,
        };
        let Some(event) = event else { return };
        if event.kind != crate::storage::EventType::Deleted {
            due.push(event.entry.value());
        }
    }
}

/// The status of a policy: what its expressions say about fields that its kinds do not have.
fn status(policy: &Json, catalogue: &Catalogue) -> Json {
    let warnings = warnings(policy, catalogue);
    let mut checking = json!({});
    if !warnings.is_empty() {
        checking["expressionWarnings"] = warnings.into();
    }
    json!({"observedGeneration": meta::generation(policy), "typeChecking": checking})
}

fn list<'a>(value: &'a Json, field: &str) -> impl Iterator<Item = &'a Json> {
    meta::at(value, &[field]).and_then(Json::as_array).into_iter().flatten()
}

fn warnings(policy: &Json, catalogue: &Catalogue) -> Vec<Json> {
    let spec = &policy["spec"];
    let kinds = kinds(spec, catalogue);
    let mut found = Vec::new();
    for (at, validation) in list(spec, "validations").enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = meta::text_at(validation, &[field]);
            if source.is_empty() {
                continue;
            }
            let mut texts = Vec::new();
            for (name, ty) in &kinds {
                let options = typed(spec, ty, catalogue);
                if let Err(issues) = Program::compile(source, &options.scene().env) {
                    texts.push(format!("{name}: {issues}\n"));
                }
            }
            if !texts.is_empty() {
                let path = format!("spec.validations[{at}].{field}");
                found.push(json!({"fieldRef": path, "warning": texts.join("\n")}));
            }
        }
    }
    found
}

/// What the objects of a kind are.
enum Kind {
    Builtin(TypeRef<'static>),
    Custom(Decl),
}

impl Kind {
    fn of(served: &Served) -> Option<Kind> {
        match served.custom() {
            None => served.typing.builtin().map(Kind::Builtin),
            Some(version) => {
                let name = format!("{}.{}", served.api_version, served.resource.kind);
                Some(Kind::Custom(rules::declare_root(version.schema().ok()?, &name)?))
            }
        }
    }

    fn ty(&self) -> Type {
        match self {
            Kind::Builtin(ty) => type_of(*ty),
            Kind::Custom(decl) => decl.ty(),
        }
    }
}

/// The environment of a policy for objects of a kind.
fn typed(spec: &Json, object: &Kind, catalogue: &Catalogue) -> Options {
    let param_kind = meta::at(spec, &["paramKind"]);
    let params = param_kind.and_then(|kind| {
        let served = catalogue.of_kind(meta::text_at(kind, &["apiVersion"]), meta::text_at(kind, &["kind"]))?;
        Kind::of(&served)
    });
    let mut options = Options {
        params: param_kind.is_some(),
        authorizer: true,
        object: Some(object.ty()),
        params_type: params.as_ref().map(Kind::ty),
        types: Some(Arc::new(Known::of([Some(object), params.as_ref()]))),
        ..Options::default()
    };
    let named = list(spec, "variables");
    let named = named.map(|variable| (meta::text_at(variable, &["name"]), meta::text_at(variable, &["expression"])));
    variables(named, &mut options);
    options
}

/// The kinds that the rules of a policy name without wildcards, sorted, as Go prints them.
fn kinds(spec: &Json, catalogue: &Catalogue) -> Vec<(String, Kind)> {
    let mut found: BTreeMap<(String, String, String), Kind> = BTreeMap::new();
    for rule in list(&spec["matchConstraints"], "resourceRules") {
        let texts = |field: &str| list(rule, field).filter_map(Json::as_str).collect::<Vec<_>>();
        let (groups, versions, resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        for group in &groups {
            for version in &versions {
                for resource in resources.iter().filter(|text| !text.contains(['*', '/'])) {
                    let Ok(served) = catalogue.find(group, version, resource) else { continue };
                    if let Some(kind) = Kind::of(&served).filter(|_| found.len() < KINDS_MAX) {
                        let name = served.resource.kind.to_string();
                        found.insert(((*group).to_owned(), (*version).to_owned(), name), kind);
                    }
                }
            }
        }
    }
    let name = |(group, version, kind): (String, String, String)| format!("{group}/{version}, Kind={kind}");
    found.into_iter().map(|(key, kind)| (name(key), kind)).collect()
}

/// The structs of the built-in table, by their names in it, and those of custom kinds.
struct Known {
    custom: DeclTypes,
    /// The custom kinds themselves: their metadata is that of all objects.
    roots: Vec<String>,
}

impl Known {
    fn of<'k>(kinds: impl IntoIterator<Item = Option<&'k Kind>>) -> Known {
        let decls = kinds.into_iter().flatten().filter_map(|kind| match kind {
            Kind::Custom(decl) => Some(decl),
            Kind::Builtin(_) => None,
        });
        let decls: Vec<&Decl> = decls.collect();
        Known {
            roots: decls.iter().map(|decl| decl.ty().runtime_name()).collect(),
            custom: DeclTypes::of(decls.iter().copied()),
        }
    }
}

impl Types for Known {
    fn field(&self, object: &str, name: &str) -> Option<Type> {
        if name == "metadata" && self.roots.iter().any(|root| root == object) {
            return Some(Type::object("meta.v1.ObjectMeta"));
        }
        if self.custom.is_object(object) {
            return self.custom.field(object, name);
        }
        let ty = Schema::builtin().named(object)?;
        // Names that are words of the language are also taken as they are escaped for custom resources.
        let plain = name.strip_prefix("__").and_then(|name| name.strip_suffix("__")).unwrap_or(name);
        ty.field(name).or_else(|| ty.field(plain)).map(|field| type_of(field.ty()))
    }

    fn is_object(&self, object: &str) -> bool {
        self.custom.is_object(object) || Schema::builtin().named(object).is_some()
    }
}

fn type_of(ty: TypeRef<'_>) -> Type {
    match ty.shape() {
        Shape::Bool => Type::Bool,
        Shape::Int32 | Shape::Int64 => Type::Int,
        Shape::Double => Type::Double,
        Shape::String | Shape::Duration => Type::String,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::Struct(s) => Type::object(s.name()),
        Shape::List(element) => Type::list(type_of(element)),
        Shape::Map(value) => Type::map(Type::String, type_of(value)),
        _ => Type::Dyn,
    }
}
