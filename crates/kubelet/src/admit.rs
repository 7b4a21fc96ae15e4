//! Whether a pod that was bound to this node may run here: the scheduler's word checked against what the node knows.

use crate::node::Capacity;
use crate::resources::{pod_total, request};
use crate::spec;
use crate::status::Verdict;
use client::select::node_wanted;
use k8s_openapi::api::core::v1::{Node, Pod};

fn verdict(reason: &str, message: impl std::fmt::Display) -> Verdict {
    Verdict { reason: reason.into(), message: format!("Pod was rejected: {message}") }
}

/// The reason to refuse the pod, or none. `others` are the pods admitted before that did not end.
pub fn check(pod: &Pod, others: &[&Pod], node: Option<&Node>, capacity: &Capacity, max_pods: u32) -> Option<Verdict> {
    if spec::spec(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        return Some(verdict("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    if let Some(node) = node
        && !node_wanted(
            spec::spec(pod),
            node.metadata.name.as_deref().unwrap_or_default(),
            node.metadata.labels.as_ref(),
        )
    {
        return Some(verdict(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
    }
    let insufficient = |name: &str, requested: i64, used: i64, capacity: i64| {
        let text = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        verdict(&format!("OutOf{name}"), text)
    };
    let used_pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if used_pods + 1 > i64::from(max_pods) {
        return Some(insufficient("pods", 1, used_pods, i64::from(max_pods)));
    }
    for (name, unit, capacity) in [("cpu", 1, capacity.cpu_milli), ("memory", 1000, capacity.memory_bytes)] {
        let of = |p: &Pod| pod_total(p, name, request) / unit;
        let (wanted, used) = (of(pod), others.iter().map(|p| of(p)).sum::<i64>());
        if wanted > 0 && wanted + used > capacity {
            return Some(insufficient(name, wanted, used, capacity));
        }
    }
    ports(pod, others)
}

fn host_ports(pod: &Pod) -> Vec<(String, i32)> {
    let host = spec::host_network(pod);
    let containers =
        spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).chain(&spec::spec(pod).containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let number = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        p.host_port.or_else(|| host.then_some(p.container_port)).filter(|n| *n > 0)
    };
    ports.filter_map(|p| Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), number(p)?))).collect()
}

fn ports(pod: &Pod, others: &[&Pod]) -> Option<Verdict> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return None;
    }
    let taken = others.iter().flat_map(|p| host_ports(p));
    let clash = taken.into_iter().any(|port| wanted.contains(&port));
    let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    clash.then(|| verdict("NodePorts", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn reasons() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}}})).unwrap();
        let capacity = Capacity { cpu_milli: 1000, memory_bytes: 1 << 30, ..Capacity::default() };
        let cpu = |n: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": n}}}]});
        let first = pod(cpu("700m"));
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let taken = pod(port.clone());
        let terms = |op: &str, v: &str| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": op, "values": [v]}]}]}}}})
        };
        let others = [&first, &taken];
        for (spec, want) in [
            (cpu("300m"), None),
            (cpu("301m"), Some(("OutOfcpu", "requested: 301, used: 700, capacity: 1000"))),
            (
                json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "2Gi"}}}]}),
                Some(("OutOfmemory", "requested: 2147483648")),
            ),
            (port, Some(("NodePorts", "free ports"))),
            (
                json!({"containers": [], "nodeSelector": {"zone": "b"}}),
                Some(("NodeAffinity", "node affinity/selector")),
            ),
            (json!({"containers": [], "os": {"name": "windows"}}), Some(("PodOSNotSupported", "OS field"))),
            (terms("In", "a"), None),
            (terms("NotIn", "a"), Some(("NodeAffinity", "selector"))),
        ] {
            let got = check(&pod(spec.clone()), &others, Some(&node), &capacity, 110);
            match (got, want) {
                (None, None) => {}
                (Some(v), Some((reason, part))) => {
                    assert_eq!(v.reason, reason);
                    assert!(v.message.starts_with("Pod was rejected: ") && v.message.contains(part), "{}", v.message);
                }
                (got, want) => panic!("{spec}: {got:?} {want:?}"),
            }
        }
        assert_eq!(check(&pod(cpu("0")), &others, Some(&node), &capacity, 2).unwrap().reason, "OutOfpods");
    }
}
