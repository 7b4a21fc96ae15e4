//! What is known of sandboxes and containers while the program runs.

use cri::{ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};
use network::PodNetwork;
use runtime::client::Shim;
use runtime::program::Program;
use runtime::spec::ContainerRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many events a slow receiver may lag behind.
const EVENTS_MAX: usize = 1024;

/// What a sandbox service is made of.
pub struct Config {
    /// Its folder; it uses `sandboxes` below.
    pub data_dir: PathBuf,
    /// The sealed copy that shims are started from.
    pub program: Program,
    /// The cgroup that all of this instance's are below: `kijabi`, or another name for a second cluster.
    pub cgroup_parent: String,
    /// Images and snapshots.
    pub images: Arc<image::Store>,
    /// The pod network.
    pub network: Arc<PodNetwork>,
}

/// Pod sandboxes and containers of this node.
pub(crate) struct Core {
    pub(crate) root: PathBuf,
    pub(crate) program: Program,
    pub(crate) cgroups: runtime::cgroup::Tree,
    pub(crate) shim_cgroups: Vec<PathBuf>,
    pub(crate) images: Arc<image::Store>,
    pub(crate) network: Arc<PodNetwork>,
    pub(crate) pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    pub(crate) events: broadcast::Sender<ContainerEvent>,
    pub(crate) tasks: TaskTracker,
    pub(crate) token: CancellationToken,
}

/// What is written of a sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodFile {
    pub(crate) status: SavedStatus,
    pub(crate) log_directory: PathBuf,
    pub(crate) hostname: String,
    pub(crate) cgroup: String,
    pub(crate) privileged: bool,
    /// False until all of it was made once.
    pub(crate) complete: bool,
}

/// A [`PodSandboxStatus`], which is made for talking, in a form for keeping.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedStatus {
    pub(crate) id: String,
    pub(crate) metadata: cri::PodSandboxMetadata,
    pub(crate) state: PodSandboxState,
    pub(crate) created_at_ns: i64,
    pub(crate) ips: Vec<String>,
    pub(crate) namespaces: cri::NamespaceOptions,
    pub(crate) labels: cri::Labels,
    pub(crate) annotations: cri::Labels,
}

/// What is written of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerFile {
    pub(crate) status: ContainerStatus,
    /// Its cgroup below the parent.
    pub(crate) cgroup: String,
    /// A number.
    pub(crate) stop_signal: i32,
    pub(crate) tty: bool,
    pub(crate) spec: runtime::spec::ContainerSpec,
}

/// A sandbox.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) shim: Shim,
    pub(crate) file: Mutex<PodFile>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Held while it is stopped or removed.
    pub(crate) order: tokio::sync::Mutex<()>,
    /// True once the shim is gone.
    pub(crate) gone: watch::Sender<bool>,
}

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) cgroup: String,
    pub(crate) stop_signal: i32,
    pub(crate) tty: bool,
    /// Whether a start was asked for: there is only one.
    pub(crate) start_asked: AtomicBool,
    status: Mutex<ContainerStatus>,
    /// True once it ended.
    pub(crate) ended: watch::Sender<bool>,
}

/// A poisoned lock means that a panic left data half changed; here each change is a plain assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(config: Config, cgroups: runtime::cgroup::Tree, shim_cgroups: Vec<PathBuf>) -> Core {
        Core {
            root: config.data_dir.join("sandboxes"),
            program: config.program,
            cgroups,
            shim_cgroups,
            images: config.images,
            network: config.network,
            pods: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
            tasks: TaskTracker::new(),
            token: CancellationToken::new(),
        }
    }

    pub(crate) fn pod(&self, id: &str) -> cri::Result<Arc<Pod>> {
        let found = lock(&self.pods).get(id).cloned();
        found.ok_or_else(|| cri::Error::NotFound { kind: "pod sandbox", id: id.to_owned() })
    }

    /// A container and its sandbox.
    pub(crate) fn container(&self, id: &str) -> cri::Result<(Arc<Pod>, Arc<Container>)> {
        let pods: Vec<_> = lock(&self.pods).values().cloned().collect();
        let found = pods.into_iter().find_map(|pod| {
            let container = lock(&pod.containers).get(id).cloned()?;
            Some((pod, container))
        });
        found.ok_or_else(|| cri::Error::NotFound { kind: "container", id: id.to_owned() })
    }

    /// Sends an event; `container` is the sandbox's own id for events of the sandbox. Nobody need listen.
    pub(crate) fn tell(&self, pod: &Pod, container: &str, kind: ContainerEventKind) {
        let event = ContainerEvent {
            pod_uid: lock(&pod.file).status.metadata.uid.clone(),
            pod_sandbox_id: pod.id.clone(),
            container_id: container.to_owned(),
            kind,
        };
        let _nobody_listens = self.events.send(event);
    }

    /// Runs something to its end even when the caller goes away, so that nothing is left half made.
    pub(crate) async fn whole<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.tasks.spawn(work).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("a task was lost: {error}"),
            },
        }
    }

    /// Runs what blocks on a thread for such things.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Core>) -> T + Send + 'static,
    ) -> T {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || work(&this)).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("a blocking task was lost: {error}"),
            },
        }
    }
}

