//! Lists and watches: consistency, selectors, bookmarks, history.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Server, start};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn make(server: &Server, name: &str, labels: Value) -> u64 {
    let made = server.post(MAPS, json!({"metadata": {"name": name, "labels": labels}})).await.ok();
    revision(&made)
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let server = start().await;
    make(&server, "before", json!({"app": "x"})).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dx")).await;
    assert_eq!(watch.brief().await, "ADDED before");
    make(&server, "other", json!({"app": "y"})).await;
    let enter = json!({"metadata": {"labels": {"app": "x"}}});
    server.patch(&format!("{MAPS}/other"), "merge", enter).await.ok();
    assert_eq!(watch.brief().await, "ADDED other");
    server.patch(&format!("{MAPS}/other"), "merge", json!({"data": {"k": "v"}})).await.ok();
    assert_eq!(watch.brief().await, "MODIFIED other");
    let leave =
        server.patch(&format!("{MAPS}/other"), "merge", json!({"metadata": {"labels": {"app": null}}})).await.ok();
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], revision(&event["object"])), (&json!("DELETED"), revision(&leave)));
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "x", "a departure shows the state that was selected");
    server.delete(&format!("{MAPS}/other"), Value::Null).await.ok();
    server.delete(&format!("{MAPS}/before"), Value::Null).await.ok();
    assert_eq!(watch.brief().await, "DELETED before");
}

#[tokio::test]
async fn field_selectors() {
    let server = start().await;
    for (name, node) in [("p1", "n1"), ("p2", "n2")] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        server.post("/api/v1/namespaces/a/pods", pod).await.ok();
    }
    for (selector, expected) in [
        ("spec.nodeName%3Dn1", vec!["p1"]),
        ("spec.nodeName!%3Dn1", vec!["p2"]),
        ("metadata.name%3Dp2", vec!["p2"]),
        ("status.phase%3DPending", vec!["p1", "p2"]),
        ("status.phase%3DRunning", vec![]),
        ("spec.nodeName%3Dn1,metadata.namespace%3Da", vec!["p1"]),
    ] {
        let list = server.get(&format!("/api/v1/pods?fieldSelector={selector}")).await.ok();
        assert_eq!(names(&list), expected, "{selector}");
    }
    assert_eq!(server.get("/api/v1/pods?fieldSelector=spec.dnsPolicy%3Dx").await.code, 400);
}

#[tokio::test]
async fn a_watch_goes_on_from_a_revision() {
    let server = start().await;
    let first = make(&server, "one", json!({})).await;
    make(&server, "two", json!({})).await;
    server.delete(&format!("{MAPS}/one"), Value::Null).await.ok();
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={first}")).await;
    assert_eq!(watch.brief().await, "ADDED two");
    assert_eq!(watch.brief().await, "DELETED one");
    make(&server, "three", json!({})).await;
    assert_eq!(watch.brief().await, "ADDED three");
    // One object, by the path of a watch of old and by a field selector.
    for path in [
        "/api/v1/watch/namespaces/a/configmaps/three".to_owned(),
        format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dthree"),
    ] {
        assert_eq!(server.watch(&path).await.brief().await, "ADDED three", "{path}");
    }
}

#[tokio::test]
async fn history_that_is_gone_answers_410() {
    let server = start().await;
    // A fresh store begins at no revision, so everything is still there; fill the history until it is not.
    let first = make(&server, "one", json!({})).await;
    for round in 0..4300 {
        server.patch(&format!("{MAPS}/one"), "merge", json!({"data": {"k": round.to_string()}})).await.ok();
    }
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={first}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = start().await;
    make(&server, "one", json!({})).await;
    let last = make(&server, "two", json!({})).await;
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.brief().await, "ADDED one");
    assert_eq!(watch.brief().await, "ADDED two");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert!(revision(&bookmark["object"]) >= last && bookmark["object"]["kind"] == "ConfigMap");
    make(&server, "three", json!({})).await;
    assert_eq!(watch.brief().await, "ADDED three");
    assert_eq!(server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.code, 422);
}

