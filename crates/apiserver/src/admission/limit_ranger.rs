//! LimitRange: what containers get that ask for nothing, and how much they may ask for.

use super::{amount, amounts, is};
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use machinery::quantity::Quantity;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

pub(super) struct LimitRanger {
    pub(super) ranges: Arc<KindStore>,
}

impl LimitRanger {
    /// The limits of all ranges in a namespace.
    fn limits(&self, namespace: &str) -> Vec<Value> {
        let ranges = self.ranges.list(Some(namespace));
        let limits = |range: Value| meta::at(&range, &["spec", "limits"]).and_then(Value::as_array).cloned();
        ranges.iter().filter_map(|range| limits(range.value())).flatten().collect()
    }
}

#[async_trait]
impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !super::creates_pod(request) {
            return Ok(());
        }
        let limits = self.limits(&request.attributes.namespace);
        if let Some(pod) = request.object.as_deref_mut() {
            limits.iter().filter(|limit| limit["type"] == "Container").for_each(|limit| apply_defaults(pod, limit));
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let pod = super::creates_pod(request);
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let claim = is(request, "", "persistentvolumeclaims") && writes;
        let Some(object) = request.object.as_deref().filter(|_| pod || claim) else { return Ok(()) };
        let limits = self.limits(&request.attributes.namespace);
        let problems: Vec<String> = limits
            .iter()
            .flat_map(|limit| if pod { check_pod(object, limit) } else { check_claim(object, limit) })
            .collect();
        let why = match problems.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Err(Status::forbidden("", &request.attributes.resource, meta::name(object), why))
    }
}

