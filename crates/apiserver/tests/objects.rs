//! The verbs on plain objects, as a client sees them.

mod common;

use common::start;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"k": "v"}})
}

#[tokio::test]
async fn a_life() {
    let server = start().await;
    let created = server.post(MAPS, map("one")).await;
    assert_eq!(created.code, 201);
    let created = created.json();
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let meta = &created["metadata"];
    assert_eq!((&meta["namespace"], meta["uid"].as_str().map(str::len)), (&json!("a"), Some(36)));
    assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(meta["managedFields"].as_array().map(Vec::len), Some(1));
    assert!(meta.get("generation").is_none());
    assert_eq!(server.get(&format!("{MAPS}/one")).await.ok(), created);

    let mut changed = created.clone();
    changed["data"]["k"] = json!("w");
    let updated = server.put(&format!("{MAPS}/one"), changed.clone()).await.ok();
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let stale = server.put(&format!("{MAPS}/one"), changed).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.json()["message"],
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // Nothing changed, nothing written.
    let same = server.put(&format!("{MAPS}/one"), updated.clone()).await.ok();
    assert_eq!(same, updated);

    let deleted = server.delete(&format!("{MAPS}/one"), Value::Null).await.ok();
    assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(deleted["details"], json!({"name": "one", "kind": "configmaps", "uid": created["metadata"]["uid"]}));
    let gone = server.get(&format!("{MAPS}/one")).await;
    assert_eq!((gone.code, gone.json()["reason"].as_str()), (404, Some("NotFound")));
    assert_eq!(gone.json()["message"], "configmaps \"one\" not found");
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a flat table of cases")]
async fn refusals() {
    let server = start().await;
    server.post(MAPS, map("one")).await.ok();
    let pods = "/api/v1/namespaces/a/pods";
    let json_type = "application/json";
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let large = format!("{{\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(3 << 20));
    let pod_of_map = r#"{"kind":"ConfigMap","apiVersion":"v1"}"#;
    for (method, path, content_type, body, code, reason, message) in [
        ("POST", MAPS, json_type, map("one").to_string(), 409, "AlreadyExists", "configmaps \"one\" already exists"),
        ("POST", MAPS, json_type, "{".to_owned(), 400, "BadRequest", "couldn't get version/kind; json parse error"),
        ("POST", MAPS, json_type, String::new(), 400, "BadRequest", "json parse error"),
        ("POST", MAPS, json_type, "[]".to_owned(), 400, "BadRequest", "cannot unmarshal"),
        ("POST", MAPS, json_type, deep, 400, "BadRequest", ""),
        ("POST", MAPS, json_type, large, 413, "RequestEntityTooLarge", "limit is 3145728"),
        ("POST", MAPS, "text/html", "{}".to_owned(), 415, "UnsupportedMediaType", "accepted media types include"),
        ("POST", MAPS, "application/cbor", "k8s\0".to_owned(), 415, "UnsupportedMediaType", ""),
        (
            "POST",
            MAPS,
            json_type,
            r#"{"metadata":{"namespace":"b","name":"x"}}"#.to_owned(),
            400,
            "BadRequest",
            "does not match the namespace sent on the request",
        ),
        (
            "POST",
            MAPS,
            json_type,
            r#"{"apiVersion":"v2","kind":"ConfigMap"}"#.to_owned(),
            400,
            "BadRequest",
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        ("POST", pods, json_type, pod_of_map.to_owned(), 400, "BadRequest", "cannot be handled as a Pod"),
        (
            "POST",
            MAPS,
            json_type,
            r#"{"metadata":{"name":7}}"#.to_owned(),
            400,
            "BadRequest",
            "cannot unmarshal number into Go struct field",
        ),
        ("POST", MAPS, json_type, "{}".to_owned(), 422, "Invalid", "name or generateName is required"),
        ("POST", "/api/v1/configmaps", json_type, map("x").to_string(), 405, "MethodNotAllowed", ""),
        (
            "PUT",
            "/api/v1/namespaces/a/configmaps/two",
            json_type,
            map("one").to_string(),
            400,
            "BadRequest",
            "the name of the object (one) does not match the name on the URL (two)",
        ),
        ("PUT", "/api/v1/namespaces/a/configmaps/two", json_type, map("two").to_string(), 404, "NotFound", ""),
        (
            "PATCH",
            "/api/v1/namespaces/a/configmaps/one",
            json_type,
            "{}".to_owned(),
            415,
            "UnsupportedMediaType",
            "application/merge-patch+json",
        ),
        (
            "PATCH",
            "/api/v1/namespaces/a/configmaps/one",
            "application/apply-patch+yaml",
            "{}".to_owned(),
            422,
            "Invalid",
            "fieldManager: Required value",
        ),
        ("DELETE", "/api/v1/namespaces/a/configmaps/two", json_type, String::new(), 404, "NotFound", ""),
        (
            "GET",
            "/api/v1/nothings",
            json_type,
            String::new(),
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        ("GET", "/api/v7/pods", json_type, String::new(), 404, "NotFound", ""),
        ("GET", "/nowhere", json_type, String::new(), 404, "NotFound", ""),
        ("GET", "/api/v1/namespaces/a/nodes", json_type, String::new(), 404, "NotFound", ""),
        ("GET", "/api/v1/pods?labelSelector=a%20b%20c", json_type, String::new(), 400, "BadRequest", ""),
        ("GET", "/api/v1/configmaps?fieldSelector=data.k%3Dv", json_type, String::new(), 400, "BadRequest", "field"),
        (
            "GET",
            "/api/v1/configmaps?resourceVersionMatch=Exact",
            json_type,
            String::new(),
            422,
            "Invalid",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        ("GET", "/api/v1/configmaps?resourceVersion=x", json_type, String::new(), 422, "Invalid", ""),
        (
            "GET",
            "/api/v1/configmaps?continue=x",
            json_type,
            String::new(),
            400,
            "BadRequest",
            "continue key is not valid",
        ),
    ] {
        let answer = server.send(method, path, &[("content-type", content_type)], body).await;
        let status = answer.json();
        let context = format!("{method} {path} {content_type}: {status}");
        assert_eq!((answer.code, status["code"].as_u64()), (code, Some(u64::from(code))), "{context}");
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{context}");
        assert_eq!(status["reason"], reason, "{context}");
        assert!(status["message"].as_str().unwrap().contains(message), "{context}");
    }
    let refused = server.as_user("nobody", "GET", "/api/v1/namespaces/a/pods/p").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.json()["message"],
        "pods \"p\" is forbidden: User \"nobody\" cannot get resource \"pods\" in API group \"\" in the namespace \"a\""
    );
    assert_eq!(server.send("GET", "/api/v1/pods", &[("accept", "image/png")], "").await.code, 406);
}

#[tokio::test]
async fn field_validation() {
    let server = start().await;
    let body = r#"{"metadata":{"name":"NAME"},"date":{"k":"v"},"data":{"a":"1","a":"2"}}"#;
    for (validation, code, warnings) in
        [("", 201, 2), ("Warn", 201, 2), ("Ignore", 201, 0), ("Strict", 400, 0), ("Loose", 422, 0)]
    {
        let path = format!("{MAPS}?fieldValidation={validation}");
        let body = body.replace("NAME", &format!("x{}", validation.to_lowercase()));
        let answer = server.send("POST", &path, &[], body).await;
        assert_eq!(answer.code, code, "{validation}: {:?}", answer.body);
        assert_eq!(answer.headers.get_all("warning").iter().count(), warnings, "{validation}");
        if code == 400 {
            let message = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(
                message.starts_with(
                    "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: "
                ),
                "{message}"
            );
            assert!(
                message.contains("unknown field \"date\"") && message.contains("duplicate field \"data.a\""),
                "{message}"
            );
        }
    }
    let answer = server.send("POST", MAPS, &[], body.replace("NAME", "w")).await;
    let warnings: Vec<_> = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(warnings, [r#"299 - "unknown field \"date\"""#, r#"299 - "duplicate field \"data.a\"""#]);
}

#[tokio::test]
async fn patches() {
    let server = start().await;
    let deployments = "/apis/apps/v1/namespaces/a/deployments";
    let pod = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:1"}]}});
    let deployment =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": pod}});
    let created = server.post(deployments, deployment).await.ok();
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{deployments}/d");
    for (kind, change, generation, image) in [
        (
            "strategic-merge",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "j:2"}]}}}}),
            2,
            "j:2",
        ),
        ("merge", json!({"metadata": {"labels": {"x": "y"}}}), 2, "j:2"),
        ("merge", json!({"metadata": {"annotations": {"x": "y"}}}), 3, "j:2"),
        (
            "json",
            json!([{"op": "replace", "path": "/spec/template/spec/containers/1/image", "value": "j:3"}]),
            4,
            "j:3",
        ),
        ("strategic-merge", json!({}), 4, "j:3"),
        ("merge", json!({"status": {"replicas": 5}}), 4, "j:3"),
    ] {
        let patched = server.patch(&path, kind, change.clone()).await.ok();
        assert_eq!(patched["metadata"]["generation"], generation, "{kind} {change}");
        assert_eq!(patched["spec"]["template"]["spec"]["containers"][1]["image"], image, "{kind} {change}");
        assert!(patched["status"].get("replicas").is_none(), "{kind} {change}");
    }
    for (kind, change, code) in [
        ("json", json!([{"op": "test", "path": "/metadata/name", "value": "other"}]), 422),
        ("json", json!([{"op": "remove", "path": "/spec/nothing"}]), 422),
        ("json", json!({"op": "remove"}), 400),
        ("merge", json!([]), 400),
        ("merge", json!({"metadata": {"resourceVersion": "1"}}), 409),
        ("merge", json!({"metadata": {"uid": "other"}}), 422),
        ("merge", json!({"spec": {"replicas": "many"}}), 400),
    ] {
        let answer = server.patch(&path, kind, change.clone()).await;
        assert_eq!(answer.code, code, "{kind} {change}: {:?}", answer.body);
    }
    let status = server
        .patch(&format!("{path}/status"), "merge", json!({"status": {"replicas": 5}, "spec": {"replicas": 9}}))
        .await
        .ok();
    assert_eq!((&status["status"]["replicas"], &status["metadata"]["generation"]), (&json!(5), &json!(4)));
    assert_ne!(status["spec"]["replicas"], 9);
    let scale = server.get(&format!("{path}/scale")).await.ok();
    assert_eq!(
        (&scale["kind"], &scale["status"]["selector"], &scale["status"]["replicas"]),
        (&json!("Scale"), &json!("app=d"), &json!(5))
    );
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(7);
    let scaled = server.put(&format!("{path}/scale"), wanted.clone()).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 7);
    assert_eq!(server.put(&format!("{path}/scale"), wanted).await.code, 409);
    let patched = server.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": 3}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 3);
    assert_eq!(server.get(&path).await.ok()["spec"]["replicas"], 3);
    assert_eq!(server.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": -1}})).await.code, 422);
}

