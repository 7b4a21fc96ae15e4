//! Who may do what: system:masters everything, nodes what their pods need, everyone what roles are bound to them.

mod escalation;
mod node;
mod policy;
mod rbac;
mod rules;

pub use escalation::RoleGuard;
pub use node::NodeAuthorizer;
pub(crate) use node::{node_of, references};
pub use policy::bootstrap_objects;
pub use rbac::Rbac;
pub use rules::Rule;

use crate::context::{Attributes, Authorizer, Decision};
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
