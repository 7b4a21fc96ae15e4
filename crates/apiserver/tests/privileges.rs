//! Nobody gains a privilege: not by impersonation, roles, tokens, proxies, nor odd paths.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod secured;

use secured::{Client, Secured, start, text};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CORE: &str = "/api/v1/namespaces/default";

fn rule(verb: &str, group: &str, resource: &str) -> Value {
    json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]})
}

fn named(verb: &str, group: &str, resource: &str, name: &str) -> Value {
    json!({"verbs": [verb], "apiGroups": [group], "resources": [resource], "resourceNames": [name]})
}

#[tokio::test]
async fn each_part_of_an_impersonation_needs_its_right() {
    let server = start().await;
    let authn = "authentication.k8s.io";
    server.grant("proxy", named("impersonate", "", "users", "jane")).await;
    server.grant("proxy", named("impersonate", "", "users", "system:anonymous")).await;
    server.grant("proxy", named("impersonate", "", "groups", "devs")).await;
    server.grant("proxy", named("impersonate", "", "serviceaccounts", "robot")).await;
    server.grant("proxy", named("impersonate", authn, "userextras/scopes", "view")).await;
    server.grant("proxy", named("impersonate", authn, "uids", "u-1")).await;
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let become_one = async |headers: &[(&'static str, &str)], code: u16, expected: &str| {
        let mut client = server.user("proxy", &[]);
        client.headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let (got, answer) = server.post(&client, whoami, &review).await;
        assert!(got == code && answer.to_string().contains(expected), "{headers:?}: {got} {answer}");
        answer
    };
    let user = ("impersonate-user", "jane");
    let jane = become_one(
        &[user, ("impersonate-group", "devs"), ("impersonate-extra-scopes", "view"), ("impersonate-uid", "u-1")],
        201,
        "jane",
    )
    .await;
    let info = &jane["status"]["userInfo"];
    assert_eq!(info["groups"], json!(["devs", "system:authenticated"]), "none of the groups of the real one: {jane}");
    assert_eq!((&info["uid"], &info["extra"]["scopes"]), (&json!("u-1"), &json!(["view"])));
    assert!(info["extra"].get("authentication.kubernetes.io/credential-id").is_none(), "{jane}");

    let robot = ("impersonate-user", "system:serviceaccount:default:robot");
    let robot = become_one(&[robot], 201, "robot").await;
    assert_eq!(
        robot["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    for (headers, expected) in [
        (&[("impersonate-user", "root")][..], r#"cannot impersonate resource \"users\""#),
        (&[user, ("impersonate-group", "system:masters")], r#"cannot impersonate resource \"groups\""#),
        (&[user, ("impersonate-group", "devs"), ("impersonate-group", "system:masters")], "system:masters"),
        (&[user, ("impersonate-extra-scopes", "edit")], r#"cannot impersonate resource \"userextras/scopes\""#),
        (&[user, ("impersonate-extra-scopes%2fx", "view")], r#"cannot impersonate resource \"userextras/scopes/x\""#),
        (&[user, ("impersonate-extra-other", "view")], r#"cannot impersonate resource \"userextras/other\""#),
        (&[user, ("impersonate-uid", "u-2")], r#"cannot impersonate resource \"uids\""#),
        (&[("impersonate-user", "system:serviceaccount:default:other")], "serviceaccounts"),
        (&[("impersonate-user", "system:serviceaccount:default:robot:x")], "serviceaccounts"),
        (&[("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")], "users"),
    ] {
        become_one(headers, 403, expected).await;
    }
    for headers in [
        &[("impersonate-group", "system:masters")][..],
        &[("impersonate-uid", "u-1")],
        &[("impersonate-extra-scopes", "view")],
        &[("impersonate-user", "")],
    ] {
        let expected = if headers[0].1.is_empty() { 201 } else { 400 };
        become_one(headers, expected, "").await;
    }
    // What cannot be read as a name must not leave the client who it was.
    become_one(&[("impersonate-user", "jürgen")], 403, r#"cannot impersonate resource \"users\""#).await;
    become_one(&[("impersonate-user", "system:anonymous")], 401, "Unauthorized").await;
    // The headers of a front proxy are nothing from anyone else.
    let mut front = server.user("proxy", &[]);
    front.headers = vec![("x-remote-user", "root".into()), ("x-remote-group", "system:masters".into())];
    assert_eq!(text(&server.post(&front, whoami, &review).await.1, "/status/userInfo/username"), "proxy");
}

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(kind: &str, name: &str, role: (&str, &str)) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1}})
}

#[tokio::test]
async fn no_write_of_a_role_or_binding_gives_more_than_the_writer_has() {
    let server = start().await;
    let jane = server.user("jane", &[]);
    let group = "rbac.authorization.k8s.io";
    for resource in ["roles", "clusterroles", "rolebindings", "clusterrolebindings"] {
        // Everything but the two verbs that lift the checks.
        let verbs = ["get", "list", "create", "update", "patch", "delete"];
        server.grant("jane", json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]})).await;
    }
    server.grant("jane", rule("get", "", "pods")).await;
    let (roles, cluster_roles) = (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/clusterroles"));
    let (bindings, cluster_bindings) =
        (format!("{RBAC}/namespaces/default/rolebindings"), format!("{RBAC}/clusterrolebindings"));
    let own = json!([rule("get", "", "pods")]);
    server.check(&jane, &format!("POST {roles}"), &role("Role", "own", own.clone()), 201, "").await;
    server.check(&jane, &format!("POST {cluster_roles}"), &role("ClusterRole", "own", own.clone()), 201, "").await;
    server.check(&jane, &format!("POST {bindings}"), &binding("RoleBinding", "own", ("Role", "own")), 201, "").await;
    server.make(&cluster_roles, role("ClusterRole", "empty", json!([]))).await;
    let more = "is attempting to grant RBAC permissions not currently held";
    for (what, body) in too_much(&roles, &cluster_roles) {
        server.check(&jane, &what, &body, 403, more).await;
    }
    let aggregates = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let mut fresh = role("ClusterRole", "aggregate", json!([]));
    fresh["aggregationRule"] = aggregates["aggregationRule"].clone();
    for (what, body) in [
        (format!("POST {cluster_roles}"), &fresh),
        (format!("PATCH {cluster_roles}/own"), &aggregates),
        (format!("PATCH {cluster_roles}/aggregate?fieldManager=jane"), &fresh),
    ] {
        server.check(&jane, &what, body, 403, "must have cluster-admin privileges to use the aggregationRule").await;
    }
    for (what, body) in [
        (format!("POST {bindings}"), binding("RoleBinding", "b", ("ClusterRole", "cluster-admin"))),
        (format!("POST {cluster_bindings}"), binding("ClusterRoleBinding", "b", ("ClusterRole", "cluster-admin"))),
        (format!("POST {cluster_bindings}"), binding("ClusterRoleBinding", "b", ("ClusterRole", "admin"))),
        (
            format!("PATCH {bindings}/b?fieldManager=jane"),
            binding("RoleBinding", "b", ("ClusterRole", "cluster-admin")),
        ),
        // One more subject of a binding that is there already.
        (
            format!("PATCH {cluster_bindings}/cluster-admin"),
            json!({"subjects": [{"kind": "User", "apiGroup": group, "name": "jane"}]}),
        ),
        (
            format!("PUT {cluster_bindings}/cluster-admin"),
            binding("ClusterRoleBinding", "cluster-admin", ("ClusterRole", "cluster-admin")),
        ),
    ] {
        server.check(&jane, &what, &body, 403, more).await;
    }
    let other = json!({"roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "empty"}});
    server.check(&jane, &format!("PATCH {bindings}/own"), &other, 422, "roleRef").await;
    let root = json!({"roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"}});
    let (code, answer) = server.send(&jane, "PATCH", &format!("{bindings}/own"), &root).await;
    assert!(matches!(code, 403 | 422), "{answer}");
    let mut foreign = binding("RoleBinding", "b", ("ClusterRole", "empty"));
    foreign["roleRef"]["apiGroup"] = "example.org".into();
    let (code, answer) = server.post(&jane, &bindings, &foreign).await;
    assert!(matches!(code, 404 | 422), "{answer}");
    let urls = json!([{"verbs": ["get"], "nonResourceURLs": ["/version"]}]);
    let (code, answer) = server.post(&server.admin(), &roles, &role("Role", "urls", urls)).await;
    assert_eq!(code, 422, "a role of a namespace is for no paths: {answer}");
    server.check(&jane, "GET /api/v1/secrets", &Value::Null, 403, "cannot list").await;
    assert_lifted_by_their_verbs_alone(&server, &roles, &bindings, &cluster_bindings).await;
}

/// Ways to put rights that Jane lacks into a role.
fn too_much(roles: &str, cluster_roles: &str) -> Vec<(String, Value)> {
    let secrets = json!([rule("get", "", "secrets")]);
    vec![
        (format!("POST {roles}"), role("Role", "r", secrets.clone())),
        (format!("POST {roles}"), role("Role", "r", json!([rule("*", "", "pods")]))),
        (format!("POST {roles}"), role("Role", "r", json!([rule("get", "*", "pods")]))),
        (format!("POST {roles}"), role("Role", "r", json!([rule("get", "", "*")]))),
        (format!("POST {roles}"), role("Role", "r", json!([rule("get", "", "pods/log")]))),
        (format!("POST {roles}"), role("Role", "r", json!([rule("get", "", "*/pods")]))),
        (format!("POST {roles}"), role("Role", "r", json!([rule("escalate", "rbac.authorization.k8s.io", "roles")]))),
        (format!("POST {cluster_roles}"), role("ClusterRole", "r", secrets.clone())),
        (
            format!("POST {cluster_roles}"),
            role("ClusterRole", "r", json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}])),
        ),
        (format!("POST {cluster_roles}"), role("ClusterRole", "r", json!([rule("impersonate", "", "users")]))),
        (format!("PUT {roles}/own"), role("Role", "own", secrets.clone())),
        (format!("PATCH {roles}/own"), json!({"rules": secrets})),
        (format!("PATCH {roles}/own?fieldManager=jane&force=true"), role("Role", "own", secrets.clone())),
        (format!("PATCH {roles}/r?fieldManager=jane"), role("Role", "r", secrets.clone())),
        (format!("PATCH {cluster_roles}/own"), json!({"rules": secrets})),
        // A role that others select: what it gains, they gain.
        (
            format!("PATCH {cluster_roles}/own"),
            json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, "rules": secrets}),
        ),
    ]
}

