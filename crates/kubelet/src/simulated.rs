//! A runtime without containers: deterministic, in memory. For tests, benches, and nodes that only pretend.
//!
//! A container does what its image's [`Behaviour`] says: it runs until it is stopped, or ends by itself with a code after
//! a time. It writes the log lines and termination message it is told to. Everything is remembered as `cri` promises: a
//! new kubelet on the same [`Simulated`] finds all as it was.

use async_trait::async_trait;
use cri::{
    AuthConfig, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerState, ContainerStats, ContainerStatus,
    Duplex, Error, ExecResult, FilesystemUsage, Image, ImageService, LinuxResources, PodSandboxConfig, PodSandboxState,
    PodSandboxStatus, ProcessStreams, Result, RuntimeService, RuntimeStatus, StreamOptions,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};

/// What containers of an image do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Ends by itself with this code after this time; otherwise it runs until it is stopped.
    pub exits: Option<(Duration, i32)>,
    /// Does not react to its stop signal: only the kill at the end of the grace ends it.
    pub stubborn: bool,
    /// Lines of its log.
    pub log: Vec<String>,
    /// What it writes as its termination message.
    pub message: String,
    /// Its process cannot be started, for this reason.
    pub start_error: Option<String>,
    /// The image is only there after a pull.
    pub remote: bool,
    /// A pull fails with this.
    pub pull_error: Option<String>,
    /// `USER` of the image.
    pub user: String,
}

struct Container {
    status: ContainerStatus,
    config: ContainerConfig,
    behaviour: Behaviour,
    stopped: Arc<Notify>,
}

struct Sandbox {
    status: PodSandboxStatus,
    config: PodSandboxConfig,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    images: HashMap<String, Behaviour>,
    pulled: HashMap<String, Image>,
    exec: HashMap<String, ExecResult>,
    next: u64,
    pod_cidr: Option<String>,
    calls: Vec<String>,
}

struct Inner {
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
}

/// The runtime. Cloning gives another handle on the same one.
#[derive(Clone)]
pub struct Simulated(Arc<Inner>);

impl Default for Simulated {
    fn default() -> Simulated {
        Simulated::new()
    }
}

fn not_found(kind: &'static str, id: &str) -> Error {
    Error::NotFound { kind, id: id.to_owned() }
}

impl Simulated {
    /// An empty one.
    pub fn new() -> Simulated {
        Simulated(Arc::new(Inner { state: Mutex::default(), events: broadcast::channel(4096).0 }))
    }

    /// Says what containers of an image do. Images nobody named are there and run until they are stopped.
    pub fn image(&self, name: &str, behaviour: Behaviour) {
        self.0.state.lock().images.insert(name.to_owned(), behaviour);
    }

    /// Says how a command ends (its words joined by blanks). Commands nobody named succeed.
    pub fn command(&self, command: &str, exit_code: i32, output: &str) {
        let result = ExecResult { stdout: output.as_bytes().to_vec(), exit_code, ..ExecResult::default() };
        self.0.state.lock().exec.insert(command.to_owned(), result);
    }

    /// All calls that changed something, in order: `run web`, `start c`, `stop c`, …
    pub fn calls(&self) -> Vec<String> {
        self.0.state.lock().calls.clone()
    }

    /// The pod range the kubelet gave.
    pub fn pod_cidr(&self) -> Option<String> {
        self.0.state.lock().pod_cidr.clone()
    }

    /// What a container was asked to be, the newest of that name.
    pub fn config(&self, container: &str) -> Option<ContainerConfig> {
        let state = self.0.state.lock();
        let all = state.containers.values().filter(|c| c.config.metadata.name == container);
        all.max_by_key(|c| c.config.metadata.attempt).map(|c| c.config.clone())
    }

    /// What a pod's newest sandbox was asked to be.
    pub fn sandbox_config(&self, pod: &str) -> Option<PodSandboxConfig> {
        let state = self.0.state.lock();
        let all = state.sandboxes.values().filter(|s| s.config.metadata.name == pod);
        all.max_by_key(|s| s.config.metadata.attempt).map(|s| s.config.clone())
    }

