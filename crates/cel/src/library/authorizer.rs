//! `authorizer.group("").resource("pods").check("create").allowed()`.

use super::opaque::{Opaque, of, wrap};
use super::{Cost, Outcome, Run, fault, mismatch};
use crate::fault::Fault;
use crate::value::Value;
use machinery::name;
use std::sync::Arc;

/// Answers checks on behalf of the user of a request.
pub trait Authorizer: Send + Sync {
    /// What it says. Must be quick.
    fn authorize(&self, check: &Check) -> Decision;
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// In place of the request's user: namespace and name of a service account.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource; empty for resources.
    pub path: String,
    /// API group.
    pub group: String,
    /// Resource, plural.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// Field selector, or empty.
    pub field_selector: String,
    /// Label selector, or empty.
    pub label_selector: String,
    /// The verb; the lower-case method for paths.
    pub verb: String,
}

/// What an authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, or empty.
    pub error: String,
}

/// What a check costs: two fit into one expression.
const CHECK_COST: u64 = 350_000;

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    ("path", |args, _| begin(args, |check, path| check.path = path), Cost::One),
    ("group", |args, _| begin(args, |check, group| check.group = group), Cost::One),
    ("serviceAccount", service_account, Cost::One),
    ("resource", |args, _| narrow(args, |check, text| check.resource = text), Cost::One),
    ("subresource", |args, _| narrow(args, |check, text| check.subresource = text), Cost::One),
    ("namespace", |args, _| narrow(args, |check, text| check.namespace = text), Cost::One),
    ("name", |args, _| narrow(args, |check, text| check.name = text), Cost::One),
    ("fieldSelector", |args, _| narrow(args, |check, text| check.field_selector = text), Cost::Selector),
    ("labelSelector", |args, _| narrow(args, |check, text| check.label_selector = text), Cost::Selector),
    (
        "check",
        |args, _| match (of(&args[0])?, &args[1]) {
            (Opaque::PathCheck(authorizer, check) | Opaque::ResourceCheck(authorizer, check), Value::String(verb)) => {
                let check = Check { verb: verb.to_string(), ..check.clone() };
                Ok(wrap(Opaque::Decision(authorizer.authorize(&check))))
            }
            _ => mismatch(),
        },
        Cost::Fixed(CHECK_COST),
    ),
    ("allowed", |args, _| decision(args).map(|decision| Value::Bool(decision.allowed)), Cost::One),
    ("reason", |args, _| decision(args).map(|decision| Value::string(&*decision.reason)), Cost::One),
    ("errored", |args, _| decision(args).map(|decision| Value::Bool(!decision.error.is_empty())), Cost::One),
    ("error", |args, _| decision(args).map(|decision| Value::string(&*decision.error)), Cost::One),
];

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, Fault> {
    match of(&args[0])? {
        Opaque::Decision(decision) => Ok(decision),
        _ => Err(Fault::overload()),
    }
}

fn begin<'a>(args: &[Value<'a>], set: fn(&mut Check, String)) -> Outcome<'a> {
    let (Opaque::Authorizer(authorizer, account), Value::String(text)) = (of(&args[0])?, &args[1]) else {
        return mismatch();
    };
    let mut check = Check { service_account: account.clone(), ..Check::default() };
    set(&mut check, text.to_string());
    let authorizer = Arc::clone(authorizer);
    // `set` writes the path or the group; only a path makes it a check of one.
    let mut probe = Check::default();
    set(&mut probe, "x".to_owned());
    if probe.path.is_empty() {
        return Ok(wrap(Opaque::GroupCheck(authorizer, check)));
    }
    if text.trim().is_empty() {
        return fault("path must not be empty");
    }
    Ok(wrap(Opaque::PathCheck(authorizer, check)))
}

fn narrow<'a>(args: &[Value<'a>], set: fn(&mut Check, String)) -> Outcome<'a> {
    let Value::String(text) = &args[1] else { return mismatch() };
    let (authorizer, check) = match of(&args[0])? {
        Opaque::GroupCheck(authorizer, check) => {
            if text.trim().is_empty() {
                return fault("resource must not be empty");
            }
            (authorizer, check)
        }
        Opaque::ResourceCheck(authorizer, check) => (authorizer, check),
        _ => return mismatch(),
    };
    let mut check = check.clone();
    set(&mut check, text.to_string());
    Ok(wrap(Opaque::ResourceCheck(Arc::clone(authorizer), check)))
}

fn service_account<'a>(args: &[Value<'a>], _: &mut crate::fault::Fuel) -> Outcome<'a> {
    let [authorizer, Value::String(namespace), Value::String(account)] = args else { return mismatch() };
    let Opaque::Authorizer(authorizer, _) = of(authorizer)? else { return mismatch() };
    if !name::dns1123_subdomain(account).is_empty() {
        return fault("Invalid service account name");
    }
    if !name::dns1123_label(namespace).is_empty() {
        return fault("Invalid service account namespace");
    }
    let account = (namespace.to_string(), account.to_string());
    Ok(wrap(Opaque::Authorizer(Arc::clone(authorizer), Some(account))))
}
