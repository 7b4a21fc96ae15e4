//! What one object takes of a quota.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, PodSpec, ResourceRequirements, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use machinery::quantity::Quantity;

use crate::pods;

/// Amounts by the name a quota limits them under.
pub(super) type Amounts = BTreeMap<String, Quantity>;
type Resources = Option<BTreeMap<String, Written>>;

/// Suffix of a claim's amounts in one storage class.
const CLASS: &str = ".storageclass.storage.k8s.io/";
/// Suffix of a resource claim's devices of one class.
pub(super) const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices counted for a request of all there are: the most one allocation can hold.
const DEVICES_ALL: i64 = 32;

/// Adds `more` to `sum`.
pub(super) fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        match sum.get_mut(&name) {
            Some(known) => *known += amount,
            None => drop(sum.insert(name, amount)),
        }
    }
}

/// Keeps the larger of each amount.
fn widen(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = sum.entry(name.clone()).or_insert(*amount);
        *known = (*known).max(*amount);
    }
}

fn read(resources: &Resources) -> Amounts {
    let parse = |(name, written): (&String, &Written)| Some((name.clone(), Quantity::parse(&written.0).ok()?));
    resources.iter().flatten().filter_map(parse).collect()
}

/// What the containers of a pod ask for together: the sum of those that run side by side, or what an init container needs
/// beside the sidecars started before it, whichever is more; amounts set for the whole pod come instead.
fn total(spec: &PodSpec, of: impl Fn(&ResourceRequirements) -> Amounts) -> Amounts {
    let own = |container: &Container| container.resources.as_ref().map(&of).unwrap_or_default();
    let mut running = Amounts::new();
    spec.containers.iter().for_each(|container| add(&mut running, own(container)));
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut now = own(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, now);
            now = sidecars.clone();
        } else {
            add(&mut now, sidecars.clone());
        }
        widen(&mut starting, &now);
    }
    add(&mut running, sidecars);
    widen(&mut running, &starting);
    let whole = spec.resources.as_ref().map(&of).unwrap_or_default();
    running.extend(whole.into_iter().filter(|(name, _)| is_pod_level(name)));
    running
}

/// Resources that can be set for a pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether a pod takes nothing any more: it has ended, or should have by now.
fn is_over(pod: &Pod, now: Timestamp) -> bool {
    let leaves = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    // The time of deletion already has the grace period in it; upstream adds it once more.
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    pods::is_finished(pod) || leaves.is_some_and(|time| now.as_second() > time.as_second() + grace)
}

/// What a pod takes. One that is over is only counted as an object.
pub(super) fn pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut sum = Amounts::from([("count/pods".to_owned(), Quantity::new(1))]);
    let Some(spec) = pod.spec.as_ref().filter(|_| !is_over(pod, now)) else { return sum };
    sum.insert("pods".to_owned(), Quantity::new(1));
    let mut requests = total(spec, |resources| read(&resources.requests));
    let mut limits = total(spec, |resources| read(&resources.limits));
    // Running the pod costs something too; of what has no limit it takes none away.
    add(&mut requests, read(&spec.overhead));
    let mut overhead = read(&spec.overhead);
    overhead.retain(|name, _| limits.get(name).is_some_and(|limit| !limit.is_zero()));
    add(&mut limits, overhead);
    for (name, amount) in requests {
        if is_plain(&name) || name.starts_with("hugepages-") {
            sum.insert(name.clone(), amount);
        }
        sum.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in limits.into_iter().filter(|(name, _)| is_plain(name)) {
        sum.insert(format!("limits.{name}"), amount);
    }
    sum
}

