//! ClusterRoles that are made of others: their rules are the rules of all that their selectors match.

use std::sync::Arc;

use client::{Delta, Informer};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step};
use client::select;

struct Aggregate {
    shared: Arc<Shared>,
    roles: Informer<ClusterRole>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let roles: Informer<ClusterRole> = shared.informers.all();
    let controller = Aggregate { shared: Arc::clone(shared), roles: roles.clone() };
    Loop::new(shared, controller, Arc::new(Queue::new())).on(&roles, Aggregate::changed).start(1);
}

/// The rules `role` should have, or `None` if it has them (or is not made of others).
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let matching = all.iter().filter(|r| r.metadata.name != role.metadata.name);
        for other in matching.filter(|r| select::matches(selector, r.metadata.labels.as_ref())) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

impl Aggregate {
    /// Any role may be part of any that is made of others.
    fn changed(&self, queue: &Queue, delta: &Delta<ClusterRole>) {
        if let Delta::Applied { old: Some(old), new } = delta
            && old.rules == new.rules
            && old.metadata.labels == new.metadata.labels
            && old.aggregation_rule == new.aggregation_rule
        {
            return;
        }
        self.all().into_iter().for_each(|key| queue.add(key));
    }
}

impl Controller for Aggregate {
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn all(&self) -> Vec<String> {
        let roles = self.roles.list();
        roles.iter().filter(|r| r.aggregation_rule.is_some()).map(|r| client::key(&**r)).collect()
    }

    async fn reconcile(&self, name: &str) -> Result<(), Error> {
        let Some(role) = self.roles.get(name) else { return Ok(()) };
        let Some(rules) = plan(&role, &self.roles.list()) else { return Ok(()) };
        let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
        let api = self.shared.cluster::<ClusterRole>();
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unless_gone("aggregate role", name)
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn rules_are_gathered_once() {
        let role = |name: &str, labels: serde_json::Value, verbs: &[&str]| {
            Arc::new(object::<ClusterRole>(json!({"metadata": {"name": name, "labels": labels},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]})))
        };
        let mut whole: ClusterRole = object(json!({"metadata": {"name": "all"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}}));
        let all = [
            role("a", json!({"to": "all"}), &["get"]),
            role("b", json!({"to": "all"}), &["list"]),
            role("same", json!({"to": "all"}), &["get"]),
            role("other", json!({}), &["delete"]),
        ];
        let rules = plan(&whole, &all).expect("it has none");
        let verbs: Vec<_> = rules.iter().map(|r| r.verbs.join(",")).collect();
        assert_eq!(verbs, ["get", "list"]);
        whole.rules = Some(rules);
        assert_eq!(plan(&whole, &all), None);
        assert_eq!(plan(&all[0], &all), None, "not made of others");
    }
}
