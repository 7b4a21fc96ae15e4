//! A server with its real chain, certificates and first objects, in the process of the test.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs, reason = "each test uses its part")]

use apiserver::alloc::ServiceRange;
use apiserver::bootstrap::{Bootstrap, bootstrap};
use apiserver::context::Peer;
use apiserver::security::{SecurityConfig, chain};
use apiserver::{ApiServer, Config, open_storage};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use pki::{Leaf, Names, Pki, Profile};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use store::embedded;
use tokio_util::sync::CancellationToken;

pub struct Secured {
    pub api: Arc<ApiServer>,
    pub pki: Arc<Pki>,
    pub stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn start() -> Secured {
    start_with(ServiceRange { network: Ipv4Addr::new(10, 96, 0, 0), prefix: 24, node_ports: (30_000, 30_040) }).await
}

/// With these addresses and ports of Services.
pub async fn start_with(services: ServiceRange) -> Secured {
    let folder = tempfile::tempdir().unwrap();
    let names = Names {
        node: "n1".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: "10.96.0.1".parse().unwrap(),
        node_ips: vec![],
        extra: vec![],
    };
    let pki = Arc::new(Pki::open_or_create(&folder.path().join("pki"), &names).unwrap());
    let store = embedded::Embedded::open(embedded::Config::new(folder.path().join("store"))).unwrap();
    let stop = CancellationToken::new();
    let storage = open_storage(Arc::new(store), stop.clone()).await.unwrap();
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let config = SecurityConfig { issuer, address: "127.0.0.1:6443".into(), services };
    let chain = chain(&storage, &pki, &config, stop.clone()).unwrap();
    let first = Bootstrap {
        kubernetes_ip: services.address(1),
        service_cidr: format!("{}/{}", services.network, services.prefix),
        dns_ip: Some(services.address(10)),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        port: 6443,
        client_ca: String::new(),
        front_proxy_ca: String::new(),
    };
    bootstrap(&storage, &first).await.unwrap();
    let revision = storage.revision();
    bootstrap(&storage, &first).await.unwrap();
    assert_eq!(storage.revision(), revision, "a second start writes nothing");
    let api = ApiServer::new(Config::default(), storage, chain, stop.clone());
    Secured { api, pki, stop, _folder: folder }
}

/// Who asks, and what is said besides.
#[derive(Clone, Default)]
pub struct Client {
    pub peer: Peer,
    pub token: Option<String>,
    pub headers: Vec<(&'static str, String)>,
}

impl Secured {
    pub fn with_certificate(&self, identity: &pki::Identity) -> Client {
        let der: Arc<[u8]> = Arc::from(identity.certificate().unwrap().as_ref());
        Client { peer: Peer { certificate: Some(der), ..Peer::default() }, ..Client::default() }
    }

    pub fn admin(&self) -> Client {
        self.with_certificate(&self.pki.identity(Leaf::Admin))
    }

    pub fn user(&self, name: &str, groups: &[&str]) -> Client {
        self.with_certificate(&self.pki.issue(&Profile::client(name, groups)).unwrap())
    }

    /// A PATCH is a merge patch; with a field manager in its path, an apply.
    pub async fn send(&self, client: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &client.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in &client.headers {
            request = request.header(*name, value);
        }
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let content_type = match method {
            "PATCH" if path.contains("fieldManager=") => "application/apply-patch+yaml",
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = request.header("content-type", content_type).body(Full::new(bytes)).unwrap();
        let (head, body) = self.api.handle(request, client.peer.clone()).await.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(20), body.collect()).await.expect("an answer in time");
        let body = body.unwrap().to_bytes();
        let value = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        (head.status.as_u16(), value)
    }

    pub async fn get(&self, client: &Client, path: &str) -> (u16, Value) {
        self.send(client, "GET", path, &Value::Null).await
    }

    pub async fn post(&self, client: &Client, path: &str, body: &Value) -> (u16, Value) {
        self.send(client, "POST", path, body).await
    }

    /// Asks as `METHOD PATH`: the code and the message must be these. A message is a part of the whole one.
    pub async fn check(&self, client: &Client, what: &str, body: &Value, code: u16, message: &str) -> Value {
        let (method, path) = what.split_once(' ').unwrap();
        let (got, answer) = self.send(client, method, path, body).await;
        let said = text(&answer, "/message");
        assert!(got == code && said.contains(message), "{what} {body}: {got} {answer}, expected {code} {message:?}");
        answer
    }

    /// Binds a new cluster role with one rule to a user, by the administrator.
    pub async fn grant(&self, user: &str, rule: Value) {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let meta = json!({"name": format!("test-{}", self.api.storage().revision())});
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta, "rules": [rule]});
        self.make(&format!("{rbac}/clusterroles"), role).await;
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": meta["name"]},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]});
        self.make(&format!("{rbac}/clusterrolebindings"), binding).await;
    }

    /// Posts and must succeed.
    pub async fn make(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.post(&self.admin(), path, &body).await;
        assert!(code < 300, "{path}: {code} {answer}");
        answer
    }
}

pub fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}