    /// Ends the newest running container of that name with a code, as if by itself.
    pub fn end(&self, container: &str, exit_code: i32) {
        let id = {
            let state = self.0.state.lock();
            let running = state
                .containers
                .values()
                .filter(|c| c.config.metadata.name == container && c.status.state == ContainerState::Running);
            running.map(|c| c.status.id.clone()).next_back()
        };
        if let Some(id) = id {
            self.0.exited(&id, exit_code);
        }
    }

    /// All processes are gone, as after a reboot of the machine. No events are sent: nobody was there.
    pub fn reboot(&self) {
        let mut state = self.0.state.lock();
        for s in state.sandboxes.values_mut() {
            s.status.state = PodSandboxState::NotReady;
        }
        for c in state.containers.values_mut().filter(|c| c.status.state != ContainerState::Exited) {
            c.status.state = ContainerState::Exited;
            c.status.exit_code = 255;
            c.status.reason = "Unknown".into();
            c.status.finished_at_ns = crate::view::now_ns();
        }
    }
}

impl Inner {
    fn send(&self, pod_uid: String, sandbox: &str, container: &str, kind: ContainerEventKind) {
        let _ = self.events.send(ContainerEvent {
            pod_uid,
            pod_sandbox_id: sandbox.to_owned(),
            container_id: container.to_owned(),
            kind,
        });
    }

    fn announce(&self, id: &str, kind: ContainerEventKind) {
        let found = {
            let state = self.state.lock();
            state.containers.get(id).and_then(|c| {
                let sandbox = state.sandboxes.get(&c.status.pod_sandbox_id)?;
                Some((sandbox.status.metadata.uid.clone(), c.status.pod_sandbox_id.clone()))
            })
        };
        if let Some((uid, sandbox)) = found {
            self.send(uid, &sandbox, id, kind);
        }
    }

    fn exited(&self, id: &str, exit_code: i32) {
        {
            let mut state = self.state.lock();
            let Some(c) = state.containers.get_mut(id).filter(|c| c.status.state == ContainerState::Running) else {
                return;
            };
            c.status.state = ContainerState::Exited;
            c.status.exit_code = exit_code;
            c.status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
            c.status.finished_at_ns = crate::view::now_ns();
            c.stopped.notify_waiters();
            if !c.behaviour.message.is_empty()
                && let Some(file) = c.config.annotations.get(crate::labels::TERMINATION_MESSAGE_FILE)
            {
                let _ = std::fs::write(file, &c.behaviour.message);
            }
        }
        self.announce(id, ContainerEventKind::Stopped);
    }
}

/// Ends the container when its time has come.
fn end_later(inner: &Arc<Inner>, id: &str, after: Duration, code: i32) {
    let (inner, id): (Weak<Inner>, String) = (Arc::downgrade(inner), id.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        if let Some(inner) = inner.upgrade() {
            inner.exited(&id, code);
        }
    });
}

fn write_log(path: &PathBuf, lines: &[String]) {
    let mut text = String::new();
    for line in lines {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string();
        text.push_str(&format!("{now} stdout F {line}\n"));
    }
    if let Some(dir) = path.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let _ = std::fs::write(path, text);
}

#[async_trait]
impl RuntimeService for Simulated {
    async fn status(&self) -> Result<RuntimeStatus> {
        Ok(RuntimeStatus { name: "simulated".into(), version: "0.1.0".into(), ..RuntimeStatus::default() })
    }

