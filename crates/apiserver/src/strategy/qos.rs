//! A pod's quality-of-service class, from its requests and limits.

use crate::meta;
use machinery::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn class(pod: &Value) -> &'static str {
    if let Some(resources) = meta::at(pod, &["spec", "resources"]).filter(|resources| names_any(resources)) {
        return class_of(std::iter::once(resources));
    }
    let lists = ["containers", "initContainers"].into_iter();
    let containers = lists.filter_map(|list| meta::at(pod, &["spec", list])?.as_array()).flatten();
    let none = Value::Null;
    let resources: Vec<&Value> = containers.map(|container| container.get("resources").unwrap_or(&none)).collect();
    class_of(resources.into_iter())
}

fn names_any(resources: &Value) -> bool {
    ["requests", "limits"].iter().any(|list| !quantities(resources, list).is_empty())
}

/// The non-zero cpu and memory quantities of `requests` or `limits`.
fn quantities(resources: &Value, list: &str) -> BTreeMap<String, Quantity> {
    let all = resources.get(list).and_then(Value::as_object).into_iter().flatten();
    let wanted = all.filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"));
    let parsed = wanted.filter_map(|(name, value)| Some((name.clone(), Quantity::parse(value.as_str()?).ok()?)));
    parsed.filter(|(_, quantity)| quantity.milli_value() > 0).collect()
}

fn class_of<'a>(all: impl Iterator<Item = &'a Value>) -> &'static str {
    let (mut guaranteed, mut best_effort) = (true, true);
    for resources in all {
        let (requests, limits) = (quantities(resources, "requests"), quantities(resources, "limits"));
        best_effort &= requests.is_empty() && limits.is_empty();
        let full = limits.len() == 2;
        let equal = requests.iter().all(|(name, request)| limits.get(name) == Some(request));
        guaranteed &= full && equal;
    }
    match (best_effort, guaranteed) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}});
        for (containers, expected) in [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"limits": {"example.com/gpu": "1"}}}]), "BestEffort"),
            (json!([{"resources": full}]), "Guaranteed"),
            (json!([{"resources": full}, {}]), "Burstable"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]),
                "Burstable",
            ),
        ] {
            assert_eq!(class(&json!({"spec": {"containers": containers}})), expected, "{containers}");
        }
    }
}
