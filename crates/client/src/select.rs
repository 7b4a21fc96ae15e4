//! What selects what: label selectors, a pod's wishes for its node, tolerations of taints.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy `selector`. A selector without requirements matches everything; an unknown operator, nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|r| label_requirement(r, value(&r.key)))
}

fn label_requirement(r: &LabelSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|v| r.values.iter().flatten().any(|x| x == v));
    match r.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Whether the selector has no requirement at all, and so would match everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|m| m.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|m| m.is_empty())
}

/// Whether every pair of `wanted` is among `labels`.
pub fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// Whether a node with this name and these labels satisfies a pod's `nodeSelector` and required node affinity.
pub fn node_wanted(spec: &PodSpec, name: &str, labels: Option<&Labels>) -> bool {
    let simple = spec.node_selector.as_ref().is_none_or(|wanted| contains(labels, wanted));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    simple && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| node_term(t, name, labels)))
}

/// Whether a node satisfies all requirements of a term; a term without any matches nothing.
pub fn node_term(term: &NodeSelectorTerm, name: &str, labels: Option<&Labels>) -> bool {
    let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(name);
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| node_requirement(r, label(&r.key)))
        && fields.iter().all(|r| node_requirement(r, field(&r.key)))
}

fn node_requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare =
        |f: fn(&i64, &i64) -> bool| value.zip(values.first()).is_some_and(|(have, limit)| by_number(have, limit, f));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// Whether one of the tolerations covers the taint.
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// Whether the toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let applies = |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|w| w.is_empty() || w == have);
    if !applies(&toleration.effect, &taint.effect) || !applies(&toleration.key, &taint.key) {
        return false;
    }
    let have = taint.value.as_deref().unwrap_or_default();
    let wanted = toleration.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => have == wanted,
        "Exists" => true,
        "Lt" => by_number(have, wanted, i64::lt),
        "Gt" => by_number(have, wanted, i64::gt),
        _ => false,
    }
}

fn by_number(have: &str, limit: &str, holds: fn(&i64, &i64) -> bool) -> bool {
    matches!((have.parse(), limit.parse()), (Ok(have), Ok(limit)) if holds(&have, &limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn selectors_match_labels() {
        let rows = [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (json!({"matchLabels": {"z": ""}}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["0", "1"]}]}), true),
            (json!({"matchExpressions": [{"key": "z", "operator": "In", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "z", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}), false),
        ];
        let have = labels(&[("a", "1"), ("b", "2")]);
        for (selector, want) in rows {
            let typed = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&typed, Some(&have)), want, "{selector}");
        }
    }

    #[test]
    fn nodes_are_chosen_by_labels_and_name() {
        let have = labels(&[("disk", "ssd"), ("cores", "8")]);
        let required = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let expression = |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        let rows = [
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), false),
            (required(expression("disk", "In", json!(["hdd", "ssd"]))), true),
            (required(expression("disk", "NotIn", json!(["ssd"]))), false),
            (required(expression("cores", "Gt", json!(["4"]))), true),
            (required(expression("cores", "Lt", json!(["8"]))), false),
            (required(expression("gpu", "Exists", json!(null))), false),
            (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])), true),
            (required(json!([{}])), false),
            (required(json!([{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}])), true),
        ];
        for (pod, want) in rows {
            let spec = serde_json::from_value(pod.clone()).unwrap();
            assert_eq!(node_wanted(&spec, "n1", Some(&have)), want, "{pod}");
        }
    }

    #[test]
    fn tolerations_cover_taints() {
        let taint =
            |value: &str| serde_json::from_value(json!({"key": "k", "value": value, "effect": "NoSchedule"})).unwrap();
        let rows = [
            (json!({"key": "k", "value": "5"}), true),
            (json!({"key": "k", "value": "6"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "k", "operator": "Lt", "value": "4"}), false),
            (json!({"key": "k", "operator": "Lt", "value": "many"}), false),
        ];
        for (toleration, want) in rows {
            let typed = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerated(&taint("5"), &[typed]), want, "{toleration}");
        }
    }
}
