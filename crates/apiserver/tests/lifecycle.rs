//! How objects end, and what subresources do.

mod common;

use common::{Server, start, start_configured};
use serde_json::{Value, json};
use std::time::Duration;

const PODS: &str = "/api/v1/namespaces/a/pods";

fn pod(name: &str, node: &str) -> Value {
    let mut pod = json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

async fn exists(server: &Server, path: &str) -> bool {
    server.get(path).await.code == 200
}

#[tokio::test]
async fn pods_get_their_grace() {
    let server = start().await;
    // An unscheduled pod goes at once.
    let made = server.post(PODS, pod("p0", "")).await.ok();
    assert_eq!((&made["status"]["phase"], &made["status"]["qosClass"]), (&json!("Pending"), &json!("BestEffort")));
    assert_eq!(made["metadata"]["generation"], 1);
    let gone = server.delete(&format!("{PODS}/p0"), Value::Null).await.ok();
    assert_eq!((&gone["kind"], &gone["metadata"]["name"]), (&json!("Pod"), &json!("p0")));
    assert!(!exists(&server, &format!("{PODS}/p0")).await);
    // A scheduled one is marked, its grace can only get shorter, and zero ends it.
    let path = format!("{PODS}/p1");
    server.post(PODS, pod("p1", "n")).await.ok();
    let mut last = u64::MAX;
    for (requested, granted) in [(None, 30), (Some(60), 30), (Some(5), 5), (Some(-1), 1)] {
        let options = requested.map_or(json!({}), |seconds: i64| json!({"gracePeriodSeconds": seconds}));
        let marked = server.delete(&path, options).await.ok();
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], granted, "{requested:?}");
        let stamp = marked["metadata"]["deletionTimestamp"].as_str().unwrap().to_owned();
        assert!(stamp.ends_with('Z'));
        last = last.min(granted);
    }
    // No update takes a deletion back.
    let taken =
        server.patch(&path, "merge", json!({"metadata": {"deletionTimestamp": null, "labels": {"y": "z"}}})).await.ok();
    assert!(taken["metadata"]["deletionTimestamp"].is_string() && taken["metadata"]["labels"]["y"] == "z");
    server.delete(&format!("{path}?gracePeriodSeconds=0"), Value::Null).await.ok();
    assert!(!exists(&server, &path).await);
    // A finished pod has no grace either.
    server.post(PODS, pod("p2", "n")).await.ok();
    server.patch(&format!("{PODS}/p2/status"), "merge", json!({"status": {"phase": "Succeeded"}})).await.ok();
    server.delete(&format!("{PODS}/p2"), Value::Null).await.ok();
    assert!(!exists(&server, &format!("{PODS}/p2")).await);
}