#[tokio::test]
async fn many_writers_lose_nothing() {
    let server = start().await;
    server.post(MAPS, json!({"metadata": {"name": "counter"}})).await.ok();
    let path = format!("{MAPS}/counter");
    let writers = (0..16).map(|writer| {
        let (server, path) = (&server, &path);
        async move {
            for round in 0..20 {
                server.patch(path, "merge", json!({"data": {format!("{writer}-{round}"): "x"}})).await.ok();
                assert_eq!(server.get(path).await.ok()["data"][format!("{writer}-{round}")], "x");
            }
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(server.get(&path).await.ok()["data"].as_object().unwrap().len(), 320);
}

#[tokio::test]
async fn names_are_generated() {
    let server = start().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let made = server.post(MAPS, json!({"metadata": {"generateName": "web-"}})).await.ok();
        let name = made["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 50);
}

#[tokio::test]
async fn dry_runs_store_nothing() {
    let server = start().await;
    let made = server.post(&format!("{MAPS}?dryRun=All"), map("one")).await;
    assert_eq!((made.code, made.json()["metadata"]["uid"].as_str().map(str::len)), (201, Some(36)));
    assert_eq!(server.get(&format!("{MAPS}/one")).await.code, 404);
    let stored = server.post(MAPS, map("one")).await.ok();
    let patched = server.patch(&format!("{MAPS}/one?dryRun=All"), "merge", json!({"data": {"k": "w"}})).await.ok();
    assert_eq!(patched["data"]["k"], "w");
    server.delete(&format!("{MAPS}/one?dryRun=All"), Value::Null).await.ok();
    assert_eq!(server.get(&format!("{MAPS}/one")).await.ok(), stored);
    assert_eq!(server.post(&format!("{MAPS}?dryRun=Some"), map("two")).await.code, 422);
}

#[tokio::test]
async fn formats() {
    let server = start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yy\ndata:\n  answer: \"42\"\n  other: \"yes\"\n";
    let made = server.send("POST", MAPS, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let back = server.send("GET", &format!("{MAPS}/yy"), &[("accept", "application/yaml")], "").await;
    assert_eq!(back.headers["content-type"], "application/yaml");
    let again =
        server.send("PUT", &format!("{MAPS}/yy"), &[("content-type", "application/yaml")], back.body).await.ok();
    assert_eq!(again["data"], json!({"answer": "42", "other": "yes"}));
    for (accept, kind, extra) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table", "columnDefinitions"),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata", "metadata"),
    ] {
        let answer = server.send("GET", &format!("{MAPS}/yy"), &[("accept", accept)], "").await.ok();
        assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!(kind), &json!("meta.k8s.io/v1")));
        assert!(answer.get(extra).is_some(), "{answer}");
        let list = server.send("GET", MAPS, &[("accept", accept)], "").await.ok();
        assert!(list["kind"].as_str().unwrap().starts_with(kind), "{list}");
    }
    let table = server.send("GET", MAPS, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.ok();
    assert_eq!(table["rows"][0]["cells"][0], "yy");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "yy");
}
