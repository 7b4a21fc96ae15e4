//! Revisions of a Deployment: template hashes, which ReplicaSet is the new one, and the annotations kubectl reads.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;
use sha2::{Digest, Sha256};

use client::select::Labels;

/// The label that tells the pods of one revision from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// The revision number, on the Deployment and on each ReplicaSet.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions this ReplicaSet had before a rollback made it the newest again.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's `replicas` when the ReplicaSet was last scaled.
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The Deployment's `replicas` and surge when the ReplicaSet was last scaled.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that its ReplicaSets do not inherit.
const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The longest revision history kept in the annotation, in bytes.
const HISTORY_BYTES_MAX: usize = 2000;

/// Ten characters that name a pod template; `collisions` gives another name to the same template.
///
/// The alphabet has no vowels and no digits that look like some, so that no word comes out (as upstream's names).
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    prune(&mut value);
    let mut hasher = Sha256::new();
    hasher.update(value.to_string());
    if let Some(n) = collisions {
        hasher.update(n.to_le_bytes());
    }
    name_of(&hasher.finalize())
}

/// Ten characters of the safe alphabet from a digest.
pub(crate) fn name_of(digest: &[u8]) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    digest.iter().take(10).map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}

/// Drops nulls and empty maps and lists, which mean the same as absence.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| !is_void(v));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_void(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Object(m) => m.is_empty(),
        Value::Array(l) => l.is_empty(),
        _ => false,
    }
}

/// Whether two templates make the same pods; the hash label is not compared.
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    if a.spec == b.spec && same_meta(a, b) {
        return true;
    }
    let canonical = |t: &PodTemplateSpec| {
        let mut value = serde_json::to_value(t).unwrap_or_default();
        if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
        prune(&mut value);
        value
    };
    canonical(a) == canonical(b)
}

fn same_meta(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let labels = |t: &PodTemplateSpec| -> Vec<(String, String)> {
        let all = t.metadata.iter().flat_map(|m| m.labels.iter().flatten());
        all.filter(|(k, _)| *k != HASH_LABEL).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let annotations = |t: &PodTemplateSpec| t.metadata.as_ref().and_then(|m| m.annotations.clone()).unwrap_or_default();
    let finalizers = |t: &PodTemplateSpec| t.metadata.as_ref().and_then(|m| m.finalizers.clone()).unwrap_or_default();
    labels(a) == labels(b) && annotations(a) == annotations(b) && finalizers(a) == finalizers(b)
}

/// The revision number in an annotation map, zero when there is none.
pub(crate) fn revision(annotations: Option<&Labels>) -> i64 {
    annotations.and_then(|a| a.get(REVISION)).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The number in annotation `key`.
pub(crate) fn number(annotations: Option<&Labels>, key: &str) -> Option<i32> {
    annotations.and_then(|a| a.get(key)).and_then(|v| v.parse().ok())
}

/// Brings the annotations of `rs`, the Deployment's newest ReplicaSet, up to date; says whether anything changed.
pub(crate) fn annotate(d: &Deployment, rs: &mut ReplicaSet, newest: i64, exists: bool, surge: i32) -> bool {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !NOT_INHERITED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number: i64 = old.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    if old_number < newest {
        annotations.insert(REVISION.to_owned(), newest.to_string());
        changed = true;
        if let Some(old) = old.filter(|_| old_number > 0) {
            append_history(annotations, &old);
        }
    }
    if !exists {
        changed |= set_size(annotations, d.spec.replicas.unwrap_or(1), surge);
    }
    changed
}

fn append_history(annotations: &mut Labels, old: &str) {
    let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(old);
    while history.len() > HISTORY_BYTES_MAX {
        let Some(comma) = history.find(',') else { return };
        history.drain(..=comma);
    }
}

/// Notes the Deployment's size in a ReplicaSet's annotations; says whether anything changed.
pub(crate) fn set_size(annotations: &mut Labels, replicas: i32, surge: i32) -> bool {
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, replicas), (MAX_REPLICAS, replicas.saturating_add(surge))] {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        object(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}))
    }

    #[test]
    fn hashes_tell_templates_and_collisions_apart() {
        let (a, b) = (template("x:1"), template("x:2"));
        assert_eq!(template_hash(&a, None), template_hash(&template("x:1"), None));
        assert_ne!(template_hash(&a, None), template_hash(&b, None));
        assert_ne!(template_hash(&a, None), template_hash(&a, Some(1)));
        assert_eq!(template_hash(&a, None).len(), 10);
    }

    #[test]
    fn templates_are_compared_without_the_hash_and_voids() {
        let mut a = template("x");
        let b: PodTemplateSpec = object(json!({
            "metadata": {"labels": {"a": "b", "pod-template-hash": "h"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "x", "resources": {}}], "securityContext": {}},
        }));
        assert!(same_template(&a, &b));
        if let Some(spec) = &mut a.spec {
            spec.node_name = Some("n".into());
        }
        assert!(!same_template(&a, &b));
    }

    #[test]
    fn a_rollback_moves_the_old_revision_into_the_history() {
        let d: Deployment = object(json!({
            "metadata": {"annotations": {"team": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"replicas": 4, "selector": {}, "template": {}},
        }));
        let mut rs: ReplicaSet = object(json!({
            "metadata": {"annotations": {REVISION: "3", REVISION_HISTORY: "1"}}, "spec": {"selector": {}},
        }));
        assert!(annotate(&d, &mut rs, 5, true, 1));
        let annotations = rs.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations.get(REVISION).map(String::as_str), Some("5"));
        assert_eq!(annotations.get(REVISION_HISTORY).map(String::as_str), Some("1,3"));
        assert_eq!(annotations.get("team").map(String::as_str), Some("x"));
        assert_eq!(annotations.len(), 3);
        assert!(!annotate(&d, &mut rs, 5, true, 1), "a second time nothing changes");
    }
}
