//! Where one's rights end: nodes, tokens, proxies, and what a namespace lets its pods do.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod secured;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::patch::merge_patch;
use secured::{Client, Secured, start, text};
use serde_json::{Value, json};

const CORE: &str = "/api/v1/namespaces/default";
const NONE: Value = Value::Null;

fn object(kind: &str, name: &str, rest: &Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    merge_patch(&mut object, rest).unwrap();
    object
}

fn pod(name: &str, rest: &Value) -> Value {
    let spec = json!({"spec": {"containers": [{"name": "c", "image": "x"}]}});
    let mut pod = object("Pod", name, &spec);
    merge_patch(&mut pod, rest).unwrap();
    pod
}

/// A service account, two nodes, and a pod on each.
async fn furnished() -> Secured {
    let server = start().await;
    for name in ["default", "robot"] {
        server.make(&format!("{CORE}/serviceaccounts"), object("ServiceAccount", name, &json!({}))).await;
    }
    for node in ["n1", "n2"] {
        server.make("/api/v1/nodes", object("Node", node, &json!({}))).await;
        let spec = json!({"spec": {"nodeName": node, "serviceAccountName": "robot"}});
        server.make(&format!("{CORE}/pods"), pod(&format!("on-{node}"), &spec)).await;
    }
    server
}

fn uid(object: &Value) -> String {
    text(object, "/metadata/uid")
}

async fn read(server: &Secured, path: &str) -> Value {
    let (code, answer) = server.get(&server.admin(), path).await;
    assert_eq!(code, 200, "{path}: {answer}");
    answer
}

fn mirror(owner: Value, rest: &Value) -> Value {
    let mut mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]},
        "spec": {"nodeName": "n1"}});
    merge_patch(&mut mirror, rest).unwrap();
    pod("mirror", &mirror)
}

#[tokio::test]
async fn a_node_makes_mirror_pods_alone() {
    let server = furnished().await;
    let node = server.user("system:node:n1", &["system:nodes"]);
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid(&read(&server, "/api/v1/nodes/n1").await), "controller": true});
    let with = |field: &str, value: Value| {
        let mut owner = owner.clone();
        owner[field] = value;
        owner
    };
    let mine = || owner.clone();
    let pods = format!("POST {CORE}/pods");
    let blocks = "must not set blockOwnerDeletion";
    let secret_volume = json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}});
    let secret_env =
        json!({"spec": {"containers": [{"name": "c", "image": "x", "envFrom": [{"configMapRef": {"name": "m"}}]}]}});
    let claim = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let elsewhere = json!({"spec": {"nodeName": "n2"}});
    let lonely = json!({"metadata": {"ownerReferences": null}});
    for (body, message) in [
        (pod("plain", &json!({"spec": {"nodeName": "n1"}})), "can only create mirror pods"),
        (mirror(mine(), &elsewhere), "can only create pods with spec.nodeName set to itself"),
        (mirror(mine(), &lonely), "can only create pods with an owner reference set to itself"),
        (mirror(with("name", json!("n2")), &json!({})), "an owner reference set to itself"),
        (mirror(with("controller", json!(false)), &json!({})), "a controller owner reference set to itself"),
        (mirror(with("blockOwnerDeletion", json!(true)), &json!({})), blocks),
        (mirror(with("uid", json!("other")), &json!({})), "UID mismatch"),
        (mirror(mine(), &json!({"spec": {"serviceAccountName": "robot"}})), "service account"),
        (mirror(mine(), &secret_volume), "can not create pods that reference secrets"),
        (mirror(mine(), &secret_env), "can not create pods that reference configmaps"),
        (mirror(mine(), &claim), "can not create pods that reference persistentvolumeclaims"),
    ] {
        server.check(&node, &pods, &body, 403, message).await;
    }
    server.check(&node, &pods, &mirror(mine(), &json!({})), 201, "").await;
}

