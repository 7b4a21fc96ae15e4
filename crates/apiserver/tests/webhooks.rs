//! Mutating and validating webhooks, with a server that allows, denies, changes, hangs, lies and floods.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod common;

use apiserver::Config;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use common::{Server, start_on, until};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use serve::{Body, Limits};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// A webhook server; what it does is in the path.
struct Hooks {
    address: SocketAddr,
    bundle: String,
    seen: Arc<Mutex<Vec<Value>>>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    stop: CancellationToken,
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Hooks {
    async fn start(is_authority: bool) -> Hooks {
        let names = vec!["127.0.0.1".to_owned(), "hook.a.svc".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        if is_authority {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, peers, stop) =
            (Arc::<Mutex<Vec<Value>>>::default(), Arc::<Mutex<Vec<_>>>::default(), CancellationToken::new());
        let (log, met) = (Arc::clone(&seen), Arc::clone(&peers));
        let handler = move |peer: serve::Peer, request: Request<Incoming>| {
            met.lock().unwrap().push(peer.address);
            answer(request, Arc::clone(&log))
        };
        let ended = stop.clone();
        tokio::spawn(
            async move { serve::serve(listener, Some(Arc::new(config)), Limits::default(), handler, ended).await },
        );
        Hooks { address, bundle: BASE64_STANDARD.encode(certificate.pem()), seen, peers, stop }
    }

    /// A webhook of a configuration that is about config maps.
    fn hook(&self, name: &str, path: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://{}{path}", self.address), "caBundle": self.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        hook.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        hook
    }

    fn last(&self) -> Value {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn answer(request: Request<Incoming>, log: Arc<Mutex<Vec<Value>>>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let uid = review["request"]["uid"].clone();
    log.lock().unwrap().push(review.clone());
    if review["kind"] == "ConversionReview" {
        return Response::new(serve::full(converted(&path, &review).to_string()));
    }
    let patch = |operations: Value| json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": BASE64_STANDARD.encode(operations.to_string())});
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    let response = match *steps.as_slice() {
        ["allow"] => json!({"uid": uid, "allowed": true, "warnings": ["mind the gap"], "auditAnnotations": {"k": "v"}}),
        ["deny"] => {
            json!({"uid": uid, "allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not today"}})
        }
        ["deny-silently"] => json!({"uid": uid, "allowed": false}),
        ["data", key] => patch(json!([{"op": "add", "path": format!("/data/{key}"), "value": "here"}])),
        ["once", key] if review["request"]["object"]["data"].get(key).is_some() => json!({"uid": uid, "allowed": true}),
        ["once", key] => patch(json!([{"op": "add", "path": format!("/data/{key}"), "value": "here"}])),
        ["nonsense"] => patch(json!([{"op": "add", "path": "/spec", "value": {"x": 1}}])),
        ["wrong-type"] => patch(json!([{"op": "replace", "path": "/data", "value": 3}])),
        ["lie"] => json!({"uid": "another", "allowed": true}),
        ["hang"] => std::future::pending().await,
        ["flood"] => {
            let piece = || Ok::<_, serve::BoxError>(http_body::Frame::data(Bytes::from(vec![b'x'; 64 << 10])));
            let endless = futures::stream::repeat_with(piece);
            return Response::new(Body::new(StreamBody::new(endless)));
        }
        _ => {
            let mut response = Response::new(serve::full("broken"));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
    };
    let answer = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    Response::new(serve::full(answer.to_string()))
}

/// The answer to a conversion: v1 has `spec.at` (`host:port`), v2 has `spec.host` and `spec.port`.
fn converted(path: &str, review: &Value) -> Value {
    let version = review["request"]["desiredAPIVersion"].clone();
    let convert = |object: &Value| {
        let mut object = object.clone();
        let spec = &object["spec"];
        object["spec"] = if version == "x.io/v2" {
            let (host, port) = spec["at"].as_str().unwrap().split_once(':').unwrap();
            json!({"host": host, "port": port})
        } else {
            json!({"at": format!("{}:{}", spec["host"].as_str().unwrap(), spec["port"].as_str().unwrap())})
        };
        object["apiVersion"] = version.clone();
        object
    };
    let objects: Vec<Value> = review["request"]["objects"].as_array().unwrap().iter().map(convert).collect();
    let result = match path {
        "/refuse" => json!({"status": "Failure", "message": "cannot"}),
        _ => json!({"status": "Success"}),
    };
    json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
        "uid": review["request"]["uid"], "result": result, "convertedObjects": objects}})
}

/// A custom resource in two versions, stored in v1 and converted by a webhook.
#[tokio::test]
async fn custom_resources_are_converted() {
    let (server, hooks) = start().await;
    let version = |name: &str, fields: &[&str]| {
        let fields: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        json!({"name": name, "served": true, "storage": name == "v1", "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}})
    };
    let conversion = |path: &str| {
        json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{}{path}", hooks.address), "caBundle": hooks.bundle}}})
    };
    let definition = json!({"metadata": {"name": "peers.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
        "names": {"plural": "peers", "kind": "Peer"}, "conversion": conversion("/convert"),
        "versions": [version("v1", &["at"]), version("v2", &["host", "port"])]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.post(definitions, definition).await.ok();
    let (v1, v2) = ("/apis/x.io/v1/namespaces/a/peers", "/apis/x.io/v2/namespaces/a/peers");
    until(|| server.get(v2), |answer| answer.code == 200).await;
    let mut watch = server.watch(&format!("{v2}?watch=1")).await;
    let first = json!({"metadata": {"name": "first", "labels": {"a": "b"}}, "spec": {"at": "h:1"}});
    let first = server.post(v1, first).await.ok();
    let second = json!({"metadata": {"name": "second"}, "spec": {"host": "i", "port": "2"}});
    assert_eq!(server.post(v2, second).await.ok()["spec"], json!({"host": "i", "port": "2"}));
    assert_eq!(server.get(&format!("{v1}/second")).await.ok()["spec"], json!({"at": "i:2"}));
    let seen = server.get(&format!("{v2}/first")).await.ok();
    assert_eq!((&seen["apiVersion"], &seen["spec"]), (&json!("x.io/v2"), &json!({"host": "h", "port": "1"})));
    assert_eq!(seen["metadata"], first["metadata"]);
    let before = hooks.count();
    let list = server.get(v2).await.ok();
    assert_eq!(
        (list["items"].as_array().unwrap().len(), hooks.count()),
        (2, before + 1),
        "a list is converted at once"
    );
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["host"], "h");
    let changed = server.patch(&format!("{v2}/first"), "merge", json!({"spec": {"port": "9"}})).await.ok();
    assert_eq!(changed["spec"]["port"], "9");
    assert_eq!(server.get(&format!("{v1}/first")).await.ok()["spec"]["at"], "h:9");
    // What the webhook refuses, clients are told.
    let path = format!("{definitions}/peers.x.io");
    server.patch(&path, "merge", json!({"spec": {"conversion": conversion("/refuse")}})).await.ok();
    let first = format!("{v2}/first");
    let refused = until(|| server.get(&first), |answer| answer.code == 500).await;
    assert_eq!(refused.json()["message"], "conversion webhook for x.io/v1, Kind=Peer failed: cannot");
}

async fn start() -> (Server, Hooks) {
    let server = start_on(Config::default(), |storage, chain| {
        chain.admission = apiserver::admission::configured(storage).unwrap().to_vec();
    })
    .await;
    let namespace = json!({"metadata": {"name": "a", "labels": {"hooked": "yes"}}});
    server.post("/api/v1/namespaces", namespace).await.ok();
    (server, Hooks::start(false).await)
}

async fn configure(server: &Server, path: &str, name: &str, hooks: &[Value]) {
    server.post(path, json!({"metadata": {"name": name}, "webhooks": hooks})).await.ok();
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

#[tokio::test]
async fn validating_webhooks_see_and_refuse() {
    let (server, hooks) = start().await;
    configure(&server, VALIDATING, "v", &[hooks.hook("v", "/allow", json!({}))]).await;
    let made = server.post(&format!("{MAPS}?fieldManager=me"), map("one")).await;
    assert_eq!(made.headers["warning"], "299 - \"mind the gap\"");
    made.ok();
    let review = hooks.last();
    let request = &review["request"];
    assert_eq!((&review["kind"], &review["apiVersion"]), (&json!("AdmissionReview"), &json!("admission.k8s.io/v1")));
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(
        (&request["operation"], &request["name"], &request["namespace"]),
        (&json!("CREATE"), &json!("one"), &json!("a"))
    );
    assert_eq!(
        (&request["object"]["data"]["a"], &request["oldObject"], &request["dryRun"]),
        (&json!("b"), &Value::Null, &json!(false))
    );
    assert_eq!(request["userInfo"], json!({"username": "tester", "groups": ["system:authenticated"]}));
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert_eq!(request["options"]["fieldManager"], "me");
    server.patch(&format!("{MAPS}/one"), "merge", json!({"data": {"a": "c"}})).await.ok();
    let request = &hooks.last()["request"];
    assert_eq!((&request["operation"], &request["options"]["kind"]), (&json!("UPDATE"), &json!("PatchOptions")));
    assert_eq!((&request["object"]["data"]["a"], &request["oldObject"]["data"]["a"]), (&json!("c"), &json!("b")));
    server.delete(&format!("{MAPS}/one"), Value::Null).await.ok();
    let request = &hooks.last()["request"];
    assert_eq!((&request["operation"], &request["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(request["oldObject"]["data"]["a"], "c");
    // One connection served them all.
    let peers = hooks.peers.lock().unwrap().clone();
    assert!(peers.len() == 3 && peers.iter().all(|peer| *peer == peers[0]), "{peers:?}");
    configure(&server, VALIDATING, "w", &[hooks.hook("w", "/deny", json!({}))]).await;
    let refused = server.post(MAPS, map("two")).await;
    let text = r#"admission webhook "w.example.com" denied the request: not today"#;
    assert_eq!(
        (refused.code, &refused.json()["message"], &refused.json()["reason"]),
        (403, &json!(text), &json!("Forbidden"))
    );
    configure(&server, VALIDATING, "u", &[hooks.hook("u", "/deny-silently", json!({}))]).await;
    server.delete(&format!("{VALIDATING}/w"), Value::Null).await.ok();
    let refused = server.post(MAPS, map("two")).await;
    let text = r#"admission webhook "u.example.com" denied the request without explanation"#;
    assert_eq!((refused.code, &refused.json()["message"]), (400, &json!(text)));
    // Nobody can lock the door from outside: the configuration itself is never shown.
    server.delete(&format!("{VALIDATING}/u"), Value::Null).await.ok();
    server.post(MAPS, map("two")).await.ok();
}

#[tokio::test]
async fn mutating_webhooks_change_in_order() {
    let (server, hooks) = start().await;
    let second = hooks.hook("second", "/data/second", json!({}));
    configure(&server, MUTATING, "a", &[hooks.hook("first", "/data/first", json!({})), second]).await;
    configure(&server, VALIDATING, "v", &[hooks.hook("v", "/allow", json!({}))]).await;
    let made = server.post(MAPS, map("one")).await.ok();
    assert_eq!(made["data"], json!({"a": "b", "first": "here", "second": "here"}));
    assert_eq!(hooks.last()["request"]["object"]["data"], made["data"]);
    assert_eq!(hooks.count(), 3);
    // What the schema does not know is dropped, as when a client sends it; what it cannot be is our refusal.
    configure(&server, MUTATING, "b", &[hooks.hook("n", "/nonsense", json!({}))]).await;
    assert_eq!(server.post(MAPS, map("two")).await.ok().get("spec"), None);
    configure(&server, MUTATING, "c", &[hooks.hook("t", "/wrong-type", json!({}))]).await;
    assert_eq!(server.post(MAPS, map("three")).await.code, 500);
}

#[tokio::test]
async fn who_wants_is_asked_again_after_a_change() {
    let (server, hooks) = start().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    configure(&server, MUTATING, "a", &[hooks.hook("a", "/once/a", again.clone())]).await;
    configure(&server, MUTATING, "b", &[hooks.hook("b", "/once/x", json!({}))]).await;
    server.post(MAPS, map("one")).await.ok();
    // a (finds its key), b changes, a again.
    assert_eq!(hooks.count(), 3);
    server.post(MAPS, json!({"metadata": {"name": "two"}, "data": {"a": "1", "x": "2"}})).await.ok();
    assert_eq!(hooks.count(), 5, "nothing changed, nobody is asked again");
}

#[tokio::test]
async fn selectors_versions_and_dry_runs() {
    let (server, hooks) = start().await;
    let events = json!([{"operations": ["CREATE"], "apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "resources": ["events"]}]);
    configure(
        &server,
        VALIDATING,
        "v",
        &[
            hooks.hook("ns", "/deny", json!({"namespaceSelector": {"matchLabels": {"hooked": "no"}}})),
            hooks.hook("object", "/deny", json!({"objectSelector": {"matchLabels": {"refuse": "me"}}})),
            hooks.hook("equivalent", "/allow", json!({"rules": events})),
            hooks.hook("exact", "/deny", json!({"rules": events, "matchPolicy": "Exact"})),
        ],
    )
    .await;
    server.post(MAPS, map("one")).await.ok();
    assert_eq!(hooks.count(), 0);
    let mut labelled = map("two");
    labelled["metadata"]["labels"] = json!({"refuse": "me"});
    assert_eq!(server.post(MAPS, labelled).await.code, 403);
    // An event of the core group is shown as one of events.k8s.io to whom asks for these.
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "a", "name": "x"}, "reason": "R", "message": "m", "type": "Normal"});
    server.post("/api/v1/namespaces/a/events", event).await.ok();
    let request = &hooks.last()["request"];
    assert_eq!(request["kind"], json!({"group": "events.k8s.io", "version": "v1", "kind": "Event"}));
    assert_eq!(request["requestKind"], json!({"group": "", "version": "v1", "kind": "Event"}));
    assert_eq!(
        (&request["object"]["note"], &request["object"]["apiVersion"]),
        (&json!("m"), &json!("events.k8s.io/v1"))
    );
    // Only webhooks without side effects are asked in a dry run; all are by now, as upstream allows no others to be made.
    server.post(&format!("{MAPS}?dryRun=All"), map("dry")).await.ok();
    // A namespace selector is about the labels a namespace is to have.
    let all =
        json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["namespaces"]}]);
    let hook = hooks.hook("n", "/deny", json!({"rules": all, "namespaceSelector": {"matchLabels": {"hooked": "no"}}}));
    configure(&server, VALIDATING, "n", &[hook]).await;
    let namespace = |name: &str, hooked: &str| json!({"metadata": {"name": name, "labels": {"hooked": hooked}}});
    assert_eq!(server.post("/api/v1/namespaces", namespace("b", "no")).await.code, 403);
    server.post("/api/v1/namespaces", namespace("c", "yes")).await.ok();
}

#[tokio::test]
async fn webhooks_that_fail() {
    let (server, hooks) = start().await;
    let url = format!("https://{}", hooks.address);
    for (path, expected) in [
        ("/broken", r#"an error on the server ("broken") has prevented the request from succeeding"#.to_owned()),
        ("/hang", format!("Post \"{url}/hang?timeout=1s\": context deadline exceeded")),
    ] {
        let hook = |policy: &str| hooks.hook("f", path, json!({"failurePolicy": policy, "timeoutSeconds": 1}));
        for kind in [MUTATING, VALIDATING] {
            configure(&server, kind, "f", &[hook("Fail")]).await;
            let started = Instant::now();
            let answer = server.post(MAPS, map("closed")).await;
            let text = format!(
                "Internal error occurred: failed calling webhook \"f.example.com\": failed to call webhook: {expected}"
            );
            assert_eq!((answer.code, answer.json()["message"].as_str()), (500, Some(&*text)));
            assert!(started.elapsed() < Duration::from_secs(10));
            server.patch(&format!("{kind}/f"), "merge", json!({"webhooks": [hook("Ignore")]})).await.ok();
            server.post(MAPS, map("open")).await.ok();
            server.delete(&format!("{MAPS}/open"), Value::Null).await.ok();
            server.delete(&format!("{kind}/f"), Value::Null).await.ok();
        }
    }
    for (path, part) in [("/lie", "expected response.uid="), ("/flood", "length limit exceeded")] {
        configure(&server, VALIDATING, "f", &[hooks.hook("f", path, json!({}))]).await;
        let answer = server.post(MAPS, map("closed")).await;
        let text = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(answer.code == 500 && text.contains(part), "{text}");
        server.delete(&format!("{VALIDATING}/f"), Value::Null).await.ok();
    }
    // Nobody listens, nobody is trusted, nobody is there.
    let nowhere = json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}, "failurePolicy": "Ignore"});
    let stranger = json!({"clientConfig": {"url": format!("{url}/allow"), "caBundle": Hooks::start(false).await.bundle}, "failurePolicy": "Ignore"});
    let gone = json!({"clientConfig": {"service": {"namespace": "a", "name": "none"}, "caBundle": hooks.bundle}});
    let list = [hooks.hook("n", "", nowhere), hooks.hook("s", "", stranger)];
    let before = hooks.count();
    configure(&server, VALIDATING, "f", &list).await;
    server.post(MAPS, map("open")).await.ok();
    assert_eq!(hooks.count(), before);
    configure(&server, VALIDATING, "g", &[hooks.hook("g", "", gone)]).await;
    let text = server.post(MAPS, map("closed")).await.json()["message"].as_str().unwrap().to_owned();
    assert!(text.ends_with(r#"Post "https://none.a.svc:443?timeout=10s": service "none" not found"#), "{text}");
}

#[tokio::test]
async fn webhooks_behind_a_service() {
    let (server, _) = start().await;
    let hooks = Hooks::start(true).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "web", "port": 443, "targetPort": 8443}], "clusterIP": "None"}});
    server.post("/api/v1/namespaces/a/services", service).await.ok();
    let config = json!({"clientConfig": {"service": {"namespace": "a", "name": "hook", "path": "/data/x"}, "caBundle": hooks.bundle}});
    configure(&server, MUTATING, "m", &[hooks.hook("m", "", config)]).await;
    let text = server.post(MAPS, map("early")).await.json()["message"].as_str().unwrap().to_owned();
    assert!(text.ends_with(r#"no endpoints available for service "hook""#), "{text}");
    // An endpoint slice may not name this machine itself, so the test writes it below the API's checks.
    let slice = json!({"metadata": {"name": "hook-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "web", "port": hooks.address.port(), "protocol": "TCP"}]});
    server.api.storage().kind("discovery.k8s.io", "endpointslices").unwrap().create(slice).await.unwrap();
    assert_eq!(server.post(MAPS, map("one")).await.ok()["data"]["x"], "here");
}

/// Whoever scales shows a scale, whatever is scaled.
#[tokio::test]
async fn scales_are_shown_as_such() {
    let (server, hooks) = start().await;
    let labels = json!({"app": "x"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}});
    let path = "/apis/apps/v1/namespaces/a/deployments";
    server.post(path, deployment).await.ok();
    let rules = json!([{"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"], "scope": "*"}]);
    configure(&server, VALIDATING, "v", &[hooks.hook("v", "/allow", json!({"rules": rules}))]).await;
    server.patch(&format!("{path}/d/scale"), "merge", json!({"spec": {"replicas": 3}})).await.ok();
    let request = &hooks.last()["request"];
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&request["resource"]["resource"], &request["subResource"]), (&json!("deployments"), &json!("scale")));
    let seen = |form: &str| (request[form]["kind"].clone(), request[form]["spec"]["replicas"].clone());
    assert_eq!((seen("object"), seen("oldObject")), ((json!("Scale"), json!(3)), (json!("Scale"), json!(1))));
    // Calls are counted.
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    let line = "apiserver_admission_webhook_request_total{name=\"v.example.com\",operation=\"UPDATE\",type=\"validating\",rejected=\"false\"} 1";
    assert!(metrics.lines().any(|known| known == line), "{metrics}");
}
