//! Discovery, formats for machines, and what strangers send, over a real connection where that matters.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Server, start};
use machinery::protobuf;
use machinery::schema::Schema;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn discovery() {
    let server = start().await;
    let versions = server.get("/api").await.ok();
    assert_eq!((&versions["kind"], &versions["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let groups = server.get("/apis").await.ok();
    assert!(
        groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|group| group["name"] == "apps" && group["preferredVersion"]["groupVersion"] == "apps/v1")
    );
    assert_eq!(server.get("/apis/autoscaling").await.ok()["versions"].as_array().unwrap().len(), 2);
    let core = server.get("/api/v1").await.ok();
    let names: Vec<_> =
        core["resources"].as_array().unwrap().iter().map(|resource| resource["name"].as_str().unwrap()).collect();
    for name in ["pods", "pods/log", "pods/eviction", "namespaces/finalize", "services"] {
        assert!(names.contains(&name), "{name}");
    }
    assert_eq!(server.get("/apis/nothing/v1").await.code, 404);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let aggregated = server.send("GET", "/apis", &[("accept", accept)], "").await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let tag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    let list = aggregated.ok();
    let apps = list["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "apps").unwrap();
    let deployments = apps["versions"][0]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|resource| resource["resource"] == "deployments")
        .unwrap();
    assert!(
        deployments["subresources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|sub| sub["subresource"] == "scale" && sub["responseKind"]["kind"] == "Scale")
    );
    let unchanged = server.send("GET", "/apis", &[("accept", accept), ("if-none-match", &tag)], "").await;
    assert_eq!((unchanged.code, unchanged.body.len()), (304, 0));
    let version = server.get("/version").await.ok();
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.37.2+kijabi"));
    let index = server.get("/openapi/v3").await.ok();
    let path = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = server.get(&path).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    assert!(document.ok()["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert!(server.get("/").await.ok()["paths"].as_array().unwrap().len() > 20);
}

#[tokio::test]
async fn health_and_metrics() {
    let server = start().await;
    let hook = "poststarthook/crd-informer-synced";
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping", "/livez/etcd", &format!("/readyz/{hook}")] {
        let answer = server.get(path).await;
        assert_eq!((answer.code, &*answer.body), (200, b"ok".as_slice()), "{path}");
    }
    let verbose = server.get("/readyz?verbose&exclude=etcd&exclude=none").await;
    let expected = "[+]ping ok\n[+]etcd excluded: ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n\
        [+]poststarthook/crd-informer-synced ok\n[+]shutdown ok\n\
        warn: some health checks cannot be excluded: no matches for \"none\"\nreadyz check passed\n";
    assert_eq!(String::from_utf8_lossy(&verbose.body), expected);
    for path in ["/healthz/nothing", "/debug/pprof/", "/debug/flags", "/metrics/x"] {
        assert_eq!(server.get(path).await.code, 404, "{path}");
    }
    let pods = server.get("/api/v1/pods").await;
    assert_eq!(
        (pods.headers["audit-id"].len(), pods.headers["cache-control"].to_str().unwrap()),
        (36, "no-cache, private")
    );
    let named = server.send("GET", "/api/v1/pods", &[("audit-id", "mine")], "").await;
    assert_eq!(named.headers["audit-id"], "mine");
    let map = json!({"metadata": {"name": "m"}});
    server.post("/api/v1/namespaces/a/configmaps?dryRun=All", map.clone()).await.ok();
    let mut watch = server.watch("/api/v1/configmaps?watch=1").await;
    server.post("/api/v1/namespaces/a/configmaps", map).await.ok();
    watch.brief().await;
    server.get("/apis/a.b/v1/nothings").await;
    let metrics = || async { String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap() };
    let text = metrics().await;
    let open = |count: u32| {
        format!(
            "apiserver_longrunning_requests{{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}} {count}"
        )
    };
    for line in [
        "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 2",
        "apiserver_request_total{code=\"201\",dry_run=\"All\",component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1",
        "apiserver_request_total{code=\"404\",dry_run=\"\",component=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"\",verb=\"LIST\",version=\"\"} 1",
        "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"/livez\",verb=\"GET\",version=\"\"} 2",
        &open(1),
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 1",
        "apiserver_storage_objects{resource=\"deployments.apps\"} 0",
        "apiserver_watch_events_total{group=\"\",resource=\"configmaps\",version=\"v1\"} 1",
        "etcd_request_duration_seconds_count{group=\"\",resource=\"configmaps\",operation=\"create\"} 1",
        "authorization_attempts_total{result=\"denied\"} 0",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}");
    }
    drop(watch);
    assert!(metrics().await.contains(&open(0)));
}

#[tokio::test]
async fn protobuf_there_and_back() {
    let server = start().await;
    let media_type = "application/vnd.kubernetes.protobuf";
    let schema = Schema::builtin().kind("", "v1", "ConfigMap").unwrap();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"k": "v"}});
    let headers = [("content-type", media_type), ("accept", media_type)];
    let made = server.send("POST", "/api/v1/namespaces/a/configmaps", &headers, protobuf::encode(&map, schema)).await;
    assert_eq!(
        (made.code, &made.headers["content-type"]),
        (201, &media_type.parse::<http::HeaderValue>().unwrap()),
        "{:?}",
        made.body
    );
    let find = |_: &str, kind: &str| Schema::builtin().kind("", "v1", kind);
    let back = protobuf::decode(&made.body, None, find).unwrap();
    assert_eq!((&back["data"], &back["metadata"]["namespace"]), (&json!({"k": "v"}), &json!("a")));
    let list = server.send("GET", "/api/v1/configmaps", &headers[1..], "").await;
    assert_eq!(protobuf::decode(&list.body, None, find).unwrap()["items"][0]["metadata"]["name"], "m");
    let missing = server.send("GET", "/api/v1/namespaces/a/configmaps/x", &headers[1..], "").await;
    let status = protobuf::decode(&missing.body, None, find).unwrap();
    assert_eq!((missing.code, &status["reason"], &status["code"]), (404, &json!("NotFound"), &json!(404)));
    for garbage in [&b"k8s\0"[..], b"k8s\0\xff\xff\xff", b"nothing"] {
        let answer = server.send("POST", "/api/v1/namespaces/a/configmaps", &headers[..1], garbage.to_vec()).await;
        assert!(matches!(answer.code, 400 | 422), "{garbage:?}: {}", answer.code);
    }
}