/// Resources every node has; only these can be limited by what containers may use at most.
pub(super) fn is_plain(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// What a Service takes.
pub(super) fn service(service: &Service) -> Amounts {
    let one = Quantity::new(1);
    let mut sum = Amounts::from([("count/services".to_owned(), one), ("services".to_owned(), one)]);
    let Some(spec) = &service.spec else { return sum };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let opened = ports.iter().filter(|port| port.node_port.is_some_and(|number| number != 0)).count();
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => opened,
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    sum.insert("services.nodeports".to_owned(), Quantity::new(i64::try_from(node_ports).unwrap_or(i64::MAX)));
    sum.insert("services.loadbalancers".to_owned(), Quantity::new(balanced.into()));
    sum
}

/// What a claim takes, in all and of its class.
pub(super) fn claim(claim: &PersistentVolumeClaim) -> Amounts {
    let one = Quantity::new(1);
    let mut sum =
        Amounts::from([("count/persistentvolumeclaims".to_owned(), one), ("persistentvolumeclaims".to_owned(), one)]);
    let Some(spec) = &claim.spec else { return sum };
    let annotations = claim.metadata.annotations.as_ref();
    let class = annotations.and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"));
    let class = class.or(spec.storage_class_name.as_ref()).filter(|class| !class.is_empty());
    if let Some(class) = class {
        sum.insert(format!("{class}{CLASS}persistentvolumeclaims"), one);
    }
    let requests = spec.resources.as_ref().map(|r| read(&r.requests)).unwrap_or_default();
    // An expansion that was taken back still holds what it got.
    let allocated = claim.status.as_ref().map(|status| read(&status.allocated_resources)).unwrap_or_default();
    if let Some(storage) = requests.get("storage") {
        let storage = allocated.get("storage").map_or(*storage, |allocated| *allocated.max(storage)).rounded_up();
        sum.insert("requests.storage".to_owned(), storage);
        if let Some(class) = class {
            sum.insert(format!("{class}{CLASS}requests.storage"), storage);
        }
    }
    sum
}

/// What a ResourceClaim takes: devices by class; of alternatives, the most each class may have to give.
pub(super) fn resource_claim(claim: &ResourceClaim) -> Amounts {
    let mut sum = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), Quantity::new(1))]);
    let wanted = |class: &str, mode: Option<&str>, count: Option<i64>| {
        let count = match mode {
            Some("ExactCount") => count.unwrap_or(0),
            Some("All") => DEVICES_ALL,
            _ => 0,
        };
        Amounts::from([(format!("{class}{DEVICES}"), Quantity::new(count))])
    };
    for request in
        claim.spec.iter().filter_map(|spec| spec.devices.as_ref()).flat_map(|devices| devices.requests.iter().flatten())
    {
        if let Some(it) = &request.exactly {
            add(&mut sum, wanted(&it.device_class_name, it.allocation_mode.as_deref(), it.count));
        }
        let mut most = Amounts::new();
        for it in request.first_available.iter().flatten() {
            widen(&mut most, &wanted(&it.device_class_name, it.allocation_mode.as_deref(), it.count));
        }
        add(&mut sum, most);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::{Value, json};

    fn check(found: &Amounts, expected: Value) {
        let found: BTreeMap<&str, String> = found.iter().map(|(name, q)| (name.as_str(), q.to_string())).collect();
        assert_eq!(json!(found), expected);
    }

    #[test]
    fn pods_take_what_they_ask_for_until_they_are_over() {
        let one = json!({"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi", "x.io/y": "2"}, "limits": {"cpu": "1"}}});
        let init = json!({"name": "i", "resources": {"requests": {"cpu": "2"}}});
        let side = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}});
        let whole = json!({"count/pods": "1", "pods": "1", "cpu": "2100m", "requests.cpu": "2100m", "memory": "1Gi",
            "requests.memory": "1Gi", "requests.x.io/y": "2", "limits.cpu": "1"});
        let over = json!({"count/pods": "1"});
        for (metadata, phase, expected) in [
            (json!({}), "Running", &whole),
            (json!({}), "Failed", &over),
            (json!({"deletionTimestamp": "1970-01-01T00:00:10Z", "deletionGracePeriodSeconds": 5}), "Running", &over),
            (json!({"deletionTimestamp": "1970-01-01T00:00:19Z", "deletionGracePeriodSeconds": 5}), "Running", &whole),
        ] {
            let spec = json!({"containers": [one], "initContainers": [side, init]});
            let it = object(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}}));
            check(&pod(&it, at(20)), expected.clone());
        }
    }

    #[test]
    fn services_take_node_ports_and_balancers() {
        for (spec, node_ports, balancers) in [
            (json!({"type": "ClusterIP", "ports": [{"port": 1}]}), "0", "0"),
            (json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}), "2", "0"),
            (json!({"type": "LoadBalancer", "ports": [{"port": 1}]}), "1", "1"),
            (json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 1}]}), "0", "1"),
        ] {
            let found = service(&object(json!({"spec": spec})));
            assert_eq!(found["services.nodeports"].to_string(), node_ports, "{spec}");
            assert_eq!(found["services.loadbalancers"].to_string(), balancers, "{spec}");
        }
    }

    #[test]
    fn claims_take_storage_of_their_class() {
        let it = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        let expected = json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "fast.storageclass.storage.k8s.io/requests.storage": "1Gi"});
        check(&claim(&object(it)), expected);
    }
}
