//! Who owns an object: controller references, and which objects a controller may adopt or must let go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

/// The owner that controls the object, if one does.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Whether the object with uid `uid` controls this one.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    uid.is_some() && controller(meta).map(|o| o.uid.as_str()) == uid
}

/// The reference that makes `owner` the controller of what carries it.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do about an object that a controller may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the controller's, and its selector matches.
    Owned,
    /// Nobody's, and matches: take it.
    Adopt,
    /// The controller's, but its selector no longer matches: let it go.
    Release,
    /// None of the controller's business.
    Foreign,
}

/// Decides whether `object` is, becomes or ceases to be the property of `owner`.
///
/// An owner that is being deleted neither adopts nor releases, and an object that is being deleted is never adopted.
pub(crate) fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let dying = owner.deletion_timestamp.is_some();
    match controller(object) {
        Some(o) if Some(&o.uid) != owner.uid.as_ref() => Claim::Foreign,
        Some(_) if matches => Claim::Owned,
        Some(_) if dying => Claim::Foreign,
        Some(_) => Claim::Release,
        None if dying || !matches || object.deletion_timestamp.is_some() => Claim::Foreign,
        None if object.namespace != owner.namespace => Claim::Foreign,
        None => Claim::Adopt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pod, time};

    #[test]
    fn claims_follow_controller_references() {
        let mut owner =
            ObjectMeta { uid: Some("me".into()), namespace: Some("default".into()), ..ObjectMeta::default() };
        let mine = pod("a").owner("ReplicaSet", "rs", "me").build().metadata;
        let theirs = pod("b").owner("ReplicaSet", "other", "you").build().metadata;
        let orphan = pod("c").build().metadata;
        let dying = pod("d").deleted(5).build().metadata;
        let check = |owner: &ObjectMeta, rows: &[(&ObjectMeta, bool, Claim)]| {
            for (object, matches, want) in rows {
                assert_eq!(claim(owner, object, *matches), *want, "{:?} {matches}", object.name);
            }
        };
        check(
            &owner,
            &[
                (&mine, true, Claim::Owned),
                (&mine, false, Claim::Release),
                (&theirs, true, Claim::Foreign),
                (&orphan, true, Claim::Adopt),
                (&orphan, false, Claim::Foreign),
                (&dying, true, Claim::Foreign),
            ],
        );
        owner.deletion_timestamp = Some(time(3));
        check(&owner, &[(&mine, true, Claim::Owned), (&mine, false, Claim::Foreign), (&orphan, true, Claim::Foreign)]);
    }
}
