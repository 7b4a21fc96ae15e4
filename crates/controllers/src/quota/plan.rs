//! The status a quota should have, from the objects of its namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ResourceRequirements,
    ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use machinery::quantity::Quantity;

use super::usage::{self, Amounts};

/// What there is in a namespace.
pub(super) struct Observed {
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) services: Vec<Arc<Service>>,
    pub(super) claims: Vec<Arc<PersistentVolumeClaim>>,
    pub(super) resource_claims: Vec<Arc<ResourceClaim>>,
    /// Kinds of which only the number matters, by what they are limited under.
    pub(super) counts: BTreeMap<String, usize>,
}

/// Who tells how much of a resource is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pods,
    Services,
    Claims,
    ResourceClaims,
    /// The number of objects of a resource, as `secrets` or `deployments.apps`.
    Count(String),
}

/// Core resources that are limited by their plain name too.
const COUNTED: [&str; 4] = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];

/// Who tells about `name`, as a quota limits it.
pub(super) fn source(name: &str) -> Source {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits."));
    match name.strip_prefix("count/").unwrap_or(name) {
        "services" | "services.nodeports" | "services.loadbalancers" => Source::Services,
        "persistentvolumeclaims" | "requests.storage" => Source::Claims,
        other if other.contains(".storageclass.storage.k8s.io/") => Source::Claims,
        "resourceclaims.resource.k8s.io" => Source::ResourceClaims,
        other if other.ends_with(usage::DEVICES) => Source::ResourceClaims,
        "pods" => Source::Pods,
        other if plain.is_some() || usage::is_plain(other) || other.starts_with("hugepages-") => Source::Pods,
        other => Source::Count(other.to_owned()),
    }
}

/// The resources a quota needs counted.
pub(super) fn counted(quota: &ResourceQuota) -> Vec<String> {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    let counted = hard.filter_map(|(name, _)| match source(name) {
        Source::Count(resource) if name.starts_with("count/") || COUNTED.contains(&name.as_str()) => Some(resource),
        _ => None,
    });
    counted.collect()
}

/// The status of a quota: its limits, and what is taken of each that is known.
pub(super) fn plan(quota: &ResourceQuota, observed: &Observed, now: Timestamp) -> ResourceQuotaStatus {
    let Some(spec) = &quota.spec else { return ResourceQuotaStatus::default() };
    let hard = spec.hard.clone().unwrap_or_default();
    let scoped = spec.scopes.is_some() || spec.scope_selector.is_some();
    let mut sum = Amounts::new();
    for pod in observed.pods.iter().filter(|pod| is_meant(spec, pod)) {
        usage::add(&mut sum, usage::pod(pod, now));
    }
    for claim in observed.claims.iter().filter(|claim| is_about_claim(spec, claim)) {
        usage::add(&mut sum, usage::claim(claim));
    }
    if !scoped {
        observed.services.iter().for_each(|service| usage::add(&mut sum, usage::service(service)));
        observed.resource_claims.iter().for_each(|claim| usage::add(&mut sum, usage::resource_claim(claim)));
    }
    let taken = |name: &String| match source(name) {
        Source::Count(_) if scoped => Some(Quantity::ZERO),
        Source::Count(resource) => {
            let count = *observed.counts.get(&resource)?;
            Some(Quantity::new(i64::try_from(count).unwrap_or(i64::MAX)))
        }
        _ => Some(sum.get(name).copied().unwrap_or(Quantity::ZERO)),
    };
    let used = hard.keys().filter_map(|name| Some((name.clone(), Written(taken(name)?.to_string()))));
    let used: BTreeMap<String, Written> = used.collect();
    ResourceQuotaStatus { used: Some(used), hard: Some(hard) }
}

/// Whether a quota's limits are not those of its status yet: nothing is charged to it.
pub(super) fn is_unknown(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    status.and_then(|status| status.hard.as_ref()) != hard || status.is_none_or(|status| status.used.is_none())
}

