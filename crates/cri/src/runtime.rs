//! `RuntimeService`: pod sandboxes and their containers.

use crate::{Duplex, ExecResult, ProcessStreams, Result, StreamOptions};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::broadcast;

/// Labels and annotations: kept by the runtime, given back in lists.
pub type Labels = BTreeMap<String, String>;

/// Who a pod sandbox is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodSandboxMetadata {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// How often the sandbox was made anew.
    pub attempt: u32,
}

/// Whose Linux namespace a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// That of the pod sandbox.
    #[default]
    Pod,
    /// One for each container.
    Container,
    /// That of the machine.
    Node,
}

/// The Linux namespaces of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// `Container` (the default), `Pod` (`shareProcessNamespace`) or `Node`.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        NamespaceOptions { network: NamespaceMode::Pod, pid: NamespaceMode::Container, ipc: NamespaceMode::Pod }
    }
}

/// The content of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the node that leads to the pod (`hostPort`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The pod's port.
    pub container_port: u16,
    /// The node's port.
    pub host_port: u16,
    /// The node's address, or empty for all.
    pub host_ip: String,
}

/// What a pod sandbox shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    /// Who it is for.
    pub metadata: PodSandboxMetadata,
    /// Host name inside; the machine's when empty and the network is the node's.
    pub hostname: String,
    /// Where log files go; a container's `log_path` is below it. Made by the runtime when missing.
    pub log_directory: PathBuf,
    /// `/etc/resolv.conf` inside; the machine's when none.
    pub dns_config: Option<DnsConfig>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Kept and given back.
    pub labels: Labels,
    /// Kept and given back.
    pub annotations: Labels,
    /// The pod's cgroup, relative to the program's own parent: `burstable/pod<uid>`. Containers are children of it.
    pub cgroup_parent: String,
    /// Limits on the pod as a whole.
    pub resources: LinuxResources,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// True when a container of the pod will be privileged.
    pub privileged: bool,
}

/// Whether a pod sandbox works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// Its namespaces and network are there.
    Ready,
    /// It is stopped or broken.
    #[default]
    NotReady,
}

/// What a pod sandbox is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxStatus {
    /// Its id.
    pub id: String,
    /// Who it is for.
    pub metadata: PodSandboxMetadata,
    /// Whether it works.
    pub state: PodSandboxState,
    /// When it was made, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// Addresses, the primary first; empty with the node's network.
    pub ips: Vec<String>,
    /// As given.
    pub namespaces: NamespaceOptions,
    /// As given.
    pub labels: Labels,
    /// As given.
    pub annotations: Labels,
}

/// Which of a pod's containers this is, and which try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Name of the container in the pod.
    pub name: String,
    /// How often it was made anew in this pod.
    pub attempt: u32,
}

/// How mounts made later travel between the machine and the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Not at all.
    #[default]
    Private,
    /// From the machine to the container.
    HostToContainer,
    /// Both ways (privileged containers only).
    Bidirectional,
}

/// A file or folder of the machine, seen inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside.
    pub container_path: PathBuf,
    /// Absolute path on the machine.
    pub host_path: PathBuf,
    /// Read only.
    pub readonly: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// A device node of the machine, seen inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path inside.
    pub container_path: PathBuf,
    /// Path on the machine.
    pub host_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Limits of a cgroup. Zero or none: not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxResources {
    /// CFS period in microseconds (0: 100,000).
    pub cpu_period_us: u64,
    /// CFS quota in microseconds a period.
    pub cpu_quota_us: i64,
    /// Relative weight, 2 to 262,144.
    pub cpu_shares: u64,
    /// Bytes of memory.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub pids_limit: i64,
    /// Badness added for the OOM killer, -1000 to 1000.
    pub oom_score_adj: i32,
    /// CPUs, as `0-1,3`; empty for all.
    pub cpuset_cpus: String,
    /// Memory nodes; empty for all.
    pub cpuset_mems: String,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// All.
    #[default]
    Unconfined,
    /// The runtime's default list.
    RuntimeDefault,
    /// A profile file of the node, in the format of Docker and OCI.
    Localhost(PathBuf),
}

/// What a container's processes may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// All devices, capabilities and paths of the machine.
    pub privileged: bool,
    /// Numeric user, or none for `run_as_username` or the image's.
    pub run_as_user: Option<i64>,
    /// Numeric primary group; needs a user.
    pub run_as_group: Option<i64>,
    /// User name, looked up in the image's `/etc/passwd`.
    pub run_as_username: String,
    /// Further groups, added to those the image's `/etc/group` gives the user.
    pub supplemental_groups: Vec<i64>,
    /// Use only `supplemental_groups`, not those of the image.
    pub supplemental_groups_strict: bool,
    /// Capabilities to add to the default set, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop, applied before adding; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// The root filesystem cannot be written.
    pub readonly_rootfs: bool,
    /// Set `no_new_privs`.
    pub no_new_privs: bool,
    /// Seccomp.
    pub seccomp: SeccompProfile,
    /// `/proc` unmasked (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Namespaces, the pid mode among them (those of the pod's sandbox must agree).
    pub namespaces: NamespaceOptions,
}