#[tokio::test]
async fn a_node_changes_itself_and_its_pods() {
    let server = furnished().await;
    let node = server.user("system:node:n1", &["system:nodes"]);

    let (running, own_label) = (json!({"status": {"phase": "Running"}}), json!({"metadata": {"labels": {"a": "b"}}}));
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let (evict_own, evict_other) = (eviction("on-n1"), eviction("on-n2"));
    let labels = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let free_label = json!({"metadata": {"labels": {"node.kubernetes.io/x": "", "example.org/x": ""}}});
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let owned =
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n2", "uid": "u"}]}});
    let fine = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let cases = [
        (format!("PATCH {CORE}/pods/on-n1/status"), &running, 200, ""),
        (
            format!("PATCH {CORE}/pods/on-n2/status"),
            &running,
            403,
            "can only update pod status for pods with spec.nodeName",
        ),
        (format!("PATCH {CORE}/pods/on-n1/status"), &own_label, 403, "cannot update labels through pod status"),
        (format!("PATCH {CORE}/pods/on-n1"), &own_label, 403, "cannot patch"),
        (format!("DELETE {CORE}/pods/on-n2"), &NONE, 403, "can only delete pods with spec.nodeName set to itself"),
        (format!("DELETE {CORE}/pods"), &NONE, 403, "cannot deletecollection"),
        (
            format!("POST {CORE}/pods/on-n2/eviction"),
            &evict_other,
            403,
            "can only evict pods with spec.nodeName set to itself",
        ),
        (format!("POST {CORE}/pods/on-n1/eviction"), &evict_own, 201, ""),
        (format!("POST {CORE}/pods/on-n1/binding"), &NONE, 403, "cannot create"),
        ("PATCH /api/v1/nodes/n2".into(), &free_label, 403, r#"is not allowed to modify node "n2""#),
        ("PATCH /api/v1/nodes/n2/status".into(), &fine, 403, "is not allowed to modify node"),
        ("PATCH /api/v1/nodes/n1/status".into(), &fine, 200, ""),
        ("PATCH /api/v1/nodes/n1".into(), &free_label, 200, ""),
        (
            "PATCH /api/v1/nodes/n1".into(),
            &labels,
            403,
            "is not allowed to modify labels: node-role.kubernetes.io/control-plane",
        ),
        ("PATCH /api/v1/nodes/n1/status".into(), &labels, 403, "is not allowed to modify labels"),
        ("PATCH /api/v1/nodes/n1".into(), &taint, 403, "is not allowed to modify taints"),
        ("PATCH /api/v1/nodes/n1".into(), &owned, 403, "is not allowed to modify ownerReferences"),
        ("DELETE /api/v1/nodes/n1".into(), &NONE, 403, "cannot delete"),
    ];
    for (what, body, code, message) in &cases {
        server.check(&node, what, body, *code, message).await;
    }
    let labelled = object("Node", "n3", &labels);
    let n3 = server.user("system:node:n3", &["system:nodes"]);
    server.check(&n3, "POST /api/v1/nodes", &labelled, 403, "is not allowed to set the following labels").await;
}

#[tokio::test]
async fn a_node_reads_what_it_needs() {
    let server = furnished().await;
    let node = server.user("system:node:n1", &["system:nodes"]);
    let other = "only its own Node object";
    let unrelated = "no relationship found between node 'n1' and this object";
    for (path, code, message) in [
        ("/api/v1/nodes/n1", 200, ""),
        ("/api/v1/nodes/n2", 403, other),
        ("/api/v1/nodes", 403, other),
        ("/api/v1/nodes?fieldSelector=metadata.name=n1", 200, ""),
        ("/api/v1/nodes?fieldSelector=metadata.name%21=n2", 403, other),
        ("/api/v1/pods", 403, "can only list/watch pods with spec.nodeName field selector"),
        ("/api/v1/pods?fieldSelector=spec.nodeName=n1", 200, ""),
        ("/api/v1/pods?fieldSelector=spec.nodeName=n2", 403, "spec.nodeName field selector"),
        ("/api/v1/pods?fieldSelector=spec.nodeName%21=n1", 403, "spec.nodeName field selector"),
        ("/api/v1/namespaces/default/pods/on-n1", 200, ""),
        ("/api/v1/namespaces/default/pods/on-n2", 403, unrelated),
        ("/api/v1/namespaces/default/pods/on-n1/log", 403, "cannot get"),
        ("/api/v1/namespaces/default/pods/on-n1/exec?command=ls", 403, "cannot get"),
        ("/api/v1/namespaces/default/secrets/s", 403, unrelated),
        ("/api/v1/secrets?fieldSelector=metadata.name=s", 403, "secrets"),
        ("/api/v1/nodes/n1/proxy/", 403, "cannot get"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", 403, "cannot list"),
    ] {
        server.check(&node, &format!("GET {path}"), &NONE, code, message).await;
    }
    // The name alone makes no node, nor does the group.
    for impostor in [server.user("system:node:n1", &[]), server.user("n1", &["system:nodes"])] {
        assert_eq!(server.get(&impostor, "/api/v1/nodes/n1").await.0, 403);
    }
}

#[tokio::test]
async fn a_node_asks_for_tokens_of_pods_that_it_runs() {
    let server = furnished().await;
    let node = server.user("system:node:n1", &["system:nodes"]);
    let volume =
        json!({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}});
    let spec = json!({"spec": {"nodeName": "n1", "serviceAccountName": "robot", "volumes": [volume]}});
    let vault = server.make(&format!("{CORE}/pods"), pod("vault", &spec)).await;
    let here = read(&server, &format!("{CORE}/pods/on-n1")).await;
    let there = read(&server, &format!("{CORE}/pods/on-n2")).await;
    let request = |bound: Value, audiences: &[&str]| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences, "boundObjectRef": bound}});
    let of = |pod: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": uid(pod)});
    let without = |field: &str| {
        let mut bound = of(&here);
        bound.as_object_mut().unwrap().remove(field);
        bound
    };
    let mut wrong = of(&here);
    wrong["uid"] = uid(&there).into();
    let this_node = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"});
    let robot = format!("POST {CORE}/serviceaccounts/robot/token");
    for (body, code, message) in [
        (request(of(&here), &[]), 201, ""),
        (request(of(&vault), &["vault"]), 201, ""),
        (request(of(&here), &["vault"]), 403, r#"not authorized to request tokens for audience "vault""#),
        (request(of(&vault), &["vault", "other"]), 403, "may only request 0 or 1 audiences"),
        (request(Value::Null, &[]), 403, "not bound to a pod"),
        (request(this_node, &[]), 403, "not bound to a pod"),
        (request(without("uid"), &[]), 403, "without a uid"),
        (request(wrong, &[]), 403, "does not match the UID in record"),
        (request(of(&there), &[]), 403, "scheduled on a different node"),
    ] {
        server.check(&node, &robot, &body, code, message).await;
    }
    let root = format!("POST {CORE}/serviceaccounts/default/token");
    server.check(&node, &root, &request(of(&here), &[]), 403, "no relationship found").await;
    let read_only = server.user("reader", &[]);
    server.grant("reader", json!({"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["*"]})).await;
    for method in ["GET", "HEAD", "PUT"] {
        let what = format!("{method} {CORE}/serviceaccounts/robot/token");
        let (code, _) = server.send(&read_only, method, what.split_once(' ').unwrap().1, &NONE).await;
        assert!(matches!(code, 403 | 405), "{what}: {code}");
    }
}

/// Changes a stored object past all that guards it.
async fn set(server: &Secured, resource: &str, name: &str, change: &Value) {
    let kind = server.api.storage().kind("", resource).unwrap();
    let namespace = if resource == "nodes" { "" } else { "default" };
    kind.update(namespace, name, |object| merge_patch(object, change)).await.unwrap();
}

/// A token with these claims changed, well signed.
async fn forged(server: &Secured, token: &str, header: &Value, claims: &Value) -> String {
    let key = server.pki.service_account_key().await.unwrap();
    let mut all: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    merge_patch(&mut all, claims).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(&all));
    let signature = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_token_is_good_for_what_it_names() {
    let server = furnished().await;
    server.make(&format!("{CORE}/secrets"), object("Secret", "s", &json!({}))).await;
    let request = |bound: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}});
    let issue = async |bound: Value| {
        let answer = server.make(&format!("{CORE}/serviceaccounts/robot/token"), request(bound)).await;
        text(&answer, "/status/token")
    };
    let enters = async |token: &str| {
        let client = Client { token: Some(token.to_owned()), ..Client::default() };
        server.get(&client, "/api").await.0
    };
    let bound = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "name": name});
    let token = issue(Value::Null).await;
    assert_eq!(enters(&token).await, 200);
    let rs256 = json!({"alg": "RS256"});
    let now = jiff::Timestamp::now().as_second();
    assert_eq!(enters(&forged(&server, &token, &rs256, &json!({})).await).await, 200, "the forgery itself is good");
    for (header, claims) in [
        (&rs256, json!({"exp": now - 120})),
        (&rs256, json!({"nbf": now + 120})),
        (&rs256, json!({"iss": "https://example.org"})),
        (&rs256, json!({"aud": ["https://example.org"]})),
        (&rs256, json!({"aud": []})),
        (&rs256, json!({"sub": "system:serviceaccount:kube-system:robot"})),
        (&rs256, json!({"sub": "system:admin"})),
        (&rs256, json!({"kubernetes.io": {"serviceaccount": {"uid": "other"}}})),
        (&rs256, json!({"kubernetes.io": null})),
        (&json!({"alg": "none"}), json!({})),
        (&json!({"alg": "HS256"}), json!({})),
        (&json!({"alg": "PS256"}), json!({})),
        (&json!({}), json!({})),
    ] {
        assert_eq!(enters(&forged(&server, &token, header, &claims).await).await, 401, "{header} {claims}");
    }
    // A header cannot bring its own key, nor choose none.
    let parts: Vec<&str> = token.split('.').collect();
    let keyed = json!({"alg": "RS256", "kid": "../../dev/null", "jku": "https://example.org", "jwk": {"kty": "RSA", "n": "AQ", "e": "AQAB"}});
    let keyed = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(keyed.to_string()), parts[1], parts[2]);
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), parts[1]);
    for token in [keyed, unsigned, format!("{}.{}.", parts[0], parts[1]), format!("{}.{}", parts[0], parts[1])] {
        assert_eq!(enters(&token).await, 401, "{token}");
    }

    let of = [("Pod", "pods", "on-n1"), ("Secret", "secrets", "s"), ("Node", "nodes", "n2")];
    for (kind, resource, name) in of {
        let token = issue(bound(kind, name)).await;
        assert_eq!(enters(&token).await, 200, "{kind}");
        let path = if kind == "Node" { "/api/v1/nodes".to_owned() } else { format!("{CORE}/{resource}") };
        let now = json!({"gracePeriodSeconds": 0});
        server.check(&server.admin(), &format!("DELETE {path}/{name}"), &now, 200, "").await;
        assert_eq!(enters(&token).await, 401, "{kind} is gone");
        let again = if kind == "Pod" { pod(name, &json!({})) } else { object(kind, name, &json!({})) };
        server.make(&path, again).await;
        assert_eq!(enters(&token).await, 401, "{kind} of the same name is another");
    }
    let due = |seconds: i64| machinery::time::format(jiff::Timestamp::from_second(now - seconds).unwrap());
    let on_n2 = issue(bound("Pod", "on-n2")).await;
    for (seconds, code) in [(10, 200), (120, 401)] {
        let marked = json!({"metadata": {"finalizers": ["example.org/keep"], "deletionTimestamp": due(seconds)}});
        set(&server, "pods", "on-n2", &marked).await;
        assert_eq!(enters(&on_n2).await, code, "a finalizer does not keep a token for long");
    }
    let accounts = format!("{CORE}/serviceaccounts");
    server.check(&server.admin(), &format!("DELETE {accounts}/robot"), &NONE, 200, "").await;
    assert_eq!(enters(&token).await, 401);
    server.make(&accounts, object("ServiceAccount", "robot", &json!({}))).await;
    assert_eq!(enters(&token).await, 401, "an account of the same name is another");
}