/// Whether two statuses say the same.
pub(super) fn same(one: &ResourceQuotaStatus, other: &ResourceQuotaStatus) -> bool {
    let read = |amounts: &Option<BTreeMap<String, Written>>| -> BTreeMap<String, Option<Quantity>> {
        let parse = |(name, written): (&String, &Written)| (name.clone(), Quantity::parse(&written.0).ok());
        amounts.iter().flatten().map(parse).collect()
    };
    read(&one.hard) == read(&other.hard) && read(&one.used) == read(&other.used)
}

/// Whether a quota is about a pod.
fn is_meant(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let Some(of) = &pod.spec else { return false };
    let scopes = spec.scopes.iter().flatten();
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    scopes.into_iter().all(|scope| is_in(of, scope)) && selected.into_iter().all(|wanted| is_selected(of, wanted))
}

fn is_in(pod: &PodSpec, scope: &str) -> bool {
    match scope {
        "Terminating" => pod.active_deadline_seconds.is_some(),
        "NotTerminating" => pod.active_deadline_seconds.is_none(),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => pod.priority_class_name.as_deref().is_some_and(|name| !name.is_empty()),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn is_selected(pod: &PodSpec, wanted: &ScopedResourceSelectorRequirement) -> bool {
    let class = pod.priority_class_name.as_deref().unwrap_or_default();
    let listed = || wanted.values.iter().flatten().any(|value| value == class);
    match (wanted.scope_name.as_str(), wanted.operator.as_str()) {
        ("PriorityClass", "In") => listed(),
        ("PriorityClass", "NotIn") => !listed(),
        (scope, "DoesNotExist") => !is_in(pod, scope),
        (scope, _) => is_in(pod, scope),
    }
}

/// Whether a quota is about a claim: the only scope of claims is the class of a volume's attributes.
fn is_about_claim(spec: &ResourceQuotaSpec, claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let names = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_ref()),
    ];
    let names: Vec<&String> = names.into_iter().flatten().filter(|name| !name.is_empty()).collect();
    let selects = |wanted: &ScopedResourceSelectorRequirement, name: Option<&String>| {
        let listed = || name.is_some_and(|name| wanted.values.iter().flatten().any(|value| value == name));
        match wanted.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "DoesNotExist" => name.is_none(),
            _ => name.is_some(),
        }
    };
    let in_scope = |scope: &String| scope == "VolumeAttributesClass" && !names.is_empty();
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    spec.scopes.iter().flatten().all(in_scope)
        && selected.into_iter().all(|wanted| {
            let any = || names.iter().any(|name| selects(wanted, Some(name)));
            wanted.scope_name == "VolumeAttributesClass" && if names.is_empty() { selects(wanted, None) } else { any() }
        })
}

/// No container asks for, or is limited in, CPU or memory; or, when that is set for the whole pod, the pod does not.
fn is_best_effort(pod: &PodSpec) -> bool {
    let takes_any = |resources: &ResourceRequirements| {
        let mut amounts = resources.requests.iter().flatten().chain(resources.limits.iter().flatten());
        amounts.any(|(name, written)| {
            matches!(name.as_str(), "cpu" | "memory") && Quantity::parse(&written.0).is_ok_and(|q| !q.is_zero())
        })
    };
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    !containers.filter_map(|container| container.resources.as_ref()).chain(&pod.resources).any(takes_any)
}

