//! The roles and bindings every cluster starts with.

use serde_json::Value;

/// Written by `tools/policygen` from upstream's policy: one object a line.
const POLICY: &str = include_str!("../../data/policy.jsonl");

/// One of the cluster roles.
pub(super) fn cluster_role(name: &str) -> Option<Value> {
    // The line is found by its text, so that only one is parsed.
    let mark = format!("\"name\":\"{name}\"}}");
    let mut lines = POLICY.lines().filter(|line| line.contains("\"kind\":\"ClusterRole\"") && line.contains(&mark));
    lines.find_map(|line| serde_json::from_str(line).ok())
}

/// All of them, as objects of `rbac.authorization.k8s.io/v1`.
pub fn bootstrap_objects() -> Vec<Value> {
    POLICY.lines().map(|line| serde_json::from_str(line).expect("the generated policy is JSON")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_role() {
        let role = super::cluster_role("system:node").unwrap();
        assert_eq!((&role["kind"], &role["metadata"]["name"]), (&"ClusterRole".into(), &"system:node".into()));
        assert!(!role["rules"].as_array().unwrap().is_empty());
        assert_eq!(super::cluster_role("system:nod"), None);
    }

    #[test]
    fn the_policy_has_what_a_cluster_needs() {
        let objects = super::bootstrap_objects();
        let names: Vec<(&str, &str)> =
            objects.iter().map(|o| (o["kind"].as_str().unwrap(), o["metadata"]["name"].as_str().unwrap())).collect();
        for wanted in [
            ("ClusterRole", "cluster-admin"),
            ("ClusterRole", "admin"),
            ("ClusterRole", "view"),
            ("ClusterRole", "system:aggregate-to-edit"),
            ("ClusterRole", "system:node"),
            ("ClusterRole", "system:kube-dns"),
            ("ClusterRole", "system:controller:replicaset-controller"),
            ("ClusterRoleBinding", "cluster-admin"),
            ("ClusterRoleBinding", "system:public-info-viewer"),
            ("ClusterRoleBinding", "system:service-account-issuer-discovery"),
            ("Role", "extension-apiserver-authentication-reader"),
            ("RoleBinding", "system::leader-locking-kube-scheduler"),
        ] {
            assert!(names.contains(&wanted), "{wanted:?}");
        }
    }
}
