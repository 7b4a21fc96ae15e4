//! APIServices of what this server serves itself: one for each version of a built-in group, and of each custom resource's.

use crate::meta;
use crate::storage::{EventType, KindStore, WatchEvent};
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// Says who keeps an APIService: `onstart` for built-in groups (users may change them), `true` for those of custom resources.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Priorities of the groups of custom resources.
pub(super) const CUSTOM: (i64, i64) = (1000, 100);

/// Upstream's priorities of built-in group versions: of the group, and of the version in it. Discovery is ordered by them.
const BUILTIN: [(&str, &str, i64, i64); 22] = [
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v2", 17500, 30),
    ("autoscaling", "v1", 17500, 15),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
    ("storagemigration.k8s.io", "v1", 15800, 15),
];

/// The priority of a built-in group.
pub(super) fn priority(group: &str) -> Option<i64> {
    // The aggregator's own group comes before all others and has no APIService.
    let own = (group == "apiregistration.k8s.io").then_some(i64::MAX);
    own.or_else(|| BUILTIN.iter().find(|known| known.0 == group).map(|known| known.2))
}

/// The condition of what is served here.
pub(super) fn available() -> Value {
    json!({
        "type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
        "lastTransitionTime": machinery::time::now(),
    })
}

fn object(group: &str, version: &str, (group_priority, version_priority): (i64, i64), managed: &str) -> Value {
    let mut spec =
        json!({"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "metadata": {"name": format!("{version}.{group}"), "labels": {AUTOMANAGED: managed}},
        "spec": spec, "status": {"conditions": [available()]},
    })
}

/// Makes the APIServices of built-in groups that are missing.
pub(super) async fn register_builtin(services: &KindStore) -> Result<(), Status> {
    let all = BUILTIN
        .iter()
        .map(|(group, version, of_group, of_version)| object(group, version, (*of_group, *of_version), "onstart"));
    let made = all.filter(|object| services.get("", meta::name(object)).is_none()).map(|object| make(services, object));
    futures::future::try_join_all(made).await.map(drop)
}

async fn make(services: &KindStore, object: Value) -> Result<(), Status> {
    match services.create(object).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

/// Brings the APIServices of a custom resource's versions to what a change of its definition wants.
pub(super) async fn follow(services: &KindStore, definitions: &KindStore, event: &WatchEvent) -> Result<(), Status> {
    let definition = event.entry.value();
    let gone = event.kind == EventType::Deleted;
    let group = meta::text_at(&definition, &["spec", "group"]).to_owned();
    for (version, served) in versions(&definition) {
        if !gone && served {
            register(services, &group, &version).await?;
        } else if !is_served(definitions, &group, &version) {
            forget(services, &format!("{version}.{group}")).await?;
        }
    }
    Ok(())
}

/// Makes an APIService of a custom resource's version, unless there is one.
pub(super) async fn register(services: &KindStore, group: &str, version: &str) -> Result<(), Status> {
    match services.get("", &format!("{version}.{group}")) {
        Some(_) => Ok(()),
        None => make(services, object(group, version, CUSTOM, "true")).await,
    }
}

async fn forget(services: &KindStore, name: &str) -> Result<(), Status> {
    let ours = services.get("", name).is_some_and(|entry| entry.label(AUTOMANAGED) == Some("true"));
    if !ours {
        return Ok(());
    }
    match services.delete("", name, &crate::storage::Preconditions::default()).await {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}

/// The versions of a definition, with whether they are served.
pub(super) fn versions(definition: &Value) -> Vec<(String, bool)> {
    let versions = meta::at(definition, &["spec", "versions"]).and_then(Value::as_array).into_iter().flatten();
    let one =
        |version: &Value| (meta::text_at(version, &["name"]).to_owned(), version["served"].as_bool().unwrap_or(false));
    versions.map(one).collect()
}

/// Whether some definition of the group serves a version. Names end with their group, so only these are read.
fn is_served(definitions: &KindStore, group: &str, version: &str) -> bool {
    let suffix = format!(".{group}");
    let same: Vec<Arc<_>> =
        definitions.list(None).into_iter().filter(|entry| entry.name().ends_with(&suffix)).collect();
    same.iter().any(|entry| versions(&entry.value()).iter().any(|(name, served)| *served && name == version))
}
