//! What happens to one object that may be garbage.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::json;

use super::Collector;
use super::graph::{FOREGROUND, ORPHAN, Object};
use crate::control::{Error, Step, code};
use crate::discover::Resource;

/// What has become of an object's owners.
#[derive(Debug, Default, PartialEq)]
struct Owners {
    /// They exist: the object stays.
    solid: Vec<OwnerReference>,
    /// They do not exist.
    absent: Vec<String>,
    /// They exist only until their dependents are gone.
    waiting: Vec<String>,
}

/// What to do about an object, from the state of its owners.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Take these references off; others hold it.
    Detach(Vec<String>),
    Delete(PropagationPolicy),
}

/// Decides about an object with these finalizers; `has_dependents` matters only when an owner waits for it.
fn judge(owners: &Owners, finalizers: &[String], has_dependents: bool) -> Verdict {
    if !owners.solid.is_empty() {
        let loose: Vec<String> = owners.absent.iter().chain(&owners.waiting).cloned().collect();
        return if loose.is_empty() { Verdict::Keep } else { Verdict::Detach(loose) };
    }
    if !owners.waiting.is_empty() && has_dependents {
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    Verdict::Delete(match () {
        () if has(ORPHAN) => PropagationPolicy::Orphan,
        () if has(FOREGROUND) => PropagationPolicy::Foreground,
        () => PropagationPolicy::Background,
    })
}

/// Whether an object that an owner waits for would itself wait for one that is waiting already.
fn is_circle(owners: &Owners, dependents: &[(String, Object)]) -> bool {
    !owners.waiting.is_empty() && dependents.iter().any(|(_, dependent)| dependent.deleting && dependent.foreground)
}

impl Collector {
    /// Looks at the object with this uid, and does what must be done.
    pub(super) async fn collect(&self, uid: &str) -> Result<(), Error> {
        let Some(object) = self.graph.lock().get(uid) else { return Ok(()) };
        if object.deleting {
            return match () {
                () if object.orphan => self.set_free(uid, &object).await,
                () if object.foreground => self.go_on(uid, &object).await,
                () => Ok(()),
            };
        }
        let Some(live) = self.live(&object).await?.filter(|m| m.uid.as_deref() == Some(uid)) else {
            let look = self.graph.lock().remove(uid);
            look.into_iter().for_each(|uid| self.queue.add(uid));
            return Ok(());
        };
        let references = live.owner_references.clone().unwrap_or_default();
        if live.deletion_timestamp.is_some() || references.is_empty() {
            return Ok(());
        }
        let owners = self.classify(&object, references).await?;
        let dependents = self.graph.lock().dependents(uid);
        match judge(&owners, live.finalizers.as_deref().unwrap_or_default(), !dependents.is_empty()) {
            Verdict::Keep => Ok(()),
            Verdict::Detach(owners) => self.detach(uid, &object, &owners).await,
            Verdict::Delete(PropagationPolicy::Foreground) if is_circle(&owners, &dependents) => {
                // Everybody in a circle would wait for the next: this one stops blocking its owners.
                self.unblock(uid, &object, &live).await?;
                let Some(live) = self.live(&object).await? else { return Ok(()) };
                self.delete(&object, &live, PropagationPolicy::Foreground).await
            }
            Verdict::Delete(policy) => self.delete(&object, &live, policy).await,
        }
    }

    /// Owners need no longer wait for the object.
    async fn unblock(&self, uid: &str, object: &Object, live: &ObjectMeta) -> Result<(), Error> {
        let mut references = live.owner_references.clone().unwrap_or_default();
        references.iter_mut().for_each(|reference| reference.block_owner_deletion = Some(false));
        let patch =
            json!({"metadata": {"uid": uid, "resourceVersion": live.resource_version, "ownerReferences": references}});
        self.patch(object, patch).await
    }

    /// The object's metadata as the API has it.
    async fn live(&self, object: &Object) -> Result<Option<ObjectMeta>, Error> {
        let api = object.resource.objects(&self.client, &object.namespace);
        let read = api.get_metadata_opt(&object.name).await.step("read", &object.name)?;
        Ok(read.map(|m| m.metadata))
    }

    async fn classify(&self, object: &Object, references: Vec<OwnerReference>) -> Result<Owners, Error> {
        let mut owners = Owners::default();
        for reference in references {
            let (known, waiting) = {
                let graph = self.graph.lock();
                (graph.knows(&reference.uid), graph.is_waiting(&reference.uid))
            };
            let state = if known { Some(waiting) } else { self.owner(object, &reference).await? };
            match state {
                Some(true) if reference.block_owner_deletion == Some(true) => owners.waiting.push(reference.uid),
                Some(_) => owners.solid.push(reference),
                None => owners.absent.push(reference.uid),
            }
        }
        Ok(owners)
    }

    /// Asks the API for an owner: absent, or there (and then, whether it is only waiting for its dependents).
    async fn owner(&self, object: &Object, reference: &OwnerReference) -> Result<Option<bool>, Error> {
        let Some(resource) = self.resource_of(reference) else {
            // An unknown kind may be served again: never delete on that ground.
            let kind = format!("{} {}", reference.api_version, reference.kind);
            return Err(Error::NotYet(format!("the kind {kind} of an owner to be served")));
        };
        if resource.namespaced && object.namespace.is_empty() {
            tracing::debug!(
                object = object.name,
                owner = reference.name,
                "an object of the cluster cannot be owned by one of a namespace"
            );
            return Ok(Some(false));
        }
        let api = resource.objects(&self.client, &object.namespace);
        let read = api.get_metadata_opt(&reference.name).await.step("read the owner", &reference.name)?;
        let meta = read.map(|m| m.metadata).filter(|m| m.uid.as_ref() == Some(&reference.uid));
        Ok(meta.map(|m| m.deletion_timestamp.is_some() && m.finalizers.iter().flatten().any(|f| f == FOREGROUND)))
    }

    fn resource_of(&self, reference: &OwnerReference) -> Option<Arc<Resource>> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let all = self.resources.lock();
        all.values().find(|r| r.api.group == group && r.api.kind == reference.kind).cloned()
    }

    async fn delete(&self, object: &Object, live: &ObjectMeta, policy: PropagationPolicy) -> Result<(), Error> {
        let api = object.resource.objects(&self.client, &object.namespace);
        let how = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: live.uid.clone(),
                resource_version: live.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        tracing::debug!(
            resource = object.resource.name(),
            namespace = object.namespace,
            name = object.name,
            "collecting garbage"
        );
        api.delete(&object.name, &how).await.unless_gone("delete", &object.name).map(drop)
    }

    /// Takes owners off an object, unless it is another by now.
    async fn detach(&self, uid: &str, object: &Object, owners: &[String]) -> Result<(), Error> {
        let Some(live) = self.live(object).await?.filter(|m| m.uid.as_deref() == Some(uid)) else { return Ok(()) };
        let mut references = live.owner_references.unwrap_or_default();
        references.retain(|r| !owners.contains(&r.uid));
        let patch =
            json!({"metadata": {"uid": uid, "resourceVersion": live.resource_version, "ownerReferences": references}});
        self.patch(object, patch).await
    }

    async fn drop_finalizer(&self, uid: &str, object: &Object, finalizer: &str) -> Result<(), Error> {
        let Some(live) = self.live(object).await?.filter(|m| m.uid.as_deref() == Some(uid)) else { return Ok(()) };
        let mut finalizers = live.finalizers.unwrap_or_default();
        finalizers.retain(|f| f != finalizer);
        let patch =
            json!({"metadata": {"uid": uid, "resourceVersion": live.resource_version, "finalizers": finalizers}});
        self.patch(object, patch).await
    }

    async fn patch(&self, object: &Object, patch: serde_json::Value) -> Result<(), Error> {
        let api = object.resource.objects(&self.client, &object.namespace);
        let patched = api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.unless_gone("patch", &object.name).map(drop)
    }

    /// An object deleted with `Orphan`: its dependents lose it as an owner, then it may go.
    async fn set_free(&self, uid: &str, object: &Object) -> Result<(), Error> {
        let dependents = self.graph.lock().dependents(uid);
        let owners = [uid.to_owned()];
        let freed = dependents.iter().map(|(dependent, d)| self.detach(dependent, d, &owners));
        futures::future::join_all(freed).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        self.drop_finalizer(uid, object, ORPHAN).await
    }

    /// An object deleted in the foreground: when no dependent blocks it any more it may go, until then they are deleted.
    async fn go_on(&self, uid: &str, object: &Object) -> Result<(), Error> {
        let dependents = self.graph.lock().dependents(uid);
        let blocks = |d: &Object| d.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
        let blocking: Vec<_> = dependents.iter().filter(|(_, d)| blocks(d)).collect();
        if blocking.is_empty() {
            return match self.drop_finalizer(uid, object, FOREGROUND).await {
                Err(Error::Call { source, .. }) if code(&source) == 404 => Ok(()),
                other => other,
            };
        }
        blocking.iter().filter(|(_, d)| !d.deleting).for_each(|(dependent, _)| self.queue.add(dependent.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use crate::testing::resource;

    #[test]
    fn owners_decide() {
        let solid = || vec![object(json!({"apiVersion": "v1", "kind": "K", "name": "s", "uid": "s"}))];
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let owners =
            |solid, absent: &[&str], waiting: &[&str]| Owners { solid, absent: list(absent), waiting: list(waiting) };
        let rows = [
            (owners(solid(), &[], &[]), vec![], false, Verdict::Keep),
            (owners(solid(), &["a"], &["w"]), vec![], false, Verdict::Detach(list(&["a", "w"]))),
            (owners(vec![], &["a"], &[]), vec![], true, Verdict::Delete(PropagationPolicy::Background)),
            (owners(vec![], &["a"], &[]), list(&[ORPHAN]), true, Verdict::Delete(PropagationPolicy::Orphan)),
            (owners(vec![], &["a"], &[]), list(&[FOREGROUND]), true, Verdict::Delete(PropagationPolicy::Foreground)),
            (owners(vec![], &[], &["w"]), vec![], true, Verdict::Delete(PropagationPolicy::Foreground)),
            (owners(vec![], &[], &["w"]), vec![], false, Verdict::Delete(PropagationPolicy::Background)),
        ];
        for (owners, finalizers, dependents, want) in rows {
            assert_eq!(judge(&owners, &finalizers, dependents), want, "{owners:?}");
        }
    }

    #[test]
    fn a_circle_is_one_when_the_next_waits_already() {
        let dependent = |deleting, foreground| {
            let object = Object {
                resource: resource("pods"),
                namespace: "a".into(),
                name: "d".into(),
                owners: Vec::new(),
                deleting,
                foreground,
                orphan: false,
            };
            ("d".to_owned(), object)
        };
        let waiting = Owners { waiting: vec!["w".to_owned()], ..Owners::default() };
        assert!(is_circle(&waiting, &[dependent(false, false), dependent(true, true)]));
        assert!(!is_circle(&waiting, &[dependent(true, false), dependent(false, false)]));
        assert!(!is_circle(&Owners::default(), &[dependent(true, true)]));
    }
}
