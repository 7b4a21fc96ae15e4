//! Taking and letting go of objects: the writes behind [`crate::owner::claim`].

use std::sync::Arc;

use client::{Informer, Kind};
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::control::{Error, Shared, Step, code};
use crate::owner::{self, Claim};

/// The objects that `owner` controls after it has adopted and released what it should. Objects of other controllers are not
/// looked at.
///
/// Before it adopts, the owner is read from the API itself: a cache may show one that is gone already.
pub(crate) async fn claim_all<O, K>(
    shared: &Shared,
    owner: &O,
    all: &Informer<K>,
    matches: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Kind + Resource<Scope = NamespaceResourceScope>,
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let mut owned = Vec::new();
    let mut checked = false;
    let mine = all.controlled(namespace, owner.meta().uid.as_deref().unwrap_or_default());
    for object in mine.into_iter().chain(all.controlled(namespace, "")) {
        match owner::claim(owner.meta(), object.meta(), matches(&object)) {
            Claim::Foreign => {}
            Claim::Owned => owned.push(object),
            Claim::Release => release(shared, owner, &*object).await?,
            Claim::Adopt => {
                if !checked {
                    check_alive(shared, owner).await?;
                    checked = true;
                }
                owned.extend(adopt(shared, owner, &*object).await?.map(Arc::new));
            }
        }
    }
    Ok(owned)
}

async fn check_alive<O: Kind + Resource<Scope = NamespaceResourceScope>>(
    shared: &Shared,
    owner: &O,
) -> Result<(), Error> {
    let name = owner.meta().name.as_deref().unwrap_or_default();
    let api = shared.api::<O>(owner.meta().namespace.as_deref().unwrap_or_default());
    let live = api.get_metadata_opt(name).await.step("read the owner", name)?;
    match live {
        Some(live) if live.metadata.uid == owner.meta().uid && live.metadata.deletion_timestamp.is_none() => Ok(()),
        _ => Err(Error::Unusable(format!("{name} is gone or going, it adopts nothing"))),
    }
}

async fn adopt<O, K>(shared: &Shared, owner: &O, object: &K) -> Result<Option<K>, Error>
where
    O: Resource<DynamicType = ()>,
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let (meta, reference) = (object.meta(), owner::reference(owner));
    let patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": [reference]}});
    write(shared, object, patch, "adopt").await
}

async fn release<O, K>(shared: &Shared, owner: &O, object: &K) -> Result<(), Error>
where
    O: Resource<DynamicType = ()>,
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let owner = json!({"$patch": "delete", "uid": owner.meta().uid});
    let patch = json!({"metadata": {"uid": object.meta().uid, "ownerReferences": [owner]}});
    write(shared, object, patch, "release").await.map(drop)
}

/// Patches the object; `None` when it is gone, or another with its name took its place.
async fn write<K>(shared: &Shared, object: &K, patch: serde_json::Value, step: &'static str) -> Result<Option<K>, Error>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    let api = shared.api::<K>(object.meta().namespace.as_deref().unwrap_or_default());
    match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(e) if matches!(code(&e), 404 | 409 | 422) => Ok(None),
        other => other.step(step, name).map(Some),
    }
}
