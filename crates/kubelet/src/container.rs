//! From a container of the specification to what the runtime is asked to make.

use crate::context::Context;
use crate::env;
use crate::labels;
use crate::objects::Fetched;
use crate::podnet;
use crate::resources;
use crate::security::{self, ImageUser};
use crate::spec::{self, Kind};
use crate::volumes::{PodDirs, prepare_subpath};
use cri::{ContainerConfig, ContainerMetadata, Device, Labels, Mount, MountPropagation, NamespaceMode};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything a container is made from.
pub struct Input<'a> {
    /// The kubelet.
    pub context: &'a Context,
    /// The pod.
    pub pod: &'a Pod,
    /// The list the container stands in.
    pub kind: Kind,
    /// The container.
    pub container: &'a Container,
    /// Which try.
    pub attempt: u32,
    /// Its image.
    pub image: &'a cri::Image,
    /// ConfigMaps and Secrets of the pod.
    pub fetched: &'a Fetched,
    /// Addresses of the sandbox.
    pub pod_ips: &'a [String],
    /// Where the volumes are.
    pub volumes: &'a BTreeMap<String, PathBuf>,
}

/// The configuration; or why there is none.
pub fn config(input: &Input<'_>) -> Result<ContainerConfig, String> {
    let (context, pod, c) = (input.context, input.pod, input.container);
    let ips = if spec::host_network(pod) { &context.config.node_ips[..] } else { input.pod_ips };
    let facts = context.facts(ips);
    let services = context.service_env(pod);
    let envs =
        env::make(&env::Input { pod, container: c, fetched: input.fetched, services: &services, facts: &facts })?;
    let dirs = PodDirs::new(&context.config.root_dir, spec::uid(pod));
    let mut mounts = volume_mounts(input, &envs, &dirs)?;
    hosts_mount(input, ips, &dirs, &mut mounts)?;
    let message_file = termination_file(c, input.attempt, &dirs, &mut mounts)?;
    mounts.sort_by_key(|m| m.container_path.components().count());
    let mut security = security::context(pod, c, &ImageUser::parse(&input.image.user), &context.config.root_dir)?;
    if input.kind == Kind::Ephemeral
        && target(pod, &c.name).is_some()
        && security.namespaces.pid == NamespaceMode::Container
    {
        return Err(
            "ephemeral containers with a target (targetContainerName) need shareProcessNamespace on this node".into()
        );
    }
    if security.namespaces.pid == NamespaceMode::Container && spec::spec(pod).share_process_namespace == Some(true) {
        security.namespaces.pid = NamespaceMode::Pod;
    }
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: c.name.clone(), attempt: input.attempt },
        image_id: input.image.id.clone(),
        command: env::expand_all(c.command.as_ref(), &envs),
        args: env::expand_all(c.args.as_ref(), &envs),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs,
        mounts,
        devices: devices(c)?,
        labels: labels_of(pod, &c.name),
        annotations: annotations(input, &message_file),
        log_path: PathBuf::from(format!("{}/{}.log", c.name, input.attempt)),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        resources: resources::container(pod, c, context.capacity.memory_bytes, 0),
        security,
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
    })
}

fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let e = spec::ephemeral_containers(pod).iter().find(|e| e.name == name)?;
    e.target_container_name.as_deref().filter(|t| !t.is_empty())
}

fn devices(c: &Container) -> Result<Vec<Device>, String> {
    match c.volume_devices.iter().flatten().next() {
        Some(d) => Err(format!("block devices are not supported by this node (device {:?})", d.device_path)),
        None => Ok(Vec::new()),
    }
}

/// The labels of a container.
pub fn labels_of(pod: &Pod, container: &str) -> Labels {
    let mut labels = pod_labels(pod);
    labels.insert(labels::CONTAINER_NAME.into(), container.to_owned());
    labels
}

/// The labels of a sandbox.
pub fn pod_labels(pod: &Pod) -> Labels {
    let mut out = pod.metadata.labels.clone().unwrap_or_default();
    for (key, value) in [
        (labels::POD_NAME, spec::name(pod)),
        (labels::POD_NAMESPACE, spec::namespace(pod)),
        (labels::POD_UID, spec::uid(pod)),
    ] {
        out.insert(key.to_owned(), value.to_owned());
    }
    out
}

