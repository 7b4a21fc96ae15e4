//! Builders for the tests of the scheduler.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use serde_json::{Value, json};

use crate::view::ClusterView;

/// Parses any object from JSON.
pub(crate) fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a test's object is well formed")
}

/// A pod's spec.
pub(crate) fn spec(value: Value) -> PodSpec {
    object(value)
}

/// A pod in `default` with the given labels and spec (which gets one container if it has none).
pub(crate) fn pod(name: &str, labels: Value, mut spec: Value) -> Pod {
    let containers = json!([{"name": "c", "image": "img"}]);
    spec.as_object_mut().expect("a spec is a map").entry("containers").or_insert(containers);
    object(json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec}))
}

/// A node with two processors, 4 GiB and 110 places, whose spec and labels are given.
pub(crate) fn node(name: &str, labels: Value, spec: Value) -> Node {
    let mut labels = labels;
    labels.as_object_mut().expect("labels are a map").insert("kubernetes.io/hostname".into(), json!(name));
    object(json!({
        "metadata": {"name": name, "labels": labels}, "spec": spec,
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110", "ephemeral-storage": "10Gi"}},
    }))
}

/// A view of nodes and of pods that run on them.
pub(crate) fn view(nodes: &[Node], pods: &[Pod]) -> ClusterView {
    let mut view = ClusterView::default();
    nodes.iter().for_each(|n| {
        view.set_node(n);
    });
    pods.iter().for_each(|p| view.set_pod(p));
    view
}
