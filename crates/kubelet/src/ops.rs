//! What a pod worker does, one function for each action. They run beside the worker and answer with what came of it.

use crate::container;
use crate::context::Shared;
use crate::hooks;
use crate::labels;
use crate::objects::Fetched;
use crate::podnet;
use crate::pull;
use crate::resources;
use crate::security;
use crate::spec::{self, Kind};
use crate::state::{ImageNames, ProcessUser};
use crate::volumes::{self, PodDirs, VolumeError};
use client::EventType;
use cri::{ContainerStatus, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatus, PortMapping};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The ConfigMaps, Secrets and folders of a pod's volumes, once they are set up.
#[derive(Clone, Default)]
pub struct Mounted {
    /// Objects as they were.
    pub fetched: Fetched,
    /// Folder by volume.
    pub paths: BTreeMap<String, PathBuf>,
}

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// `ErrImagePull`, `CreateContainerError`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl StartError {
    /// With this reason.
    pub fn new(reason: &'static str, message: impl Into<String>) -> StartError {
        StartError { reason, message: message.into() }
    }
}

/// A container that was made (and perhaps started), with what its status shall show.
pub struct Started {
    /// As the runtime has it.
    pub status: ContainerStatus,
    /// Names of its image.
    pub image: ImageNames,
    /// The user of its first process.
    pub user: Option<ProcessUser>,
}

/// What came of an action.
pub enum Outcome {
    /// Volumes and sandbox.
    Sandbox(Result<(PodSandboxStatus, Mounted), String>),
    /// Volumes brought up to date.
    Volumes(Result<Mounted, VolumeError>),
    /// A start: the container's name, what there is of it, and whether it went well.
    Start(String, Option<Box<Started>>, Result<(), StartError>),
    /// The action was cancelled: the pod shall end.
    Cancelled,
    /// A container was stopped.
    Killed(String),
    /// All sandboxes were stopped.
    SandboxesStopped(Result<(), String>),
}

/// Fetches what the pod's volumes need and writes them.
pub async fn mount(context: &Shared, pod: &Arc<Pod>, pod_ips: &[String]) -> Result<Mounted, VolumeError> {
    let fetched = context.objects.fetch(pod).await;
    let facts = context.facts(pod_ips);
    let resolved = volumes::resolve(&volumes::Input { pod, fetched: &fetched, facts: &facts }, &context.tokens).await?;
    let dirs = PodDirs::new(&context.config.root_dir, spec::uid(pod));
    let pod = pod.clone();
    let paths = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dirs.pod).map_err(|e| VolumeError {
            volume: String::new(),
            reason: format!("cannot make {}: {e}", dirs.pod.display()),
        })?;
        volumes::setup(&dirs, &pod, &resolved)
    });
    let paths = paths.await.map_err(|e| VolumeError { volume: String::new(), reason: e.to_string() })??;
    Ok(Mounted { fetched, paths })
}

/// Volumes, then a sandbox; those there are are stopped first.
pub async fn make_sandbox(
    context: Shared,
    pod: Arc<Pod>,
    old: Vec<String>,
    attempt: u32,
    cancel: CancellationToken,
) -> Outcome {
    let mounted = tokio::select! {
        () = cancel.cancelled() => return Outcome::Cancelled,
        mounted = mount(&context, &pod, &[]) => mounted,
    };
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            context.pod_event(&pod, EventType::Warning, "FailedMount", error.to_string());
            return Outcome::Sandbox(Err(error.to_string()));
        }
    };
    let Ok(_permit) = context.starts.acquire().await else { return Outcome::Cancelled };
    for id in &old {
        if let Err(error) = context.runtime().stop_pod_sandbox(id).await {
            return Outcome::Sandbox(Err(error.to_string()));
        }
    }
    let made = async {
        let config = sandbox_config(&context, &pod, attempt)?;
        let id = context.runtime().run_pod_sandbox(config).await.map_err(|e| e.to_string())?;
        context.runtime().pod_sandbox_status(&id).await.map_err(|e| e.to_string())
    };
    match made.await {
        Ok(status) => Outcome::Sandbox(Ok((status, mounted))),
        Err(message) => {
            let text = format!("Failed to create pod sandbox: {message}");
            context.pod_event(&pod, EventType::Warning, "FailedCreatePodSandBox", text);
            Outcome::Sandbox(Err(message))
        }
    }
}

