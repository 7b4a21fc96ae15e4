//! Matching labels: selectors of pods, selectors of nodes, tolerations of taints.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::view::{Labels, NodeView};

/// Whether labels satisfy a selector; no selector matches nothing, an empty one everything.
pub(crate) fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let expressions = selector.match_expressions.iter().flatten();
    selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
        && expressions.into_iter().all(|r| {
            let listed = |v: &String| r.values.iter().flatten().any(|x| x == v);
            let value = labels.get(&r.key);
            match r.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether the node satisfies the pod's `nodeSelector` and required node affinity.
pub(crate) fn node_wanted(spec: &PodSpec, node: &NodeView) -> bool {
    let simple = spec.node_selector.iter().flatten().all(|(k, v)| node.labels.get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    simple && required.is_none_or(|r| node_selected(r, node))
}

/// Whether any term of the selector matches.
fn node_selected(selector: &NodeSelector, node: &NodeView) -> bool {
    selector.node_selector_terms.iter().any(|t| node_term(t, node))
}

/// Whether all requirements of a term match; a term without any matches nothing.
pub(crate) fn node_term(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = expressions.clone().next().is_none() && fields.clone().next().is_none();
    !empty
        && expressions.into_iter().all(|r| requirement(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.into_iter().all(|r| requirement(r, (r.key == "metadata.name").then_some(node.name.as_str())))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| r.values.iter().flatten().any(|x| x == v);
    let compare = |f: fn(&i64, &i64) -> bool| {
        let limit = r.values.iter().flatten().next().and_then(|v| v.parse::<i64>().ok());
        let value = value.and_then(|v| v.parse::<i64>().ok());
        matches!((value, limit), (Some(v), Some(l)) if f(&v, &l))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// Whether one of the tolerations covers the taint.
pub(crate) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (effect, key, value) = (text(&t.effect), text(&t.key), text(&t.value));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let tainted = taint.value.as_deref().unwrap_or_default();
    let compare = |f: fn(&i64, &i64) -> bool| matches!((tainted.parse::<i64>(), value.parse::<i64>()), (Ok(a), Ok(b)) if f(&a, &b));
    match t.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => value == tainted,
        "Exists" => true,
        "Lt" => compare(i64::lt),
        "Gt" => compare(i64::gt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, object, spec, view};
    use serde_json::json;

    #[test]
    fn nodes_are_chosen_by_labels_and_name() {
        let v = view(&[node("n1", json!({"disk": "ssd", "cores": "8"}), json!({}))], &[]);
        let n = v.node("n1").unwrap();
        let required = |terms: serde_json::Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let expression = |key: &str, operator: &str, values: serde_json::Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
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
            assert_eq!(node_wanted(&spec(pod.clone()), n), want, "{pod}");
        }
    }

    #[test]
    fn tolerations_cover_taints() {
        let taint: Taint = object(json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
        let rows = [
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
        ];
        for (toleration, want) in rows {
            assert_eq!(tolerated(&taint, &[object(toleration.clone())]), want, "{toleration}");
        }
    }
}
