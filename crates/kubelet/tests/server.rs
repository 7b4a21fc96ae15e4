//! The kubelet's server over real TLS: who gets in, and what logs say.

#![allow(clippy::unwrap_used)]

mod common;

use common::Api;
use http_body_util::BodyExt;
use kubelet::simulated::{Behaviour, Simulated};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

struct World {
    api: Api,
    runtime: Simulated,
    authority: pki::Authority,
    base: String,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let (api, runtime, token) = (Api::default(), Simulated::new(), CancellationToken::new());
        let now = SystemTime::now();
        let authority = pki::Authority::create("ca", now).unwrap();
        let names = pki::Names {
            node: "n1".into(),
            cluster_domain: "cluster.local".into(),
            service_ip: "10.43.0.1".parse().unwrap(),
            node_ips: vec!["127.0.0.1".parse().unwrap()],
            extra: Vec::new(),
        };
        let identity = authority.issue(&pki::Profile::kubelet(&names), now).unwrap();
        let tls = pki::server_config(Arc::new(pki::Swap::new(&identity).unwrap()), &[&authority]).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (services, images) = (Arc::new(runtime.clone()), Arc::new(runtime.clone()));
        let mut config = kubelet::Config::new("n1", api.client(), services, images);
        config.root_dir = dir.path().join("kubelet");
        config.log_dir = dir.path().join("logs");
        let allowed_names = vec!["kube-apiserver-kubelet-client".to_owned()];
        config.server = Some(kubelet::Server { listener, tls: Arc::new(tls), allowed_names });
        let stop = token.clone();
        let task = tokio::spawn(async move { kubelet::run(config, stop).await.unwrap() });
        World { api, runtime, authority, base, token, task, _dir: dir }
    }

    async fn pod(&self, name: &str, image: &str) {
        self.api.add(
            "api/v1/pods",
            &format!("default/{name}"),
            json!({"metadata": {"uid": format!("uid-{name}")},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": image}]}}),
        );
    }

    async fn running(&self, name: &str) {
        let wanted = |p: Option<&serde_json::Value>| p.is_some_and(|p| p["status"]["phase"] == "Running");
        self.api.until("api/v1/pods", &format!("default/{name}"), wanted).await;
    }

    fn client(&self, user: Option<&str>) -> serve::client::Client {
        let identity = user.map(|u| self.authority.issue(&pki::Profile::client(u, &[]), SystemTime::now()).unwrap());
        let swap = identity.map(|i| Arc::new(pki::Swap::new(&i).unwrap()));
        serve::client::Client::new(pki::client_config(&self.authority, swap).unwrap())
    }

    async fn get(&self, user: Option<&str>, path: &str) -> (u16, String) {
        let request = http::Request::get(format!("{}{path}", self.base)).body(serve::empty()).unwrap();
        let response = self.client(user).send(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }
}

const API_SERVER: Option<&str> = Some("kube-apiserver-kubelet-client");

#[tokio::test]
async fn who_gets_in_and_what_logs_say() {
    let world = World::new().await;
    let log = vec!["one".to_owned(), "two".to_owned()];
    world.runtime.image("app:1", Behaviour { log, ..Behaviour::default() });
    world.runtime.image("gone:1", Behaviour { remote: true, pull_error: Some("no".into()), ..Behaviour::default() });
    world.pod("web", "app:1").await;
    world.pod("stuck", "gone:1").await;
    world.running("web").await;
    let stuck = |p: Option<&serde_json::Value>| {
        p.is_some_and(|p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull")
    };
    world.api.until("api/v1/pods", "default/stuck", stuck).await;
    let waiting = "container \"c\" in pod \"stuck\" is waiting to start: image can't be pulled";
    for (user, path, want) in [
        (None, "/healthz", (200, "ok")),
        (None, "/pods", (401, "Unauthorized")),
        (Some("system:node:n2"), "/pods", (403, "Forbidden (user=system:node:n2, verb=proxy, resource=nodes)")),
        (API_SERVER, "/containerLogs/default/web/c", (200, "one\ntwo\n")),
        (API_SERVER, "/containerLogs/default/web/c?tailLines=1", (200, "two\n")),
        (API_SERVER, "/containerLogs/default/web/c?limitBytes=5", (200, "one\nt")),
        (API_SERVER, "/containerLogs/default/web/c?tailLines=x", (400, "invalid value \"x\" for tailLines")),
        (
            API_SERVER,
            "/containerLogs/default/web/c?previous=true",
            (400, "previous terminated container \"c\" in pod \"web\" not found"),
        ),
        (API_SERVER, "/containerLogs/default/web/x", (404, "container \"x\" not found in pod \"web\"\n")),
        (API_SERVER, "/containerLogs/default/none/c", (404, "pod \"none\" not found\n")),
        (API_SERVER, "/containerLogs/default/stuck/c", (400, waiting)),
        (API_SERVER, "/exec/default/stuck/c?command=ls", (404, "container not found (\"c\")")),
        (API_SERVER, "/nothing", (404, "404 page not found\n")),
    ] {
        let (code, body) = world.get(user, path).await;
        assert_eq!((code, body.as_str()), want, "{user:?} {path}");
    }
    let (_, pods) = world.get(API_SERVER, "/pods").await;
    assert!(pods.contains("\"uid\":\"uid-web\""), "{pods}");
    let (_, summary) = world.get(API_SERVER, "/stats/summary").await;
    assert!(summary.contains("\"nodeName\":\"n1\""), "{summary}");
    let (_, metrics) = world.get(API_SERVER, "/metrics").await;
    assert!(metrics.contains("kubelet_running_pods 1\n"), "{metrics}");
    let node = world.api.until("api/v1/nodes", "n1", |n| n.is_some()).await.unwrap();
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap();
    assert!(world.base.ends_with(&format!(":{port}")));
    world.token.cancel();
    tokio::time::timeout(Duration::from_secs(30), world.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn followed_logs_end_with_their_container() {
    let world = World::new().await;
    world.runtime.image("app:1", Behaviour { log: vec!["one".into()], ..Behaviour::default() });
    world.pod("web", "app:1").await;
    world.running("web").await;
    let follow = world.get(API_SERVER, "/containerLogs/default/web/c?follow=true");
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.runtime.end("c", 0);
    };
    let ((code, body), ()) = futures::future::join(follow, end).await;
    assert_eq!((code, body.as_str()), (200, "one\n"));
    world.token.cancel();
    tokio::time::timeout(Duration::from_secs(30), world.task).await.unwrap().unwrap();
}