/// `escalate` is about roles, `bind` about the roles that are bound; every verb on bindings is neither.
async fn assert_lifted_by_their_verbs_alone(server: &Secured, roles: &str, bindings: &str, cluster_bindings: &str) {
    let group = "rbac.authorization.k8s.io";
    let every = json!({"verbs": ["*"], "apiGroups": [group], "resources": ["rolebindings", "clusterrolebindings"]});
    server.grant("binder", every).await;
    let binder = server.user("binder", &[]);
    let root = binding("ClusterRoleBinding", "root", ("ClusterRole", "cluster-admin"));
    server.check(&binder, &format!("POST {cluster_bindings}"), &root, 403, "not currently held").await;
    let edit = |name: &str| binding("RoleBinding", name, ("ClusterRole", "edit"));
    server.check(&binder, &format!("POST {bindings}"), &edit("e"), 403, "not currently held").await;
    server.grant("binder", named("bind", group, "clusterroles", "edit")).await;
    server.check(&binder, &format!("POST {bindings}"), &edit("e"), 201, "").await;
    server.check(&binder, &format!("POST {cluster_bindings}"), &root, 403, "not currently held").await;
    server.grant("author", rule("create", group, "roles")).await;
    server.grant("author", named("escalate", group, "roles", "only-this")).await;
    let author = server.user("author", &[]);
    let secrets = |name: &str| role("Role", name, json!([rule("get", "", "secrets")]));
    server.check(&author, &format!("POST {roles}"), &secrets("only-this"), 201, "").await;
    server.check(&author, &format!("POST {roles}"), &secrets("another"), 403, "not currently held").await;
}

