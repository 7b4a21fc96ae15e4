//! DNS: where it listens, and the Service by which pods know it.

use super::Api;
use super::api::{Identity, client};
use super::engines::Engines;
use super::node::wait_ready;
use crate::config::Config;
use ::client::Informers;
use anyhow::{Context, Result};
use cri::RuntimeService;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api as Objects, Patch, PatchParams, PostParams};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const PORT: u16 = 53;

/// Serves the cluster's DNS on the pods' gateway address, which is there when the node is ready.
pub(super) async fn run(
    config: Config,
    engines: Engines,
    api: Api,
    informers: Arc<Informers>,
    token: CancellationToken,
) -> Result<()> {
    wait_ready(&api, &config.node_name).await?;
    let nodes: Objects<Node> = Objects::all(client(&api, Identity::Admin));
    let range =
        nodes.get(&config.node_name).await?.spec.and_then(|s| s.pod_cidr).context("the node has no pod range")?;
    // After a restart the node is ready by what the API remembers: the network may not have been given its range yet.
    engines.sandbox.update_pod_cidr(&range).await?;
    let gateway = engines.network.gateway().context("the node is ready and the pod network has no gateway address")?;
    let settings = |port| dns::Config {
        informers: Arc::clone(&informers),
        domain: config.cluster_domain.clone(),
        listen: vec![SocketAddr::new(gateway.into(), port)],
        upstreams: dns::Upstreams::ResolvConf("/etc/resolv.conf".into()),
        own_addresses: vec![IpAddr::from(config.dns_ip())],
    };
    // The machine's own resolver may hold the port on all addresses; pods go through the Service and cannot tell.
    let server = match dns::Server::bind(settings(PORT)).await {
        Ok(server) => server,
        Err(error) => {
            tracing::info!(%error, "DNS takes another port");
            dns::Server::bind(settings(0)).await?
        }
    };
    let port = server.addresses().first().context("DNS listens nowhere")?.port();
    announce(&config, &api, SocketAddrV4::new(gateway, port)).await?;
    server.run(token).await;
    Ok(())
}

/// Writes the Service (once: users may change it) and its EndpointSlice (each time).
async fn announce(config: &Config, api: &Api, listen: SocketAddrV4) -> Result<()> {
    let writing = client(api, Identity::Admin);
    let (service, slice) = dns::service_objects(config.dns_ip(), listen, &config.node_name);
    let services: Objects<Service> = Objects::namespaced(writing.clone(), "kube-system");
    let slices: Objects<EndpointSlice> = Objects::namespaced(writing, "kube-system");
    if services.get_opt("kube-dns").await?.is_none() {
        services.create(&PostParams::default(), &service).await.context("cannot make the Service kube-dns")?;
    }
    let name = slice.metadata.name.clone().unwrap_or_default();
    if slices.get_opt(&name).await?.is_none() {
        slices.create(&PostParams::default(), &slice).await.context("cannot make the endpoints of kube-dns")?;
        return Ok(());
    }
    slices
        .patch(&name, &PatchParams::default(), &Patch::Merge(&slice))
        .await
        .context("cannot write the endpoints of kube-dns")?;
    Ok(())
}