fn crosses_namespaces(pod: &PodSpec) -> bool {
    let Some(affinity) = &pod.affinity else { return false };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let apart = far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let rather_apart = far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weighted = preferred.into_iter().chain(rather_apart).flatten().map(|term| &term.pod_affinity_term);
    let mut terms = required.into_iter().chain(apart).flatten().chain(weighted);
    terms.any(|term| term.namespaces.iter().flatten().next().is_some() || term.namespace_selector.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::{Value, json};

    fn observed() -> Observed {
        let pods = [
            json!({"spec": {"containers": [{"name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "b", "resources": {"requests": {"cpu": "250m"}}}], "activeDeadlineSeconds": 9}}),
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}], "priorityClassName": "high"}}),
        ];
        Observed {
            pods: pods.into_iter().map(object).map(Arc::new).collect(),
            services: vec![Arc::new(object(json!({"spec": {"type": "NodePort", "ports": [{"port": 1}]}})))],
            claims: vec![Arc::new(object(json!({"spec": {"volumeAttributesClassName": "fast"}})))],
            resource_claims: Vec::new(),
            counts: BTreeMap::from([("secrets".to_owned(), 3), ("deployments.apps".to_owned(), 1)]),
        }
    }

    #[test]
    fn quotas_count_what_they_are_about() {
        let class = |operator: &str, values: Value| json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]});
        for (rest, hard, used) in [
            (json!({}), json!({"pods": "9", "cpu": "2"}), json!({"pods": "3", "cpu": "1250m"})),
            (
                json!({}),
                json!({"services.nodeports": "1", "memory": "1"}),
                json!({"services.nodeports": "1", "memory": "0"}),
            ),
            (json!({}), json!({"secrets": "1", "count/secrets": "1"}), json!({"secrets": "3", "count/secrets": "3"})),
            (
                json!({}),
                json!({"count/deployments.apps": "1", "count/no.such": "1"}),
                json!({"count/deployments.apps": "1"}),
            ),
            (json!({"scopes": ["BestEffort"]}), json!({"pods": "1"}), json!({"pods": "1"})),
            (
                json!({"scopes": ["VolumeAttributesClass"]}),
                json!({"persistentvolumeclaims": "2"}),
                json!({"persistentvolumeclaims": "1"}),
            ),
            (
                json!({"scopes": ["Terminating"]}),
                json!({"persistentvolumeclaims": "2", "count/secrets": "1"}),
                json!({"persistentvolumeclaims": "0", "count/secrets": "0"}),
            ),
            (json!({"scopes": ["NotBestEffort"]}), json!({"pods": "1"}), json!({"pods": "2"})),
            (json!({"scopes": ["Terminating"]}), json!({"requests.cpu": "1"}), json!({"requests.cpu": "250m"})),
            (json!({"scopes": ["NotTerminating", "NotBestEffort"]}), json!({"cpu": "1"}), json!({"cpu": "1"})),
            (json!({"scopeSelector": class("In", json!(["high"]))}), json!({"pods": "1"}), json!({"pods": "1"})),
            (json!({"scopeSelector": class("NotIn", json!(["high"]))}), json!({"pods": "1"}), json!({"pods": "2"})),
            (json!({"scopeSelector": class("Exists", json!([]))}), json!({"pods": "1"}), json!({"pods": "1"})),
            (json!({"scopeSelector": class("DoesNotExist", json!([]))}), json!({"pods": "1"}), json!({"pods": "2"})),
        ] {
            let mut spec = rest;
            spec["hard"] = hard.clone();
            let status = plan(&object(json!({"metadata": {}, "spec": spec})), &observed(), at(1));
            assert_eq!(json!(status), json!({"hard": hard, "used": used}), "{spec}");
        }
    }

    #[test]
    fn what_is_counted() {
        let quota = object(json!({"metadata": {}, "spec": {"hard": {
            "pods": "1", "secrets": "1", "count/jobs.batch": "1", "limits.cpu": "1", "count/services": "1",
            "requests.storage": "1", "gold.storageclass.storage.k8s.io/requests.storage": "1", "requests.nvidia.com/gpu": "1",
        }}}));
        assert_eq!(counted(&quota), ["jobs.batch", "secrets"]);
    }

    #[test]
    fn amounts_are_the_same_however_written() {
        let status = |cpu: &str| object(json!({"hard": {"cpu": cpu}, "used": {"cpu": "0"}}));
        assert!(same(&status("1"), &status("1000m")));
        assert!(!same(&status("1"), &status("2")));
    }
}
