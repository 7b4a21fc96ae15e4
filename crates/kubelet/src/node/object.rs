//! The content of the node's object.

use super::Capacity;
use crate::context::Shared;
use crate::resources::List;
use crate::status::time;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Images named in the status.
const IMAGES_MAX: usize = 50;
/// Names of one image.
const NAMES_MAX: usize = 5;

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels every node has, and those of the configuration.
fn labels(context: &Shared) -> BTreeMap<String, String> {
    let mut labels = context.config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", context.config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The whole object, for its creation.
pub(super) async fn node(context: &Shared, now_ns: i64) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(context.config.node_name.clone());
    node.metadata.labels = Some(labels(context));
    let managed = ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned());
    node.metadata.annotations = Some([managed].into());
    node.status = Some(status(context, None, now_ns).await);
    node
}

/// Capacity as resources: nothing is kept back for the system, so this is what pods can have, too.
fn resources(capacity: &Capacity, max_pods: u32) -> List {
    let mut list: List =
        [("cpu", Quantity::from_milli(capacity.cpu_milli)), ("pods", Quantity::new(i64::from(max_pods)))]
            .map(|(name, q)| (name.to_owned(), ApiQuantity(q.to_string())))
            .into();
    list.insert("memory".into(), ApiQuantity(kibibytes(capacity.memory_bytes)));
    list.insert("ephemeral-storage".into(), ApiQuantity(kibibytes(capacity.ephemeral_bytes)));
    for (size, bytes) in &capacity.hugepages {
        list.insert(format!("hugepages-{size}"), ApiQuantity(Quantity::new(*bytes).to_string()));
    }
    list
}

fn kibibytes(bytes: i64) -> String {
    format!("{}Ki", bytes / 1024)
}

/// The status as it is now; times of transition are those of `old` where nothing changed.
pub(super) async fn status(context: &Shared, old: Option<&NodeStatus>, now_ns: i64) -> NodeStatus {
    let config = &context.config;
    let runtime = context.runtime().status().await;
    let (problems, runtime_version) = match runtime {
        Ok(s) => {
            let mut problems = Vec::new();
            problems.extend(s.runtime_problem.map(|p| format!("container runtime is down: {p}")));
            problems.extend(s.network_problem.map(|p| format!("container runtime network not ready: {p}")));
            (problems, format!("{}://{}", s.name, s.version))
        }
        Err(e) => (vec![format!("container runtime status check may not have completed yet: {e}")], String::new()),
    };
    let port = context.port.map(i32::from);
    NodeStatus {
        addresses: Some(addresses(&config.node_ips, &config.node_name)),
        capacity: Some(resources(&context.capacity, config.max_pods)),
        allocatable: Some(resources(&context.capacity, config.max_pods)),
        conditions: Some(conditions(old, &problems, now_ns)),
        daemon_endpoints: port.map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) }),
        images: images(context).await,
        node_info: Some(system_info(&config.version, &runtime_version, &config.node_name)),
        ..NodeStatus::default()
    }
}

fn addresses(ips: &[String], name: &str) -> Vec<NodeAddress> {
    let mut out: Vec<NodeAddress> =
        ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.clone() }).collect();
    if !ips.iter().any(|ip| ip.parse::<IpAddr>().is_ok() && ip == name) {
        out.push(NodeAddress { type_: "Hostname".into(), address: name.to_owned() });
    }
    out
}

fn conditions(old: Option<&NodeStatus>, problems: &[String], now_ns: i64) -> Vec<NodeCondition> {
    let ready = problems.is_empty();
    let ready_reason = if ready { "KubeletReady" } else { "KubeletNotReady" };
    let ready_message = if ready { "kubelet is posting ready status".to_owned() } else { problems.join(", ") };
    let list = [
        ("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available".to_owned()),
        ("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_owned()),
        ("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned()),
        ("Ready", ready, ready_reason, ready_message),
    ];
    let before = |t: &str, s: &str| {
        let conditions = old.and_then(|o| o.conditions.as_deref()).unwrap_or_default();
        conditions.iter().find(|c| c.type_ == t && c.status == s).and_then(|c| c.last_transition_time.clone())
    };
    list.into_iter()
        .map(|(type_, on, reason, message)| {
            let status = if on { "True" } else { "False" };
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(time(now_ns)),
                last_transition_time: before(type_, status).or_else(|| Some(time(now_ns))),
            }
        })
        .collect()
}

async fn images(context: &Shared) -> Option<Vec<ContainerImage>> {
    let mut images = context.images().list_images().await.ok()?;
    images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    let named = images.into_iter().take(IMAGES_MAX).map(|i| {
        let names: Vec<String> = i.repo_digests.into_iter().chain(i.repo_tags).take(NAMES_MAX).collect();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(i.size_bytes).ok() }
    });
    Some(named.filter(|i| i.names.as_ref().is_some_and(|n| !n.is_empty())).collect())
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn system_info(version: &str, runtime_version: &str, node_name: &str) -> NodeSystemInfo {
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let machine_id = [line("/etc/machine-id"), line("/var/lib/dbus/machine-id")].into_iter().find(|id| !id.is_empty());
    let machine_id = machine_id.unwrap_or_else(|| node_name.to_owned());
    let system_uuid = Some(line("/sys/class/dmi/id/product_uuid")).filter(|u| !u.is_empty());
    NodeSystemInfo {
        architecture: arch().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime_version.to_owned(),
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: version.to_owned(),
        system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
        machine_id,
        operating_system: "linux".into(),
        os_image: os_image.to_owned(),
        ..NodeSystemInfo::default()
    }
}