    async fn update_pod_cidr(&self, pod_cidr: &str) -> Result<()> {
        self.0.state.lock().pod_cidr = Some(pod_cidr.to_owned());
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let (id, uid) = {
            let mut state = self.0.state.lock();
            state.next += 1;
            let id = format!("sandbox{}", state.next);
            let host = config.namespaces.network == cri::NamespaceMode::Node;
            let ip = format!("10.99.{}.{}", state.next / 250, state.next % 250 + 2);
            let status = PodSandboxStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: PodSandboxState::Ready,
                created_at_ns: crate::view::now_ns(),
                ips: if host { Vec::new() } else { vec![ip] },
                namespaces: config.namespaces,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            };
            state.calls.push(format!("run {}", config.metadata.name));
            let uid = config.metadata.uid.clone();
            state.sandboxes.insert(id.clone(), Sandbox { status, config });
            (id, uid)
        };
        self.0.send(uid, &id, &id, ContainerEventKind::Started);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let (uid, running) = {
            let mut state = self.0.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
            sandbox.status.state = PodSandboxState::NotReady;
            let uid = sandbox.status.metadata.uid.clone();
            let ours = |c: &&Container| c.status.pod_sandbox_id == id && c.status.state == ContainerState::Running;
            let running: Vec<String> = state.containers.values().filter(ours).map(|c| c.status.id.clone()).collect();
            (uid, running)
        };
        running.iter().for_each(|c| self.0.exited(c, 137));
        self.0.send(uid, id, id, ContainerEventKind::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.stop_pod_sandbox(id).await?;
        let removed = {
            let mut state = self.0.state.lock();
            state.containers.retain(|_, c| c.status.pod_sandbox_id != id);
            let removed = state.sandboxes.remove(id);
            if let Some(s) = &removed {
                state.calls.push(format!("remove {}", s.config.metadata.name));
            }
            removed
        };
        if let Some(s) = removed {
            self.0.send(s.status.metadata.uid, id, id, ContainerEventKind::Deleted);
        }
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        self.0.state.lock().sandboxes.get(id).map(|s| s.status.clone()).ok_or_else(|| not_found("pod sandbox", id))
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        Ok(self.0.state.lock().sandboxes.values().map(|s| s.status.clone()).collect())
    }