/// What a container shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Which container.
    pub metadata: ContainerMetadata,
    /// The id of its image, as [`crate::ImageService::image_status`] gave it.
    pub image_id: String,
    /// Replaces the image's entry point when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty; with `command` set and this empty, there are none.
    pub args: Vec<String>,
    /// Working directory; the image's when empty. Made when missing.
    pub working_dir: String,
    /// Added to the image's environment, a later one wins.
    pub envs: Vec<(String, String)>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Kept and given back.
    pub labels: Labels,
    /// Kept and given back.
    pub annotations: Labels,
    /// The log file, relative to the sandbox's `log_directory`.
    pub log_path: PathBuf,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
    /// Give the container a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: LinuxResources,
    /// Rights.
    pub security: SecurityContext,
    /// Signal that asks it to stop (`SIGTERM`); the image's, or SIGTERM, when none.
    pub stop_signal: Option<String>,
}

/// Where a container stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

/// What a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// The id of its sandbox.
    pub pod_sandbox_id: String,
    /// Which container.
    pub metadata: ContainerMetadata,
    /// State.
    pub state: ContainerState,
    /// Nanoseconds since 1970; 0 when it did not happen yet.
    pub created_at_ns: i64,
    /// Likewise.
    pub started_at_ns: i64,
    /// Likewise.
    pub finished_at_ns: i64,
    /// 128 + n after signal n.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` or `ContainerCannotRun`; empty while it did not end.
    pub reason: String,
    /// More about the reason, for instance why the process could not be started.
    pub message: String,
    /// The image id.
    pub image_id: String,
    /// The log file, absolute.
    pub log_path: PathBuf,
    /// The first process, as the machine numbers it; 0 when it does not run.
    pub pid: i32,
    /// As given.
    pub labels: Labels,
    /// As given.
    pub annotations: Labels,
}

/// What a container uses now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Its id.
    pub id: String,
    /// Nanoseconds of CPU since it started.
    pub cpu_usage_ns: u64,
    /// Bytes of memory, less what the kernel can drop at once.
    pub memory_working_set_bytes: u64,
    /// Bytes resident.
    pub memory_rss_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes written to the writable layer.
    pub writable_layer_bytes: u64,
}

/// Something happened to a container or sandbox. Sent after the change can be seen by `*_status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// UID of the pod concerned.
    pub pod_uid: String,
    /// Id of the sandbox.
    pub pod_sandbox_id: String,
    /// Id of the container; equal to the sandbox's for events of the sandbox.
    pub container_id: String,
    /// What happened.
    pub kind: ContainerEventKind,
}

/// Kinds of [`ContainerEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// Made.
    Created,
    /// Started.
    Started,
    /// Its process ended, or the sandbox stopped.
    Stopped,
    /// Removed.
    Deleted,
}

/// A runtime's name and whether it can take work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// Name and version, as `kijabi://0.1.0` wants them.
    pub name: String,
    /// Version of the runtime.
    pub version: String,
    /// Why it cannot run containers, or none.
    pub runtime_problem: Option<String>,
    /// Why it cannot give pods a network, or none.
    pub network_problem: Option<String>,
}

/// Pod sandboxes and containers of a node.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    /// Whether it works.
    async fn status(&self) -> Result<RuntimeStatus>;
    /// The node's pod range (`10.42.0.0/24`) is known: give it to the network. Called once a start, before the first sandbox.
    async fn update_pod_cidr(&self, pod_cidr: &str) -> Result<()>;

    /// Makes and starts a sandbox; returns its id. On failure nothing of it is left.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String>;
    /// Kills all its containers at once and gives its network back.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Removes it and its containers, stopping them first. Log files stay: they are the kubelet's.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    /// One sandbox.
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus>;
    /// All sandboxes.
    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>>;

    /// Makes a container (its root filesystem, its configuration) in a sandbox; returns its id.
    async fn create_container(&self, pod_sandbox_id: &str, config: ContainerConfig) -> Result<String>;
    /// Starts its process. A process that cannot be started leaves the container `Exited` with reason
    /// `ContainerCannotRun` and exit code 127 or 126, and an error here that says why.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Asks it to stop with its stop signal and kills it when `timeout` is over; returns once it ended.
    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()>;
    /// Removes it, killing it first when it runs.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// One container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    /// All containers of a sandbox, or of all sandboxes.
    async fn list_containers(&self, pod_sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>>;
    /// Changes limits while it runs.
    async fn update_container_resources(&self, id: &str, resources: LinuxResources) -> Result<()>;
    /// Starts a new log file after the present one was renamed.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;
    /// What a container uses.
    async fn container_stats(&self, id: &str) -> Result<ContainerStats>;

    /// Runs a command in a running container and waits for it, at most `timeout` ([`crate::Error::DeadlineExceeded`], the
    /// process being killed).
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecResult>;
    /// Runs a command in a running container with its streams connected.
    async fn exec(&self, id: &str, command: &[String], options: StreamOptions) -> Result<ProcessStreams>;
    /// Connects to the container's own process.
    async fn attach(&self, id: &str, options: StreamOptions) -> Result<ProcessStreams>;
    /// Connects to `127.0.0.1:port` inside the sandbox's network.
    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>>;

    /// All that happens from now on. A receiver that lags loses the oldest and must list.
    fn events(&self) -> broadcast::Receiver<ContainerEvent>;
}
