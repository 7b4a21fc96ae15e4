//! A server with its real chain, certificates and first objects, in the process of the test.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs, reason = "each test uses its part")]

use apiserver::alloc::ServiceRange;
use apiserver::bootstrap::{Bootstrap, bootstrap};
use apiserver::security::{SecurityConfig, chain};
use apiserver::{ApiServer, Config, open_storage};
use pki::{Names, Pki};
use std::net::Ipv4Addr;
use std::sync::Arc;
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
