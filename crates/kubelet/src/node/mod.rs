//! The node's own object: registered at once, its status written when it changes, its lease renewed.

mod capacity;
mod lease;
mod object;

pub use capacity::Capacity;
pub use lease::run as renew_lease;

use crate::context::Shared;
use crate::view::now_ns;
use client::EventType;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;
use tokio::sync::broadcast;

/// The status is written so often though nothing changed.
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// After a failure.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);
/// Changes of the image list are gathered for so long.
const IMAGES_EVERY: Duration = Duration::from_secs(60);

/// Registers the node, and keeps its status as it is until the kubelet ends.
pub async fn run(context: Shared) {
    let api = Api::<Node>::all(context.config.client.clone());
    let mut cidr_given = None;
    // Before the node is there, so that no change of it is missed.
    let mut changes = context.node.subscribe();
    let Some(mut current) = register(&context, &api).await else { return };
    if is_ready(&current) {
        tell_ready(&context);
    }
    context.node_event(EventType::Normal, "Starting", "Starting kubelet.");
    let mut report = tokio::time::interval(REPORT_EVERY);
    let mut images = tokio::time::interval(IMAGES_EVERY);
    report.tick().await;
    images.tick().await;
    loop {
        if give_cidr(&context, &current, &mut cidr_given).await {
            // The network is ready from now on: nobody shall wait for the next report to know.
            report_status(&context, &api, &mut current, false).await;
        }
        let forced = tokio::select! {
            () = context.token.cancelled() => return,
            change = changes.recv() => match change {
                Ok(client::Delta::Deleted(_)) => {
                    let Some(node) = register(&context, &api).await else { return };
                    current = node;
                    continue;
                }
                Ok(delta) => {
                    current = (**delta.object()).clone();
                    continue;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = report.tick() => true,
            _ = images.tick() => false,
        };
        report_status(&context, &api, &mut current, forced).await;
    }
}

/// Writes the status when it differs from the one last written, or when it must be.
async fn report_status(context: &Shared, api: &Api<Node>, current: &mut Node, forced: bool) {
    let status = object::status(context, current.status.as_ref(), now_ns()).await;
    if (forced || differs(current.status.as_ref(), &status))
        && let Some(node) = write(context, api, status).await
    {
        if is_ready(&node) && !is_ready(current) {
            tell_ready(context);
        }
        *current = node;
    }
}

fn tell_ready(context: &Shared) {
    let text = format!("Node {} status is now: NodeReady", context.config.node_name);
    context.node_event(EventType::Normal, "NodeReady", text);
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Whether more changed than the time of the heartbeat.
fn differs(old: Option<&NodeStatus>, new: &NodeStatus) -> bool {
    let timeless = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        (s.conditions, s.images, s.capacity, s.allocatable, s.addresses, s.node_info)
    };
    old.is_none_or(|old| timeless(old) != timeless(new))
}

async fn write(context: &Shared, api: &Api<Node>, status: NodeStatus) -> Option<Node> {
    let name = &context.config.node_name;
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(json!({"status": status}))).await {
        Ok(node) => Some(node),
        Err(error) => {
            tracing::warn!(%error, "the status of the node could not be written; it is tried again");
            None
        }
    }
}

/// Makes the node's object, or takes over the one there is; tries until it works. None when the kubelet ends first.
async fn register(context: &Shared, api: &Api<Node>) -> Option<Node> {
    let mut wait = RETRY;
    loop {
        match try_register(context, api).await {
            Ok(node) => return Some(node),
            Err(error) => tracing::warn!(%error, "the node could not be registered yet"),
        }
        tokio::select! {
            () = context.token.cancelled() => return None,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn try_register(context: &Shared, api: &Api<Node>) -> Result<Node, kube::Error> {
    let name = &context.config.node_name;
    let node = object::node(context, now_ns()).await;
    match api.create(&PostParams::default(), &node).await {
        Ok(made) if made.status.as_ref().is_some_and(|s| s.conditions.is_some()) => return Ok(made),
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let old = api.get(name).await?;
            if old.metadata.labels.as_ref().is_none_or(|l| !contains(l, node.metadata.labels.as_ref())) {
                let labels = json!({"metadata": {"labels": node.metadata.labels}});
                api.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await?;
            }
            rebooted(context, &old, node.status.as_ref());
        }
        Err(error) => return Err(error),
    }
    let old = api.get(name).await?;
    let status = object::status(context, old.status.as_ref(), now_ns()).await;
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(json!({"status": status}))).await
}

fn contains(
    all: &std::collections::BTreeMap<String, String>,
    some: Option<&std::collections::BTreeMap<String, String>>,
) -> bool {
    some.into_iter().flatten().all(|(k, v)| all.get(k) == Some(v))
}

fn rebooted(context: &Shared, old: &Node, new: Option<&NodeStatus>) {
    let boot =
        |s: Option<&NodeStatus>| s.and_then(|s| s.node_info.as_ref()).map(|i| i.boot_id.clone()).unwrap_or_default();
    let (before, now) = (boot(old.status.as_ref()), boot(new));
    if !before.is_empty() && before != now {
        let text = format!("Node {} has been rebooted, boot id: {now}", context.config.node_name);
        context.node_event(EventType::Warning, "Rebooted", text);
    }
}

/// Tells the runtime the pod range, once; true when it was told now.
async fn give_cidr(context: &Shared, node: &Node, given: &mut Option<String>) -> bool {
    let cidr = node.spec.as_ref().and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty());
    if cidr.is_none() || cidr == *given {
        return false;
    }
    match context.runtime().update_pod_cidr(cidr.as_deref().unwrap_or_default()).await {
        Ok(()) => {
            *given = cidr;
            true
        }
        Err(error) => {
            tracing::error!(%error, "the runtime did not take the pod range of the node");
            false
        }
    }
}
