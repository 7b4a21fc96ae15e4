//! ControllerRevisions: the templates a DaemonSet or StatefulSet had, so that it can go back.

use std::sync::Arc;

use client::{Informer, Kind};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::control::{Error, Shared, Step, code};
use crate::deployment::template_hash;
use crate::owner;

/// Which revision a pod or a ControllerRevision is of.
pub(crate) const HASH: &str = "controller-revision-hash";

/// The revision of an owner's current template, and whether its name collided.
pub(crate) enum Current {
    /// It exists (now).
    Is(Arc<ControllerRevision>),
    /// Its name belongs to another: the owner must count one more collision and try again.
    Collision,
}

/// The hash in a revision's labels.
pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map(String::as_str).unwrap_or_default()
}

/// What a revision holds: a patch that brings the owner's template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

/// The revisions `owner` controls, the oldest first.
pub(crate) fn of<O: Kind>(all: &Informer<ControllerRevision>, owner: &O) -> Vec<Arc<ControllerRevision>> {
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let mut mine = all.list_in(namespace);
    mine.retain(|r| owner::is_controlled_by(&r.metadata, owner.meta().uid.as_deref()));
    mine.sort_by_key(|r| r.revision.unwrap_or(0));
    mine
}

/// The revision of `template`: found among `known`, made the newest if it is not, or created.
pub(crate) async fn current<O>(
    shared: &Shared,
    owner: &O,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    known: &[Arc<ControllerRevision>],
) -> Result<Current, Error>
where
    O: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let api = shared.api::<ControllerRevision>(namespace);
    let wanted = template_hash(template, collisions);
    let newest = known.last().and_then(|r| r.revision).unwrap_or(0);
    let data = data(template);
    if let Some(found) = known.iter().rev().find(|r| r.data.0 == data || hash(r) == wanted) {
        if found.revision.unwrap_or(0) == newest {
            return Ok(Current::Is(Arc::clone(found)));
        }
        let name = found.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(json!({"revision": newest + 1}));
        let moved = api.patch(name, &PatchParams::default(), &patch).await.step("update revision", name)?;
        return Ok(Current::Is(Arc::new(moved)));
    }
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(HASH.to_owned(), wanted.clone());
    let name = format!("{}-{wanted}", owner.meta().name.as_deref().unwrap_or_default());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![owner::reference(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(newest + 1),
    };
    match api.create(&PostParams::default(), &revision).await {
        Ok(made) => Ok(Current::Is(Arc::new(made))),
        Err(e) if code(&e) == 409 => {
            let existing = api.get(&name).await.step("read revision", &name)?;
            let mine = owner::is_controlled_by(&existing.metadata, owner.meta().uid.as_deref());
            Ok(if mine && existing.data == revision.data {
                Current::Is(Arc::new(existing))
            } else {
                Current::Collision
            })
        }
        Err(source) => Err(Error::Call { step: "create revision", name, source }),
    }
}

/// The revisions to delete: the oldest beyond `limit`, but none that is current or that pods still have.
fn surplus<'a>(known: &'a [Arc<ControllerRevision>], live: &[&str], limit: usize) -> Vec<&'a Arc<ControllerRevision>> {
    let idle: Vec<_> = known.iter().filter(|r| !live.contains(&hash(r))).collect();
    let count = idle.len().saturating_sub(limit);
    idle.into_iter().take(count).collect()
}

/// Deletes revisions beyond the limit. `live` are the hashes of the current revision and of all pods.
pub(crate) async fn prune(
    shared: &Shared,
    known: &[Arc<ControllerRevision>],
    live: &[&str],
    limit: Option<i32>,
) -> Result<(), Error> {
    for revision in surplus(known, live, usize::try_from(limit.unwrap_or(10)).unwrap_or(0)) {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let api = shared.api::<ControllerRevision>(revision.metadata.namespace.as_deref().unwrap_or_default());
        api.delete(name, &DeleteParams::default()).await.unless_gone("delete revision", name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn old_idle_revisions_go() {
        let revision = |n: i64| {
            let hash = format!("h{n}");
            Arc::new(object::<ControllerRevision>(
                json!({"metadata": {"name": hash, "labels": {HASH: hash}}, "revision": n}),
            ))
        };
        let known: Vec<_> = (1..=5).map(revision).collect();
        let names =
            |limit| surplus(&known, &["h1", "h5"], limit).iter().map(|r| hash(r).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(1), ["h2", "h3"]);
        assert_eq!(names(3), [""; 0]);
        assert_eq!(names(0), ["h2", "h3", "h4"]);
    }
}
