//! Decisions become calls to the API.

use std::sync::Arc;

use client::{Client, EventType, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use crate::preempt::Preemption;
use crate::view::Placed;

/// How a call ended.
pub(crate) enum Outcome {
    /// The API knows the pod's node.
    Bound { pod: Arc<Pod>, node: String },
    /// It refused.
    NotBound { pod: Arc<Pod>, error: String },
    /// The pod does not exist any more.
    Gone { uid: String },
    /// Nothing depends on it.
    Reported,
}

fn pods(client: &Client, namespace: Option<&str>) -> Api<Pod> {
    Api::namespaced(client.clone(), namespace.unwrap_or_default())
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Binds the pod to the node.
pub(crate) async fn bind(client: Client, pod: Arc<Pod>, node: String) -> Outcome {
    let meta = &pod.metadata;
    let binding = Binding {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            ..ObjectReference::default()
        },
    };
    let name = meta.name.as_deref().unwrap_or_default();
    let api = pods(&client, meta.namespace.as_deref());
    let bound: Result<Value, kube::Error> =
        api.create_subresource("binding", name, &PostParams::default(), &binding).await;
    match bound {
        Ok(_) => Outcome::Bound { pod, node },
        Err(e) if is_missing(&e) => Outcome::Gone { uid: meta.uid.clone().unwrap_or_default() },
        Err(kube::Error::Api(status)) => Outcome::NotBound { error: status.message.clone(), pod },
        Err(e) => Outcome::NotBound { error: e.to_string(), pod },
    }
}

/// Says in the pod's status why it has no node, and where room is being made for it. Writes only news.
pub(crate) async fn report(client: Client, pod: Arc<Pod>, message: String, nominated: Option<String>) -> Outcome {
    let status = pod.status.as_ref();
    let known = status.and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    let before = status.and_then(|s| s.nominated_node_name.clone());
    let same = known.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(message.as_str()));
    if same && (nominated.is_none() || nominated == before) {
        return Outcome::Reported;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| Time(Timestamp::now())),
        "observedGeneration": pod.metadata.generation,
    });
    let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    if let Some(node) = nominated {
        patch["status"]["nominatedNodeName"] = json!(node);
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api = pods(&client, pod.metadata.namespace.as_deref());
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(e) if !is_missing(&e) => {
            tracing::debug!(pod = client::key(&*pod), error = %e, "the status was not written")
        }
        _ => {}
    }
    Outcome::Reported
}

/// Evicts the victims.
pub(crate) async fn evict(client: Client, recorder: Recorder, pod: Arc<Pod>, preemption: Preemption) -> Outcome {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let ending = preemption.victims.iter().filter(|v| !v.terminating);
    futures::future::join_all(ending.map(|v| evict_one(&client, &recorder, uid, v, &preemption.node))).await;
    Outcome::Reported
}

async fn evict_one(client: &Client, recorder: &Recorder, by: &str, victim: &Placed, node: &str) {
    let api = pods(client, Some(&victim.namespace));
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
        "lastTransitionTime": Time(Timestamp::now()),
    });
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
    let marked = api.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    let exactly = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
    let deleted = api.delete(&victim.name, &DeleteParams::default().preconditions(exactly)).await;
    if let Some(error) = marked.err().or(deleted.err()).filter(|e| !is_missing(e)) {
        tracing::warn!(pod = victim.name, %error, "a pod was not evicted");
        return;
    }
    let of = ObjectReference {
        uid: Some(victim.uid.clone()),
        ..reference(&Pod {
            metadata: ObjectMeta {
                name: Some(victim.name.clone()),
                namespace: Some(victim.namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        })
    };
    recorder.event(&of, EventType::Normal, "Preempted", format!("Preempted by pod {by} on node {node}"));
}