/// Gives containers what the range has for those that say nothing, and notes it in an annotation.
fn apply_defaults(pod: &mut Value, limit: &Value) {
    let mut notes = Vec::new();
    for containers in ["initContainers", "containers"] {
        let list = meta::member(pod, "spec").get_mut(containers).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            let name = meta::text_at(container, &["name"]).to_owned();
            for (field, source, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
                let added = fill(container, field, limit.get(source));
                if !added.is_empty() {
                    let kind = if containers == "containers" { "container" } else { "init container" };
                    notes.push(format!("{} {word} for {kind} {name}", added.join(", ")));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    let annotations = meta::metadata(pod).entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        let before = annotations.get(ANNOTATION).and_then(Value::as_str).map(|text| format!("{text}; "));
        let text = before.unwrap_or_else(|| "LimitRanger plugin set: ".to_owned()) + &notes.join("; ");
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}

fn fill(container: &mut Value, field: &str, defaults: Option<&Value>) -> Vec<String> {
    let Some(defaults) = defaults.and_then(Value::as_object).filter(|d| !d.is_empty()) else { return Vec::new() };
    let resources = meta::member(container, "resources");
    let amounts = resources.entry(field).or_insert_with(|| Value::Object(Map::new()));
    let Some(amounts) = amounts.as_object_mut() else { return Vec::new() };
    let mut added = Vec::new();
    for (name, amount) in defaults {
        if !amounts.contains_key(name) {
            amounts.insert(name.clone(), amount.clone());
            added.push(name.clone());
        }
    }
    if amounts.is_empty() {
        resources.remove(field);
    }
    added.sort();
    added
}

fn check_pod(pod: &Value, limit: &Value) -> Vec<String> {
    let list = |field: &str| meta::at(pod, &["spec", field]).and_then(Value::as_array).cloned().unwrap_or_default();
    let resources = |container: &Value| {
        let of = |field: &str| amounts(meta::at(container, &["resources", field]));
        (of("requests"), of("limits"))
    };
    match limit["type"].as_str().unwrap_or_default() {
        "Container" => list("containers")
            .iter()
            .chain(&list("initContainers"))
            .flat_map(|container| {
                let (requests, limits) = resources(container);
                check(limit, "Container", &requests, &limits)
            })
            .collect(),
        "Pod" => {
            let (requests, limits) = pod_total(&list("containers"), &list("initContainers"), resources);
            check(limit, "Pod", &requests, &limits)
        }
        _ => Vec::new(),
    }
}

/// What a pod takes: all containers together, or its largest init container. A resource that some container does not name
/// has no limit for the pod.
fn pod_total(
    containers: &[Value],
    init: &[Value],
    resources: impl Fn(&Value) -> (Amounts, Amounts),
) -> (Amounts, Amounts) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for container in containers {
        let (own_requests, own_limits) = resources(container);
        for (total, own) in [(&mut requests, own_requests), (&mut limits, own_limits)] {
            for (name, amount) in own {
                let sum = total.get(&name).map_or(amount, |before| *before + amount);
                total.insert(name, sum);
            }
        }
    }
    for container in init {
        let (own_requests, own_limits) = resources(container);
        for (total, own) in [(&mut requests, own_requests), (&mut limits, own_limits)] {
            for (name, amount) in own {
                if total.get(&name).is_none_or(|before| *before < amount) {
                    total.insert(name, amount);
                }
            }
        }
    }
    (requests, limits)
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, least) in amounts(limit.get("min")) {
        let begin = format!("minimum {name} usage per {kind} is {least}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => problems.push(format!("{begin}.  No request is specified")),
            (Some(request), _) if *request < least => problems.push(format!("{begin}, but request is {request}")),
            (_, Some(limit)) if *limit < least => problems.push(format!("{begin}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in amounts(limit.get("max")) {
        let begin = format!("maximum {name} usage per {kind} is {most}");
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => problems.push(format!("{begin}.  No limit is specified")),
            (Some(limit), _) if *limit > most => problems.push(format!("{begin}, but limit is {limit}")),
            (_, Some(request)) if *request > most => problems.push(format!("{begin}, but request is {request}")),
            _ => {}
        }
    }
    for (name, ratio) in amounts(limit.get("maxLimitRequestRatio")) {
        let begin = format!("{name} max limit to request ratio per {kind} is {ratio}");
        let value = |amount: Option<&Quantity>| amount.map(Quantity::as_f64).filter(|value| *value > 0.0);
        match (value(requests.get(&name)), value(limits.get(&name))) {
            (None, _) => problems.push(format!("{begin}, but no request is specified or request is 0.")),
            (_, None) => problems.push(format!("{begin}, but no limit is specified or limit is 0.")),
            (Some(request), Some(limit)) => {
                let given = limit / request;
                if given > ratio.as_f64() {
                    problems.push(format!("{begin}, but provided ratio is {given:.6}"));
                }
            }
        }
    }
    problems
}

fn check_claim(claim: &Value, limit: &Value) -> Vec<String> {
    if limit["type"] != "PersistentVolumeClaim" {
        return Vec::new();
    }
    let requests = amounts(meta::at(claim, &["spec", "resources", "requests"]));
    let Some(request) = requests.get("storage") else { return Vec::new() };
    let mut problems = Vec::new();
    if let Some(least) = limit.pointer("/min/storage").and_then(amount).filter(|least| request < least) {
        problems.push(format!("minimum storage usage per PersistentVolumeClaim is {least}, but request is {request}"));
    }
    if let Some(most) = limit.pointer("/max/storage").and_then(amount).filter(|most| request > most) {
        problems.push(format!("maximum storage usage per PersistentVolumeClaim is {most}, but request is {request}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let limit =
            json!({"type": "Container", "defaultRequest": {"cpu": "100m"}, "default": {"cpu": "1", "memory": "64Mi"}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "3", "memory": "1Gi"}}},
        ]}});
        apply_defaults(&mut pod, &limit);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "64Mi"}})
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["requests"], json!({"cpu": "2"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a"
        );
    }

    #[test]
    fn what_is_too_little_or_too_much() {
        let container = |requests: Value, limits: Value| json!({"name": "a", "resources": {"requests": requests, "limits": limits}});
        let cases = [
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!({"cpu": "50m"}),
                json!({}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!({}),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"type": "Container", "max": {"memory": "1Gi"}}),
                json!({}),
                json!({"memory": "2Gi"}),
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ),
            (json!({"type": "Container", "max": {"memory": "1Gi"}}), json!({}), json!({"memory": "1024Mi"}), ""),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}}),
                json!({}),
                json!({"cpu": "600m"}),
                "maximum cpu usage per Pod is 1, but limit is 1200m",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"cpu": "1"}),
                json!({"cpu": "3"}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "3"}}),
                json!({"cpu": "1"}),
                json!({"cpu": "3"}),
                "",
            ),
        ];
        for (limit, requests, limits, expected) in cases {
            let one = container(requests, limits);
            let pod = json!({"spec": {"containers": [one, one]}});
            let problems = check_pod(&pod, &limit);
            assert_eq!(problems.first().map(String::as_str).unwrap_or_default(), expected, "{limit}");
        }
        let claim = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let limit = json!({"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}});
        assert_eq!(
            check_claim(&claim, &limit),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"]
        );
    }
}