async fn listen(server: &Server) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (api, stop) = (server.api.clone(), CancellationToken::new());
    let token = stop.clone();
    tokio::spawn(async move { api.serve(listener, None, serve::Limits::default(), token).await });
    (address, stop)
}

/// Sends bytes and reads the first line of the answer; empty when the connection ends without one.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 4096];
    let read =
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn hostile_connections() {
    let server = start().await;
    let (address, stop) = listen(&server).await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(40_000));
    for (request, expected) in [
        ("GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET / HTTP/9\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            "POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n",
            "HTTP/1.1 413 Payload Too Large",
        ),
        (&long, "HTTP/1.1 414 URI Too Long"),
    ] {
        assert_eq!(exchange(address, request.as_bytes()).await, expected, "{:.60}", request);
    }
    // A body that never comes holds up nobody else, and nothing of it is stored.
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{\"metadata\":{\"name\":").await.unwrap();
    assert_eq!(exchange(address, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await, "HTTP/1.1 200 OK");
    drop(half);
    assert_eq!(server.get("/api/v1/configmaps").await.ok()["items"], json!([]));
    stop.cancel();
}

#[tokio::test]
async fn random_bodies_never_end_in_an_internal_error() {
    let server = start().await;
    let kinds = [
        (
            "/api/v1/namespaces/a/pods",
            json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}),
        ),
        (
            "/api/v1/namespaces/a/services",
            json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        ),
        (
            "/apis/apps/v1/namespaces/a/deployments",
            json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        ),
        (
            "/apis/batch/v1/namespaces/a/jobs",
            json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
        ),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut accepted = 0;
    for round in 0..600 {
        let (path, object) = &kinds[round % kinds.len()];
        let mut object = object.clone();
        object["metadata"]["name"] = format!("x{round}").into();
        for _ in 0..random.usize(0..3) {
            mutate(&mut object, &mut random);
        }
        let answer = server.post(path, object.clone()).await;
        assert!(answer.code < 500, "{object} {:?}", answer.body);
        if answer.code == 201 {
            accepted += 1;
            let name = answer.json()["metadata"]["name"].as_str().unwrap().to_owned();
            let kind = ["merge", "strategic-merge"][round % 2];
            let mut change = object;
            mutate(&mut change, &mut random);
            let patched = server.patch(&format!("{path}/{name}"), kind, change.clone()).await;
            assert!(patched.code < 500, "{kind} {change} {:?}", patched.body);
        }
    }
    assert!(accepted > 50, "{accepted}");
}