#[tokio::test]
async fn bookmarks_come_about_once_a_minute() {
    let server = start().await;
    make(&server, "one", json!({})).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=160")).await;
    assert_eq!(watch.brief().await, "ADDED one");
    let other = server.post("/api/v1/namespaces/a/secrets", json!({"metadata": {"name": "s"}})).await.ok();
    let mut bookmarks = 0;
    // From here on nothing but timers is waited for, so the clock may jump to the next one.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    while let Some(event) = watch.patient().await {
        assert_eq!(event["type"], "BOOKMARK");
        assert!(revision(&event["object"]) >= revision(&other), "a bookmark tells the changes of other kinds too");
        bookmarks += 1;
    }
    assert_eq!(bookmarks, 2);
    assert!((159..165).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn tables_and_metadata_stream_too() {
    let server = start().await;
    make(&server, "one", json!({})).await;
    let mut tables = server.watch_as(&format!("{MAPS}?watch=1"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let mut metadata = server
        .watch_as(&format!("{MAPS}?watch=1"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
        .await;
    let first = tables.next().await.unwrap();
    assert!(first["object"]["kind"] == "Table" && !first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert_eq!(metadata.next().await.unwrap()["object"]["kind"], "PartialObjectMetadata");
    make(&server, "two", json!({})).await;
    let second = tables.next().await.unwrap();
    assert_eq!((&second["type"], &second["object"]["rows"][0]["cells"][0]), (&json!("ADDED"), &json!("two")));
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(metadata.brief().await, "ADDED two");
}

#[tokio::test]
async fn pages_stay_consistent() {
    let server = start().await;
    for index in 0..25 {
        make(&server, &format!("m{index:02}"), json!({"half": if index % 2 == 0 { "even" } else { "odd" }})).await;
    }
    let first = server.get(&format!("{MAPS}?limit=10")).await.ok();
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (10, &json!(15)));
    // What happens between pages is not seen.
    server.delete(&format!("{MAPS}/m15"), Value::Null).await.ok();
    make(&server, "m12x", json!({})).await;
    let mut found = names(&first).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    while !token.is_empty() {
        let page = server.get(&format!("{MAPS}?limit=10&continue={token}")).await.ok();
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        found.extend(names(&page).into_iter().map(str::to_owned));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    let expected: Vec<String> = (0..25).map(|index| format!("m{index:02}")).collect();
    assert_eq!(found, expected);
    let selected = server.get(&format!("{MAPS}?limit=10&labelSelector=half%3Dodd")).await.ok();
    assert_eq!(names(&selected).len(), 10);
    assert!(selected["metadata"].get("remainingItemCount").is_none());
    // The past is there by its revision, as long as the store has it.
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={}", revision(&first));
    assert_eq!(names(&server.get(&exact).await.ok()).len(), 25);
    assert_eq!(names(&server.get(&format!("{MAPS}?resourceVersion=0")).await.ok()).len(), 25);
    let future = server.get(&format!("{MAPS}?resourceVersion=100000")).await;
    assert_eq!((future.code, future.json()["reason"].as_str()), (504, Some("Timeout")));
}

#[tokio::test]
async fn a_slow_watcher_is_dropped_and_others_go_on() {
    let server = start().await;
    let mut slow = server.watch(&format!("{MAPS}?watch=1")).await;
    make(&server, "one", json!({})).await;
    for round in 0..4200 {
        server.patch(&format!("{MAPS}/one"), "merge", json!({"data": {"k": round.to_string()}})).await.ok();
    }
    let mut events = 0;
    while slow.next().await.is_some() {
        events += 1;
    }
    assert!((4000..4201).contains(&events), "{events}: some were lost, and the stream ended");
    let mut quick = server.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(quick.brief().await, "ADDED one");
}

#[tokio::test]
async fn who_never_reads_large_objects_is_dropped_early() {
    let server = start().await;
    let mut slow = server.watch(&format!("{MAPS}?watch=1")).await;
    make(&server, "one", json!({})).await;
    for round in 0..140 {
        let large = json!({"data": {"k": format!("{round}{}", "x".repeat(560_000))}});
        server.patch(&format!("{MAPS}/one"), "merge", large).await.ok();
    }
    let mut events = 0;
    while slow.next().await.is_some() {
        events += 1;
    }
    assert!((120..136).contains(&events), "{events} events of half a megabyte were kept for somebody who did not read");
}

/// Pages of memory that this process has, in bytes.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn ten_thousand_watchers_are_cheap_and_each_hears() {
    const WATCHERS: usize = 10_000;
    let server = start().await;
    make(&server, "first", json!({})).await;
    let before = resident_bytes();
    let mut watchers = Vec::with_capacity(WATCHERS);
    for _ in 0..WATCHERS {
        let mut watcher = server.watch(&format!("{MAPS}?watch=1")).await;
        assert_eq!(watcher.brief().await, "ADDED first");
        watchers.push(watcher);
    }
    let each = resident_bytes().saturating_sub(before) / WATCHERS;
    assert!(each < 16 << 10, "a watcher takes {each} bytes, without its connection");
    make(&server, "second", json!({})).await;
    assert_eq!(server.get(&format!("{MAPS}/second")).await.code, 200, "others are served meanwhile");
    for watcher in &mut watchers {
        assert_eq!(watcher.brief().await, "ADDED second");
    }
    println!("a watcher takes {each} bytes");
}
