//! The values of variables while the expressions of one policy are evaluated for one request, within one budget.

use super::compile::{Expression, Variable};
use super::env::{self, Slot};
use crate::context::{AdmissionRequest, Attributes, Authorizer, Decision, UserInfo};
use cel::{Activation, Check, Fault, Map, Opaque, Program, Value};
use serde_json::{Value as Json, json};
use std::cell::{Cell, OnceCell};
use std::sync::Arc;

/// What the expressions of a policy (with one of its bindings and parameters) may cost, together.
pub(crate) const BUDGET: u64 = 10_000_000;
/// What match conditions may cost, together.
pub(crate) const CONDITIONS_BUDGET: u64 = 2_500_000;

/// No further expression may be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBudget;

impl OutOfBudget {
    /// Upstream's words.
    pub(crate) const TEXT: &str =
        "validation failed due to running out of cost budget, no further validation rules will be run";
}

/// What expressions look at.
pub(crate) struct Scope<'a> {
    pub(crate) object: Option<&'a Json>,
    pub(crate) old_object: Option<&'a Json>,
    pub(crate) namespace: Option<&'a Json>,
    pub(crate) request: &'a Json,
    pub(crate) params: Option<&'a Json>,
    pub(crate) authorizer: Arc<RequestAuthorizer>,
    pub(crate) variables: &'a [Variable],
    values: Vec<OnceCell<Result<Value<'a>, Fault>>>,
    left: Cell<u64>,
    /// What composed variables have cost since an expression began.
    composed: Cell<u64>,
}

impl<'a> Scope<'a> {
    /// A scope with a fresh budget.
    pub(crate) fn new(request: &'a Json, authorizer: Arc<RequestAuthorizer>, variables: &'a [Variable]) -> Scope<'a> {
        Scope {
            object: None,
            old_object: None,
            namespace: None,
            request,
            params: None,
            authorizer,
            variables,
            values: variables.iter().map(|_| OnceCell::new()).collect(),
            left: Cell::new(BUDGET),
            composed: Cell::new(0),
        }
    }

    /// The same objects with another budget and no variables, as match conditions see them.
    pub(crate) fn for_conditions(&self) -> Scope<'a> {
        let authorizer = Arc::clone(&self.authorizer);
        let scope = Scope::new(self.request, authorizer, &[]);
        scope.left.set(CONDITIONS_BUDGET);
        Scope { object: self.object, old_object: self.old_object, namespace: None, params: self.params, ..scope }
    }

    /// Evaluates an expression. The inner error is upstream's text about it; the outer one ends everything.
    pub(crate) fn evaluate(&self, expression: &'a Expression) -> Result<Result<Value<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        self.composed.set(0);
        let evaluated = program.evaluate(&View { scope: self, slots: &expression.slots }, Program::COST_MAX);
        let cost = evaluated.cost.saturating_add(self.composed.get());
        match self.left.get().checked_sub(cost) {
            Some(left) => self.left.set(left),
            None => return Err(OutOfBudget),
        }
        Ok(evaluated.result.map_err(|fault| format!("expression '{}' resulted in error: {fault}", expression.source)))
    }

    fn variable(&self, at: usize) -> Result<Value<'a>, Fault> {
        let (Some(cell), Some(variable)) = (self.values.get(at), self.variables.get(at)) else {
            return Err(Fault::new("no such variable"));
        };
        if let Some(known) = cell.get() {
            return known.clone();
        }
        let name = &variable.name;
        let result = match &variable.expression.program {
            Err(why) => Err(Fault::new(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(program) => {
                let view = View { scope: self, slots: &variable.expression.slots };
                let evaluated = program.evaluate(&view, Program::COST_MAX);
                self.composed.set(self.composed.get().saturating_add(evaluated.cost));
                evaluated
                    .result
                    .map_err(|fault| Fault::new(format!("composited variable {name:?} fails to evaluate: {fault}")))
            }
        };
        cell.get_or_init(|| result).clone()
    }
}

/// A scope as one expression sees it.
struct View<'s, 'a> {
    scope: &'s Scope<'a>,
    slots: &'s [Slot],
}

