//! What namespaces with quotas may take.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use apiserver::Config;
use common::{Server, start_on};
use futures::future::join_all;
use serde_json::{Map, Value, json};

const QUOTAS: &str = "/api/v1/namespaces/a/resourcequotas";
const PODS: &str = "/api/v1/namespaces/a/pods";
const SERVICES: &str = "/api/v1/namespaces/a/services";
const CLAIMS: &str = "/api/v1/namespaces/a/persistentvolumeclaims";

async fn start() -> Server {
    start_on(Config::default(), |storage, chain| {
        chain.admission = vec![apiserver::admission::resource_quota(storage).unwrap()];
    })
    .await
}

/// Makes a quota whose status says that nothing is taken.
async fn quota(server: &Server, name: &str, spec: Value) {
    server.post(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    let used: Map<_, _> = spec["hard"].as_object().unwrap().keys().map(|name| (name.clone(), json!("0"))).collect();
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    server.patch(&format!("{QUOTAS}/{name}/status"), "merge", status).await.ok();
}

async fn used(server: &Server, name: &str) -> Value {
    server.get(&format!("{QUOTAS}/{name}")).await.ok()["status"]["used"].clone()
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

fn service(name: &str, kind: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}], "selector": {"a": "b"}}})
}

/// Refused with 403 and this text.
async fn refused(server: &Server, path: &str, object: Value, text: &str) {
    let answer = server.post(path, object).await;
    let status = answer.json();
    assert_eq!((answer.code, status["message"].as_str()), (403, Some(text)), "{status}");
}

#[tokio::test]
async fn pods_are_charged_until_nothing_is_left() {
    let server = start().await;
    quota(&server, "q", json!({"hard": {"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"}})).await;
    let half = json!({"requests": {"cpu": "400m"}, "limits": {"memory": "256Mi"}});
    server.post(PODS, pod("one", half.clone())).await.ok();
    assert_eq!(used(&server, "q").await, json!({"pods": "1", "requests.cpu": "400m", "limits.memory": "256Mi"}));
    let text = r#"pods "more" is forbidden: exceeded quota: q, requested: limits.memory=1Gi,requests.cpu=800m, used: limits.memory=256Mi,requests.cpu=400m, limited: limits.memory=1Gi,requests.cpu=1"#;
    let more = json!({"requests": {"cpu": "800m"}, "limits": {"memory": "1Gi"}});
    refused(&server, PODS, pod("more", more), text).await;
    let text = r#"pods "bare" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c"#;
    refused(&server, PODS, pod("bare", json!({})), text).await;
    // A dry run is checked and not charged.
    server.post(&format!("{PODS}?dryRun=All"), pod("dry", half.clone())).await.ok();
    server.post(PODS, pod("two", half.clone())).await.ok();
    let text = r#"pods "three" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"#;
    refused(&server, PODS, pod("three", json!({"requests": {"cpu": "1m"}, "limits": {"memory": "1"}})), text).await;
    // Elsewhere nothing is limited.
    server.post("/api/v1/namespaces/b/pods", pod("free", json!({}))).await.ok();
}

#[tokio::test]
async fn many_at_once_take_no_more_than_there_is() {
    let server = start().await;
    quota(&server, "q", json!({"hard": {"pods": "5", "count/configmaps": "40"}})).await;
    quota(&server, "p", json!({"hard": {"pods": "7", "count/pods": "100"}})).await;
    let names: Vec<String> = (0..40).map(|number| format!("p{number}")).collect();
    let pods = join_all(names.iter().map(|name| server.post(PODS, pod(name, json!({}))))).await;
    let made = pods.iter().filter(|answer| answer.code == 201).count();
    assert!(pods.iter().all(|answer| matches!(answer.code, 201 | 403)));
    let maps = "/api/v1/namespaces/a/configmaps";
    let maps = join_all(names.iter().map(|name| server.post(maps, json!({"metadata": {"name": name}})))).await;
    assert_eq!((made, maps.iter().filter(|answer| answer.code == 201).count()), (5, 40));
    assert_eq!(used(&server, "q").await, json!({"pods": "5", "count/configmaps": "40"}));
    assert_eq!(used(&server, "p").await, json!({"pods": "5", "count/pods": "5"}));
}