/// The folder of a pod's logs.
pub fn log_dir(context: &Shared, pod: &Pod) -> PathBuf {
    context.config.log_dir.join(format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod)))
}

fn sandbox_config(context: &Shared, pod: &Arc<Pod>, attempt: u32) -> Result<PodSandboxConfig, String> {
    let config = &context.config;
    if spec::spec(pod).host_users == Some(false) {
        return Err("user namespaces (hostUsers: false) are not supported by this node".into());
    }
    let node_resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let hostname = if spec::host_network(pod) {
        context.hostname.clone()
    } else {
        podnet::kernel_hostname(pod, &config.cluster_domain)?
    };
    let grace = spec::spec(pod).termination_grace_period_seconds.unwrap_or(30);
    let context_of = spec::spec(pod).security_context.as_ref();
    let sysctls = context_of.and_then(|s| s.sysctls.as_ref());
    Ok(PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            attempt,
        },
        hostname,
        log_directory: log_dir(context, pod),
        dns_config: Some(podnet::dns(pod, &config.cluster_dns, &config.cluster_domain, &node_resolv)),
        port_mappings: port_mappings(pod),
        labels: container::pod_labels(pod),
        annotations: [(labels::GRACE.to_owned(), grace.to_string())].into(),
        cgroup_parent: resources::cgroup_parent(pod),
        resources: resources::pod(pod, config.pod_pids_limit),
        namespaces: security::namespaces(pod),
        sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        privileged: spec::containers(pod).any(|(_, c)| security::privileged(&c)),
    })
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let containers =
        spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).chain(&spec::spec(pod).containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let host_port = u16::try_from(p.host_port?).ok().filter(|p| *p > 0)?;
            Some(PortMapping {
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                container_port: u16::try_from(p.container_port).ok()?,
                host_port,
                host_ip: p.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// What a start needs beside the pod.
pub struct StartInput {
    /// Which list it stands in.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The sandbox.
    pub sandbox: PodSandboxStatus,
    /// Which try.
    pub attempt: u32,
    /// A container made for this try that never started: removed first.
    pub leftover: Option<String>,
    /// Volumes and objects.
    pub mounted: Mounted,
}

/// Image, container, process, hook.
pub async fn start(context: Shared, pod: Arc<Pod>, input: StartInput, cancel: CancellationToken) -> Outcome {
    let name = input.name.clone();
    let Some((_, c)) = spec::container(&pod, &name) else { return Outcome::Cancelled };
    let image = tokio::select! {
        () = cancel.cancelled() => return Outcome::Cancelled,
        image = pull::ensure(&context, &pod, &c, &input.mounted.fetched) => image,
    };
    let image = match image {
        Ok(image) => image,
        Err(error) => return failed(&context, &pod, &name, None, error),
    };
    let permit = context.starts.acquire().await;
    let names = pull::names(&c, &image);
    let id = match create(&context, &pod, &input, &c, &image).await {
        Ok(id) => id,
        Err(error) => return failed(&context, &pod, &name, None, error),
    };
    context.container_event(&pod, &name, EventType::Normal, "Created", "Container created");
    let started = context.runtime().start_container(&id).await;
    drop(permit);
    let status = context.runtime().container_status(&id).await;
    let user = status.as_ref().ok().and_then(|s| process_user(s.pid));
    let found = status.ok().map(|status| Box::new(Started { status, image: names, user }));
    if let Err(error) = started {
        return failed(&context, &pod, &name, found, StartError::new("RunContainerError", error.to_string()));
    }
    context.container_event(&pod, &name, EventType::Normal, "Started", "Container started");
    if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
        let ip = input.sandbox.ips.first().cloned().or_else(|| context.config.node_ips.first().cloned());
        let hook = hooks::Hook { handler: hook, container: &c, id: &id, ip: &ip.unwrap_or_default() };
        let result = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            result = hooks::run(&context, &pod, &hook) => result,
        };
        if let Err(message) = result {
            context.container_event(&pod, &name, EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
            let kill = Kill {
                id: id.clone(),
                name: name.clone(),
                message: "FailedPostStartHook".into(),
                grace_s: spec::grace_seconds(&pod),
                hook: true,
            };
            stop(&context, &pod, &kill).await;
            let found = refreshed(&context, found, &id).await;
            return Outcome::Start(name, found, Err(StartError::new("PostStartHookError", message)));
        }
    }
    Outcome::Start(name, found, Ok(()))
}

async fn refreshed(context: &Shared, found: Option<Box<Started>>, id: &str) -> Option<Box<Started>> {
    let mut found = found?;
    if let Ok(status) = context.runtime().container_status(id).await {
        found.status = status;
    }
    Some(found)
}

fn failed(context: &Shared, pod: &Pod, name: &str, found: Option<Box<Started>>, error: StartError) -> Outcome {
    let text = match error.reason {
        "ErrImagePull" => "Error: ErrImagePull".to_owned(),
        reason @ ("ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError") => format!("Error: {reason}"),
        _ => format!("Error: {}", error.message),
    };
    context.container_event(pod, name, EventType::Warning, "Failed", text);
    Outcome::Start(name.to_owned(), found, Err(error))
}

async fn create(
    context: &Shared,
    pod: &Arc<Pod>,
    input: &StartInput,
    c: &k8s_openapi::api::core::v1::Container,
    image: &cri::Image,
) -> Result<String, StartError> {
    if let Some(id) = &input.leftover {
        let removed = context.runtime().remove_container(id).await;
        removed.map_err(|e| StartError::new("CreateContainerError", e.to_string()))?;
    }
    let made = container::config(&container::Input {
        context,
        pod,
        kind: input.kind,
        container: c,
        attempt: input.attempt,
        image,
        fetched: &input.mounted.fetched,
        pod_ips: &input.sandbox.ips,
        volumes: &input.mounted.paths,
    });
    let config = made.map_err(|e| StartError::new("CreateContainerConfigError", e))?;
    let made = context.runtime().create_container(&input.sandbox.id, config).await;
    made.map_err(|e| StartError::new("CreateContainerError", e.to_string()))
}

/// The user a process runs as, as the kernel has it.
pub fn process_user(pid: i32) -> Option<ProcessUser> {
    if pid <= 0 {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |key: &str| text.lines().find_map(|l| l.strip_prefix(key));
    let first = |key: &str| line(key)?.split_whitespace().nth(1)?.parse().ok();
    Some(ProcessUser {
        uid: first("Uid:")?,
        gid: first("Gid:")?,
        groups: line("Groups:")?.split_whitespace().filter_map(|g| g.parse().ok()).collect(),
    })
}

/// A container to stop.
pub struct Kill {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For the event.
    pub message: String,
    /// Seconds it gets, its hook included.
    pub grace_s: i64,
    /// Whether its preStop hook runs.
    pub hook: bool,
}

/// After its hook used up the time, a container still gets so much.
const GRACE_LEAST: Duration = Duration::from_secs(2);

/// Stops a container: event, hook, signal.
pub async fn stop(context: &Shared, pod: &Arc<Pod>, kill: &Kill) {
    context.container_event(pod, &kill.name, EventType::Normal, "Killing", kill.message.clone());
    let grace = Duration::from_secs(kill.grace_s.max(0).unsigned_abs());
    let begun = Instant::now();
    let spec_of = spec::container(pod, &kill.name);
    let hook = spec_of.as_ref().and_then(|(_, c)| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    if let (Some(handler), Some((_, c)), true) = (hook, &spec_of, kill.hook && !grace.is_zero()) {
        let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
        let ip = ip.or_else(|| context.config.node_ips.first().cloned()).unwrap_or_default();
        let hook = hooks::Hook { handler, container: c, id: &kill.id, ip: &ip };
        let run = tokio::time::timeout(grace, hooks::run(context, pod, &hook)).await;
        if let Ok(Err(message)) = run {
            tracing::debug!(container = %kill.name, %message, "preStop hook failed");
            context.container_event(pod, &kill.name, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    let left = grace.saturating_sub(begun.elapsed());
    let left = if kill.hook { left.max(GRACE_LEAST.min(grace)) } else { left };
    if let Err(error) = context.runtime().stop_container(&kill.id, left).await {
        tracing::warn!(container = %kill.name, pod = %spec::full_name(pod), %error, "a container could not be stopped");
    }
}

/// Stops sandboxes.
pub async fn stop_sandboxes(context: Shared, ids: Vec<String>) -> Outcome {
    for id in ids {
        if let Err(error) = context.runtime().stop_pod_sandbox(&id).await {
            return Outcome::SandboxesStopped(Err(error.to_string()));
        }
    }
    Outcome::SandboxesStopped(Ok(()))
}
