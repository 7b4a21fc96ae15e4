//! Managed fields and server-side apply, against what upstream's API server answered (`conformance/apply-golden`).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Answer, Server, start};
use serde_json::{Map, Value, json};

fn load(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

/// What an answer says, in the golden file's form.
fn brief(step: &Value, answer: &Answer) -> Value {
    let mut out = json!({"code": answer.code});
    let warnings: Vec<&str> = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    if !warnings.is_empty() {
        out["warnings"] = json!(warnings);
    }
    let mut body = answer.json();
    if answer.code >= 400 {
        for field in ["message", "reason"] {
            if body.get(field).is_some_and(|text| text != "") {
                out[field] = body[field].clone();
            }
        }
        if let Some(causes) = body["details"].get("causes") {
            out["causes"] = causes.clone();
        }
        return comparable(out);
    }
    if body["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) {
        return out;
    }
    if let Some(managed) = body["metadata"].as_object_mut().unwrap().remove("managedFields") {
        out["managed"] = managed;
    }
    if step.get("only").is_none() {
        out["object"] = plain(body);
    }
    comparable(out)
}

/// Without what differs from run to run.
fn plain(value: Value) -> Value {
    const OWN: [&str; 5] = ["uid", "resourceVersion", "creationTimestamp", "clusterIP", "clusterIPs"];
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, _)| !key.ends_with("Time") && !OWN.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(plain).collect(),
        other => other,
    }
}

/// Managers in an order that does not depend on times, their fields decoded.
fn comparable(mut answer: Value) -> Value {
    if let Some(managers) = answer.get_mut("managed").and_then(Value::as_array_mut) {
        for manager in managers.iter_mut() {
            manager.as_object_mut().unwrap().remove("time");
            if let Some(text) = manager["fieldsV1"].as_str() {
                manager["fieldsV1"] = serde_json::from_str(text).unwrap();
            }
        }
        managers.sort_by_cached_key(|manager| {
            ["operation", "manager", "apiVersion", "subresource"].map(|field| manager[field].to_string())
        });
    }
    // Upstream tells conflicts in no order.
    if let Some(causes) = answer.get_mut("causes").and_then(Value::as_array_mut) {
        causes.sort_by_cached_key(Value::to_string);
    }
    answer
}

fn merge(object: &mut Map<String, Value>, change: &Map<String, Value>) {
    for (key, value) in change {
        match (object.get_mut(key), value) {
            (_, Value::Null) => drop(object.remove(key)),
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => drop(object.insert(key.clone(), value.clone())),
        }
    }
}

async fn run(server: &Server, step: &Value) -> Answer {
    let text = |field: &str| step[field].as_str().unwrap_or_default();
    let path =
        if text("query").is_empty() { text("path").to_owned() } else { format!("{}?{}", text("path"), text("query")) };
    let or = |field, other| if text(field).is_empty() { other } else { text(field) };
    let headers = [("content-type", or("type", "application/json")), ("user-agent", or("agent", "tester/1"))];
    let (mut method, mut body) = (text("method"), step["body"].clone());
    if method == "WAIT" {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while server.get(&path).await.code != 200 && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        method = "GET";
    }
    if method == "EDIT" {
        method = "PUT";
        let mut live = server.get(text("path")).await.json();
        merge(live.as_object_mut().unwrap(), step["body"].as_object().unwrap());
        body = live;
    }
    let body = match step.get("raw") {
        Some(raw) => raw.as_str().unwrap().to_owned(),
        None if body.is_null() => String::new(),
        None => body.to_string(),
    };
    server.send(method, &path, &headers, body).await
}

/// Where we differ from upstream and mean to.
const DIFFERENCES: &[(&str, usize, &str)] = &[
    // The words of another parser, and of a router before the API.
    ("bodies", 1, "message"),
    ("bodies", 19, "message"),
    ("bodies", 20, "message"),
    ("bodies", 21, "message"),
    // An annotation that upstream's conversion adds and takes for the client's.
    ("kinds", 8, "managed"),
    // What was applied in v2 and is no longer applied in v1, upstream keeps; we take it out.
    ("versions", 4, "object"),
    ("versions", 5, "object"),
    ("versions", 6, "object"),
    // Upstream cannot apply by force to the scale of a custom resource.
    ("custom: scale", 2, "code"),
    ("custom: scale", 2, "message"),
    ("custom: scale", 2, "object"),
    ("custom: scale", 3, "managed"),
    ("custom: scale", 3, "object"),
    ("custom: scale", 5, "object"),
    // A missing warning.
    ("kinds", 24, "warnings"),
];

fn differs(scenario: &str, step: usize, field: &str) -> bool {
    DIFFERENCES.contains(&(scenario, step, field))
}

#[tokio::test]
async fn answers_are_those_of_upstream() {
    let server = start().await;
    let scenarios = load(include_str!("apply/scenarios.json"));
    let golden = load(include_str!("apply/golden.json"));
    assert_eq!(scenarios.len(), golden.len());
    let mut wrong = Vec::new();
    for (scenario, expected) in scenarios.iter().zip(&golden) {
        let name = scenario["name"].as_str().unwrap();
        assert_eq!(expected["name"], name);
        let steps = scenario["steps"].as_array().unwrap();
        for (at, (step, expected)) in steps.iter().zip(expected["answers"].as_array().unwrap()).enumerate() {
            let found = brief(step, &run(&server, step).await);
            let expected = comparable(expected.clone());
            for field in ["code", "message", "reason", "causes", "warnings", "managed", "object"] {
                let same = found.get(field) == expected.get(field);
                if same == differs(name, at, field) {
                    let show = |value: &Value| value.get(field).map(Value::to_string).unwrap_or_default();
                    wrong.push(format!(
                        "{name}, step {at}, {field}:\n  upstream {}\n  we       {}",
                        show(&expected),
                        show(&found)
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// Clients send back what they got: nothing is written, and who owns what stays as it is to the byte.
#[tokio::test]
async fn what_changes_nothing_is_not_written() {
    let server = start().await;
    let (list, path) = ("/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/a");
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k10": "v", "k9": "v"}});
    let created = server.post(list, object.clone()).await;
    let before = created.body.clone();
    let apply = ("application/apply-patch+yaml", format!("{path}?fieldManager=a"));
    let applied = server.send("PATCH", &apply.1, &[("content-type", apply.0)], object.to_string()).await;
    assert_ne!(applied.body, before, "another owner");
    let before = applied.body.clone();
    for (method, path, media_type, body) in [
        ("PUT", path, "application/json", String::from_utf8(before.to_vec()).unwrap()),
        ("PUT", path, "application/json", object.to_string()),
        ("PATCH", path, "application/merge-patch+json", json!({"data": {"k9": "v"}}).to_string()),
        (
            "PATCH",
            path,
            "application/json-patch+json",
            json!([{"op": "test", "path": "/data/k9", "value": "v"}]).to_string(),
        ),
        ("PATCH", &apply.1, apply.0, object.to_string()),
    ] {
        let answer = server.send(method, path, &[("content-type", media_type), ("user-agent", "other/1")], body).await;
        assert_eq!(answer.code, 200, "{:?}", answer.body);
        assert_eq!(answer.body, before, "{method} {media_type}");
    }
    for wrong in [json!("x"), json!({"a": 1}), json!(3)] {
        let mut object = object.clone();
        object["metadata"]["managedFields"] = wrong;
        assert_eq!(server.put(path, object).await.code, 400);
    }
}
