//! What one object takes of quotas, by the names quotas limit it under.

use crate::admission::amounts;
use crate::meta;
use machinery::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Suffix of a claim's amounts in one storage class.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Suffix of a resource claim's devices of one class.
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices counted for a request of all there are: the most one allocation can hold.
const DEVICES_ALL: i64 = 32;
/// If a quota limits one of these, every container must name it.
pub(super) const REQUIRED: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// Adds `more` to `sum`.
pub(super) fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(known) => *known += *amount,
            None => drop(sum.insert(name.clone(), *amount)),
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

fn items<'a>(object: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> + use<'a> {
    meta::at(object, path).and_then(Value::as_array).into_iter().flatten()
}

/// Resources that can be set for a pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn sets_pod_level(pod: &Value) -> bool {
    let of = |list: &str| amounts(meta::at(pod, &["spec", "resources", list]));
    ["requests", "limits"].into_iter().any(|list| of(list).keys().any(|name| is_pod_level(name)))
}

/// What a pod's containers ask for together: the sum of those that run side by side, or what an init container needs beside the
/// sidecars started before it, whichever is more; amounts set for the whole pod come instead. `list` is `requests` or `limits`.
fn total(pod: &Value, list: &str) -> Amounts {
    let of = |container: &Value| amounts(meta::at(container, &["resources", list]));
    let mut running = Amounts::new();
    items(pod, &["spec", "containers"]).for_each(|container| add(&mut running, &of(container)));
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in items(pod, &["spec", "initContainers"]) {
        let mut now = of(container);
        if meta::text_at(container, &["restartPolicy"]) == "Always" {
            add(&mut sidecars, &now);
            now.clone_from(&sidecars);
        } else {
            add(&mut now, &sidecars);
        }
        widen(&mut starting, &now);
    }
    add(&mut running, &sidecars);
    widen(&mut running, &starting);
    let whole = amounts(meta::at(pod, &["spec", "resources", list]));
    running.extend(whole.into_iter().filter(|(name, _)| is_pod_level(name)));
    for (name, more) in amounts(meta::at(pod, &["spec", "overhead"])) {
        match running.get_mut(&name) {
            Some(known) if list == "requests" || !known.is_zero() => *known += more,
            None if list == "requests" => drop(running.insert(name, more)),
            _ => {}
        }
    }
    running
}

/// The names quotas have for requests and limits.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut sum = Amounts::from([("pods".to_owned(), Quantity::new(1))]);
    let plain = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    for (name, amount) in requests {
        if plain(name) || name.starts_with("hugepages-") {
            sum.insert(name.clone(), *amount);
        }
        if plain(name) || name.starts_with("hugepages-") || name.contains('/') {
            sum.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| plain(name)) {
        sum.insert(format!("limits.{name}"), *amount);
    }
    sum
}

/// What a pod takes; one that is over is only counted as an object.
pub(super) fn pod(pod: &Value) -> Amounts {
    let mut sum = Amounts::from([("count/pods".to_owned(), Quantity::new(1))]);
    let over = matches!(meta::text_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if !over {
        sum.append(&mut compute(&total(pod, "requests"), &total(pod, "limits")));
    }
    sum
}

/// Of what every container must name, which containers do not name it.
pub(super) fn missing(pod: &Value) -> BTreeMap<&'static str, Vec<String>> {
    let mut missing: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    if sets_pod_level(pod) {
        return missing;
    }
    for container in items(pod, &["spec", "containers"]).chain(items(pod, &["spec", "initContainers"])) {
        let of = |list: &str| amounts(meta::at(container, &["resources", list]));
        let named = compute(&of("requests"), &of("limits"));
        for name in REQUIRED.into_iter().filter(|name| !named.contains_key(*name)) {
            missing.entry(name).or_default().push(meta::text_at(container, &["name"]).to_owned());
        }
    }
    missing.values_mut().for_each(|names| {
        names.sort();
        names.dedup();
    });
    missing
}

