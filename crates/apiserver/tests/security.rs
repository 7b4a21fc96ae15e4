//! A whole server with its real chain: who comes in, who may do what, what pods and Services become.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod secured;

use apiserver::context::{Peer, UserInfo};
use secured::{Client, start, text};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;

#[tokio::test]
async fn who_comes_in() {
    let server = start().await;
    let nobody = Client::default();
    let stranger = Client { token: Some("nonsense".into()), ..Client::default() };
    let cases = [
        (&nobody, "/version", 200),
        (&nobody, "/healthz", 200),
        (&nobody, "/readyz", 200),
        (&nobody, "/livez", 200),
        (&nobody, "/api", 401),
        (&nobody, "/api/v1/pods", 401),
        (&nobody, "/versions", 401),
        (&stranger, "/version", 401),
        (&stranger, "/api/v1/pods", 401),
        (&server.admin(), "/api/v1/pods", 200),
        (&server.user("jane", &[]), "/api", 200),
        (&server.user("jane", &[]), "/api/v1/pods", 403),
    ];
    for (client, path, code) in cases {
        let (got, answer) = server.get(client, path).await;
        assert_eq!(got, code, "{path}: {answer}");
        if code == 401 {
            assert_eq!((text(&answer, "/kind"), text(&answer, "/reason")), ("Status".into(), "Unauthorized".into()));
        }
    }
}

#[tokio::test]
async fn refusals_in_upstreams_words() {
    let server = start().await;
    let jane = server.user("jane", &[]);
    let cases = [
        (
            "GET",
            "/api/v1/namespaces/default/pods",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/x",
            r#"pods "x" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "GET",
            "/api/v1/nodes",
            r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope"#,
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/x/log",
            r#"pods "x" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "default""#,
        ),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/default/deployments/x",
            r#"deployments.apps "x" is forbidden: User "jane" cannot delete resource "deployments" in API group "apps" in the namespace "default""#,
        ),
        ("GET", "/metrics", r#"forbidden: User "jane" cannot get path "/metrics""#),
    ];
    for (method, path, message) in cases {
        let (code, answer) = server.send(&jane, method, path, &Value::Null).await;
        assert_eq!((code, text(&answer, "/message").as_str()), (403, message));
    }
}

#[tokio::test]
async fn roles_take_effect_at_once_and_cannot_be_escalated() {
    let server = start().await;
    let (jane, rbac) = (server.user("jane", &["devs"]), "/apis/rbac.authorization.k8s.io/v1");
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(server.get(&jane, pods).await.0, 403);
    let subject = json!([{"kind": "Group", "name": "devs", "apiGroup": "rbac.authorization.k8s.io"}]);
    let binding = |name: &str, kind: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "subjects": subject, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}})
    };
    server.make(&format!("{rbac}/namespaces/default/rolebindings"), binding("devs", "ClusterRole", "admin")).await;
    assert_eq!(server.get(&jane, pods).await.0, 200, "admin aggregates what edit and view may");
    assert_eq!(server.get(&jane, "/api/v1/namespaces/kube-system/pods").await.0, 403);
    assert_eq!(server.get(&jane, "/api/v1/namespaces/default/secrets").await.0, 200);

    let role = |name: &str, verb: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
            "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods", "nodes"]}]})
    };
    let roles = format!("{rbac}/namespaces/default/roles");
    let (code, answer) = server.post(&jane, &roles, &role("too-much", "get")).await;
    let message = text(&answer, "/message");
    assert_eq!(code, 403);
    assert!(
        message.contains("is attempting to grant RBAC permissions not currently held") && message.contains("nodes"),
        "{message}"
    );
    let mut own = role("own", "get");
    own["rules"][0]["resources"] = json!(["pods"]);
    assert_eq!(server.post(&jane, &roles, &own).await.0, 201);
    let bindings = format!("{rbac}/namespaces/default/rolebindings");
    assert_eq!(server.post(&jane, &bindings, &binding("own", "Role", "own")).await.0, 201);
    assert_eq!(server.post(&jane, &bindings, &binding("root", "ClusterRole", "cluster-admin")).await.0, 403);
    assert_eq!(server.post(&jane, &bindings, &binding("none", "ClusterRole", "no-such-role")).await.0, 404);

    let (code, _) = server.send(&server.admin(), "DELETE", &format!("{bindings}/devs"), &Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(server.get(&jane, "/api/v1/namespaces/default/secrets").await.0, 403);
}