/// What a node says of its kubelet.
fn kubelet_at(host: &str) -> Value {
    json!({"status": {"addresses": [{"type": "InternalIP", "address": host}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10_250}}}})
}

#[tokio::test]
async fn proxies_do_not_reach_the_machine_itself() {
    let server = furnished().await;
    let admin = server.admin();
    let addresses = |ip: &str| json!({"status": {"phase": "Running", "podIP": ip}});
    for ip in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.1",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "fe80::1",
        "ff02::1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "",
        "192.0.2.1@127.0.0.1",
        "192.0.2.1/",
        "192.0.2.1#",
    ] {
        set(&server, "pods", "on-n1", &addresses(ip)).await;
        server.check(&admin, &format!("GET {CORE}/pods/on-n1:80/proxy/x"), &NONE, 400, "address not allowed").await;
    }
    // What stands where a port should becomes no part of the address. Nothing listens at this documentation address.
    set(&server, "pods", "on-n1", &addresses("192.0.2.9")).await;
    set(&server, "nodes", "n1", &kubelet_at("192.0.2.10")).await;
    for port in [
        "80%40169.254.169.254",
        "80%2F..",
        "80%3Fa",
        "80%23",
        "%2080",
        "0",
        "65536",
        "-1",
        "+80",
        "http",
        "0x50",
        "80%00",
    ] {
        for place in [format!("{CORE}/pods/on-n1"), "/api/v1/nodes/n1".to_owned()] {
            let (code, answer) = server.get(&admin, &format!("{place}:{port}/proxy/x")).await;
            assert_eq!(code, 400, "{place}:{port}: {answer}");
        }
    }
    for name in [
        "file:on-n1:80",
        "ftp:on-n1:80",
        "HTTP:on-n1:80",
        "http:on-n1:80:81",
        ":",
        "::",
        "https::80",
        "http%3A%2F%2Fx:80",
    ] {
        let (code, answer) = server.get(&admin, &format!("{CORE}/pods/{name}/proxy/x")).await;
        assert!(matches!(code, 400 | 404), "{name}: {answer}");
    }
}

