//! Nobody gives away rights they do not have: the check on writes of roles and bindings, as an admission plug-in.

use super::rbac::Rbac;
use super::rules::{Rule, uncovered};
use super::{MASTERS, Union};
use crate::context::{AdmissionPlugin, AdmissionRequest, Attributes, Authorizer, Decision, Operation};
use crate::meta;
use async_trait::async_trait;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks writers of roles (verb `escalate` lifts it) and bindings (verb `bind` lifts it).
pub struct RoleGuard {
    rbac: Arc<Rbac>,
    authorizer: Arc<Union>,
}

impl RoleGuard {
    /// `rbac` knows what the writer has; `authorizer` whether the check is lifted.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<Union>) -> Self {
        Self { rbac, authorizer }
    }

    fn lifted(&self, attributes: &Attributes, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            subresource: String::new(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            group: GROUP.to_owned(),
            ..attributes.clone()
        };
        matches!(self.authorizer.authorize(&attributes), Decision::Allow(_))
    }

    fn check(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let attributes = request.attributes;
        let (namespace, name) = (attributes.namespace.as_str(), meta::name(object));
        let is_binding = attributes.resource.ends_with("rolebindings");
        let wanted = if is_binding {
            let of_cluster = meta::text_at(object, &["roleRef", "kind"]) == "ClusterRole";
            let role = meta::text_at(object, &["roleRef", "name"]);
            let resource = if of_cluster { "clusterroles" } else { "roles" };
            if self.lifted(attributes, "bind", resource, namespace, role) {
                return Ok(());
            }
            let of = if of_cluster { "" } else { namespace };
            // Who may not bind freely may only bind what is there to be looked at.
            self.rbac.rules_of_role(of, role).ok_or_else(|| Status::not_found(GROUP, resource, role))?
        } else {
            Rule::parse_all(object)
        };
        let owned = self.rbac.rules_of(&attributes.user, namespace);
        let missing = uncovered(&owned, &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = missing.iter().map(|rule| rule.to_value().to_string()).collect();
        let groups: Vec<String> = attributes.user.groups.iter().map(|group| format!("{group:?}")).collect();
        let why = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            attributes.user.name,
            groups.join(" "),
            list.join("\n")
        );
        Err(Status::forbidden(GROUP, &attributes.resource, name, why))
    }
}

#[async_trait]
impl AdmissionPlugin for RoleGuard {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || attributes.group != GROUP || attributes.user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        // Touching labels grants nothing.
        let same = |field: &str| request.old_object.is_some_and(|old| old.get(field) == object.get(field));
        if same("rules") && same("aggregationRule") && same("roleRef") && same("subjects") {
            return Ok(());
        }
        let is_role = attributes.resource.ends_with("roles");
        if is_role
            && self.lifted(attributes, "escalate", &attributes.resource, &attributes.namespace, meta::name(object))
        {
            return Ok(());
        }
        if let Some(rule) = object.get("aggregationRule").filter(|rule| !rule.is_null()) {
            let every = Rule::parse(&serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            if !uncovered(&self.rbac.rules_of(&attributes.user, ""), std::slice::from_ref(&every)).is_empty() {
                let why = format!("must have cluster-admin privileges to use the aggregationRule: {rule}");
                return Err(Status::forbidden(GROUP, &attributes.resource, meta::name(object), why));
            }
        }
        self.check(request, object)
    }
}
