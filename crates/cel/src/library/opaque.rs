//! Values of the libraries: quantities, addresses, versions, checks of authorization.

use super::authorizer::{Authorizer, Check, Decision};
use super::named::Named;
use super::net::Url;
use super::semver::Semver;
use super::{Cost, Outcome, Run, fault, mismatch};
use crate::fault::Fault;
use crate::value::{Value, chars};
use machinery::quantity::Quantity;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A value of a library.
#[derive(Clone)]
pub enum Opaque {
    /// `quantity("1Gi")`
    Quantity(Quantity),
    /// `ip("10.0.0.1")`
    Ip(IpAddr),
    /// `cidr("10.0.0.0/8")`
    Cidr(IpAddr, u8),
    /// `url("https://example.com")`
    Url(Url),
    /// `semver("1.2.3")`
    Semver(Semver),
    /// `format.uuid()`
    Format(&'static Named),
    /// `authorizer`, possibly on behalf of a service account (namespace and name).
    Authorizer(Arc<dyn Authorizer>, Option<(String, String)>),
    /// `authorizer.path("/healthz")`
    PathCheck(Arc<dyn Authorizer>, Check),
    /// `authorizer.group("apps")`
    GroupCheck(Arc<dyn Authorizer>, Check),
    /// `authorizer.group("apps").resource("deployments")`
    ResourceCheck(Arc<dyn Authorizer>, Check),
    /// What an authorizer said.
    Decision(Decision),
}

impl Opaque {
    /// The name of its type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(..) => "net.CIDR",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Authorizer(..) => "kubernetes.authorization.Authorizer",
            Opaque::PathCheck(..) => "kubernetes.authorization.PathCheck",
            Opaque::GroupCheck(..) => "kubernetes.authorization.GroupCheck",
            Opaque::ResourceCheck(..) => "kubernetes.authorization.ResourceCheck",
            Opaque::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// Addresses have the size of their bytes, everything else 1.
    pub(crate) fn cost_size(&self) -> u64 {
        match self {
            Opaque::Ip(address) => {
                if address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Opaque::Cidr(address, len) => (if address.is_ipv4() { 4 } else { 16 }).min(u64::from(*len).div_ceil(8)),
            Opaque::Url(url) => chars(&url.text) as u64,
            _ => 1,
        }
    }
}

impl PartialEq for Opaque {
    fn eq(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a, n), Opaque::Cidr(b, m)) => a == b && n == m,
            (Opaque::Url(a), Opaque::Url(b)) => a.text == b.text,
            (Opaque::Semver(a), Opaque::Semver(b)) => a.order(b).is_eq(),
            (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
            (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
            (Opaque::PathCheck(_, a), Opaque::PathCheck(_, b))
            | (Opaque::GroupCheck(_, a), Opaque::GroupCheck(_, b))
            | (Opaque::ResourceCheck(_, a), Opaque::ResourceCheck(_, b)) => a == b,
            (Opaque::Authorizer(_, a), Opaque::Authorizer(_, b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opaque::Quantity(quantity) => quantity.fmt(f),
            Opaque::Ip(address) => address.fmt(f),
            Opaque::Cidr(address, len) => write!(f, "{address}/{len}"),
            Opaque::Url(url) => f.write_str(&url.text),
            Opaque::Semver(version) => version.fmt(f),
            Opaque::Format(named) => f.write_str(named.name),
            other => f.write_str(other.type_name()),
        }
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.type_name())
    }
}

/// A value of a library as a value of the language.
pub(super) fn wrap<'a>(opaque: Opaque) -> Value<'a> {
    Value::Opaque(Arc::new(opaque))
}

/// The value of a library behind a value.
pub(super) fn of<'v>(value: &'v Value<'_>) -> Result<&'v Opaque, Fault> {
    match value {
        Value::Opaque(opaque) => Ok(opaque),
        _ => Err(Fault::overload()),
    }
}

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    (
        "quantity",
        |args, _| match &args[0] {
            Value::String(text) => match Quantity::parse(text) {
                Ok(quantity) => Ok(wrap(Opaque::Quantity(quantity))),
                Err(why) => fault(why),
            },
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    (
        "isQuantity",
        |args, _| match &args[0] {
            Value::String(text) => Ok(Value::Bool(Quantity::parse(text).is_ok())),
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    ("sign", |args, _| quantity(args).map(|q| Value::Int(i64::from(q.signum()))), Cost::One),
    ("asApproximateFloat", |args, _| quantity(args).map(|q| Value::Double(q.as_f64())), Cost::One),
    ("isInteger", |args, _| quantity(args).map(|q| Value::Bool(integer(q).is_some())), Cost::One),
    (
        "asInteger",
        |args, _| match integer(quantity(args)?) {
            Some(n) => Ok(Value::Int(n)),
            None => fault("cannot convert value to integer"),
        },
        Cost::One,
    ),
    ("add", |args, _| with(args, |a, b| a + b), Cost::One),
    ("sub", |args, _| with(args, |a, b| a - b), Cost::One),
    ("compareTo", |args, _| order(args).map(|order| Value::Int(order as i64)), Cost::One),
    ("isGreaterThan", |args, _| order(args).map(|order| Value::Bool(order.is_gt())), Cost::One),
    ("isLessThan", |args, _| order(args).map(|order| Value::Bool(order.is_lt())), Cost::One),
];

fn quantity<'v>(args: &'v [Value<'_>]) -> Result<&'v Quantity, Fault> {
    match of(&args[0])? {
        Opaque::Quantity(quantity) => Ok(quantity),
        _ => Err(Fault::overload()),
    }
}

/// Its value, if it is a whole number.
fn integer(quantity: &Quantity) -> Option<i64> {
    Some(quantity.value()).filter(|value| Quantity::new(*value) == *quantity)
}

fn with<'a>(args: &[Value<'a>], calculate: fn(Quantity, Quantity) -> Quantity) -> Outcome<'a> {
    let other = match &args[1] {
        Value::Int(n) => Quantity::new(*n),
        Value::Opaque(opaque) => match **opaque {
            Opaque::Quantity(quantity) => quantity,
            _ => return mismatch(),
        },
        _ => return mismatch(),
    };
    quantity(args).map(|quantity| wrap(Opaque::Quantity(calculate(*quantity, other))))
}

/// The order of two quantities or versions.
fn order(args: &[Value<'_>]) -> Result<std::cmp::Ordering, Fault> {
    match (of(&args[0])?, of(&args[1])?) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => Ok(a.cmp(b)),
        (Opaque::Semver(a), Opaque::Semver(b)) => Ok(a.order(b)),
        _ => Err(Fault::overload()),
    }
}
