//! The service as others see it: each request handed to the file that does it.

use crate::adopt::OpenError;
use crate::pod;
use crate::state::{Config, Core, internal, lock};
use async_trait::async_trait;
use cri::{
    ContainerConfig, ContainerEvent, ContainerStats, ContainerStatus, Duplex, ExecResult, LinuxResources,
    PodSandboxConfig, PodSandboxStatus, ProcessStreams, Result, RuntimeService, RuntimeStatus, StreamOptions,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// The name under which the runtime is known.
const NAME: &str = "kijabi";

/// Pod sandboxes, containers and images of this node.
pub struct Sandbox {
    pub(crate) core: Arc<Core>,
}

impl Sandbox {
    /// Opens the service: finds the sandboxes of earlier runs, greets their shims, and cleans up after those that are
    /// gone. To be called in a tokio runtime.
    ///
    /// # Errors
    /// When cgroups or the folder cannot be used.
    pub async fn open(config: Config) -> std::result::Result<Arc<Sandbox>, OpenError> {
        Ok(Arc::new(Sandbox { core: Core::open(config).await? }))
    }

    /// Ends this program's tasks; pods go on without it.
    pub async fn close(&self) {
        self.core.close().await;
    }

    /// Removes everything of this instance: sandboxes, containers, mounts, cgroups, folders. The network's own things
    /// are [`network::PodNetwork::reset`]'s.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is removed all the same.
    pub async fn reset(&self) -> Result<()> {
        self.core.reset().await
    }
}

#[async_trait]
impl RuntimeService for Sandbox {
    async fn status(&self) -> Result<RuntimeStatus> {
        let network = self.core.network.status();
        let network_problem = match (network.pod_cidr, network.forwarding) {
            (None, _) => Some("the node has no pod range yet".to_owned()),
            (_, false) => Some("net.ipv4.ip_forward is off".to_owned()),
            _ => None,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(RuntimeStatus { name: NAME.to_owned(), version, runtime_problem: None, network_problem })
    }

    async fn update_pod_cidr(&self, pod_cidr: &str) -> Result<()> {
        let range = pod_cidr.parse().map_err(|e| cri::Error::InvalidArgument(format!("pod range {pod_cidr}: {e}")))?;
        self.core
            .blocking(move |core| core.network.set_pod_cidr(range))
            .await
            .map_err(|e| internal("set the pod range", &e))
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let core = self.core.clone();
        self.core.whole(async move { core.run_pod(config).await }).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let (core, id) = (self.core.clone(), id.to_owned());
        self.core.whole(async move { core.stop_pod(&id).await }).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let (core, id) = (self.core.clone(), id.to_owned());
        self.core.whole(async move { core.remove_pod(&id).await }).await
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        Ok(self.core.pod(id)?.status())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        Ok(lock(&self.core.pods).values().map(|pod| pod.status()).collect())
    }

    async fn create_container(&self, pod_sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let (core, id) = (self.core.clone(), pod_sandbox_id.to_owned());
        self.core.whole(async move { core.create(&id, config).await }).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let (core, id) = (self.core.clone(), id.to_owned());
        self.core.whole(async move { core.start(&id).await }).await
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        self.core.stop(id, timeout).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let (core, id) = (self.core.clone(), id.to_owned());
        self.core.whole(async move { core.remove(&id).await }).await
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.core.container(id)?.1.status())
    }

    async fn list_containers(&self, pod_sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>> {
        let pods = match pod_sandbox_id {
            Some(id) => self.core.pod(id).into_iter().collect(),
            None => lock(&self.core.pods).values().cloned().collect::<Vec<_>>(),
        };
        Ok(pods.iter().flat_map(|pod| pod.all()).map(|container| container.status()).collect())
    }

    async fn update_container_resources(&self, id: &str, resources: LinuxResources) -> Result<()> {
        let (_, container) = self.core.container(id)?;
        let updated = self.core.blocking(move |core| core.cgroups.update(&container.cgroup, &pod::limits(&resources)));
        updated.await.map_err(|e| internal("change the container's limits", &e))
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let (pod, container) = self.core.container(id)?;
        let reopened = pod.shim.reopen_log(id, &container.status().log_path).await;
        reopened.map_err(|e| internal("open the container's log anew", &e))
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let (_, container) = self.core.container(id)?;
        let written = self.core.images.usage(id).await.map(|usage| usage.bytes).unwrap_or(0);
        let stats = self.core.blocking(move |core| core.cgroups.stats(&container.cgroup)).await;
        Ok(ContainerStats {
            id: id.to_owned(),
            cpu_usage_ns: stats.cpu_ns,
            memory_working_set_bytes: stats.working_set_bytes,
            memory_rss_bytes: stats.rss_bytes,
            pids: stats.pids,
            writable_layer_bytes: written,
        })
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecResult> {
        self.core.exec_result(id, command, timeout).await
    }

    async fn exec(&self, id: &str, command: &[String], options: StreamOptions) -> Result<ProcessStreams> {
        self.core.exec_streams(id, command, options).await
    }

    async fn attach(&self, id: &str, options: StreamOptions) -> Result<ProcessStreams> {
        self.core.attach_streams(id, options).await
    }

    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>> {
        self.core.forward(pod_sandbox_id, port).await
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.core.events.subscribe()
    }
}