#[tokio::test]
async fn a_node_does_not_lead_the_proxy_astray() {
    let server = furnished().await;
    let admin = server.admin();
    // A node says itself where its kubelet is: not with a path to elsewhere, and other ports only of addresses that are its own.
    for host in ["127.0.0.1:6443/api/v1/secrets?", "a@b", "a/b", "a?b", "a#b", "a:1", "[::1]:80/x", "a b", ""] {
        set(&server, "nodes", "n1", &kubelet_at(host)).await;
        for path in ["/api/v1/nodes/n1/proxy/x".to_owned(), format!("{CORE}/pods/on-n1/log")] {
            let (code, answer) = server.get(&admin, &path).await;
            assert_eq!(code, 400, "{host} {path}: {answer}");
        }
    }
    set(&server, "nodes", "n1", &kubelet_at("127.0.0.1")).await;
    server.check(&admin, "GET /api/v1/nodes/n1:6443/proxy/", &NONE, 400, "address not allowed").await;
    server.check(&admin, "GET /api/v1/nodes/https:n1:22/proxy/", &NONE, 400, "address not allowed").await;
    services_reach_only_what_is_behind_them(&server).await;
    // A right to read through a proxy is none to write.
    server
        .grant("jane", json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/proxy", "services/proxy"]}))
        .await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let (code, answer) =
            server.send(&server.user("jane", &[]), method, &format!("{CORE}/pods/on-n1/proxy/"), &NONE).await;
        assert_eq!(code, 403, "{method}: {answer}");
    }
}

