//! What pods ask for and nodes have, in whole numbers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::Quantity;

/// What a container that asks for nothing is taken to use when nodes are scored (upstream's numbers).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of the resources the scheduler counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) milli_cpu: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) ephemeral_bytes: i64,
    /// Places for pods; one for each pod.
    pub(crate) pods: i64,
    /// Huge pages and what devices offer.
    pub(crate) extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list. What cannot be parsed counts as nothing (the API server refuses it anyway).
    pub(crate) fn from_list(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut all = Resources::default();
        for (name, text) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => all.milli_cpu = quantity.milli_value(),
                "memory" => all.memory_bytes = quantity.value(),
                "ephemeral-storage" => all.ephemeral_bytes = quantity.value(),
                "pods" => all.pods = quantity.value(),
                other => {
                    all.extended.insert(other.to_owned(), quantity.value());
                }
            }
        }
        all
    }

    pub(crate) fn add(&mut self, other: &Resources) {
        self.combine(other, |a, b| a + b);
    }

    pub(crate) fn subtract(&mut self, other: &Resources) {
        self.combine(other, |a, b| a - b);
    }

    fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory_bytes = f(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = f(self.ephemeral_bytes, other.ephemeral_bytes);
        self.pods = f(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = f(*mine, *amount);
        }
    }

    /// Why `request` does not fit into what is left of `self` when `used` is taken; empty when it does.
    pub(crate) fn lacks(&self, used: &Resources, request: &Resources) -> Vec<Cow<'static, str>> {
        let mut lacking = Vec::new();
        if used.pods + request.pods > self.pods {
            lacking.push(Cow::Borrowed("Too many pods"));
        }
        let short = |wanted: i64, used: i64, total: i64| wanted > 0 && wanted > total - used;
        if short(request.milli_cpu, used.milli_cpu, self.milli_cpu) {
            lacking.push(Cow::Borrowed("Insufficient cpu"));
        }
        if short(request.memory_bytes, used.memory_bytes, self.memory_bytes) {
            lacking.push(Cow::Borrowed("Insufficient memory"));
        }
        if short(request.ephemeral_bytes, used.ephemeral_bytes, self.ephemeral_bytes) {
            lacking.push(Cow::Borrowed("Insufficient ephemeral-storage"));
        }
        for (name, wanted) in &request.extended {
            let amount = |r: &Resources| r.extended.get(name).copied().unwrap_or(0);
            if short(*wanted, amount(used), amount(self)) {
                lacking.push(Cow::Owned(format!("Insufficient {name}")));
            }
        }
        lacking
    }
}

/// What the pod asks for, with one place for itself.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    let mut total = sum(spec, requested);
    override_with_pod_level(spec, &mut total);
    total.add(&Resources::from_list(spec.overhead.as_ref()));
    total.pods = 1;
    total
}

/// As [`requests`], where containers that ask for no processor time or memory count with a default.
pub(crate) fn requests_for_scoring(spec: &PodSpec) -> Resources {
    let mut total = sum(spec, |c| {
        let mut request = requested(c);
        let named =
            |name: &str| c.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|r| r.contains_key(name));
        if !named("cpu") {
            request.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !named("memory") {
            request.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
        request
    });
    override_with_pod_level(spec, &mut total);
    total.add(&Resources::from_list(spec.overhead.as_ref()));
    total
}

fn requested(container: &Container) -> Resources {
    Resources::from_list(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// The most that runs at one time: all containers and sidecars together, or one init container and the sidecars before it.
fn sum(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut need = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&need);
            sidecars.add(&need);
            need = sidecars.clone();
        } else {
            need.add(&sidecars);
        }
        starting.raise_to(&need);
    }
    running.raise_to(&starting);
    running
}

/// Requests of the pod as a whole (`spec.resources`) replace the sum of its containers' (KEP-2837).
fn override_with_pod_level(spec: &PodSpec, total: &mut Resources) {
    let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) else { return };
    let level = Resources::from_list(Some(list));
    if list.contains_key("cpu") {
        total.milli_cpu = level.milli_cpu;
    }
    if list.contains_key("memory") {
        total.memory_bytes = level.memory_bytes;
    }
    let huge = level.extended.into_iter().filter(|(name, _)| name.starts_with("hugepages-"));
    total.extended.extend(huge);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;
    use serde_json::json;

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn requests_follow_the_life_of_the_containers() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
        let rows = [
            (json!({"containers": [container("100m"), container("1")]}), 1100),
            (json!({"containers": [container("100m")], "initContainers": [container("2")]}), 2000),
            (json!({"containers": [container("100m")], "initContainers": [container("80m"), container("90m")]}), 100),
            (json!({"containers": [container("100m")], "initContainers": [sidecar, container("120m")]}), 170),
            (json!({"containers": [container("100m")], "initContainers": [container("120m"), sidecar]}), 150),
            (json!({"containers": [container("100m")], "overhead": {"cpu": "5m"}}), 105),
            (json!({"containers": [container("100m")], "resources": {"requests": {"cpu": "3"}}}), 3000),
        ];
        for (pod, want) in rows {
            assert_eq!(requests(&spec(pod.clone())).milli_cpu, want, "{pod}");
        }
    }

    #[test]
    fn scoring_assumes_something_of_silent_containers() {
        let pod = spec(json!({"containers": [{"name": "a"}, container("1")]}));
        let assumed = requests_for_scoring(&pod);
        assert_eq!((assumed.milli_cpu, assumed.memory_bytes), (1100, 2 * DEFAULT_MEMORY_BYTES));
        assert_eq!(requests(&pod).memory_bytes, 0);
    }

    #[test]
    fn what_is_lacking_is_named() {
        let list = |v: serde_json::Value| Resources::from_list(serde_json::from_value(v).ok().as_ref());
        let node = list(json!({"cpu": "2", "memory": "1Gi", "pods": "1", "example.com/gpu": "1"}));
        let used = list(json!({"cpu": "1500m", "pods": "1"}));
        let want = list(
            json!({"cpu": "501m", "memory": "2Gi", "ephemeral-storage": "1", "pods": "1", "example.com/gpu": "2"}),
        );
        let all = [
            "Too many pods",
            "Insufficient cpu",
            "Insufficient memory",
            "Insufficient ephemeral-storage",
            "Insufficient example.com/gpu",
        ];
        assert_eq!(node.lacks(&used, &want), all);
        assert_eq!(node.lacks(&Resources::default(), &list(json!({"cpu": "2", "pods": "1"}))), [""; 0]);
    }
}