/// Replaces something somewhere by something else.
fn mutate(value: &mut Value, random: &mut fastrand::Rng) {
    let strange = [
        json!(null),
        json!(-1),
        json!(1.5),
        json!(""),
        json!("x y"),
        json!([]),
        json!({}),
        json!([null]),
        json!(true),
        json!(u64::MAX),
    ];
    match value {
        Value::Object(map) if !map.is_empty() && random.u8(0..8) > 0 => {
            let at = random.usize(0..map.len());
            if let Some(member) = map.values_mut().nth(at) {
                mutate(member, random);
            }
        }
        Value::Array(list) if !list.is_empty() && random.u8(0..8) > 0 => {
            let at = random.usize(0..list.len());
            mutate(&mut list[at], random);
        }
        value => *value = strange[random.usize(0..strange.len())].clone(),
    }
}

#[tokio::test]
async fn bodies_that_swell_are_refused() {
    let server = start().await;
    let maps = "/api/v1/namespaces/a/configmaps";
    let level = |name: char, of: char| format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 10].join(","));
    let laughs: String = ('b'..='k').zip('a'..).map(|(name, of)| level(name, of)).collect();
    let cases = [
        ("application/yaml", format!("a: &a [x,x,x,x,x,x,x,x,x,x]\n{laughs}")),
        ("application/yaml", "a: &a [*a]\n".to_owned()),
        ("application/yaml", "[".repeat(100_000)),
        ("application/yaml", "- ".repeat(100_000)),
        ("application/yaml", "? ".repeat(100_000)),
        ("application/json", "[".repeat(100_000)),
        ("application/json", "{\"a\":".repeat(1_000) + "1" + &"}".repeat(1_000)),
        ("application/json", "1".repeat(1_000_000)),
        ("application/json", format!("{{\"apiVersion\":\"v1\",\"kind\":\"{}\"}}", "x".repeat(100))),
    ];
    for (kind, body) in cases {
        let began = std::time::Instant::now();
        let shown = body[..body.len().min(40)].to_owned();
        let answer = server.send("POST", maps, &[("content-type", kind)], body).await;
        assert_eq!(answer.code, 400, "{shown}: {:?}", answer.body);
        assert_eq!(answer.json()["kind"], "Status");
        assert!(answer.body.len() < 4_000, "{shown}: the answer has {} bytes", answer.body.len());
        assert!(began.elapsed() < Duration::from_secs(10), "{shown}: {:?}", began.elapsed());
    }
    // What is wrong a hundred thousand times is told a thousand times.
    let many = vec!["bad name"; 100_000];
    let object = json!({"metadata": {"name": "m", "finalizers": many}});
    let answer = server.post(maps, object).await;
    let causes = answer.json()["details"]["causes"].as_array().map_or(0, Vec::len);
    assert!(answer.code == 422 && causes == machinery::ERRORS_MAX, "{} {causes}", answer.code);
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for() {
    let server = start().await;
    tokio::time::pause();
    let never = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, apiserver::body::BodyError>>();
    let request = http::Request::post("/api/v1/namespaces/a/configmaps").header("content-type", "application/json");
    let request = request.body(http_body_util::StreamBody::new(never)).unwrap();
    let began = tokio::time::Instant::now();
    let response = server.api.handle(request, Default::default()).await;
    assert_eq!(response.status(), 504);
    assert!(began.elapsed() <= Duration::from_secs(61), "{:?}", began.elapsed());
}
