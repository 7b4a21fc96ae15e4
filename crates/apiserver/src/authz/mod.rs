//! Who may do what: system:masters everything, nodes what their pods need, everyone what roles are bound to them.

mod escalation;
mod node;
mod policy;
mod rbac;
mod rules;

pub use escalation::RoleGuard;
pub use node::NodeAuthorizer;
pub(crate) use node::node_of;
pub use policy::bootstrap_objects;
pub use rbac::Rbac;
pub use rules::Rule;

use crate::context::{Attributes, Authorizer, Decision};
use machinery::Status;
use std::sync::Arc;

/// Its members may do everything.
pub const MASTERS: &str = "system:masters";

/// Asks its members in turn until one decides.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// Masters first, then these.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

impl Authorizer for Union {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.groups.iter().any(|group| group == MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }
}

/// The answer (403) to a request that nobody allowed, in upstream's words.
pub fn refusal(attributes: &Attributes, reason: &str) -> Status {
    let Attributes { user, verb, group, resource, subresource, namespace, name, path, .. } = attributes;
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !attributes.resource_request {
        let why = format!("User {:?} cannot {verb} path {path:?}{reason}", user.name);
        return Status::forbidden("", "", "", why);
    }
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = match namespace.is_empty() {
        true => "at the cluster scope".to_owned(),
        false => format!("in the namespace {namespace:?}"),
    };
    let why = format!("User {:?} cannot {verb} resource {full:?} in API group {group:?} {scope}{reason}", user.name);
    Status::forbidden(group, resource, name, why)
}