#[tokio::test]
async fn finalizers_and_dependents() {
    let server = start().await;
    let sets = "/apis/apps/v1/namespaces/a/replicasets";
    let make = |name: &str, finalizers: Value| {
        json!({"metadata": {"name": name, "finalizers": finalizers}, "spec": {"selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for (name, own, options, expected) in [
        ("plain", json!([]), json!({}), None),
        ("background", json!([]), json!({"propagationPolicy": "Background"}), None),
        ("orphan", json!([]), json!({"propagationPolicy": "Orphan"}), Some(json!(["orphan"]))),
        ("old-orphan", json!([]), json!({"orphanDependents": true}), Some(json!(["orphan"]))),
        ("foreground", json!([]), json!({"propagationPolicy": "Foreground"}), Some(json!(["foregroundDeletion"]))),
        ("own", json!(["example.com/x"]), json!({}), Some(json!(["example.com/x"]))),
        (
            "both",
            json!(["example.com/x"]),
            json!({"propagationPolicy": "Foreground"}),
            Some(json!(["example.com/x", "foregroundDeletion"])),
        ),
    ] {
        let path = format!("{sets}/{name}");
        server.post(sets, make(name, own)).await.ok();
        let answer = server.delete(&path, options).await.ok();
        match expected {
            None => assert!(answer["kind"] == "Status" && !exists(&server, &path).await, "{name}: {answer}"),
            Some(finalizers) => {
                assert_eq!(answer["metadata"]["finalizers"], finalizers, "{name}");
                assert!(answer["metadata"]["deletionTimestamp"].is_string(), "{name}");
                assert_eq!(
                    (&answer["metadata"]["deletionGracePeriodSeconds"], &answer["metadata"]["generation"]),
                    (&json!(0), &json!(2))
                );
                let more = server.patch(&path, "merge", json!({"metadata": {"finalizers": ["example.com/new"]}})).await;
                assert!(
                    more.code == 422
                        && more.json()["message"].as_str().unwrap().contains("no new finalizers can be added"),
                    "{name}"
                );
                server.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await.ok();
                assert!(!exists(&server, &path).await, "{name}: the last finalizer is gone");
            }
        }
    }
    for (options, code) in [
        (json!({"propagationPolicy": "Sideways"}), 422),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
        (json!({"preconditions": {"uid": "other"}}), 409),
        (json!({"preconditions": {"resourceVersion": "1"}}), 409),
    ] {
        let answer = server.post(sets, make("kept", json!([]))).await;
        assert!(matches!(answer.code, 201 | 409));
        assert_eq!(server.delete(&format!("{sets}/kept"), options.clone()).await.code, code, "{options}");
    }
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = start().await;
    for (name, app) in [("x1", "x"), ("x2", "x"), ("y1", "y")] {
        let map = json!({"metadata": {"name": name, "labels": {"app": app}}});
        server.post("/api/v1/namespaces/a/configmaps", map).await.ok();
    }
    let list = server.delete("/api/v1/namespaces/a/configmaps?labelSelector=app%3Dx", Value::Null).await.ok();
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("ConfigMapList"), Some(2)));
    let left = server.get("/api/v1/namespaces/a/configmaps").await.ok();
    assert_eq!(left["items"][0]["metadata"]["name"], "y1");
    assert_eq!(server.delete("/api/v1/configmaps", Value::Null).await.code, 405);
}

#[tokio::test]
async fn namespaces_end_in_two_steps() {
    let server = start().await;
    let made = server.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.ok();
    assert_eq!((&made["spec"]["finalizers"], &made["status"]["phase"]), (&json!(["kubernetes"]), &json!("Active")));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    let marked = server.delete("/api/v1/namespaces/n", Value::Null).await.ok();
    assert_eq!((&marked["kind"], &marked["status"]["phase"]), (&json!("Namespace"), &json!("Terminating")));
    // Only the subresource changes the finalizers.
    server.patch("/api/v1/namespaces/n", "merge", json!({"spec": {"finalizers": []}})).await.ok();
    let mut current = server.get("/api/v1/namespaces/n").await.ok();
    assert_eq!(current["spec"]["finalizers"], json!(["kubernetes"]));
    current["spec"] = json!({});
    server.put("/api/v1/namespaces/n/finalize", current).await.ok();
    assert!(!exists(&server, "/api/v1/namespaces/n").await);
}

#[tokio::test]
async fn binding_and_eviction() {
    let server = start().await;
    server.post(PODS, pod("p", "")).await.ok();
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    assert_eq!(server.post(&format!("{PODS}/p/binding"), binding("")).await.code, 422);
    let bound = server.post(&format!("{PODS}/p/binding"), binding("n1")).await;
    assert_eq!((bound.code, bound.json()["status"].as_str()), (201, Some("Success")));
    let now = server.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(
        (&now["spec"]["nodeName"], &now["status"]["conditions"][0]["type"]),
        (&json!("n1"), &json!("PodScheduled"))
    );
    let again = server.post(&format!("{PODS}/p/binding"), binding("n2")).await;
    assert_eq!(again.code, 409);
    assert!(again.json()["message"].as_str().unwrap().ends_with("pod p is already assigned to node \"n1\""));
    // A budget that allows one disruption allows one.
    for name in ["q", "r"] {
        server.post(PODS, pod(name, "n1")).await.ok();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        server.patch(&format!("{PODS}/{name}/status"), "strategic-merge", ready).await.ok();
    }
    let budgets = "/apis/policy/v1/namespaces/a/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    server.post(budgets, budget).await.ok();
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    server.patch(&format!("{budgets}/b/status"), "merge", status).await.ok();
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    assert_eq!(server.post(&format!("{PODS}/q/eviction"), eviction("q")).await.code, 201);
    assert!(server.get(&format!("{PODS}/q")).await.ok()["metadata"]["deletionTimestamp"].is_string());
    let refused = server.post(&format!("{PODS}/r/eviction"), eviction("r")).await;
    assert_eq!((refused.code, refused.json()["reason"].as_str()), (429, Some("TooManyRequests")));
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("Cannot evict pod as it would violate the pod's disruption budget")
    );
    assert_eq!(server.get(&format!("{budgets}/b")).await.ok()["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn what_a_pod_update_may_change() {
    let server = start().await;
    let path = format!("{PODS}/p");
    server.post(PODS, pod("p", "n")).await.ok();
    for (change, code, generation) in [
        (json!({"spec": {"containers": [{"name": "c", "image": "j"}]}}), 200, 2),
        (json!({"spec": {"activeDeadlineSeconds": 100}}), 200, 3),
        (json!({"spec": {"activeDeadlineSeconds": 200}}), 422, 3),
        (json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}}), 200, 4),
        (json!({"spec": {"tolerations": null}}), 422, 4),
        (json!({"spec": {"nodeName": "m"}}), 422, 4),
        (json!({"spec": {"containers": [{"name": "d", "image": "j"}]}}), 422, 4),
        (json!({"metadata": {"annotations": {"a": "b"}}}), 200, 4),
        (json!({"metadata": {"labels": {"-": "b"}}}), 422, 4),
    ] {
        let answer = server.patch(&path, "strategic-merge", change.clone()).await;
        assert_eq!(answer.code, code, "{change}: {:?}", answer.body);
        assert_eq!(server.get(&path).await.ok()["metadata"]["generation"], generation, "{change}");
    }
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "dbg", "image": "i"}]}});
    assert_eq!(server.patch(&path, "strategic-merge", debug.clone()).await.code, 422);
    let with = server.patch(&format!("{path}/ephemeralcontainers"), "strategic-merge", debug).await.ok();
    assert_eq!(with["spec"]["ephemeralContainers"][0]["name"], "dbg");
    let without = json!({"spec": {"ephemeralContainers": null}});
    assert_eq!(server.patch(&format!("{path}/ephemeralcontainers"), "merge", without).await.code, 422);
}

