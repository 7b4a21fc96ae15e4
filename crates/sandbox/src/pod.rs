//! Sandboxes: made, stopped, removed.

use crate::state::{Core, Pod, PodFile, SavedStatus, internal, lock, new_id, now_ns};
use crate::{files, start};
use cri::{ContainerEventKind, NamespaceMode, PodSandboxConfig, PodSandboxState};
use runtime::cgroup::Limits;
use runtime::client::Shim;
use runtime::spec::PodSpec;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, UnmountFlags};
use std::path::Path;
use std::sync::Arc;

/// What the kernel allows in `/dev/shm` of a pod, as containerd has it.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

/// Limits as the runtime wants them.
pub(crate) fn limits(resources: &cri::LinuxResources) -> Limits {
    Limits {
        cpu_period_us: resources.cpu_period_us,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_shares: resources.cpu_shares,
        memory_bytes: resources.memory_limit_bytes,
        pids: resources.pids_limit,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
    }
}

impl Core {
    pub(crate) async fn run_pod(self: &Arc<Self>, config: PodSandboxConfig) -> cri::Result<String> {
        let id = new_id();
        let dir = self.root.join(&id);
        let mut file = describe(&id, &config);
        let made = self.make(&dir, &mut file, config).await;
        let (greeting, child) = match made {
            Ok(made) => made,
            Err(error) => {
                self.undo(&dir, &file).await;
                return Err(error);
            }
        };
        let pod = Arc::new(Pod::new(dir, file));
        lock(&self.pods).insert(id.clone(), pod.clone());
        self.watch(&pod, greeting, Some(child));
        self.tell(&pod, &id, ContainerEventKind::Started);
        Ok(id)
    }

    async fn make(
        self: &Arc<Self>,
        dir: &Path,
        file: &mut PodFile,
        config: PodSandboxConfig,
    ) -> cri::Result<(runtime::client::Greeting, std::process::Child)> {
        let own_network = config.namespaces.network != NamespaceMode::Node;
        let spec = PodSpec {
            id: file.status.id.clone(),
            dir: dir.to_owned(),
            netns: own_network.then(|| dir.join("netns")),
            own_ipc: config.namespaces.ipc != NamespaceMode::Node,
            own_uts: own_network,
            hostname: file.hostname.clone(),
            shared_pid: config.namespaces.pid == NamespaceMode::Pod,
            sysctls: config.sysctls.clone(),
            cgroups: self.shim_cgroups.clone(),
        };
        let (path, draft, shared) = (dir.to_owned(), file.clone(), Arc::new(config));
        let config = shared.clone();
        self.blocking(move |this| this.prepare(&path, &draft, &config)).await?;
        let shim = async { Shim::start(&self.program, spec).await.map_err(|e| internal("start the pod's shim", &e)) };
        let (path, id) = (dir.join("netns"), file.status.id.clone());
        let network = async {
            if !own_network {
                return Ok(Vec::new());
            }
            self.blocking(move |this| this.attach(&id, &path, &shared)).await
        };
        // Both to their end, so that what they made can be undone.
        let (shim, ips) = tokio::join!(shim, network);
        let (_, greeting, mut child) = shim?;
        file.status.ips = match ips {
            Ok(ips) => ips,
            Err(error) => {
                // It has no containers yet.
                let _ended = child.kill();
                let _reaped = child.wait();
                return Err(error);
            }
        };
        (file.status.state, file.complete) = (PodSandboxState::Ready, true);
        files::write_pod(dir, file)?;
        Ok((greeting, child))
    }