#[tokio::test]
async fn odd_paths_lead_nowhere() {
    let server = start().await;
    server.grant("reader", rule("get", "", "pods")).await;
    let reader = server.user("reader", &[]);
    let long = "x".repeat(40_000);
    // Neither is what it looks like to a program that tidies paths.
    for path in [
        "/healthz/../api/v1/secrets",
        "/healthz/..%2fapi/v1/secrets",
        "/version/%2e%2e/api/v1/secrets",
        "/livez/%00",
        "/readyz//api/v1/secrets",
    ] {
        let (code, answer) = server.get(&Client::default(), path).await;
        assert!(matches!(code, 401 | 403 | 404), "{path}: {code} {answer}");
    }
    for path in [
        "/api/v1/namespaces/default/pods/../secrets",
        "/api/v1/namespaces/default/pods/..%2fsecrets",
        "/api/v1/namespaces/default/pods/%2e%2e/secrets",
        "/api/v1/namespaces/default/pods/p/%2e%2e/secrets/s",
        "/api/v1/namespaces/%2e%2e/secrets",
        "/api/v1/namespaces/default%2fsecrets",
        "/api/v1/namespaces/default%2f/secrets",
        "/api/v1/namespaces/default/%73ecrets",
        "//api/v1/namespaces/default/secrets",
        "/api//v1/namespaces/default/secrets",
        "/api/v1//namespaces/default/secrets",
        "/api/v1/namespaces//secrets",
        "/API/v1/namespaces/default/secrets",
        "/api/v1/namespaces/default/Secrets",
        "/api/v1/namespaces/default/secrets%00",
        "/api/v1/watch/namespaces/default/secrets?timeoutSeconds=1",
        "/api/v1/proxy/namespaces/default/pods/p",
        "/apis//v1/namespaces/default/secrets",
        "/apis/%2f/v1/namespaces/default/secrets",
    ] {
        let (code, answer) = server.get(&reader, path).await;
        assert!(matches!(code, 403 | 404), "{path}: {code} {answer}");
        let (code, answer) = server.get(&server.admin(), path).await;
        assert!(code < 500, "{path}: {code} {answer}");
    }
    for path in [format!("/api/v1/{long}"), format!("{CORE}/configmaps?labelSelector={long}")] {
        server.check(&server.admin(), &format!("GET {path}"), &Value::Null, 414, "too long").await;
    }
}

