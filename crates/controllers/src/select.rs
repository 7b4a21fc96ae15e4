//! Matching typed label selectors and naming what they select.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Labels as objects carry them.
pub(crate) type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy `selector`. A selector without requirements matches everything; an unknown operator, nothing.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|r| requirement(r, value(&r.key)))
}

fn requirement(r: &LabelSelectorRequirement, value: Option<&str>) -> bool {
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
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|m| m.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|m| m.is_empty())
}

/// Whether every pair of `wanted` is among `labels`.
pub(crate) fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{labels, object};
    use serde_json::json;

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
            assert_eq!(matches(&object(selector.clone()), Some(&have)), want, "{selector}");
        }
    }
}
