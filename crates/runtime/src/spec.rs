//! What the shim is told: a pod's namespaces, a container, a process. Plain data, resolved by the caller as far as it can be.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What one shim is for: a pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSpec {
    /// The sandbox's id.
    pub id: String,
    /// Its folder; the shim makes its socket (`shim.sock`) and its containers' status files there.
    pub dir: PathBuf,
    /// The network namespace; the machine's when none.
    pub netns: Option<PathBuf>,
    /// A System V and POSIX message queue namespace of its own.
    pub own_ipc: bool,
    /// A host name of its own.
    pub own_uts: bool,
    /// That host name.
    pub hostname: String,
    /// One process namespace shared by all containers.
    pub shared_pid: bool,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup folders (one for each hierarchy) the shim itself goes into, so that it survives its starter's.
    pub cgroups: Vec<PathBuf>,
}

/// Whose process namespace a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One of its own.
    #[default]
    Container,
    /// The pod's ([`PodSpec::shared_pid`]).
    Pod,
    /// The machine's.
    Node,
}

/// Where a container's root comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay, mounted inside the container's own mount namespace and gone with it.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// What the container writes.
        upper: PathBuf,
        /// The kernel's scratch folder, beside `upper`.
        work: PathBuf,
    },
    /// A folder as it is.
    Folder(PathBuf),
}

impl Default for Rootfs {
    fn default() -> Self {
        Rootfs::Folder(PathBuf::new())
    }
}

/// How mounts travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the machine into the container.
    Slave,
    /// Both ways.
    Shared,
}

/// A file or folder of the machine, seen inside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bind {
    /// On the machine.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// Read only, with all that is mounted below.
    pub readonly: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// A device node to make inside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// On the machine.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
}

/// Who a process runs as. Names are looked up in the container's own `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// `user`, `user:group`, with names or numbers, as an image says; empty for root.
    pub name: String,
    /// A group number that replaces the one found.
    pub gid: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Do not add the groups that `/etc/group` gives the user.
    pub strict_groups: bool,
}

/// A process in a container: its first, or one run later.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, made when missing.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// Capabilities as a bit set.
    pub capabilities: u64,
    /// Whether it is barred from gaining rights.
    pub no_new_privs: bool,
    /// A compiled seccomp filter ([`crate::seccomp`]); none for none.
    pub seccomp: Option<Vec<u64>>,
    /// Give it a terminal.
    pub tty: bool,
}

/// The cgroups of a container, made by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroups {
    /// Folders of version 1 hierarchies.
    pub v1: Vec<PathBuf>,
    /// The folder in the version 2 hierarchy.
    pub v2: Option<PathBuf>,
    /// The file that counts OOM kills (`memory.oom_control` or `memory.events`).
    pub oom_file: Option<PathBuf>,
}

/// A container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Its id.
    pub id: String,
    /// An empty folder of the machine where its root is mounted (seen only inside).
    pub mountpoint: PathBuf,
    /// Its root.
    pub rootfs: Rootfs,
    /// The root cannot be written.
    pub readonly_rootfs: bool,
    /// Its process.
    pub process: Process,
    /// All devices, and nothing hidden.
    pub privileged: bool,
    /// `/proc` unmasked.
    pub unmasked_proc: bool,
    /// Mounts, in order.
    pub binds: Vec<Bind>,
    /// Devices beside the usual ones.
    pub devices: Vec<Device>,
    /// The pod's `/dev/shm`; the machine's folder to bind.
    pub shm: Option<PathBuf>,
    /// Cgroups.
    pub cgroups: Cgroups,
    /// Badness for the OOM killer.
    pub oom_score_adj: i32,
    /// Process namespace.
    pub pid: PidMode,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close it when the first attached client leaves.
    pub stdin_once: bool,
    /// The log file, absolute.
    pub log_path: PathBuf,
}

/// How a container fares, as the shim knows it and writes it beside its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Its first process; 0 when it does not run.
    pub pid: i32,
    /// Nanoseconds since 1970; 0 when it did not start.
    pub started_at_ns: i64,
    /// Nanoseconds since 1970; 0 while it runs.
    pub finished_at_ns: i64,
    /// 128 + n after signal n.
    pub exit_code: i32,
    /// The kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// Why it could not be started.
    pub start_error: Option<String>,
}
