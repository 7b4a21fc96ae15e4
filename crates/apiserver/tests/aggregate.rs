//! API versions that another server serves: availability, passing on, discovery.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod node;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use node::{Cluster, start};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use serve::{Body, Limits};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_secs(20);
const GROUP: &str = "wardle.example.com";

/// An API server that answers who it thinks asks.
async fn remote(cluster: &Cluster) -> (SocketAddr, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["api.default.svc".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.pki.front_proxy_authority().certificate().clone()).unwrap();
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = cluster.stop.clone();
    tokio::spawn(async move { serve::serve(listener, Some(Arc::new(config)), Limits::default(), answer, stop).await });
    (address, BASE64_STANDARD.encode(certificate.pem()))
}

async fn answer(peer: serve::Peer, mut request: Request<Incoming>) -> Response<Body> {
    let certificate = peer.certificate.and_then(|der| pki::Subject::of(&der).ok()).unwrap_or_default().common_name;
    assert_eq!(certificate, "front-proxy-client");
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut byte = [0];
            while io.read_exact(&mut byte).await.is_ok() {
                io.write_all(&byte).await.unwrap();
                io.flush().await.unwrap();
            }
        });
        let mut response = Response::new(serve::empty());
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "echo".parse().unwrap());
        return response;
    }
    if query.contains("watch") {
        let lines = futures::stream::unfold(0, |count| async move {
            if count > 1 {
                std::future::pending::<()>().await;
            }
            let line = Bytes::from(format!("{{\"type\":\"ADDED\",\"object\":{count}}}\n"));
            Some((Ok::<_, serve::BoxError>(http_body::Frame::data(line)), count + 1))
        });
        return Response::new(Body::new(StreamBody::new(lines)));
    }
    let verbs = json!(["get", "list"]);
    let text = match path.as_str() {
        "/apis/wardle.example.com/v1" => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": verbs}]})
        }
        "/openapi/v2" => {
            let schema = json!({"$ref": "#/definitions/com.example.wardle.Flunder"});
            let list = json!({"get": {"responses": {"200": {"description": "OK", "schema": schema}}}});
            json!({"swagger": "2.0", "paths": {"/apis/wardle.example.com/v1/flunders": list, "/version/": {}},
                "definitions": {"com.example.wardle.Flunder": {"type": "object"}, "com.example.Other": {"type": "object"}}})
        }
        "/openapi/v3" => {
            json!({"paths": {"apis/wardle.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=ABC"}}})
        }
        "/openapi/v3/apis/wardle.example.com/v1" => json!({"openapi": "3.0.0", "query": query}),
        _ => {
            let headers = request.headers();
            let all = |name: &str| {
                headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            json!({"method": request.method().as_str(), "path": path, "query": query, "user": all("x-remote-user"), "groups": all("x-remote-group"),
                "extra": all("x-remote-extra-secret"), "authorization": all("authorization"), "impersonate": all("impersonate-user")})
        }
    };
    Response::new(serve::full(text.to_string()))
}

async fn send(cluster: &Cluster, request: http::request::Builder) -> (u16, http::HeaderMap, Bytes) {
    let response = cluster.client().send(request.body(serve::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status.as_u16(), head.headers, body.collect().await.unwrap().to_bytes())
}

async fn get(cluster: &Cluster, path: &str) -> Value {
    let (_, _, body) = send(cluster, Request::get(format!("https://{}{path}", cluster.address))).await;
    serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error} {body:?}"))
}

async fn make(cluster: &Cluster, group: &str, resource: &str, object: Value) {
    cluster.api.storage().kind(group, resource).unwrap().create(object).await.unwrap();
}

