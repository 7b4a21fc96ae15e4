//! The API server: certificates, store, the chain of a request, and clients of it inside the program.

use super::Api;
use crate::config::Config;
use crate::folder::Folder;
use crate::parts::Parts;
use anyhow::{Context, Result};
use apiserver::context::{Peer, UserInfo};
use apiserver::{ApiServer, Chain};
use client::Client;
use pki::{Leaf, Names, Pki};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::SystemTime;
use store::embedded::Embedded;
use tokio_util::sync::CancellationToken;

/// The users of the parts of this program.
pub(super) enum Identity<'a> {
    Admin,
    ControllerManager,
    Scheduler,
    Node(&'a str),
    Proxy,
}

impl Identity<'_> {
    fn user(&self) -> UserInfo {
        let (name, groups): (String, &[&str]) = match self {
            Identity::Admin => ("kubernetes-admin".to_owned(), &["system:masters"]),
            Identity::ControllerManager => ("system:kube-controller-manager".to_owned(), &[]),
            Identity::Scheduler => ("system:kube-scheduler".to_owned(), &[]),
            Identity::Node(name) => (format!("system:node:{name}"), &["system:nodes"]),
            Identity::Proxy => ("system:kube-proxy".to_owned(), &[]),
        };
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        UserInfo { name, groups, ..UserInfo::default() }
    }
}

/// A client inside the program: its transport is a function call.
pub(super) fn client(api: &Api, identity: Identity<'_>) -> Client {
    Client::new(api.service(identity.user()), "default")
}

/// Opens the certificates and keys, or makes them.
pub(super) async fn open_pki(config: &Config, folder: &Folder) -> Result<Pki> {
    let names = Names {
        node: config.node_name.clone(),
        cluster_domain: config.cluster_domain.clone(),
        service_ip: config.kubernetes_ip().into(),
        node_ips: vec![config.node_ip],
        extra: Vec::new(),
    };
    let dir = folder.part("pki");
    tokio::task::spawn_blocking(move || Pki::open_or_create(&dir, &names))
        .await?
        .with_context(|| format!("cannot open the certificates in {}", folder.part("pki").display()))
}

/// Opens the store, puts the chain together, makes what every cluster has, and serves.
pub(super) async fn start(
    config: &Config,
    folder: &Folder,
    pki: &Arc<Pki>,
    listener: TcpListener,
    parts: &Parts,
    token: CancellationToken,
) -> Result<Api> {
    write_kubeconfig(config, folder, pki)?;
    let path = folder.part("store");
    let store = tokio::task::spawn_blocking(move || Embedded::open(store::embedded::Config::new(path))).await??;
    // What has begun when everything is told to end is still written and shown.
    let served = CancellationToken::new();
    let storage = apiserver::open_storage(Arc::new(store), served.clone()).await.context("cannot read the store")?;
    let bootstrap = apiserver::bootstrap::Bootstrap {
        kubernetes_ip: config.kubernetes_ip(),
        service_cidr: config.service_cidr.to_string(),
        dns_ip: None,
        addresses: vec![config.node_ip],
        port: config.api_port,
        client_ca: pki.authority().certificate_pem().to_owned(),
        front_proxy_ca: pki.front_proxy_authority().certificate_pem().to_owned(),
    };
    apiserver::bootstrap::bootstrap(&storage, &bootstrap).await.context("cannot make the objects every cluster has")?;
    let chain = chain(config, pki, &storage, token.clone())?;
    let address = std::net::SocketAddr::new(config.node_ip, config.api_port).to_string();
    let settings = apiserver::Config {
        git_version: concat!("v1.37.2+kijabi.", env!("CARGO_PKG_VERSION")).to_owned(),
        address,
        ..apiserver::Config::default()
    };
    let api = ApiServer::new(settings, storage, chain, token.clone());
    let tls = pki::server_config(pki.swap(Leaf::ApiServer), &[pki.authority(), pki.front_proxy_authority()])?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let serving = Arc::clone(&api);
    let handler = move |peer: serve::Peer, request| {
        let peer = Peer { address: Some(peer.address), certificate: peer.certificate, user: None };
        serving.handle(request, peer)
    };
    let serving = serve::serve(listener, Some(Arc::new(tls)), serve::Limits::default(), handler, token);
    parts.run_once("apiserver", async move {
        serving.await;
        served.cancel();
    });
    let renewing = Arc::clone(pki);
    parts.run("certificates", move |token| renew(Arc::clone(&renewing), token));
    Ok(api)
}

/// The links a request passes.
fn chain(
    config: &Config,
    pki: &Arc<Pki>,
    storage: &Arc<apiserver::storage::Storage>,
    token: CancellationToken,
) -> Result<Chain> {
    let settings = apiserver::security::SecurityConfig {
        issuer: format!("https://kubernetes.default.svc.{}", config.cluster_domain),
        address: std::net::SocketAddr::new(config.node_ip, config.api_port).to_string(),
        anonymous: apiserver::authn::Anonymous::default(),
        services: apiserver::alloc::ServiceRange {
            network: config.service_cidr.first,
            prefix: config.service_cidr.prefix,
            node_ports: (*config.node_ports.start(), *config.node_ports.end()),
        },
    };
    Ok(apiserver::security::chain(storage, pki, &settings, token)?)
}

fn write_kubeconfig(config: &Config, folder: &Folder, pki: &Pki) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.kubeconfig();
    let text = pki.admin_kubeconfig("kijabi", &config.server_url());
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// Renews certificates before they end, unattended.
async fn renew(pki: Arc<Pki>, token: CancellationToken) -> Result<(), pki::Error> {
    loop {
        let due = pki.certificates_due().duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(due) => {}
            () = token.cancelled() => return Ok(()),
        }
        for leaf in pki.renew(SystemTime::now())? {
            tracing::info!(?leaf, "a certificate was renewed");
        }
    }
}