async fn services_reach_only_what_is_behind_them(server: &Secured) {
    let admin = server.admin();
    let services = format!("{CORE}/services");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 80}]}});
    server.make(&services, object("Service", "external", &external)).await;
    server.check(&admin, &format!("GET {services}/external/proxy/"), &NONE, 503, "no endpoints").await;
    server.make(&services, object("Service", "s", &json!({"spec": {"ports": [{"port": 80}]}}))).await;
    let slice = |name: &str, address: &str, port: u16| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"port": port}], "endpoints": [{"addresses": [address]}]})
    };
    let slices = "POST /apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for (index, address) in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"].into_iter().enumerate() {
        server.check(&admin, slices, &slice(&format!("x{index}"), address, 80), 422, "Invalid value").await;
        let mut stored = slice(&format!("s{index}"), address, 6443);
        stored["metadata"]["namespace"] = "default".into();
        let kind = server.api.storage().kind("discovery.k8s.io", "endpointslices").unwrap();
        kind.create(stored).await.unwrap();
        server.check(&admin, &format!("GET {services}/s/proxy/"), &NONE, 400, "address not allowed").await;
        kind.delete("default", &format!("s{index}"), &Default::default()).await.unwrap();
    }
    for name in ["s:81", "s:none", "s:80%40x", "https:s:x"] {
        server.check(&admin, &format!("GET {services}/{name}/proxy/"), &NONE, 503, "no service port").await;
    }
}