#[tokio::test]
async fn versions_share_their_objects() {
    let server = start().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "a", "name": "p"}, "reason": "R", "message": "m", "type": "Normal"});
    server.post("/api/v1/namespaces/a/events", event).await.ok();
    let other = server.get("/apis/events.k8s.io/v1/namespaces/a/events/e").await.ok();
    assert_eq!(
        (&other["apiVersion"], &other["note"], &other["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("m"), &json!("p"))
    );
    let list = server.get("/apis/events.k8s.io/v1/events").await.ok();
    assert_eq!(list["items"][0], other);
    let patched =
        server.patch("/apis/events.k8s.io/v1/namespaces/a/events/e", "merge", json!({"deprecatedCount": 7})).await.ok();
    assert_eq!(patched["deprecatedCount"], 7);
    assert_eq!(server.get("/api/v1/namespaces/a/events/e").await.ok()["count"], 7);
    let scalers = "namespaces/a/horizontalpodautoscalers";
    let old = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 60}});
    server.post(&format!("/apis/autoscaling/v1/{scalers}"), old).await.ok();
    let new = server.get(&format!("/apis/autoscaling/v2/{scalers}/h")).await.ok();
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
}

#[tokio::test]
async fn events_expire() {
    let config = apiserver::Config { event_ttl: Duration::from_millis(400), ..apiserver::Config::default() };
    let server = start_configured(config, |_| {}).await;
    let mut watch = server.watch("/api/v1/events?watch=1").await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "a"}});
    server.post("/api/v1/namespaces/a/events", event).await.ok();
    assert_eq!(watch.brief().await, "ADDED e");
    assert_eq!(watch.brief().await, "DELETED e");
}

/// At the end readiness fails, watches end, and what has begun is finished.
#[tokio::test]
async fn the_end_is_told_and_nothing_is_broken_off() {
    let server = start().await;
    let maps = "/api/v1/namespaces/a/configmaps";
    let mut watch = server.watch(&format!("{maps}?watch=1")).await;
    let (mut answer, send) = server.begin("POST", maps);
    assert!(futures::poll!(&mut answer).is_pending());
    server.stop.cancel();
    assert_eq!(watch.brief().await, "end");
    let ready = server.get("/readyz").await;
    assert_eq!(ready.code, 500);
    assert!(String::from_utf8_lossy(&ready.body).contains("[-]shutdown failed: reason withheld\n"));
    assert_eq!(server.get("/livez").await.code, 200);
    send.send(json!({"metadata": {"name": "late"}}).to_string()).unwrap();
    assert_eq!(answer.await.code, 201);
}