impl Pod {
    pub(crate) fn new(dir: PathBuf, file: PodFile) -> Pod {
        Pod {
            id: file.status.id.clone(),
            shim: Shim::at(&dir),
            dir,
            file: Mutex::new(file),
            containers: Mutex::default(),
            order: tokio::sync::Mutex::default(),
            gone: watch::Sender::new(false),
        }
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let saved = lock(&self.file).status.clone();
        PodSandboxStatus {
            id: saved.id,
            metadata: saved.metadata,
            state: saved.state,
            created_at_ns: saved.created_at_ns,
            ips: saved.ips,
            namespaces: saved.namespaces,
            labels: saved.labels,
            annotations: saved.annotations,
        }
    }

    pub(crate) fn ready(&self) -> bool {
        lock(&self.file).status.state == PodSandboxState::Ready
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }
}

impl Container {
    pub(crate) fn new(file: &ContainerFile) -> Container {
        Container {
            id: file.status.id.clone(),
            cgroup: file.cgroup.clone(),
            stop_signal: file.stop_signal,
            tty: file.tty,
            start_asked: AtomicBool::new(false),
            status: Mutex::new(file.status.clone()),
            ended: watch::Sender::new(false),
        }
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        lock(&self.status).clone()
    }

    pub(crate) fn state(&self) -> ContainerState {
        lock(&self.status).state
    }

    /// It runs, unless word of its end came first.
    pub(crate) fn started(&self, pid: i32, started_at_ns: i64) {
        let mut status = lock(&self.status);
        if status.state != ContainerState::Exited {
            (status.state, status.pid, status.started_at_ns) = (ContainerState::Running, pid, started_at_ns);
        }
    }

    /// Takes what the shim knows. True when it now has ended and had not before.
    pub(crate) fn learn(&self, record: &ContainerRecord) -> bool {
        let mut status = lock(&self.status);
        if status.state == ContainerState::Exited {
            return false;
        }
        (status.started_at_ns, status.pid) = (record.started_at_ns, record.pid);
        if record.finished_at_ns == 0 {
            status.state = if record.started_at_ns == 0 { ContainerState::Created } else { ContainerState::Running };
            return false;
        }
        status.state = ContainerState::Exited;
        (status.finished_at_ns, status.exit_code, status.pid) = (record.finished_at_ns, record.exit_code, 0);
        let reason = match record {
            ContainerRecord { start_error: Some(_), .. } => "ContainerCannotRun",
            ContainerRecord { oom_killed: true, .. } => "OOMKilled",
            ContainerRecord { exit_code: 0, .. } => "Completed",
            _ => "Error",
        };
        status.reason = reason.to_owned();
        status.message = record.start_error.clone().map(|why| cannot_run(&why)).unwrap_or_default();
        drop(status);
        self.ended.send_replace(true);
        true
    }
}

/// Why a container could not be started, in the words users know.
pub(crate) fn cannot_run(why: &str) -> String {
    format!("OCI runtime create failed: unable to start container process: error during container init: {why}: unknown")
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as i64)
}

/// A new id: 64 hexadecimal digits.
pub(crate) fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// An error of this machine: what failed, and the system's reasons in a row.
pub(crate) fn internal(what: &str, error: &dyn std::error::Error) -> cri::Error {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text.push_str(&format!(": {reason}"));
        }
        source = error.source();
    }
    cri::Error::Internal(text)
}
