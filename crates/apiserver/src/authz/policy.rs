//! The roles and bindings every cluster starts with.

use serde_json::{Value, json};

/// Written by `tools/policygen` from upstream's policy: one object a line.
const POLICY: &str = include_str!("../../data/policy.jsonl");

/// One of the cluster roles.
pub(super) fn cluster_role(name: &str) -> Option<Value> {
    // The line is found by its text, so that only one is parsed.
    let mark = format!("\"name\":\"{name}\"}}");
    let mut lines = POLICY.lines().filter(|line| line.contains("\"kind\":\"ClusterRole\"") && line.contains(&mark));
    lines.find_map(|line| serde_json::from_str(line).ok())
}

/// All of them, as objects of `rbac.authorization.k8s.io/v1`. The controllers of this program have one user in common, which
/// therefore holds the role of each (as upstream asks of a controller manager without credentials for each controller).
pub fn bootstrap_objects() -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).expect("the generated policy is JSON");
    let mut objects: Vec<Value> = POLICY.lines().map(parse).collect();
    for object in &mut objects {
        let of_controller = object["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("system:controller:"));
        if let (true, Some(subjects)) = (of_controller, object.get_mut("subjects").and_then(Value::as_array_mut)) {
            subjects.push(json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-controller-manager"}));
        }
    }
    objects
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
