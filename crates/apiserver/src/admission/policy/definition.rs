//! Policies and their bindings as their objects say, read and compiled once for each of their generations.

use super::compile::{Expression, Variable, Wanted, variables};
use super::criteria::Criteria;
use super::env::Options;
use crate::meta;
use serde_json::Value as Json;

/// A policy, ready to be asked.
pub(super) struct Policy {
    pub(super) name: String,
    /// Uid and generation: what is compiled for it holds as long as these stay.
    pub(super) version: (String, i64),
    /// A request goes on when the policy cannot be evaluated.
    pub(super) fails_open: bool,
    pub(super) criteria: Criteria,
    /// API version and kind of its parameters.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) conditions: Vec<Expression>,
    pub(super) variables: Vec<Variable>,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<(String, Expression)>,
    pub(super) mutations: Vec<Mutation>,
    /// It is asked again when others change the object after it.
    pub(super) reinvocable: bool,
}

/// An expression that must be true.
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message_expression: Option<Expression>,
    pub(super) message: String,
    /// Reason of the refusal, or empty.
    pub(super) reason: String,
}

/// A change.
pub(super) struct Mutation {
    /// It gives an apply configuration, not a JSON patch.
    pub(super) applies: bool,
    pub(super) expression: Expression,
}

/// Where a policy is in force.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) criteria: Option<Criteria>,
    pub(super) params: Option<ParamRef>,
    /// `Deny`, `Warn`, `Audit`.
    pub(super) actions: Vec<String>,
}

/// Which parameters a binding gives its policy.
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    /// A label selector, when there is no name.
    pub(super) selector: Option<Json>,
    /// Nothing happens when there are none.
    pub(super) optional: bool,
}

fn text<'a>(value: &'a Json, field: &str) -> &'a str {
    meta::text_at(value, &[field])
}

fn list<'a>(value: &'a Json, field: &str) -> impl Iterator<Item = &'a Json> {
    meta::at(value, &[field]).and_then(Json::as_array).into_iter().flatten()
}

/// Uid and generation of a policy.
pub(super) fn version(object: &Json) -> (String, i64) {
    (meta::text(object, "uid").to_owned(), meta::generation(object))
}

impl Policy {
    /// Reads and compiles a policy of either kind.
    pub(super) fn read(object: &Json) -> Policy {
        let empty = Json::Null;
        let spec = object.get("spec").unwrap_or(&empty);
        let param_kind = meta::at(spec, &["paramKind"]);
        let param_kind = param_kind.map(|kind| (text(kind, "apiVersion").to_owned(), text(kind, "kind").to_owned()));
        let plain = Options { params: param_kind.is_some(), authorizer: true, ..Options::default() };
        let scene = plain.scene();
        let conditions = list(spec, "matchConditions")
            .map(|condition| Expression::compile(text(condition, "expression"), &scene, Wanted::Bool))
            .collect();
        let mut composed = plain;
        let named = list(spec, "variables").map(|variable| (text(variable, "name"), text(variable, "expression")));
        let variables = variables(named, &mut composed);
        Policy {
            name: meta::name(object).to_owned(),
            version: version(object),
            fails_open: text(spec, "failurePolicy") == "Ignore",
            criteria: Criteria::read(&spec["matchConstraints"]),
            param_kind,
            conditions,
            variables,
            validations: validations(spec, &composed),
            annotations: annotations(spec, &composed),
            mutations: mutations(spec, &composed),
            reinvocable: text(spec, "reinvocationPolicy") == "IfNeeded",
        }
    }
}

fn validations(spec: &Json, composed: &Options) -> Vec<Validation> {
    let scene = composed.scene();
    let messages = Options { authorizer: false, ..composed.clone() }.scene();
    let read = |validation: &Json| {
        let message_expression = text(validation, "messageExpression");
        Validation {
            expression: Expression::compile(text(validation, "expression"), &scene, Wanted::Bool),
            message_expression: (!message_expression.is_empty())
                .then(|| Expression::compile(message_expression, &messages, Wanted::String)),
            message: text(validation, "message").trim().to_owned(),
            reason: text(validation, "reason").to_owned(),
        }
    };
    list(spec, "validations").map(read).collect()
}

fn annotations(spec: &Json, composed: &Options) -> Vec<(String, Expression)> {
    let scene = composed.scene();
    let read = |annotation: &Json| {
        let expression = Expression::compile(text(annotation, "valueExpression"), &scene, Wanted::StringOrNull);
        (text(annotation, "key").to_owned(), expression)
    };
    list(spec, "auditAnnotations").map(read).collect()
}

fn mutations(spec: &Json, composed: &Options) -> Vec<Mutation> {
    let scene = Options { patches: true, ..composed.clone() }.scene();
    let read = |mutation: &Json| {
        let applies = text(mutation, "patchType") == "ApplyConfiguration";
        let (field, wanted) =
            if applies { ("applyConfiguration", Wanted::Object) } else { ("jsonPatch", Wanted::JsonPatches) };
        let source = meta::text_at(mutation, &[field, "expression"]).trim();
        Mutation { applies, expression: Expression::compile(source, &scene, wanted) }
    };
    list(spec, "mutations").map(read).collect()
}

impl Binding {
    /// Reads a binding of either kind.
    pub(super) fn read(object: &Json) -> Binding {
        let empty = Json::Null;
        let spec = object.get("spec").unwrap_or(&empty);
        Binding {
            name: meta::name(object).to_owned(),
            policy: text(spec, "policyName").to_owned(),
            criteria: meta::at(spec, &["matchResources"]).map(Criteria::read),
            params: meta::at(spec, &["paramRef"]).map(|params| ParamRef {
                name: text(params, "name").to_owned(),
                namespace: text(params, "namespace").to_owned(),
                selector: meta::at(params, &["selector"]).cloned(),
                optional: text(params, "parameterNotFoundAction") == "Allow",
            }),
            actions: list(spec, "validationActions").filter_map(Json::as_str).map(str::to_owned).collect(),
        }
    }
}