#[tokio::test]
async fn verbs_and_names_are_what_the_path_says() {
    let server = start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    server.make(&format!("{CORE}/configmaps"), map).await;
    server.grant("reader", rule("watch", "", "configmaps")).await;
    let exec = json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "pods/exec"]});
    server.grant("reader", exec).await;
    let reader = server.user("reader", &[]);
    // A watch right is one to watch, whatever the method; and nothing below an object can be watched.
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in ["/api/v1/watch/namespaces/default/configmaps/m", "/api/v1/watch/namespaces/default/configmaps"] {
            let (code, answer) = server.send(&reader, method, path, &json!({})).await;
            assert!(matches!(code, 403..=405), "{method} {path}: {code} {answer}");
        }
    }
    for method in ["GET", "POST"] {
        let path = "/api/v1/watch/namespaces/default/pods/p/exec?command=ls";
        let (code, answer) = server.send(&reader, method, path, &Value::Null).await;
        assert!(matches!(code, 403..=405) && !answer.to_string().contains("not have a host"), "{code} {answer}");
    }
    assert_eq!(server.get(&server.admin(), &format!("{CORE}/configmaps/m")).await.0, 200, "nothing was deleted");
    for name in [".", "..", "a/b", "a%b", "a\u{0}b", ""] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        server.check(&server.admin(), &format!("POST {CORE}/configmaps"), &map, 422, "").await;
    }
    // The namespace of the URL decides, not that of the object.
    let elsewhere =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "e", "namespace": "kube-system"}});
    server.check(&server.admin(), &format!("POST {CORE}/configmaps"), &elsewhere, 400, "does not match").await;
    server.check(&server.admin(), &format!("PUT {CORE}/configmaps/m"), &elsewhere, 400, "does not match").await;
}

#[tokio::test]
async fn a_right_to_names_is_one_to_these_names() {
    let server = start().await;
    for name in ["a", "b"] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        server.make(&format!("{CORE}/secrets"), secret).await;
    }
    let rule = json!({"verbs": ["get", "list", "watch", "delete", "deletecollection"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]});
    server.grant("jane", rule).await;
    let jane = server.user("jane", &[]);
    let secrets = format!("{CORE}/secrets");
    for query in [
        "",
        "?fieldSelector=metadata.name=b",
        "?fieldSelector=metadata.name%21=b",
        "?fieldSelector=&fieldSelector=metadata.name=a",
        "?fieldSelector=metadata.namespace=default",
    ] {
        server.check(&jane, &format!("GET {secrets}{query}"), &Value::Null, 403, "cannot list").await;
        server.check(&jane, &format!("DELETE {secrets}{query}"), &Value::Null, 403, "cannot deletecollection").await;
    }
    server.check(&jane, &format!("GET {secrets}/b"), &Value::Null, 403, "cannot get").await;
    server.check(&jane, &format!("GET {secrets}/b?watch=1"), &Value::Null, 403, "cannot watch").await;
    for query in [
        "?fieldSelector=metadata.name=a",
        "?fieldSelector=metadata.name=a&fieldSelector=metadata.name=b",
        "?fieldSelector=metadata.name=a,metadata.namespace=default",
    ] {
        let (code, list) = server.get(&jane, &format!("{secrets}{query}")).await;
        assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)), "{query}: {list}");
        assert_eq!(list["items"][0]["metadata"]["name"], "a");
    }
    let (code, answer) =
        server.send(&jane, "DELETE", &format!("{secrets}?fieldSelector=metadata.name=a"), &Value::Null).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(server.get(&server.admin(), &format!("{secrets}/b")).await.0, 200);
}