/// What a Service takes. Its node ports are not allocated yet: what counts is how many it will get.
pub(super) fn service(service: &Value) -> Amounts {
    let ports = || items(service, &["spec", "ports"]);
    let all = meta::at(service, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool).unwrap_or(true);
    let kind = meta::text_at(service, &["spec", "type"]);
    let node_ports = match kind {
        "NodePort" => ports().count(),
        "LoadBalancer" if all => ports().count(),
        "LoadBalancer" => ports().filter(|port| port["nodePort"].as_u64().unwrap_or(0) != 0).count(),
        _ => 0,
    };
    let number = |count: usize| Quantity::new(i64::try_from(count).unwrap_or(i64::MAX));
    Amounts::from([
        ("count/services".to_owned(), Quantity::new(1)),
        ("services".to_owned(), Quantity::new(1)),
        ("services.nodeports".to_owned(), number(node_ports)),
        ("services.loadbalancers".to_owned(), number(usize::from(kind == "LoadBalancer"))),
    ])
}

/// What a PersistentVolumeClaim takes, in all and of its class.
pub(super) fn claim(claim: &Value) -> Amounts {
    let one = Quantity::new(1);
    let mut sum =
        Amounts::from([("count/persistentvolumeclaims".to_owned(), one), ("persistentvolumeclaims".to_owned(), one)]);
    let annotated = meta::text_at(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    let class = if annotated.is_empty() { meta::text_at(claim, &["spec", "storageClassName"]) } else { annotated };
    let storage = |path: &[&str]| amounts(meta::at(claim, path)).get("storage").copied();
    let requested = storage(&["spec", "resources", "requests"]);
    // An expansion that was taken back still holds what it got.
    let allocated = storage(&["status", "allocatedResources"]);
    let storage = requested.map(|requested| allocated.map_or(requested, |allocated| allocated.max(requested)));
    let storage = storage.map(|amount| amount.rounded_up());
    if let Some(storage) = storage {
        sum.insert("requests.storage".to_owned(), storage);
    }
    if !class.is_empty() {
        sum.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), one);
        if let Some(storage) = storage {
            sum.insert(format!("{class}{STORAGE_CLASS}requests.storage"), storage);
        }
    }
    sum
}

/// What a ResourceClaim takes: devices by class; of alternatives, the most each class may have to give.
pub(super) fn resource_claim(claim: &Value) -> Amounts {
    let mut sum = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), Quantity::new(1))]);
    let wanted = |request: &Value| {
        let count = match meta::text_at(request, &["allocationMode"]) {
            "ExactCount" => request["count"].as_i64().unwrap_or(0),
            "All" => DEVICES_ALL,
            _ => 0,
        };
        (format!("{}{DEVICE_CLASS}", meta::text_at(request, &["deviceClassName"])), Quantity::new(count))
    };
    for request in items(claim, &["spec", "devices", "requests"]) {
        if let Some(exactly) = meta::at(request, &["exactly"]) {
            add(&mut sum, &Amounts::from([wanted(exactly)]));
        }
        let mut most = Amounts::new();
        items(request, &["firstAvailable"]).for_each(|one| widen(&mut most, &Amounts::from([wanted(one)])));
        add(&mut sum, &most);
    }
    sum
}

/// Which kind of object takes what a quota limits under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pods,
    Services,
    Claims,
    ResourceClaims,
    /// One name or two by which all objects of a resource are counted.
    Count(Vec<String>),
}