impl<'a> Activation<'a> for View<'_, 'a> {
    fn variable(&self, index: usize) -> Result<Value<'a>, Fault> {
        let json = |json: Option<&'a Json>| json.map_or(Value::Null, Value::json);
        let scope = self.scope;
        let opaque = |opaque| Value::Opaque(Arc::new(opaque));
        Ok(match self.slots.get(index) {
            Some(Slot::Object) => json(scope.object),
            Some(Slot::OldObject) => json(scope.old_object),
            Some(Slot::Params) => json(scope.params),
            Some(Slot::Namespace) => {
                scope.namespace.map_or(Value::Null, |json| Value::typed(json, Some(env::namespace())))
            }
            Some(Slot::Request) => Value::typed(scope.request, Some(env::request())),
            Some(Slot::Authorizer) => opaque(Opaque::Authorizer(scope.authorizer.clone(), None)),
            Some(Slot::ResourceAuthorizer) => {
                opaque(Opaque::ResourceCheck(scope.authorizer.clone(), scope.authorizer.resource.clone()))
            }
            Some(Slot::Variable(at)) => return scope.variable(*at),
            // Only `has(variables.name)` asks for them as a whole.
            Some(Slot::Variables) => {
                let names = scope.variables.iter().map(|variable| (Value::string(&*variable.name), Value::Null));
                let mut names: Vec<_> = names.collect();
                names.sort_by_key(|(name, _)| name.to_string());
                Value::Map(Map::Made(Arc::new(names)))
            }
            None => return Err(Fault::new("no such attribute(s)")),
        })
    }
}

/// Answers the checks of expressions for the user of a request.
pub(crate) struct RequestAuthorizer {
    authorizer: Arc<dyn Authorizer>,
    user: Arc<UserInfo>,
    resource: Check,
}

impl RequestAuthorizer {
    /// For a request.
    pub(crate) fn new(request: &AdmissionRequest<'_>) -> Arc<RequestAuthorizer> {
        let attributes = request.attributes;
        let resource = Check {
            group: attributes.group.clone(),
            resource: attributes.resource.clone(),
            subresource: attributes.subresource.clone(),
            namespace: attributes.namespace.clone(),
            name: attributes.name.clone(),
            ..Check::default()
        };
        let authorizer = Arc::clone(&request.call.api.chain.authorizer);
        Arc::new(RequestAuthorizer { authorizer, user: Arc::clone(&attributes.user), resource })
    }
}

impl cel::Authorizer for RequestAuthorizer {
    fn authorize(&self, check: &Check) -> cel::Decision {
        let user = match &check.service_account {
            None => Arc::clone(&self.user),
            Some((namespace, name)) => Arc::new(UserInfo {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ],
                ..UserInfo::default()
            }),
        };
        let resource_request = check.path.is_empty();
        let attributes = Attributes {
            user,
            verb: check.verb.clone(),
            group: check.group.clone(),
            version: if resource_request { "*".to_owned() } else { String::new() },
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: check.namespace.clone(),
            name: check.name.clone(),
            path: check.path.clone(),
            resource_request,
            label_selector: check.label_selector.clone(),
            field_selector: check.field_selector.clone(),
        };
        let (allowed, reason) = match self.authorizer.authorize(&attributes) {
            Decision::Allow(reason) => (true, reason),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => (false, reason),
        };
        cel::Decision { allowed, reason, error: String::new() }
    }
}

/// The `request` of expressions: an admission request without its objects, about a kind and resource in the version that is matched.
pub(crate) fn request_value(request: &AdmissionRequest<'_>, kind: &Json, resource: &Json, own_kind: &Json) -> Json {
    let attributes = request.attributes;
    let user = &attributes.user;
    json!({
        "kind": kind,
        "resource": resource,
        "subResource": attributes.subresource,
        "requestKind": own_kind,
        "requestResource": {
            "group": attributes.group, "version": attributes.version, "resource": attributes.resource,
        },
        "requestSubResource": attributes.subresource,
        "name": attributes.name,
        "namespace": attributes.namespace,
        "operation": request.operation.as_str(),
        "userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra},
        "dryRun": request.dry_run,
        "options": request.call.options(request.operation),
    })
}