    async fn create_container(&self, pod_sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let id = {
            let mut state = self.0.state.lock();
            let Some(sandbox) = state.sandboxes.get(pod_sandbox_id) else {
                return Err(not_found("pod sandbox", pod_sandbox_id));
            };
            let log_path = sandbox.config.log_directory.join(&config.log_path);
            state.next += 1;
            let id = format!("container{}", state.next);
            let behaviour = state.images.get(&config.image_id).cloned().unwrap_or_default();
            let status = ContainerStatus {
                id: id.clone(),
                pod_sandbox_id: pod_sandbox_id.to_owned(),
                metadata: config.metadata.clone(),
                created_at_ns: crate::view::now_ns(),
                image_id: config.image_id.clone(),
                log_path,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                ..ContainerStatus::default()
            };
            state.calls.push(format!("create {}", config.metadata.name));
            state.containers.insert(id.clone(), Container { status, config, behaviour, stopped: Arc::default() });
            id
        };
        self.0.announce(&id, ContainerEventKind::Created);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let (behaviour, log_path, failed) = {
            let mut state = self.0.state.lock();
            let Some(c) = state.containers.get_mut(id) else { return Err(not_found("container", id)) };
            let now = crate::view::now_ns();
            let failed = c.behaviour.start_error.clone();
            c.status.started_at_ns = now;
            c.status.state = ContainerState::Running;
            if let Some(why) = &failed {
                c.status.state = ContainerState::Exited;
                c.status.finished_at_ns = now;
                c.status.exit_code = 127;
                c.status.reason = "ContainerCannotRun".into();
                c.status.message = why.clone();
            }
            let out = (c.behaviour.clone(), c.status.log_path.clone(), failed);
            let call = format!("start {}", c.config.metadata.name);
            state.calls.push(call);
            out
        };
        if let Some(why) = failed {
            self.0.announce(id, ContainerEventKind::Stopped);
            return Err(Error::InvalidArgument(why));
        }
        write_log(&log_path, &behaviour.log);
        if let Some((after, code)) = behaviour.exits {
            end_later(&self.0, id, after, code);
        }
        self.0.announce(id, ContainerEventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        let stubborn = {
            let mut state = self.0.state.lock();
            let Some(c) = state.containers.get(id).filter(|c| c.status.state == ContainerState::Running) else {
                return Ok(());
            };
            let (call, stubborn) = (format!("stop {}", c.config.metadata.name), c.behaviour.stubborn);
            let stopped = c.stopped.clone();
            state.calls.push(call);
            stubborn.then_some(stopped)
        };
        if let Some(stopped) = stubborn {
            let _ = tokio::time::timeout(timeout, stopped.notified()).await;
        }
        self.0.exited(id, if timeout.is_zero() { 137 } else { 143 });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.0.exited(id, 137);
        self.0.announce(id, ContainerEventKind::Deleted);
        self.0.state.lock().containers.remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.0.state.lock().containers.get(id).map(|c| c.status.clone()).ok_or_else(|| not_found("container", id))
    }

    async fn list_containers(&self, pod_sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>> {
        let state = self.0.state.lock();
        let all = state.containers.values().map(|c| &c.status);
        Ok(all.filter(|c| pod_sandbox_id.is_none_or(|id| c.pod_sandbox_id == id)).cloned().collect())
    }

    async fn update_container_resources(&self, id: &str, resources: LinuxResources) -> Result<()> {
        match self.0.state.lock().containers.get_mut(id) {
            Some(c) => c.config.resources = resources,
            None => return Err(not_found("container", id)),
        }
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let path = self.container_status(id).await?.log_path;
        write_log(&path, &[]);
        Ok(())
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        self.container_status(id).await.map(|s| ContainerStats { id: s.id, ..ContainerStats::default() })
    }

    async fn exec_sync(&self, id: &str, command: &[String], _: Option<Duration>) -> Result<ExecResult> {
        let state = self.0.state.lock();
        match state.containers.get(id).map(|c| c.status.state) {
            None => Err(not_found("container", id)),
            Some(ContainerState::Running) => Ok(state.exec.get(&command.join(" ")).cloned().unwrap_or_default()),
            Some(_) => Err(Error::FailedPrecondition(format!("container {id} is not running"))),
        }
    }

    async fn exec(&self, id: &str, command: &[String], options: StreamOptions) -> Result<ProcessStreams> {
        let result = self.exec_sync(id, command, None).await?;
        let (exit, code) = tokio::sync::oneshot::channel();
        let _ = exit.send(Ok(result.exit_code));
        Ok(ProcessStreams {
            stdin: options.stdin.then(|| Box::pin(tokio::io::sink()) as cri::Writer),
            stdout: options.stdout.then(|| Box::pin(std::io::Cursor::new(result.stdout)) as cri::Reader),
            stderr: options.stderr.then(|| Box::pin(tokio::io::empty()) as cri::Reader),
            resize: tokio::sync::mpsc::channel(1).0,
            exit: code,
        })
    }

    async fn attach(&self, id: &str, options: StreamOptions) -> Result<ProcessStreams> {
        self.exec(id, &[], options).await
    }

    async fn port_forward(&self, pod_sandbox_id: &str, _: u16) -> Result<Box<dyn Duplex>> {
        self.pod_sandbox_status(pod_sandbox_id).await?;
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(ours);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        Ok(Box::new(theirs))
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.0.events.subscribe()
    }
}

fn image_of(name: &str, behaviour: &Behaviour) -> Image {
    Image {
        id: name.to_owned(),
        repo_tags: vec![crate::pull::full_name(name)],
        repo_digests: Vec::new(),
        size_bytes: 1 << 20,
        user: behaviour.user.clone(),
        pinned: false,
    }
}

#[async_trait]
impl ImageService for Simulated {
    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.0.state.lock().pulled.values().cloned().collect())
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        if image.is_empty() || image.contains(char::is_uppercase) {
            return Err(Error::InvalidArgument("invalid reference format".into()));
        }
        let state = self.0.state.lock();
        if let Some(found) = state.pulled.get(image) {
            return Ok(Some(found.clone()));
        }
        let behaviour = state.images.get(image).cloned().unwrap_or_default();
        Ok((!behaviour.remote).then(|| image_of(image, &behaviour)))
    }

    async fn pull_image(&self, image: &str, _: Option<AuthConfig>) -> Result<String> {
        let mut state = self.0.state.lock();
        state.calls.push(format!("pull {image}"));
        let behaviour = state.images.get(image).cloned().unwrap_or_default();
        if let Some(why) = behaviour.pull_error {
            return Err(Error::PullFailed(why));
        }
        state.pulled.insert(image.to_owned(), image_of(image, &behaviour));
        Ok(image.to_owned())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.0.state.lock().pulled.remove(image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<FilesystemUsage> {
        Ok(FilesystemUsage { mountpoint: "/".into(), used_bytes: 0 })
    }
}