    fn attach(&self, id: &str, netns: &Path, config: &PodSandboxConfig) -> cri::Result<Vec<String>> {
        let ports = config
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port != 0)
            .map(port)
            .collect::<cri::Result<Vec<_>>>()?;
        let ips = self.network.attach(id, netns, &ports).map_err(|e| internal("connect the pod's network", &e))?;
        Ok(ips.iter().map(ToString::to_string).collect())
    }

    /// The folder and what lies in it, the cgroup, the network namespace.
    fn prepare(&self, dir: &Path, file: &PodFile, config: &PodSandboxConfig) -> cri::Result<()> {
        let io = |what: &'static str| move |e: std::io::Error| internal(what, &e);
        std::fs::create_dir(dir).map_err(io("make the sandbox's folder"))?;
        rustix::fs::chmod(dir, Mode::from(0o700)).map_err(|e| internal("make the sandbox's folder", &e))?;
        files::write_pod(dir, file)?;
        if !config.log_directory.as_os_str().is_empty() {
            std::fs::create_dir_all(&config.log_directory).map_err(io("make the log folder"))?;
        }
        let resolv = match &config.dns_config {
            Some(dns) => files::resolv_conf(dns),
            None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        std::fs::write(dir.join("resolv.conf"), resolv).map_err(io("write resolv.conf"))?;
        std::fs::write(dir.join("hostname"), format!("{}\n", file.hostname)).map_err(io("write hostname"))?;
        let made = self.cgroups.create(&file.cgroup, &limits(&config.resources), false);
        made.map_err(|e| internal("make the pod's cgroup", &e))?;
        if config.namespaces.ipc != NamespaceMode::Node {
            let shm = dir.join("shm");
            std::fs::create_dir(&shm).map_err(io("make the pod's shared memory"))?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let mounted = rustix::mount::mount("shm", &shm, "tmpfs", flags, SHM_OPTIONS);
            mounted.map_err(|e| internal("mount the pod's shared memory", &e))?;
        }
        if config.namespaces.network != NamespaceMode::Node {
            network::netns::create(&dir.join("netns")).map_err(|e| internal("make a network namespace", &e))?;
        }
        Ok(())
    }

    /// Takes back what a failed start made.
    async fn undo(self: &Arc<Self>, dir: &Path, file: &PodFile) {
        let _not_there = Shim::at(dir).shutdown().await;
        let (dir, file) = (dir.to_owned(), file.clone());
        self.blocking(move |this| {
            let cleaned = this.release(&dir, &file.status.id).and_then(|()| this.discard(&dir, &file.cgroup));
            if let Err(error) = cleaned {
                tracing::warn!(sandbox = file.status.id, %error, "cannot undo a failed sandbox");
            }
        })
        .await;
    }

    /// Gives back network and shared memory.
    pub(crate) fn release(&self, dir: &Path, id: &str) -> cri::Result<()> {
        self.network.detach(id).map_err(|e| internal("disconnect the pod's network", &e))?;
        network::netns::remove(&dir.join("netns")).map_err(|e| internal("remove the network namespace", &e))?;
        let _not_mounted = rustix::mount::unmount(dir.join("shm"), UnmountFlags::DETACH);
        let _gone = std::fs::remove_file(dir.join(runtime::client::SOCKET));
        Ok(())
    }

    /// Removes a sandbox's folder, and its cgroup unless another sandbox of the pod is in it.
    pub(crate) fn discard(&self, dir: &Path, cgroup: &str) -> cri::Result<()> {
        let shared = lock(&self.pods).values().any(|pod| lock(&pod.file).cgroup == cgroup);
        if !shared {
            self.cgroups.remove(cgroup).map_err(|e| internal("remove the pod's cgroup", &e))?;
        }
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(internal("remove the sandbox's folder", &error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn stop_pod(self: &Arc<Self>, id: &str) -> cri::Result<()> {
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        let _one_at_a_time = pod.order.lock().await;
        if !pod.ready() {
            return Ok(());
        }
        let containers = pod.all();
        let kills = containers.clone();
        self.blocking(move |this| kills.iter().try_for_each(|c| start::kill(this, c))).await?;
        // Ends the shim, which first writes down how its containers ended. One that is gone already is fine.
        let ended = pod.shim.shutdown().await;
        if let (Err(error), false) = (&ended, *pod.gone.borrow()) {
            tracing::warn!(sandbox = id, %error, "a shim did not end as asked");
        }
        self.settle(&pod).await
    }

    /// After the shim is gone: learns how containers ended, gives back the network, and notes that it is not ready.
    pub(crate) async fn settle(self: &Arc<Self>, pod: &Arc<Pod>) -> cri::Result<()> {
        let settled = pod.clone();
        let ended = self
            .blocking(move |this| {
                let pod = settled;
                let ended = this.read_ends(&pod);
                this.release(&pod.dir, &pod.id)?;
                lock(&pod.file).status.state = PodSandboxState::NotReady;
                files::save_pod(&pod)?;
                Ok::<_, cri::Error>(ended)
            })
            .await?;
        for container in ended {
            self.tell(pod, &container, ContainerEventKind::Stopped);
        }
        self.tell(pod, &pod.id, ContainerEventKind::Stopped);
        Ok(())
    }

    pub(crate) async fn remove_pod(self: &Arc<Self>, id: &str) -> cri::Result<()> {
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        self.stop_pod(id).await?;
        for container in pod.all() {
            self.remove(&container.id).await?;
        }
        let _one_at_a_time = pod.order.lock().await;
        let (dir, cgroup) = (pod.dir.clone(), lock(&pod.file).cgroup.clone());
        if lock(&self.pods).remove(id).is_none() {
            return Ok(());
        }
        let removed = self.blocking(move |this| this.discard(&dir, &cgroup)).await;
        if removed.is_err() {
            lock(&self.pods).insert(id.to_owned(), pod.clone());
        }
        removed?;
        self.tell(&pod, id, ContainerEventKind::Deleted);
        Ok(())
    }
}

fn describe(id: &str, config: &PodSandboxConfig) -> PodFile {
    let hostname = if config.hostname.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        config.hostname.clone()
    };
    let cgroup = if config.cgroup_parent.is_empty() { format!("pods/{id}") } else { config.cgroup_parent.clone() };
    PodFile {
        status: SavedStatus {
            id: id.to_owned(),
            metadata: config.metadata.clone(),
            state: PodSandboxState::NotReady,
            created_at_ns: now_ns(),
            ips: Vec::new(),
            namespaces: config.namespaces,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        },
        log_directory: config.log_directory.clone(),
        hostname,
        cgroup: cgroup.trim_matches('/').to_owned(),
        privileged: config.privileged,
        complete: false,
    }
}

fn port(mapping: &cri::PortMapping) -> cri::Result<network::PortMapping> {
    let invalid = |what: &str| cri::Error::InvalidArgument(format!("host port {}: {what}", mapping.host_port));
    let protocol = match mapping.protocol.as_str() {
        "TCP" | "" => network::Transport::Tcp,
        "UDP" => network::Transport::Udp,
        "SCTP" => network::Transport::Sctp,
        other => return Err(invalid(&format!("unknown protocol {other}"))),
    };
    let host_address = match mapping.host_ip.as_str() {
        "" | "0.0.0.0" | "::" => None,
        address => Some(address.parse().map_err(|_| invalid(&format!("{address} is no IPv4 address")))?),
    };
    Ok(network::PortMapping { protocol, pod_port: mapping.container_port, host_port: mapping.host_port, host_address })
}
