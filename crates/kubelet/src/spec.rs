//! Short ways to what a pod's specification says.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use std::borrow::Cow;
use std::sync::OnceLock;

/// Which list of the pod a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `initContainers`, run to its end before the next.
    Init,
    /// `initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// `containers`.
    Regular,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// The specification; an empty one when the object has none.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: OnceLock<PodSpec> = OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

/// UID.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name_namespace(uid)`, as messages name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The restart policy, `Always` when not set.
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether the pod uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// Whether this init container is a sidecar.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// Init containers.
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Ephemeral containers.
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// An ephemeral container as the container it is, less its target.
pub fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Container::default()
    }
}

/// All containers of the pod in the order of their lists, with their kind.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (Kind, Cow<'_, Container>)> {
    let init =
        init_containers(pod).iter().map(|c| (if is_sidecar(c) { Kind::Sidecar } else { Kind::Init }, Cow::Borrowed(c)));
    let regular = spec(pod).containers.iter().map(|c| (Kind::Regular, Cow::Borrowed(c)));
    let ephemeral = ephemeral_containers(pod).iter().map(|e| (Kind::Ephemeral, Cow::Owned(as_container(e))));
    init.chain(regular).chain(ephemeral)
}

/// The container of that name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Kind, Cow<'a, Container>)> {
    containers(pod).find(|(_, c)| c.name == name)
}

/// The field path events about a container carry.
pub fn field_path(pod: &Pod, name: &str) -> String {
    let list = match container(pod, name) {
        Some((Kind::Init | Kind::Sidecar, _)) => "initContainers",
        Some((Kind::Ephemeral, _)) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{name}}}")
}

/// Seconds a pod gets to end: those of the deletion, else those of its specification, else 30.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let meta = &pod.metadata;
    match (meta.deletion_timestamp.as_ref(), meta.deletion_grace_period_seconds) {
        (Some(_), Some(grace)) => grace,
        _ => spec(pod).termination_grace_period_seconds.unwrap_or(30),
    }
}

/// Whether the API says the pod came to its end.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether a container that ended with `exit_code` shall run again: its own rules first, then its own policy, then the pod's.
pub fn should_restart(pod: &Pod, kind: Kind, c: &Container, exit_code: i32) -> bool {
    if kind == Kind::Ephemeral {
        return false;
    }
    for rule in c.restart_policy_rules.as_deref().unwrap_or_default() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches {
            return rule.action != "Terminate";
        }
    }
    let policy = c.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod));
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that succeeded never runs again, whatever the pod's policy.
        _ => kind != Kind::Init || exit_code != 0,
    }
}

/// What identifies the running form of a container: when it changes, the container is made anew.
pub fn container_hash(c: &Container) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(c.name.as_bytes());
    hasher.update([0]);
    hasher.update(c.image.as_deref().unwrap_or_default().as_bytes());
    hex::encode(&hasher.finalize()[..8])
}
