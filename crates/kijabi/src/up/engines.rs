//! The engines of the node: images, network, sandboxes. Opened beside the API server, handed to the kubelet and the proxy.

use super::images;
use crate::config::Config;
use crate::folder::Folder;
use anyhow::{Context, Result};
use cri::RuntimeService;
use network::PodNetwork;
use sandbox::Sandbox;
use std::sync::Arc;

/// The cgroup above those of all clusters on this machine.
const CGROUP_PARENT: &str = "kijabi";

/// The node's engines.
#[derive(Clone)]
pub(crate) struct Engines {
    pub(crate) images: Arc<image::Store>,
    pub(crate) network: Arc<PodNetwork>,
    pub(crate) sandbox: Arc<Sandbox>,
}

/// Opens all of them: what earlier runs left is found again.
pub(crate) async fn open(config: Config, folder: Folder) -> Result<Engines> {
    let opened = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || {
            let images = images::open(&folder, config.insecure_registries.clone(), config.mirrors.clone())?;
            let network = open_network(&config, &folder)?;
            let program = runtime::program::Program::this().context("cannot copy this program for shims")?;
            anyhow::Ok((images, network, program))
        }
    });
    let (images, network, program) = opened.await??;
    let settings = sandbox::Config {
        data_dir: folder.root().to_owned(),
        program,
        cgroup_parent: cgroup(&folder),
        images: Arc::clone(&images),
        network: Arc::clone(&network),
    };
    let sandbox = Sandbox::open(settings).await.context("cannot open the container runtime")?;
    Ok(Engines { images, network, sandbox })
}

fn cgroup(folder: &Folder) -> String {
    format!("{CGROUP_PARENT}/{}", folder.instance())
}

fn open_network(config: &Config, folder: &Folder) -> Result<Arc<PodNetwork>> {
    let settings = network::Config {
        data_dir: folder.part("network"),
        instance: folder.instance(),
        mtu: 1500,
        cluster_cidr: config.pod_cidr.to_string().parse()?,
        service_cidr: Some(config.service_cidr.to_string().parse()?),
        pod_cidr: None,
    };
    let network = PodNetwork::open(settings).context("cannot set up the pod network")?;
    Ok(Arc::new(network))
}

impl Engines {
    /// Stops every pod sandbox; the kubelet makes new ones at the next start.
    pub(crate) async fn stop_pods(&self) {
        let sandboxes = self.sandbox.list_pod_sandboxes().await.unwrap_or_default();
        let stopping = sandboxes.into_iter().map(|sandbox| async move {
            if let Err(error) = self.sandbox.stop_pod_sandbox(&sandbox.id).await {
                tracing::warn!(%error, sandbox = sandbox.id, "stopping a pod");
            }
        });
        futures::future::join_all(stopping).await;
    }

    /// Lets go of everything; pods stay.
    pub(crate) async fn close(&self) {
        self.sandbox.close().await;
    }

    /// Removes everything the engines ever made outside of the data folder.
    pub(crate) async fn reset(&self) -> Result<()> {
        let sandboxes = self.sandbox.reset().await.context("removing pods");
        let network = self.network.reset().context("removing the pod network");
        sandboxes.and(network)
    }
}
