//! The parts that follow the API: controllers, scheduler, kubelet, service proxy, DNS.

use super::Api;
use super::api::{Identity, client};
use super::engines::Engines;
use crate::config::Config;
use crate::folder::Folder;
use crate::parts::Parts;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api as Objects, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use parking_lot::Mutex;
use pki::{Leaf, Pki};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the node may take to become ready before the start is given up.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the rules of the pod network are looked at.
const NETWORK_CHECK: Duration = Duration::from_secs(60);
/// Addresses a node gets of the pod range: a /24.
const NODE_PREFIX: u8 = 24;

/// Starts all parts. None waits for another: each finds what it needs through the API.
pub(super) fn start(
    config: &Config,
    folder: &Folder,
    pki: &Arc<Pki>,
    engines: &Engines,
    api: &Api,
    kubelet: TcpListener,
    parts: &Parts,
) -> Result<()> {
    start_kubelet(config, folder, pki, engines, api, kubelet, parts)?;
    start_controllers(config, pki, api, parts);
    let scheduling = client(api, Identity::Scheduler);
    parts.run("scheduler", move |token| {
        let settings = scheduler::Config::new(scheduling.clone());
        async move {
            scheduler::run(settings, token).await;
            NEVER_FAILS
        }
    });
    start_services(config, engines, api, parts)
}

/// How parts end that cannot fail.
const NEVER_FAILS: Result<(), std::convert::Infallible> = Ok(());

fn start_controllers(config: &Config, pki: &Arc<Pki>, api: &Api, parts: &Parts) {
    let controlling = client(api, Identity::ControllerManager);
    let (cluster_cidr, pki) = (config.pod_cidr.to_string(), Arc::clone(pki));
    parts.run("controllers", move |token| {
        let settings = controllers::Config {
            client: controlling.clone(),
            cluster_cidr: cluster_cidr.clone(),
            node_cidr_mask: NODE_PREFIX,
            pki: Arc::clone(&pki),
        };
        async move {
            controllers::run(settings, token).await;
            NEVER_FAILS
        }
    });
}

fn start_kubelet(
    config: &Config,
    folder: &Folder,
    pki: &Pki,
    engines: &Engines,
    api: &Api,
    listener: TcpListener,
    parts: &Parts,
) -> Result<()> {
    let tls = Arc::new(pki::server_config(pki.swap(Leaf::Kubelet), &[pki.authority()])?);
    let (config, folder, engines, api) = (config.clone(), folder.clone(), engines.clone(), Arc::clone(api));
    let listener = Mutex::new(listener);
    parts.run("kubelet", move |token| {
        let bound = listener.lock().try_clone().and_then(tokio::net::TcpListener::from_std);
        let tls = Arc::clone(&tls);
        let (config, folder, engines, api) = (config.clone(), folder.clone(), engines.clone(), Arc::clone(&api));
        async move {
            let server = kubelet::Server {
                listener: bound.context("the kubelet's port")?,
                tls,
                allowed_names: vec!["kube-apiserver-kubelet-client".to_owned()],
            };
            kubelet::run(kubelet_config(&config, &folder, &engines, &api, server), token).await?;
            anyhow::Ok(())
        }
    });
    Ok(())
}

fn kubelet_config(
    config: &Config,
    folder: &Folder,
    engines: &Engines,
    api: &Api,
    server: kubelet::Server,
) -> kubelet::Config {
    kubelet::Config {
        node_name: config.node_name.clone(),
        node_ips: vec![config.node_ip.to_string()],
        root_dir: folder.part("kubelet"),
        log_dir: folder.part("logs"),
        client: client(api, Identity::Node(&config.node_name)),
        runtime: engines.sandbox.clone(),
        images: engines.sandbox.clone(),
        cluster_dns: vec![config.dns_ip().to_string()],
        cluster_domain: config.cluster_domain.clone(),
        server: Some(server),
        static_pod_dir: Some(folder.part("manifests")),
        max_pods: 110,
        pod_pids_limit: 4096,
        log_bytes_max: 10 << 20,
        log_files_max: 5,
        labels: BTreeMap::new(),
        version: "v1.37.2".to_owned(),
        capacity: None,
    }
}

/// The service proxy and DNS follow the same objects: they share informers.
fn start_services(config: &Config, engines: &Engines, api: &Api, parts: &Parts) -> Result<()> {
    let node = proxy::NodeInfo {
        name: config.node_name.clone(),
        cluster_cidr: config.pod_cidr.to_string().parse()?,
        service_cidr: config.service_cidr.to_string().parse()?,
    };
    let table = engines.network.names().services.clone();
    let informers = Arc::new(client::Informers::new(client(api, Identity::Proxy), parts.token()));
    let shared = Arc::clone(&informers);
    parts.run("proxy", move |token| {
        let informers = Arc::clone(&shared);
        proxy::run(proxy::Config { informers, node: node.clone(), table: table.clone() }, token)
    });
    let network = Arc::clone(&engines.network);
    parts.run("network rules", move |token| keep_network(Arc::clone(&network), token));
    let (config, engines, api) = (config.clone(), engines.clone(), Arc::clone(api));
    parts.run("dns", move |token| {
        super::dns::run(config.clone(), engines.clone(), Arc::clone(&api), Arc::clone(&informers), token)
    });
    Ok(())
}

/// Puts the pod network's rules back when somebody flushed them (`nft flush ruleset`): nothing tells of that but a look.
async fn keep_network(network: Arc<network::PodNetwork>, token: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(NETWORK_CHECK) => {}
            () = token.cancelled() => return Ok(()),
        }
        let network = Arc::clone(&network);
        tokio::task::spawn_blocking(move || network.check()).await?.context("the pod network's rules")?;
    }
}

/// Marks the node as one with a control plane: a kubelet may not say that of itself (KEP-1143).
pub(super) async fn label(api: &Api, name: &str) -> Result<()> {
    let nodes: Objects<Node> = Objects::all(client(api, Identity::Admin));
    let labels = serde_json::json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await.context("cannot label the node")?;
    Ok(())
}

/// Waits until the node is ready.
pub(super) async fn wait_ready(api: &Api, name: &str) -> Result<()> {
    let nodes: Objects<Node> = Objects::all(client(api, Identity::Admin));
    let ready = |node: Option<&Node>| {
        let conditions = node.and_then(|n| n.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    tokio::time::timeout(READY_TIMEOUT, await_condition(nodes, name, ready)).await.with_context(|| {
        format!("the node {name} did not become ready in {READY_TIMEOUT:?}; see `kubectl describe node {name}`")
    })??;
    Ok(())
}