fn annotations(input: &Input<'_>, message_file: &Path) -> Labels {
    let c = input.container;
    let policy = c.termination_message_policy.as_deref().unwrap_or("File");
    [
        (labels::HASH, spec::container_hash(c)),
        (labels::RESTART_COUNT, input.attempt.to_string()),
        (labels::TERMINATION_MESSAGE_FILE, message_file.to_string_lossy().into_owned()),
        (labels::TERMINATION_MESSAGE_POLICY, policy.to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

fn volume_mounts(input: &Input<'_>, envs: &[(String, String)], dirs: &PodDirs) -> Result<Vec<Mount>, String> {
    let c = input.container;
    let mut out = Vec::new();
    for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = input.volumes.get(&m.name) else {
            return Err(format!("cannot find volume {:?} to mount into container {:?}", m.name, c.name));
        };
        let host_path = match subpath(m, envs)? {
            None => volume.clone(),
            Some(sub) => prepare_subpath(volume, &sub, &dirs.subpath(&m.name, &c.name, index)).map_err(|e| {
                format!("failed to prepare subPath for volumeMount {:?} of container {:?}: {e}", m.name, c.name)
            })?,
        };
        out.push(Mount {
            container_path: absolute(&m.mount_path),
            host_path,
            readonly: m.read_only == Some(true),
            propagation: propagation(m)?,
        });
    }
    Ok(out)
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn propagation(m: &VolumeMount) -> Result<MountPropagation, String> {
    if matches!(m.recursive_read_only.as_deref(), Some("Enabled")) {
        return Err(format!(
            "volume {:?} requested recursive read-only mode, but it is not supported by the runtime",
            m.name
        ));
    }
    match m.mount_propagation.as_deref() {
        None | Some("" | "None") => Ok(MountPropagation::Private),
        Some("HostToContainer") => Ok(MountPropagation::HostToContainer),
        Some("Bidirectional") => Ok(MountPropagation::Bidirectional),
        Some(other) => Err(format!("invalid MountPropagation mode: {other:?}")),
    }
}

/// The path inside the volume, with variables replaced where the mount asks for it.
fn subpath(m: &VolumeMount, envs: &[(String, String)]) -> Result<Option<String>, String> {
    if let Some(expr) = m.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        let missing = std::cell::RefCell::new(None);
        let lookup = |name: &str| {
            let value = envs.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            if value.is_none() {
                missing.replace(Some(name.to_owned()));
            }
            value
        };
        let path = env::expand(expr, &lookup);
        if missing.borrow().is_some() {
            return Err(format!("missing value for {expr:?}"));
        }
        return Ok(Some(path).filter(|p| !p.is_empty()));
    }
    Ok(m.sub_path.clone().filter(|p| !p.is_empty()))
}

fn hosts_mount(input: &Input<'_>, ips: &[String], dirs: &PodDirs, mounts: &mut Vec<Mount>) -> Result<(), String> {
    let inside = Path::new("/etc/hosts");
    if mounts.iter().any(|m| m.container_path == inside) {
        return Ok(());
    }
    let node_hosts = if spec::host_network(input.pod) {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        String::new()
    };
    let content = podnet::hosts(input.pod, ips, &input.context.config.cluster_domain, &node_hosts);
    podnet::write_hosts(&dirs.hosts(), &content)
        .map_err(|e| format!("cannot write {}: {e}", dirs.hosts().display()))?;
    mounts.push(Mount { container_path: inside.to_owned(), host_path: dirs.hosts(), ..Mount::default() });
    Ok(())
}

/// A fresh file of its own for each try, mounted where the container writes why it ended.
fn termination_file(c: &Container, attempt: u32, dirs: &PodDirs, mounts: &mut Vec<Mount>) -> Result<PathBuf, String> {
    let inside = c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log");
    let dir = dirs.container(&c.name);
    let file = dir.join(format!("{attempt:08x}"));
    let made = std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&file, ""))
        .and_then(|()| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)));
    made.map_err(|e| format!("cannot make termination message file {}: {e}", file.display()))?;
    mounts.push(Mount { container_path: absolute(inside), host_path: file.clone(), ..Mount::default() });
    Ok(file)
}