#[tokio::test]
async fn updates_pay_for_what_is_new() {
    let server = start().await;
    quota(&server, "q", json!({"hard": {"services": "5", "services.nodeports": "1", "services.loadbalancers": "0"}}))
        .await;
    server.post(SERVICES, service("plain", "ClusterIP")).await.ok();
    server.post(SERVICES, service("other", "ClusterIP")).await.ok();
    let open = json!({"spec": {"type": "NodePort"}});
    server.patch(&format!("{SERVICES}/plain"), "merge", open.clone()).await.ok();
    assert_eq!(
        used(&server, "q").await,
        json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"})
    );
    let answer = server.patch(&format!("{SERVICES}/other"), "merge", open).await;
    let text = r#"services "other" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"#;
    assert_eq!((answer.code, answer.json()["message"].as_str()), (403, Some(text)));
    let text = r#"services "lb" is forbidden: exceeded quota: q, requested: services.loadbalancers=1,services.nodeports=1, used: services.loadbalancers=0,services.nodeports=1, limited: services.loadbalancers=0,services.nodeports=1"#;
    refused(&server, SERVICES, service("lb", "LoadBalancer"), text).await;
    // A label changes nothing that is limited.
    server.patch(&format!("{SERVICES}/other"), "merge", json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    assert_eq!(used(&server, "q").await["services"], "2");
}

#[tokio::test]
async fn claims_by_class() {
    let server = start().await;
    let hard = json!({"requests.storage": "10Gi", "gold.storageclass.storage.k8s.io/requests.storage": "3Gi",
        "bronze.storageclass.storage.k8s.io/persistentvolumeclaims": "0"});
    quota(&server, "q", json!({"hard": hard})).await;
    let claim = |name: &str, class: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": size}}}})
    };
    server.post(CLAIMS, claim("a", "gold", "2Gi")).await.ok();
    let text = r#"persistentvolumeclaims "b" is forbidden: exceeded quota: q, requested: gold.storageclass.storage.k8s.io/requests.storage=2Gi, used: gold.storageclass.storage.k8s.io/requests.storage=2Gi, limited: gold.storageclass.storage.k8s.io/requests.storage=3Gi"#;
    refused(&server, CLAIMS, claim("b", "gold", "2Gi"), text).await;
    let answer = server.post(CLAIMS, claim("c", "bronze", "1Gi")).await;
    assert_eq!(answer.code, 403);
    server.post(CLAIMS, claim("d", "silver", "2Gi")).await.ok();
    assert_eq!(used(&server, "q").await["requests.storage"], "4Gi");
}

#[tokio::test]
async fn scopes_and_unknown_status() {
    let server = start().await;
    quota(&server, "best-effort", json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})).await;
    quota(&server, "ending", json!({"hard": {"pods": "1"}, "scopes": ["Terminating"]})).await;
    let busy = json!({"requests": {"cpu": "1"}});
    server.post(PODS, pod("busy", busy.clone())).await.ok();
    server.post(PODS, pod("idle", json!({}))).await.ok();
    let text =
        r#"pods "idle2" is forbidden: exceeded quota: best-effort, requested: pods=1, used: pods=1, limited: pods=1"#;
    refused(&server, PODS, pod("idle2", json!({})), text).await;
    // A pod that gets a deadline comes into the scope of pods that end.
    let deadline = json!({"spec": {"activeDeadlineSeconds": 100}});
    server.patch(&format!("{PODS}/busy"), "merge", deadline.clone()).await.ok();
    assert_eq!(used(&server, "ending").await["pods"], "1");
    server.post(PODS, pod("busy2", busy.clone())).await.ok();
    assert_eq!(server.patch(&format!("{PODS}/busy2"), "merge", deadline).await.code, 403);
    // Until somebody has counted, nothing passes that the quota limits.
    let spec = json!({"hard": {"count/secrets": "5"}});
    server.post(QUOTAS, json!({"metadata": {"name": "new"}, "spec": spec})).await.ok();
    let secrets = "/api/v1/namespaces/a/secrets";
    server.post(secrets, json!({"metadata": {"name": "early"}})).await.ok();
    server
        .patch(&format!("{QUOTAS}/new/status"), "merge", json!({"status": {"hard": {"count/secrets": "5"}}}))
        .await
        .ok();
    let text = r#"secrets "s" is forbidden: status unknown for quota: new, resources: count/secrets"#;
    refused(&server, secrets, json!({"metadata": {"name": "s"}}), text).await;
}