impl Source {
    /// Who measures the objects of a resource.
    pub(super) fn of(group: &str, resource: &str) -> Source {
        match (group, resource) {
            ("", "pods") => Source::Pods,
            ("", "services") => Source::Services,
            ("", "persistentvolumeclaims") => Source::Claims,
            ("resource.k8s.io", "resourceclaims") => Source::ResourceClaims,
            ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
                Source::Count(vec![format!("count/{resource}"), resource.to_owned()])
            }
            ("", _) => Source::Count(vec![format!("count/{resource}")]),
            _ => Source::Count(vec![format!("count/{resource}.{group}")]),
        }
    }

    /// Whether its objects take what a quota limits under `name`.
    pub(super) fn takes(&self, name: &str) -> bool {
        match self {
            Source::Pods => {
                let plain = name.strip_prefix("requests.").unwrap_or(name);
                matches!(name, "count/pods" | "pods")
                    || matches!(plain.strip_prefix("limits.").unwrap_or(plain), "cpu" | "memory" | "ephemeral-storage")
                    || plain.starts_with("hugepages-")
                    || (name.starts_with("requests.") && plain.contains('/'))
            }
            Source::Services => {
                matches!(name, "count/services" | "services" | "services.nodeports" | "services.loadbalancers")
            }
            Source::Claims => {
                let plain = name.split_once(STORAGE_CLASS).map_or(name, |(_, plain)| plain);
                name == "count/persistentvolumeclaims" || matches!(plain, "persistentvolumeclaims" | "requests.storage")
            }
            Source::ResourceClaims => name == "count/resourceclaims.resource.k8s.io" || name.ends_with(DEVICE_CLASS),
            Source::Count(names) => names.iter().any(|own| own == name),
        }
    }

    /// What an object takes.
    pub(super) fn usage(&self, object: &Value) -> Amounts {
        match self {
            Source::Pods => pod(object),
            Source::Services => service(object),
            Source::Claims => claim(object),
            Source::ResourceClaims => resource_claim(object),
            Source::Count(names) => names.iter().map(|name| (name.clone(), Quantity::new(1))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        let spec = json!({"containers": [one], "initContainers": [side, init]});
        check(&pod(&json!({"spec": spec})), whole);
        check(&pod(&json!({"spec": spec, "status": {"phase": "Failed"}})), json!({"count/pods": "1"}));
        let set = json!({"containers": [one], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1", "memory": "1Gi"}});
        let expected = json!({"count/pods": "1", "pods": "1", "cpu": "4", "requests.cpu": "4", "memory": "2Gi",
            "requests.memory": "2Gi", "requests.x.io/y": "2", "limits.cpu": "2"});
        check(&pod(&json!({"spec": set})), expected);
    }

    #[test]
    fn containers_that_do_not_name_what_is_limited() {
        let bare = json!({"name": "b"});
        let half = json!({"name": "a", "resources": {"requests": {"cpu": "1"}}});
        let found = missing(&json!({"spec": {"containers": [bare, half]}}));
        assert_eq!((&found["cpu"], &found["memory"]), (&vec!["b".to_owned()], &vec!["a".to_owned(), "b".to_owned()]));
        let whole = json!({"spec": {"containers": [bare], "resources": {"limits": {"cpu": "1"}}}});
        assert!(missing(&whole).is_empty());
    }

    #[test]
    fn what_others_take() {
        for (source, object, expected) in [
            (
                Source::Services,
                json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 1}, {"port": 2, "nodePort": 30000}]}}),
                json!({"count/services": "1", "services": "1", "services.nodeports": "1", "services.loadbalancers": "1"}),
            ),
            (
                Source::Services,
                json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}}),
                json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "0"}),
            ),
            (
                Source::Claims,
                json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "100m"}}}}),
                json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1",
                    "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "gold.storageclass.storage.k8s.io/requests.storage": "1"}),
            ),
            (
                Source::ResourceClaims,
                json!({"spec": {"devices": {"requests": [
                    {"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
                    {"firstAvailable": [{"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}, {"deviceClassName": "gpu", "allocationMode": "All"}]},
                ]}}}),
                json!({"count/resourceclaims.resource.k8s.io": "1", "gpu.deviceclass.resource.k8s.io/devices": "34"}),
            ),
            (Source::of("", "secrets"), json!({}), json!({"count/secrets": "1", "secrets": "1"})),
            (Source::of("x.io", "things"), json!({}), json!({"count/things.x.io": "1"})),
        ] {
            check(&source.usage(&object), expected);
        }
    }

    #[test]
    fn names_by_who_takes_them() {
        for (group, resource, yes, no) in [
            ("", "pods", ["requests.cpu", "requests.nvidia.com/gpu", "hugepages-2Mi"], "requests.storage"),
            (
                "",
                "persistentvolumeclaims",
                ["requests.storage", "a.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims"],
                "pods",
            ),
            ("", "services", ["services", "count/services", "services.nodeports"], "count/pods"),
            ("", "configmaps", ["configmaps", "count/configmaps", "configmaps"], "secrets"),
        ] {
            let source = Source::of(group, resource);
            assert!(yes.iter().all(|name| source.takes(name)) && !source.takes(no), "{resource}");
        }
    }
}