#[tokio::test]
async fn impersonation() {
    let server = start().await;
    let mut admin = server.admin();
    admin.headers = vec![("impersonate-user", "jane".into())];
    let (code, answer) = server.get(&admin, "/api/v1/nodes").await;
    assert_eq!(code, 403);
    assert!(text(&answer, "/message").contains(r#"User "jane" cannot list"#));
    let mut jane = server.user("jane", &[]);
    jane.headers = vec![("impersonate-user", "root".into()), ("impersonate-group", "system:masters".into())];
    let (code, answer) = server.get(&jane, "/api/v1/nodes").await;
    assert_eq!(code, 403);
    assert!(text(&answer, "/message").contains(r#"User "jane" cannot impersonate resource "users""#), "{answer}");
}

#[tokio::test]
async fn service_accounts_and_their_tokens() {
    let server = start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let (code, answer) = server.post(&server.admin(), pods, &pod).await;
    assert_eq!(
        (code, text(&answer, "/message").as_str()),
        (
            403,
            r#"pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#
        )
    );
    server.make(accounts, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let pod = server.make(pods, pod).await;
    let volume = text(&pod, "/spec/volumes/0/name");
    assert!(volume.starts_with("kube-api-access-"), "{pod}");
    assert_eq!(
        text(&pod, "/spec/containers/0/volumeMounts/0/mountPath"),
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    assert_eq!(pod.pointer("/spec/priority"), Some(&json!(0)));
    assert_eq!(pod.pointer("/spec/tolerations").unwrap().as_array().unwrap().len(), 2);

    let request = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let bound = json!({"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]}});
    let token = server.make(&format!("{accounts}/default/token"), request(bound)).await;
    let client = Client { token: Some(text(&token, "/status/token")), ..Client::default() };
    let (code, review) = server
        .post(
            &client,
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}),
        )
        .await;
    assert_eq!(code, 201, "{review}");
    let user = review.pointer("/status/userInfo").unwrap();
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(server.get(&client, pods).await.0, 403);

    let foreign = server.make(&format!("{accounts}/default/token"), request(json!({"audiences": ["vault"]}))).await;
    let stranger = Client { token: Some(text(&foreign, "/status/token")), ..Client::default() };
    assert_eq!(server.get(&stranger, "/api").await.0, 401, "a token for others is none for us");
    let review = |audiences: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": text(&foreign, "/status/token"), "audiences": audiences}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(server.make(reviews, review(json!(["vault"]))).await["status"]["authenticated"], true);
    assert!(server.make(reviews, review(json!([]))).await["status"]["error"].is_string());

    let cases = [
        (json!({"expirationSeconds": 60}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"boundObjectRef": {"kind": "Pod", "name": "q"}}), 404, r#"pods "q" not found"#),
        (
            json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "other"}}),
            409,
            "does not match the UID in record",
        ),
        (json!({"boundObjectRef": {"kind": "Job", "name": "p"}}), 400, "cannot bind token"),
    ];
    for (spec, code, message) in cases {
        let (got, answer) = server.post(&server.admin(), &format!("{accounts}/default/token"), &request(spec)).await;
        assert_eq!(got, code, "{answer}");
        assert!(text(&answer, "/message").contains(message), "{answer}");
    }

    let gone = json!({"gracePeriodSeconds": 0});
    assert_eq!(server.send(&server.admin(), "DELETE", &format!("{pods}/p"), &gone).await.0, 200);
    assert_eq!(server.get(&client, "/api").await.0, 401, "a token ends with its pod");
}

#[tokio::test]
async fn openid_discovery() {
    let server = start().await;
    let admin = server.admin();
    let (code, discovery) = server.get(&admin, "/.well-known/openid-configuration").await;
    assert_eq!((code, text(&discovery, "/jwks_uri").as_str()), (200, "https://127.0.0.1:6443/openid/v1/jwks"));
    let (code, keys) = server.get(&admin, "/openid/v1/jwks").await;
    assert_eq!((code, text(&keys, "/keys/0/alg").as_str()), (200, "RS256"));
    assert_eq!(server.get(&Client::default(), "/openid/v1/jwks").await.0, 401);
    assert_eq!(server.get(&server.user("jane", &[]), "/openid/v1/jwks").await.0, 403);
}

#[tokio::test]
async fn reviews_answer() {
    let server = start().await;
    let path = "/apis/authorization.k8s.io/v1";
    let kind = |kind: &str, spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let lists = json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let (_, own) = server
        .post(
            &server.user("jane", &[]),
            &format!("{path}/selfsubjectaccessreviews"),
            &kind("SelfSubjectAccessReview", json!({"resourceAttributes": lists})),
        )
        .await;
    assert_eq!(own["status"]["allowed"], false, "{own}");
    let other =
        kind("SubjectAccessReview", json!({"user": "x", "groups": ["system:masters"], "resourceAttributes": lists}));
    assert_eq!(server.make(&format!("{path}/subjectaccessreviews"), other).await["status"]["allowed"], true);
    let local = kind(
        "LocalSubjectAccessReview",
        json!({"user": "x", "resourceAttributes": {"verb": "get", "namespace": "kube-system"}}),
    );
    let (code, _) =
        server.post(&server.admin(), &format!("{path}/namespaces/default/localsubjectaccessreviews"), &local).await;
    assert_eq!(code, 400);
    let rules = kind("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let (code, rules) =
        server.post(&server.user("jane", &[]), &format!("{path}/selfsubjectrulesreviews"), &rules).await;
    assert_eq!(code, 201);
    assert!(
        rules["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["resources"] == json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"])),
        "{rules}"
    );
    assert!(!rules["status"]["nonResourceRules"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn namespaces_come_and_go() {
    let server = start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let (code, answer) = server.post(&server.admin(), "/api/v1/namespaces/none/configmaps", &map).await;
    assert_eq!((code, text(&answer, "/message").as_str()), (404, r#"namespaces "none" not found"#));
    for name in ["default", "kube-system", "kube-public"] {
        let (code, answer) =
            server.send(&server.admin(), "DELETE", &format!("/api/v1/namespaces/{name}"), &Value::Null).await;
        assert_eq!(code, 403, "{answer}");
        assert!(text(&answer, "/message").contains("this namespace may not be deleted"));
    }
    server
        .make("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "brief"}}))
        .await;
    server.make("/api/v1/namespaces/brief/configmaps", map.clone()).await;
    assert_eq!(server.send(&server.admin(), "DELETE", "/api/v1/namespaces/brief", &Value::Null).await.0, 200);
    let (code, answer) = server.post(&server.admin(), "/api/v1/namespaces/brief/configmaps", &map).await;
    assert_eq!(code, 403, "{answer}");
    assert_eq!(text(&answer, "/details/causes/0/reason"), "NamespaceTerminating");
    assert!(text(&answer, "/message").ends_with("because it is being terminated"), "{answer}");
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let server = start().await;
    let path = "/api/v1/namespaces/default/services";
    let port = json!([{"port": 80}]);
    let plain = server.make(path, service("plain", json!({"ports": port, "selector": {"a": "b"}}))).await;
    let ip: Ipv4Addr = text(&plain, "/spec/clusterIP").parse().unwrap();
    assert!(ip.octets()[3] >= 17, "not of the part that is kept for those who ask: {ip}");
    assert_eq!(plain["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(
        (text(&plain, "/spec/ipFamilyPolicy"), &plain["spec"]["ipFamilies"]),
        ("SingleStack".into(), &json!(["IPv4"]))
    );
    let headless = server
        .make(path, service("headless", json!({"clusterIP": "None", "ports": port, "selector": {"a": "b"}})))
        .await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external =
        server.make(path, service("external", json!({"type": "ExternalName", "externalName": "example.org"}))).await;
    assert_eq!(external["spec"].get("clusterIP"), None, "{external}");
    let fixed = server.make(path, service("fixed", json!({"clusterIP": "10.96.0.5", "ports": port}))).await;
    assert_eq!(text(&fixed, "/spec/clusterIP"), "10.96.0.5");
    let both = json!([{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"}, {"name": "w", "port": 80}]);
    let node =
        server.make(path, service("node", json!({"type": "NodePort", "ports": both, "selector": {"a": "b"}}))).await;
    let node_ports: Vec<u64> =
        node["spec"]["ports"].as_array().unwrap().iter().map(|p| p["nodePort"].as_u64().unwrap()).collect();
    assert!(node_ports[0] == node_ports[1] && node_ports[1] != node_ports[2], "{node_ports:?}");

    let refused = [
        (
            json!({"clusterIP": "10.96.0.5", "ports": port}),
            r#"Service "new" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.5"]: failed to allocate IP 10.96.0.5: provided IP is already allocated"#,
        ),
        (json!({"clusterIP": "10.96.0.1", "ports": port}), "provided IP is already allocated"),
        (
            json!({"clusterIP": "10.97.0.5", "ports": port}),
            "the provided IP (10.97.0.5) is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_ports[2]}]}),
            "provided port is already allocated",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "provided port is not in the valid range. The range of valid ports is 30000-30040",
        ),
    ];
    for (spec, message) in refused {
        let (code, answer) = server.post(&server.admin(), path, &service("new", spec)).await;
        assert_eq!(code, 422, "{answer}");
        assert!(text(&answer, "/message").contains(message), "{answer}");
    }
    assert_eq!(server.send(&server.admin(), "DELETE", &format!("{path}/fixed"), &Value::Null).await.0, 200);
    server.make(path, service("heir", json!({"clusterIP": "10.96.0.5", "ports": port}))).await;
}

#[tokio::test]
async fn no_address_is_given_twice_and_failed_writes_give_back() {
    let server = Arc::new(start().await);
    let path = "/api/v1/namespaces/default/services";
    // 253 addresses, two of them taken at start: more than are left are asked for at once.
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..270 {
        let server = server.clone();
        tasks.spawn(async move {
            let body = service(&format!("s{i}"), json!({"ports": [{"port": 80}]}));
            server.post(&server.admin(), path, &body).await
        });
    }
    let (mut given, mut full) = (Vec::new(), 0);
    while let Some(answer) = tasks.join_next().await {
        let (code, answer) = answer.unwrap();
        match code {
            201 => given.push(text(&answer, "/spec/clusterIP")),
            _ => {
                assert!(text(&answer, "/message").contains("range is full"), "{answer}");
                full += 1;
            }
        }
    }
    given.sort();
    let all = given.len();
    given.dedup();
    assert_eq!((all, given.len(), full), (252, 252, 18));
    let (code, _) = server.send(&server.admin(), "DELETE", &format!("{path}/s0"), &Value::Null).await;
    if code == 200 {
        let dry = server
            .post(&server.admin(), &format!("{path}?dryRun=All"), &service("dry", json!({"ports": [{"port": 80}]})))
            .await;
        assert_eq!(dry.0, 201, "{}", dry.1);
        server.make(path, service("last", json!({"ports": [{"port": 80}]}))).await;
    }
}

#[tokio::test]
async fn nodes_see_what_their_pods_use() {
    let server = start().await;
    let node = server.user("system:node:n1", &["system:nodes"]);
    let core = "/api/v1/namespaces/default";
    server
        .make(
            &format!("{core}/serviceaccounts"),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    for name in ["used", "unused"] {
        server
            .make(&format!("{core}/secrets"), json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}))
            .await;
    }
    let secret = |name: &str| format!("{core}/secrets/{name}");
    assert_eq!(server.get(&node, &secret("used")).await.0, 403);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeName": "n1", "containers": [{"name": "c", "image": "x", "envFrom": [{"secretRef": {"name": "used"}}]}]}});
    server.make(&format!("{core}/pods"), pod).await;
    assert_eq!(server.get(&node, &secret("used")).await.0, 200);
    let (code, answer) = server.get(&node, &secret("unused")).await;
    assert_eq!(code, 403);
    assert!(text(&answer, "/message").contains("no relationship found between node 'n1' and this object"), "{answer}");
    assert_eq!(
        server.get(&node, &format!("{core}/configmaps/kube-root-ca.crt")).await.0,
        404,
        "allowed, and not there"
    );
    assert_eq!(server.get(&node, &format!("{core}/secrets")).await.0, 403);
    assert_eq!(server.get(&node, "/api/v1/pods?fieldSelector=spec.nodeName=n1").await.0, 200);
    assert_eq!(server.get(&server.user("system:node:n2", &["system:nodes"]), &secret("used")).await.0, 403);
    let this = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}});
    let (code, made) = server.post(&node, "/api/v1/nodes", &this).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}});
    assert_eq!(server.post(&node, "/api/v1/nodes", &other).await.0, 403);
    let lease =
        |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(server.post(&node, leases, &lease("n1")).await.0, 201);
    assert_eq!(server.post(&node, leases, &lease("n2")).await.0, 403);
}

#[tokio::test]
async fn streams_need_what_they_need() {
    let server = start().await;
    let core = "/api/v1/namespaces/default";
    server
        .make(
            &format!("{core}/serviceaccounts"),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    let pod = |name: &str, containers: &[&str]| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "containers": containers.iter().map(|c| json!({"name": c, "image": "x"})).collect::<Vec<_>>()}})
    };
    server.make(&format!("{core}/pods"), pod("one", &["a"])).await;
    server.make(&format!("{core}/pods"), pod("two", &["a", "b"])).await;
    let cases = [
        ("pods/none/log", 404, r#"pods "none" not found"#),
        ("pods/two/log", 400, "a container name must be specified for pod two, choose one of: [a b]"),
        ("pods/one/log?container=x", 400, "container x is not valid for pod one"),
        ("pods/one/log?tailLines=-1", 422, "must be greater than or equal to 0"),
        ("pods/one/exec?command=ls", 400, "pod one does not have a host assigned"),
        ("pods/one/proxy/", 400, "address not allowed"),
        ("services/none/proxy/", 404, r#"services "none" not found"#),
    ];
    for (path, code, message) in cases {
        let (got, answer) = server.get(&server.admin(), &format!("{core}/{path}")).await;
        assert_eq!(got, code, "{path}: {answer}");
        assert!(text(&answer, "/message").contains(message), "{path}: {answer}");
    }
    assert_eq!(server.get(&server.admin(), &format!("{core}/pods/one/log")).await, (200, json!("")));
    let (code, answer) =
        server.get(&server.admin(), "/api/v1/namespaces/default/services/kubernetes:https/proxy/").await;
    assert_eq!(code, 503, "192.0.2.1 is nowhere: {answer}");
}

#[tokio::test]
async fn components_inside_are_who_they_say() {
    let server = start().await;
    let user = UserInfo { name: "system:kube-scheduler".into(), ..UserInfo::default() };
    let client = Client { peer: Peer { user: Some(Arc::new(user)), ..Peer::default() }, ..Client::default() };
    assert_eq!(server.get(&client, "/api/v1/pods").await.0, 200);
    assert_eq!(server.get(&client, "/api/v1/secrets").await.0, 403);
    let user = UserInfo { name: "system:kube-controller-manager".into(), ..UserInfo::default() };
    let client = Client { peer: Peer { user: Some(Arc::new(user)), ..Peer::default() }, ..Client::default() };
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    let (code, answer) = server.post(&client, "/apis/apps/v1/namespaces/default/replicasets", &set).await;
    assert_eq!(code, 201, "{answer}");
}
