//! Which objects a quota with scopes is about.

use crate::meta;
use serde_json::Value;

/// What scopes are decided by, read from an object once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Facts {
    /// Of a kind that is in no scope.
    #[default]
    None,
    /// A pod's.
    Pod { terminating: bool, best_effort: bool, crosses_namespaces: bool, priority_class: String },
    /// The names of the volume attributes classes that a claim has, had, or will have.
    Claim(Vec<String>),
}

/// One demand of a quota.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

/// All demands of a quota.
pub(super) fn of_quota(quota: &Value) -> Vec<Scope> {
    let list = |path: &[&str]| meta::at(quota, path).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain = list(&["spec", "scopes"]);
    let plain = plain.iter().map(|name| Scope { name: text(name), operator: "Exists".to_owned(), values: Vec::new() });
    let selected = list(&["spec", "scopeSelector", "matchExpressions"]);
    let selected = selected.iter().map(|wanted| Scope {
        name: text(&wanted["scopeName"]),
        operator: text(&wanted["operator"]),
        values: wanted["values"].as_array().into_iter().flatten().map(text).collect(),
    });
    plain.chain(selected).collect()
}

impl Facts {
    pub(super) fn of_pod(pod: &Value) -> Facts {
        Facts::Pod {
            terminating: is_terminating(pod),
            best_effort: crate::strategy::qos_class(pod) == "BestEffort",
            crosses_namespaces: crosses_namespaces(pod),
            priority_class: meta::text_at(pod, &["spec", "priorityClassName"]).to_owned(),
        }
    }

    pub(super) fn of_claim(claim: &Value) -> Facts {
        let names = [
            meta::text_at(claim, &["spec", "volumeAttributesClassName"]),
            meta::text_at(claim, &["status", "currentVolumeAttributesClassName"]),
            meta::text_at(claim, &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
        ];
        let mut names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        Facts::Claim(names)
    }

    /// Whether the object is in all scopes.
    pub(super) fn are_in(&self, scopes: &[Scope]) -> bool {
        scopes.iter().all(|scope| self.is_in(scope))
    }

    fn is_in(&self, scope: &Scope) -> bool {
        match self {
            Facts::None => false,
            Facts::Pod { terminating, best_effort, crosses_namespaces, priority_class } => match &*scope.name {
                "Terminating" => *terminating,
                "NotTerminating" => !terminating,
                "BestEffort" => *best_effort,
                "NotBestEffort" => !best_effort,
                "PriorityClass" => scope.selects(Some(&**priority_class).filter(|name| !name.is_empty())),
                "CrossNamespacePodAffinity" => *crosses_namespaces,
                _ => false,
            },
            Facts::Claim(_) if scope.name != "VolumeAttributesClass" => false,
            Facts::Claim(names) if names.is_empty() => scope.selects(None),
            Facts::Claim(names) => names.iter().any(|name| scope.selects(Some(name))),
        }
    }
}

impl Scope {
    fn selects(&self, name: Option<&str>) -> bool {
        let listed = || name.is_some_and(|name| self.values.iter().any(|value| value == name));
        match &*self.operator {
            "In" => listed(),
            "NotIn" => !listed(),
            "DoesNotExist" => name.is_none(),
            _ => name.is_some(),
        }
    }
}

/// Whether a pod has a deadline.
pub(super) fn is_terminating(pod: &Value) -> bool {
    meta::at(pod, &["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64).is_some_and(|seconds| seconds >= 0)
}

fn crosses_namespaces(pod: &Value) -> bool {
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|affinity| {
        let list = move |when: &str| {
            meta::at(pod, &["spec", "affinity", affinity, when]).and_then(Value::as_array).into_iter().flatten()
        };
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution");
        list("requiredDuringSchedulingIgnoredDuringExecution").chain(preferred.map(|term| &term["podAffinityTerm"]))
    });
    let names = |term: &Value| term["namespaces"].as_array().is_some_and(|names| !names.is_empty());
    terms.into_iter().any(|term| names(term) || meta::at(term, &["namespaceSelector"]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(operator: &str, values: &[&str]) -> Value {
        json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
    }

    #[test]
    fn pods_by_scope() {
        let plain = json!({"spec": {"containers": [{"name": "c"}]}});
        let mut deadline = plain.clone();
        deadline["spec"]["activeDeadlineSeconds"] = 1.into();
        let mut high = plain.clone();
        high["spec"]["priorityClassName"] = "high".into();
        let mut far = plain.clone();
        far["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"weight": 1, "podAffinityTerm": {"namespaceSelector": {}}}]);
        let burst = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        for (spec, pod, expected) in [
            (json!({}), &plain, true),
            (json!({"scopes": ["BestEffort"]}), &plain, true),
            (json!({"scopes": ["BestEffort"]}), &burst, false),
            (json!({"scopes": ["NotBestEffort", "NotTerminating"]}), &burst, true),
            (json!({"scopes": ["Terminating"]}), &deadline, true),
            (json!({"scopes": ["NotTerminating"]}), &deadline, false),
            (json!({"scopes": ["PriorityClass"]}), &plain, false),
            (json!({"scopes": ["PriorityClass"]}), &high, true),
            (class("In", &["low", "high"]), &high, true),
            (class("NotIn", &["high"]), &high, false),
            (class("NotIn", &["high"]), &plain, true),
            (class("DoesNotExist", &[]), &plain, true),
            (class("Exists", &[]), &plain, false),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &far, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &plain, false),
            (json!({"scopes": ["VolumeAttributesClass"]}), &plain, false),
        ] {
            let quota = json!({"spec": spec});
            assert_eq!(Facts::of_pod(pod).are_in(&of_quota(&quota)), expected, "{quota} {pod}");
        }
    }

    #[test]
    fn claims_by_scope() {
        let claim = json!({"spec": {"volumeAttributesClassName": "fast"}, "status": {"currentVolumeAttributesClassName": "slow"}});
        let select = |operator: &str, values: &[&str]| json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": operator, "values": values}]}}});
        for (quota, expected) in [
            (select("In", &["slow"]), true),
            (select("In", &["other"]), false),
            (select("Exists", &[]), true),
            (select("DoesNotExist", &[]), false),
            (json!({"spec": {"scopes": ["BestEffort"]}}), false),
        ] {
            assert_eq!(Facts::of_claim(&claim).are_in(&of_quota(&quota)), expected, "{quota}");
        }
    }
}