/// Waits until the condition has this reason.
async fn becomes(cluster: &Cluster, reason: &str) -> Value {
    let services = cluster.api.storage().kind("apiregistration.k8s.io", "apiservices").unwrap();
    let (_, mut changes) = services.subscribe();
    let wait = async {
        loop {
            let service = services.find("", "v1.wardle.example.com").unwrap().value();
            let condition = service.pointer("/status/conditions/0").cloned().unwrap_or_default();
            if condition["reason"] == reason {
                return condition;
            }
            changes.recv().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("it is never {reason}"))
}

async fn register(cluster: &Cluster, bundle: &str) {
    let spec = json!({"group": GROUP, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 100, "caBundle": bundle,
        "service": {"namespace": "default", "name": "api", "port": 443}});
    make(
        cluster,
        "apiregistration.k8s.io",
        "apiservices",
        json!({"metadata": {"name": "v1.wardle.example.com"}, "spec": spec}),
    )
    .await;
}

async fn behind_a_service(cluster: &Cluster, address: SocketAddr) {
    let service = json!({"metadata": {"name": "api", "namespace": "default"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    make(cluster, "", "services", service).await;
    becomes(cluster, "EndpointsNotFound").await;
    let slice = json!({"metadata": {"name": "api-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "api"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"name": "https", "port": address.port()}]});
    make(cluster, "discovery.k8s.io", "endpointslices", slice).await;
}

#[tokio::test]
async fn another_server_behind_this_one() {
    let cluster = start().await;
    let (address, bundle) = remote(&cluster).await;
    register(&cluster, &bundle).await;
    let condition = becomes(&cluster, "ServiceNotFound").await;
    assert_eq!(
        (&condition["status"], &condition["message"]),
        (&json!("False"), &json!(r#"service/api in "default" is not present"#))
    );
    let answer = get(&cluster, "/apis/wardle.example.com/v1/flunders").await;
    assert_eq!((&answer["code"], &answer["message"]), (&json!(503), &json!("service unavailable")));
    behind_a_service(&cluster, address).await;
    let condition = becomes(&cluster, "Passed").await;
    assert_eq!((&condition["status"], &condition["type"]), (&json!("True"), &json!("Available")));
    // Who asks is who showed a certificate here, whatever else the request says.
    let request =
        Request::patch(format!("https://{}/apis/wardle.example.com/v1/namespaces/a/flunders/x?a=b", cluster.address));
    let forged = request
        .header("x-remote-user", "root")
        .header("x-remote-group", "system:masters")
        .header("X-Remote-Extra-Secret", "s");
    let (code, _, body) = send(&cluster, forged).await;
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code, &seen["method"], &seen["query"]), (200, &json!("PATCH"), &json!("a=b")));
    assert_eq!(seen["path"], "/apis/wardle.example.com/v1/namespaces/a/flunders/x");
    assert_eq!(
        (&seen["user"], &seen["extra"], &seen["authorization"]),
        (&json!(["kubernetes-admin"]), &json!([]), &json!([]))
    );
    assert_eq!(seen["groups"], json!(["system:masters", "system:authenticated"]));
}

#[tokio::test]
async fn what_is_served_elsewhere_is_discovered_watched_and_upgraded() {
    let cluster = start().await;
    let (address, bundle) = remote(&cluster).await;
    register(&cluster, &bundle).await;
    becomes(&cluster, "ServiceNotFound").await;
    behind_a_service(&cluster, address).await;
    becomes(&cluster, "Passed").await;
    let groups = get(&cluster, "/apis").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == GROUP), "{groups}");
    let document = get(&cluster, "/openapi/v2").await;
    assert!(document["paths"]["/apis/wardle.example.com/v1/flunders"]["get"].is_object());
    assert_eq!(document["definitions"]["com.example.wardle.Flunder"], json!({"type": "object"}));
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    assert_eq!((document["paths"].get("/version/"), document["definitions"].get("com.example.Other")), (None, None));
    assert_eq!(get(&cluster, "/apis/wardle.example.com").await["preferredVersion"]["version"], "v1");
    assert_eq!(get(&cluster, "/apis/wardle.example.com/v1").await["resources"][0]["name"], "flunders");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let wanted = || Request::get(format!("https://{}/apis", cluster.address)).header("accept", aggregated);
    let (code, headers, body) = send(&cluster, wanted()).await;
    let list: Value = serde_json::from_slice(&body).unwrap();
    let item = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == GROUP).unwrap();
    assert_eq!((code, &item["versions"][0]["freshness"]), (200, &json!("Current")));
    assert_eq!(item["versions"][0]["resources"][0]["responseKind"]["kind"], "Flunder");
    assert_eq!(headers["content-type"], aggregated);
    assert_eq!(send(&cluster, wanted().header("if-none-match", &headers["etag"])).await.0, 304);
    let index = get(&cluster, "/openapi/v3").await;
    let at = index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(get(&cluster, &at).await["query"], "hash=ABC");
    // A watch comes piece by piece.
    let request = Request::get(format!("https://{}/apis/wardle.example.com/v1/flunders?watch=1", cluster.address));
    let mut response = cluster.client().send(request.body(serve::empty()).unwrap()).await.unwrap();
    let frame = tokio::time::timeout(DEADLINE, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    assert!(frame.into_data().unwrap().starts_with(b"{\"type\":\"ADDED\""));
    // An upgrade joins both connections.
    let request = Request::get(format!("https://{}/apis/wardle.example.com/v1/flunders/x/exec", cluster.address));
    let request = request.header("connection", "Upgrade").header("upgrade", "echo").body(serve::empty()).unwrap();
    let mut response = cluster.client().send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    io.write_all(b"hi").await.unwrap();
    let mut back = [0; 2];
    tokio::time::timeout(DEADLINE, io.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"hi");
}

#[tokio::test]
async fn what_is_served_here_is_registered() {
    let cluster = start().await;
    let services = cluster.api.storage().kind("apiregistration.k8s.io", "apiservices").unwrap();
    let definitions = cluster.api.storage().kind("apiextensions.k8s.io", "customresourcedefinitions").unwrap();
    let (_, mut changes) = services.subscribe();
    let mut until = async |name: &str, there: bool| {
        let wait = async {
            while services.get("", name).is_some() != there {
                changes.recv().await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{name} {there}"));
    };
    until("v1.", true).await;
    until("v2.autoscaling", true).await;
    let condition = services.find("", "v1.").unwrap().value()["status"]["conditions"][0].clone();
    assert_eq!((&condition["reason"], &condition["status"]), (&json!("Local"), &json!("True")));
    let definition = json!({"metadata": {"name": "cars.example.org"}, "spec": {"group": "example.org", "versions": [
        {"name": "v1", "served": true}, {"name": "v2", "served": false}]}});
    definitions.create(definition).await.unwrap();
    until("v1.example.org", true).await;
    assert!(services.get("", "v2.example.org").is_none());
    definitions.delete("", "cars.example.org", &Default::default()).await.unwrap();
    until("v1.example.org", false).await;
    // What somebody else made stays.
    let data = cluster
        .api
        .storage()
        .kind("", "configmaps")
        .unwrap()
        .find("kube-system", "extension-apiserver-authentication")
        .unwrap();
    assert_eq!(data.value()["data"]["requestheader-username-headers"], "[\"X-Remote-User\"]");
}