#[tokio::test]
async fn to_read_is_not_to_run() {
    let server = furnished().await;
    server.grant("reader", json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["*"]})).await;
    let reader = server.user("reader", &[]);
    for what in ["exec?command=ls", "attach", "portforward?ports=80"] {
        server.check(&reader, &format!("GET {CORE}/pods/on-n1/{what}"), &NONE, 403, "cannot create").await;
        server.check(&reader, &format!("POST {CORE}/pods/on-n1/{what}"), &NONE, 403, "cannot create").await;
    }
    // To change a pod is not to debug it, and to debug it is not to change it.
    for (user, resource) in [("editor", "pods"), ("debugger", "pods/ephemeralcontainers"), ("reporter", "pods/status")]
    {
        server
            .grant(user, json!({"verbs": ["get", "update", "patch"], "apiGroups": [""], "resources": [resource]}))
            .await;
    }
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x"}]}});
    let image = json!({"spec": {"containers": [{"name": "c", "image": "other"}]}});
    let place = format!("PATCH {CORE}/pods/on-n1");
    let unchanged = async || read(&server, &format!("{CORE}/pods/on-n1")).await["spec"].clone();
    let before = unchanged().await;
    let (editor, debugger, reporter) =
        (server.user("editor", &[]), server.user("debugger", &[]), server.user("reporter", &[]));
    for (client, what, body, code, message) in [
        (&editor, format!("{place}/ephemeralcontainers"), &ephemeral, 403, "cannot patch"),
        (&editor, place.clone(), &ephemeral, 422, "pod updates may not change fields other than"),
        (&debugger, place.clone(), &image, 403, "cannot patch"),
        (&reporter, place.clone(), &image, 403, "cannot patch"),
        (&editor, place.clone(), &json!({"spec": {"serviceAccountName": "default"}}), 422, "may not change fields"),
        (&editor, place.clone(), &json!({"spec": {"nodeName": "n2"}}), 422, "may not change fields"),
        (&editor, place.clone(), &json!({"spec": {"hostNetwork": true}}), 422, "may not change fields"),
    ] {
        server.check(client, &what, body, code, message).await;
    }
    for (client, part) in [(&debugger, "ephemeralcontainers"), (&reporter, "status")] {
        let (_, answer) = server.send(client, "PATCH", &format!("{CORE}/pods/on-n1/{part}"), &image).await;
        assert_eq!(unchanged().await, before, "{part} changes its own part: {answer}");
    }
    server.check(&debugger, &format!("{place}/ephemeralcontainers"), &ephemeral, 200, "").await;
}

