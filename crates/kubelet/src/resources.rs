//! Requests and limits: quality of service, cgroup values, OOM scores.

use crate::spec;
use cri::LinuxResources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

/// A resource list as the API writes it.
pub type List = BTreeMap<String, ApiQuantity>;

const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
const PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1_000;

/// The quantity of that name.
pub fn quantity(list: Option<&List>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

/// The request of that name; a limit without a request is one.
pub fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    let r = resources?;
    quantity(r.requests.as_ref(), name).or_else(|| quantity(r.limits.as_ref(), name))
}

/// The limit of that name.
pub fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    quantity(resources?.limits.as_ref(), name)
}

/// The quality of service class: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Pod) -> &'static str {
    let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let (mut any, mut guaranteed) = (false, true);
    let pod_level = spec::spec(pod).resources.as_ref();
    let sets: Vec<Option<&ResourceRequirements>> =
        if pod_level.is_some() { vec![pod_level] } else { all.map(|c| c.resources.as_ref()).collect() };
    for resources in sets {
        for name in ["cpu", "memory"] {
            let request = request(resources, name).filter(|q| !q.is_zero());
            let limit = limit(resources, name).filter(|q| !q.is_zero());
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The cgroup of a pod below the program's own.
pub fn cgroup_parent(pod: &Pod) -> String {
    let uid = spec::uid(pod);
    match qos_class(pod) {
        "Guaranteed" => format!("pod{uid}"),
        class => format!("{}/pod{uid}", class.to_ascii_lowercase()),
    }
}

/// Relative weight for thousandths of a CPU.
pub fn shares(milli: i64) -> u64 {
    (milli * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX).unsigned_abs()
}

/// CFS quota for thousandths of a CPU; 0 for none.
pub fn quota_us(milli: i64) -> i64 {
    if milli <= 0 { 0 } else { (milli * PERIOD_US / 1000).max(QUOTA_MIN_US) }
}

/// The sum of the requests (or limits) of a pod: the larger of the containers that run together and each init
/// container with the sidecars before it.
pub fn pod_total(pod: &Pod, name: &str, of: fn(Option<&ResourceRequirements>, &str) -> Option<Quantity>) -> i64 {
    let milli = |c: &Container| of(c.resources.as_ref(), name).map_or(0, |q| q.milli_value());
    if let Some(q) = of(spec::spec(pod).resources.as_ref(), name) {
        return q.milli_value();
    }
    let (mut sidecars, mut peak) = (0, 0);
    for c in spec::init_containers(pod) {
        if spec::is_sidecar(c) {
            sidecars += milli(c);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + milli(c));
        }
    }
    let together: i64 = spec::spec(pod).containers.iter().map(milli).sum::<i64>() + sidecars;
    let overhead = quantity(spec::spec(pod).overhead.as_ref(), name).map_or(0, |q| q.milli_value());
    peak.max(together) + overhead
}

/// The OOM score of a container: guaranteed pods go last, best-effort ones first, between them by memory requested.
pub fn oom_score_adj(pod: &Pod, c: &Container, memory_capacity: i64) -> i32 {
    if spec::spec(pod).priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = request(c.resources.as_ref(), "memory").map_or(0, |q| q.value());
            let score = 1000 - (1000 * i128::from(request) / i128::from(memory_capacity.max(1)));
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The limits of a container.
pub fn container(pod: &Pod, c: &Container, memory_capacity: i64, pids_limit: i64) -> LinuxResources {
    let r = c.resources.as_ref();
    let cpu_request = request(r, "cpu").map_or(0, |q| q.milli_value());
    LinuxResources {
        cpu_period_us: PERIOD_US.unsigned_abs(),
        cpu_quota_us: quota_us(limit(r, "cpu").map_or(0, |q| q.milli_value())),
        cpu_shares: shares(cpu_request),
        memory_limit_bytes: limit(r, "memory").map_or(0, |q| q.bytes()),
        pids_limit,
        oom_score_adj: oom_score_adj(pod, c, memory_capacity),
        ..LinuxResources::default()
    }
}

/// The limits of a pod's own cgroup: quota and memory only when every container has a limit.
pub fn pod(pod: &Pod, pids_limit: i64) -> LinuxResources {
    let all_limited = |name: &str| {
        limit(spec::spec(pod).resources.as_ref(), name).is_some()
            || spec::init_containers(pod)
                .iter()
                .chain(&spec::spec(pod).containers)
                .all(|c| limit(c.resources.as_ref(), name).is_some_and(|q| !q.is_zero()))
    };
    let total = |name: &str| pod_total(pod, name, limit);
    LinuxResources {
        cpu_period_us: PERIOD_US.unsigned_abs(),
        cpu_quota_us: if all_limited("cpu") { quota_us(total("cpu")) } else { 0 },
        cpu_shares: shares(pod_total(pod, "cpu", request)),
        memory_limit_bytes: if all_limited("memory") { (total("memory") / 1000).unsigned_abs() } else { 0 },
        pids_limit,
        ..LinuxResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod_with(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u1"}, "spec": {"containers": containers}}))
            .unwrap()
    }

    #[test]
    fn classes_and_cgroups() {
        let both = json!({"cpu": "500m", "memory": "64Mi"});
        for (resources, class, cgroup) in [
            (json!({}), "BestEffort", "besteffort/podu1"),
            (json!({"requests": {"cpu": "100m"}}), "Burstable", "burstable/podu1"),
            (json!({"limits": both}), "Guaranteed", "podu1"),
            (json!({"limits": both, "requests": {"cpu": "100m", "memory": "64Mi"}}), "Burstable", "burstable/podu1"),
        ] {
            let p = pod_with(json!([{"name": "c", "resources": resources}]));
            assert_eq!((qos_class(&p), cgroup_parent(&p).as_str()), (class, cgroup));
        }
    }

    #[test]
    fn cgroup_values() {
        let p = pod_with(json!([{"name": "c", "resources": {
            "requests": {"cpu": "250m", "memory": "100Mi"}, "limits": {"cpu": "1500m", "memory": "200Mi"}}}]));
        let got = container(&p, &spec::spec(&p).containers[0], 1000 << 20, 100);
        assert_eq!(
            (got.cpu_shares, got.cpu_quota_us, got.memory_limit_bytes, got.pids_limit, got.oom_score_adj),
            (256, 150_000, 200 << 20, 100, 900)
        );
        let whole = pod(&p, 0);
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us, whole.memory_limit_bytes), (256, 150_000, 200 << 20));
        let none = pod_with(json!([{"name": "c"}]));
        let got = container(&none, &spec::spec(&none).containers[0], 1 << 30, 0);
        assert_eq!((got.cpu_shares, got.cpu_quota_us, got.memory_limit_bytes, got.oom_score_adj), (2, 0, 0, 1000));
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let p: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "900m"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}}))
        .unwrap();
        assert_eq!(pod_total(&p, "cpu", request), 1000);
    }
}
