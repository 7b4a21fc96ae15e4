//! Who is served under load, and who is asked to come back later.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod common;

use apiserver::Config;
use apiserver::body::{Body, BodyError};
use apiserver::context::UserInfo;
use apiserver::flow::FlowControl;
use bytes::Bytes;
use common::{Server, start_on, until};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::oneshot;
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const GROUP: &str = "flowcontrol.apiserver.k8s.io";

async fn make(server: &Server, resource: &str, name: &str, spec: Value) -> String {
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let made = server.api.storage().kind(GROUP, resource).unwrap().create(object).await.unwrap();
    made.value()["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// One level of a single seat for `jane` and `joe`, and one without limit for all others.
async fn start(response: Value) -> (Server, String, String) {
    let server =
        start_on(Config::default(), |storage, chain| chain.flow = Some(FlowControl::new(storage).unwrap())).await;
    // The bootstrap objects are there when the last of them is.
    let last = format!("{SCHEMAS}/catch-all");
    until(|| server.get(&last), |answer| answer.code == 200).await;
    make(&server, "prioritylevelconfigurations", "free", json!({"type": "Exempt"})).await;
    // One share of a thousand: one seat.
    let limited = |shares: u32, response: Value| json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "borrowingLimitPercent": 0, "limitResponse": response}});
    make(&server, "prioritylevelconfigurations", "rest", limited(999, json!({"type": "Reject"}))).await;
    let level = make(&server, "prioritylevelconfigurations", "narrow", limited(1, response)).await;
    let rule = |users: &[&str]| {
        let subjects: Vec<Value> = users.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect();
        json!({"subjects": subjects, "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]})
    };
    let schema = |level: &str, precedence: u32, rule: Value| json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]});
    make(&server, "flowschemas", "everybody", schema("free", 200, rule(&["*"]))).await;
    let schema = make(&server, "flowschemas", "few", schema("narrow", 100, rule(&["jane", "joe"]))).await;
    (server, schema, level)
}

async fn send<B>(server: &Server, user: &str, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    let client = server.api.service(UserInfo { name: user.to_owned(), ..UserInfo::default() });
    client.oneshot(request).await.unwrap()
}

fn get() -> Request<Full<Bytes>> {
    Request::get(MAPS).body(Full::new(Bytes::new())).unwrap()
}

/// A request that holds its seat until its body comes to its end, which is when it is told to.
async fn hold<'a>(server: &'a Server, user: &'a str) -> (LocalBoxFuture<'a, Response<Body>>, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel::<()>();
    let (begun, mut begin) = oneshot::channel::<()>();
    let first = futures::stream::once(async move {
        // Whoever reads the body has its seat.
        let _ = begun.send(());
        let _ = ended.await;
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(b"{}")))
    });
    let body = StreamBody::new(first.boxed());
    let request = Request::post(MAPS).header("content-type", "application/json").body(body).unwrap();
    let mut running: LocalBoxFuture<'a, _> = Box::pin(send(server, user, request));
    while begin.try_recv().is_err() {
        assert!(futures::poll!(&mut running).is_pending());
        tokio::task::yield_now().await;
    }
    (running, end)
}

#[tokio::test]
async fn a_full_level_refuses_and_others_are_served() {
    let (server, schema, level) = start(json!({"type": "Reject"})).await;
    let (running, end) = hold(&server, "jane").await;
    let refused = send(&server, "joe", get()).await;
    let (head, body) = refused.into_parts();
    assert_eq!((head.status.as_u16(), head.headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(head.headers["x-kubernetes-pf-flowschema-uid"].to_str().unwrap(), schema);
    assert_eq!(head.headers["x-kubernetes-pf-prioritylevel-uid"].to_str().unwrap(), level);
    let status: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("TooManyRequests"), &json!("Too many requests, please try again later."))
    );
    let served = send(&server, "else", get()).await;
    assert_eq!(served.status(), 200);
    assert_ne!(served.headers()["x-kubernetes-pf-flowschema-uid"].to_str().unwrap(), schema);
    end.send(()).unwrap();
    running.await;
    assert_eq!(send(&server, "joe", get()).await.status(), 200);
}

#[tokio::test]
async fn who_may_wait_gets_the_seat_and_watches_do_not_keep_theirs() {
    let queuing = json!({"queues": 8, "handSize": 1, "queueLengthLimit": 1});
    let (server, _, _) = start(json!({"type": "Queue", "queuing": queuing})).await;
    let watch = |_| Request::get(format!("{MAPS}?watch=1")).body(Full::new(Bytes::new())).unwrap();
    let watches = futures::future::join_all((0..5).map(|n| send(&server, "jane", watch(n)))).await;
    assert!(watches.iter().all(|watch| watch.status() == 200));
    let (running, end) = hold(&server, "jane").await;
    let mut waiting = Box::pin(send(&server, "jane", get()));
    assert!(futures::poll!(&mut waiting).is_pending());
    // The queue of this flow is full.
    assert_eq!(send(&server, "jane", get()).await.status(), 429);
    end.send(()).unwrap();
    running.await;
    let served = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    assert_eq!(served.status(), 200);
}

#[tokio::test]
async fn objects_are_kept_in_order() {
    let (server, _, _) = start(json!({"type": "Reject"})).await;
    // What is deleted comes back.
    let path = format!("{SCHEMAS}/catch-all");
    let uid = |answer: &common::Answer| answer.json()["metadata"]["uid"].clone();
    let before = uid(&server.get(&path).await);
    server.delete(&path, Value::Null).await.ok();
    until(|| server.get(&path), |answer| answer.code == 200 && uid(answer) != before).await;
    // What is changed is put back, unless the user has said that it is hers.
    let (theirs, hers) = (format!("{SCHEMAS}/global-default"), format!("{SCHEMAS}/service-accounts"));
    let annotation = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}});
    server.patch(&hers, "merge", annotation).await.ok();
    for path in [&hers, &theirs] {
        server.patch(path, "merge", json!({"spec": {"matchingPrecedence": 9000}})).await.ok();
    }
    let precedence = |answer: &common::Answer| answer.json()["spec"]["matchingPrecedence"].clone();
    until(|| server.get(&theirs), |answer| precedence(answer) == 9900).await;
    assert_eq!(precedence(&server.get(&hers).await), 9000);
    // Schemas say whether their level is there.
    let schema = json!({"priorityLevelConfiguration": {"name": "later"}, "matchingPrecedence": 500, "rules": []});
    make(&server, "flowschemas", "early", schema).await;
    let path = format!("{SCHEMAS}/early");
    let condition = |answer: &common::Answer| answer.json()["status"]["conditions"][0].clone();
    let told = until(|| server.get(&path), |answer| condition(answer)["status"] == "True").await;
    assert_eq!(
        condition(&told)["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"later\" but there is no such object"
    );
    make(&server, "prioritylevelconfigurations", "later", json!({"type": "Exempt"})).await;
    until(|| server.get(&path), |answer| condition(answer)["status"] == "False").await;
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"narrow\"} 1",
        "apiserver_flowcontrol_current_executing_seats{priority_level=\"narrow\"} 0",
        "apiserver_flowcontrol_current_executing_requests{flow_schema=\"global-default\",priority_level=\"global-default\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}