#[tokio::test]
async fn pod_security_has_no_back_door() {
    let server = start().await;
    let namespace = async |name: &str, level: &str| {
        let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
        server.make("/api/v1/namespaces", object("Namespace", name, &labels)).await;
        let account = object("ServiceAccount", "default", &json!({}));
        server.make(&format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await;
        format!("/api/v1/namespaces/{name}/pods")
    };
    let baseline = namespace("base", "baseline").await;
    let container = |fields: Value| {
        let mut container = json!({"name": "c", "image": "x"});
        merge_patch(&mut container, &fields).unwrap();
        json!({"spec": {"containers": [container]}})
    };
    let hook = json!({"httpGet": {"host": "169.254.169.254", "port": 80}});
    let init =
        json!({"spec": {"initContainers": [{"name": "i", "image": "x", "securityContext": {"privileged": true}}]}});
    let annotated =
        json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}});
    let cases = [
        (json!({"spec": {"hostNetwork": true}}), "host namespaces"),
        (json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}), "hostPath volumes"),
        (init, "privileged"),
        (container(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})), "capabilities"),
        (container(json!({"securityContext": {"windowsOptions": {"hostProcess": true}}})), "hostProcess"),
        (
            json!({"spec": {"hostNetwork": true, "securityContext": {"windowsOptions": {"hostProcess": true}}}}),
            "hostProcess (pod must",
        ),
        (container(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})), "AppArmor profile"),
        (
            json!({"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}),
            "(pod must not set AppArmor",
        ),
        (annotated, "AppArmor profile"),
        (container(json!({"livenessProbe": hook})), "probe or lifecycle host"),
        (
            container(json!({"lifecycle": {"preStop": {"httpGet": {"host": "127.0.0.1", "port": 80}}}})),
            "lifecycle host",
        ),
        (container(json!({"ports": [{"containerPort": 1, "hostPort": 1}]})), "hostPort"),
    ];
    for (rest, message) in &cases {
        let body = pod("p", rest);
        server.check(&server.admin(), &format!("POST {baseline}"), &body, 403, message).await;
        server.check(&server.admin(), &format!("PATCH {baseline}/p?fieldManager=a"), &body, 403, message).await;
    }
    server.make(&baseline, pod("p", &json!({}))).await;
    let debug = |context: Value| json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x", "securityContext": context}]}});
    let place = format!("PATCH {baseline}/p/ephemeralcontainers");
    server.check(&server.admin(), &place, &debug(json!({"privileged": true})), 403, "privileged").await;
    server
        .check(&server.admin(), &place, &debug(json!({"capabilities": {"add": ["SYS_PTRACE"]}})), 403, "capabilities")
        .await;
    server.check(&server.admin(), &place, &debug(json!({})), 200, "").await;
    // A level that there is not opens nothing.
    let slip = namespace("slip", "restrictd").await;
    server.check(&server.admin(), &format!("POST {slip}"), &pod("p", &json!({})), 403, "violates PodSecurity").await;
}

#[tokio::test]
async fn owners_may_be_named_by_everyone_as_upstream_has_it() {
    let server = furnished().await;
    server
        .grant(
            "jane",
            json!({"verbs": ["create", "delete", "update", "patch"], "apiGroups": [""], "resources": ["configmaps"]}),
        )
        .await;
    let jane = server.user("jane", &[]);
    // The plug-in that would ask for a right to the owner's finalizers is not one of those that are on by default.
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "on-n1", "uid": "u", "blockOwnerDeletion": true}]);
    let map =
        object("ConfigMap", "m", &json!({"metadata": {"ownerReferences": owner, "finalizers": ["example.org/x"]}}));
    server.check(&jane, &format!("POST {CORE}/configmaps"), &map, 201, "").await;
    let finalizers = json!({"metadata": {"finalizers": ["example.org/x"]}});
    server.check(&jane, &format!("PATCH {CORE}/pods/on-n1"), &finalizers, 403, "cannot patch").await;
}
