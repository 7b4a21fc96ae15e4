//! What definitions of custom resources cost: memory each, and the time until they are published.
//!
//! `KIJABI_DEFINITIONS=500 cargo test --release -p apiserver --test footprint -- --nocapture` prints it for as many as wanted.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod common;

use common::{Server, start};
use futures::StreamExt;
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Most that a definition of some 35 kB may cost, in bytes: at rest, and once an object of it was written.
const AT_REST_MAX: usize = 100_000;
const USED_MAX: usize = 130_000;
/// What is kept of the newest changes, of any kind, and has a bound of its own: the store's past (16 MiB) and memory tables, and
/// the kind's past (4 MiB). With few definitions it is all there is to see.
const RECENT_MAX: usize = 40 << 20;
/// How many requests at one time.
const AT_ONCE: usize = 8;

/// A schema of the size operators have: two hundred fields with descriptions.
fn large_schema() -> Value {
    let text = "What this field is for, in a sentence or two, as generators copy it out of the comments of a type.";
    let leaf = |index: usize| match index % 4 {
        0 => json!({"type": "integer", "format": "int32", "minimum": 0, "description": text}),
        1 => json!({"type": "array", "items": {"type": "string"}, "description": text}),
        2 => json!({"type": "boolean", "default": false, "description": text}),
        _ => json!({"type": "string", "pattern": "^[a-z]+$", "maxLength": 63, "description": text}),
    };
    let group = |group: usize| {
        let fields: serde_json::Map<String, Value> =
            (0..20).map(|index| (format!("field{group}x{index}"), leaf(index))).collect();
        json!({"type": "object", "description": text, "properties": fields, "required": [format!("field{group}x0")]})
    };
    let groups: serde_json::Map<String, Value> = (0..10).map(|index| (format!("group{index}"), group(index))).collect();
    json!({"type": "object", "description": text, "properties": {
        "spec": {"type": "object", "properties": groups}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
}

fn definition(index: usize, schema: &Value) -> Value {
    let (plural, kind) = (format!("things{index}"), format!("Thing{index}"));
    json!({"metadata": {"name": format!("{plural}.x.io")}, "spec": {
        "group": "x.io", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]}})
}

async fn define(server: &Server, indices: std::ops::Range<usize>, schema: &Value) {
    let made = futures::stream::iter(indices).for_each_concurrent(AT_ONCE, async |index| {
        server.post(DEFINITIONS, definition(index, schema)).await.ok();
        served(server, index).await;
    });
    made.await;
}

async fn served(server: &Server, index: usize) {
    let path = format!("/apis/x.io/v1/things{index}");
    common::until(|| server.get(&path), |answer| answer.code == 200).await;
}

/// How long until a definition is served, in discovery, and in both forms of OpenAPI.
async fn published(server: &Server, index: usize) -> Duration {
    let began = Instant::now();
    served(server, index).await;
    let name = format!("things{index}");
    let list = server.get("/apis/x.io/v1").await.ok();
    assert!(list["resources"].as_array().unwrap().iter().any(|resource| resource["name"] == *name));
    for path in ["/openapi/v2", "/openapi/v3/apis/x.io/v1"] {
        let document = server.get(path).await;
        assert!(String::from_utf8_lossy(&document.body).contains(&format!("io.x.v1.Thing{index}")), "{path}");
    }
    began.elapsed()
}

#[tokio::test]
async fn many_definitions_cost_little() {
    let count = std::env::var("KIJABI_DEFINITIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let server = start().await;
    let schema = large_schema();
    define(&server, 0..1, &schema).await;
    published(&server, 0).await;
    let more = |before: usize| ALLOCATED.current_usage().saturating_sub(before);
    let (before, began) = (ALLOCATED.current_usage(), Instant::now());
    define(&server, 1..count + 1, &schema).await;
    let (at_rest, took) = (more(before), began.elapsed());
    let used = futures::stream::iter(1..count + 1).for_each_concurrent(AT_ONCE, async |index| {
        let object = json!({"metadata": {"name": "a"}, "spec": {"group0": {"field0x0": 1}}});
        server.post(&format!("/apis/x.io/v1/namespaces/a/things{index}"), object).await.ok();
    });
    used.await;
    let used = more(before);
    // The first document makes all parts, those after it one more.
    let first = published(&server, count).await;
    define(&server, count + 1..count + 2, &schema).await;
    let next = published(&server, count + 1).await;
    println!(
        "{count} definitions of {} kB: {} kB each with what is kept of recent changes, {} kB once used; all served after {took:?}; the first document after {first:?}, with one more after {next:?}",
        schema.to_string().len() / 1000,
        at_rest / count / 1000,
        used / count / 1000,
    );
    assert!(at_rest < RECENT_MAX + count * AT_REST_MAX && used < RECENT_MAX + count * USED_MAX, "{at_rest} {used}");
}
