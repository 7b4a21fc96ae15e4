//! Who owns whom, as far as deleting needs it.
//!
//! An object is remembered by its uid (about 50 bytes); only one that has owners is remembered whole (about 400 bytes).
//! The graph is changed by events and read by the workers; it never decides alone: what it suspects to be garbage is
//! checked against the API before anything is deleted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::discover::Resource;

/// Keeps an object until all its blocking dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an object until its dependents have been set free.
pub(super) const ORPHAN: &str = "orphan";

/// An object that has owners, or that waits for its dependents.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) resource: Arc<Resource>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) owners: Vec<OwnerReference>,
    /// Deletion was asked for.
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl Object {
    fn of(resource: &Arc<Resource>, meta: &ObjectMeta) -> Object {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        Object {
            resource: Arc::clone(resource),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// It is being deleted and waits for its dependents to go, or to be set free.
    pub(super) fn waits(&self) -> bool {
        self.deleting && (self.foreground || self.orphan)
    }
}

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Uids of all objects that exist, with the resource they are of.
    known: HashMap<String, u16>,
    resources: Vec<Arc<Resource>>,
    objects: HashMap<String, Object>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// Takes over an object as it is now; gives the uids that must be looked at.
    ///
    /// `settled` says that all resources have been listed: before that, an owner that is not known may just not be listed yet.
    pub(super) fn set(&mut self, resource: &Arc<Resource>, meta: &ObjectMeta, settled: bool) -> Vec<String> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let index = self.index(resource);
        self.known.insert(uid.clone(), index);
        let object = Object::of(resource, meta);
        let before = self.objects.remove(&uid);
        for owner in before.iter().flat_map(|o| &o.owners) {
            self.unlink(&owner.uid, &uid);
        }
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let mut look = Vec::new();
        let owners_changed = before.as_ref().is_none_or(|b| b.owners != object.owners);
        let orphaned = object.owners.iter().any(|o| !self.known.contains_key(&o.uid));
        let owner_waits = object.owners.iter().any(|o| self.objects.get(&o.uid).is_some_and(Object::waits));
        if settled && owners_changed && (orphaned || owner_waits) {
            look.push(uid.clone());
        }
        // An owner in the foreground waits only for dependents that block it: that may just have changed.
        let released =
            before.iter().flat_map(|b| &b.owners).filter(|o| self.objects.get(&o.uid).is_some_and(Object::waits));
        look.extend(released.map(|o| o.uid.clone()));
        let waits = object.waits();
        if waits && !before.as_ref().is_some_and(Object::waits) {
            look.push(uid.clone());
        }
        if waits || !object.owners.is_empty() {
            self.objects.insert(uid, object);
        }
        look
    }

    /// The object is gone; gives the uids that must be looked at: its dependents, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.known.remove(uid);
        let mut look: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(object) = self.objects.remove(uid) {
            for owner in object.owners {
                self.unlink(&owner.uid, uid);
                if self.objects.get(&owner.uid).is_some_and(Object::waits) {
                    look.push(owner.uid);
                }
            }
        }
        look
    }

    /// A new list of `resource` was read: what is not in it is gone.
    pub(super) fn retain(&mut self, resource: &Arc<Resource>, listed: &HashSet<String>) -> Vec<String> {
        let index = self.index(resource);
        let gone = self.known.iter().filter(|(uid, i)| **i == index && !listed.contains(*uid));
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// All objects with an owner that is not known or that waits, and all that wait: what to look at when all is listed.
    pub(super) fn suspects(&self) -> Vec<String> {
        let suspect = |o: &Object| {
            let bad = |r: &OwnerReference| {
                !self.known.contains_key(&r.uid) || self.objects.get(&r.uid).is_some_and(Object::waits)
            };
            o.waits() || o.owners.iter().any(bad)
        };
        self.objects.iter().filter(|(_, o)| suspect(o)).map(|(uid, _)| uid.clone()).collect()
    }

    /// An object that has owners or waits.
    pub(super) fn get(&self, uid: &str) -> Option<Object> {
        self.objects.get(uid).cloned()
    }

    /// Whether an object with this uid exists, as far as the watches have shown.
    pub(super) fn knows(&self, uid: &str) -> bool {
        self.known.contains_key(uid)
    }

    /// The owner with this uid is being deleted in the foreground.
    pub(super) fn is_waiting(&self, uid: &str) -> bool {
        self.objects.get(uid).is_some_and(|o| o.deleting && o.foreground)
    }

    /// The dependents of an object.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Object)> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter_map(|d| Some((d.clone(), self.objects.get(d)?.clone()))).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn index(&mut self, resource: &Arc<Resource>) -> u16 {
        let position = self.resources.iter().position(|r| r.api == resource.api);
        let index = position.unwrap_or_else(|| {
            self.resources.push(Arc::clone(resource));
            self.resources.len() - 1
        });
        u16::try_from(index).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, resource};
    use serde_json::{Value, json};

    fn meta(uid: &str, owners: &[&str], extra: Value) -> ObjectMeta {
        let owners: Vec<Value> =
            owners.iter().map(|o| json!({"apiVersion": "v1", "kind": "K", "name": o, "uid": o})).collect();
        let mut all = json!({"name": uid, "namespace": "a", "uid": uid, "ownerReferences": owners});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object(all)
    }

    #[test]
    fn dependents_are_looked_at_when_an_owner_goes() {
        let (mut g, r) = (Graph::default(), resource("pods"));
        assert_eq!(g.set(&r, &meta("rs", &[], json!({})), true), [""; 0]);
        assert_eq!(g.set(&r, &meta("pod", &["rs"], json!({})), true), [""; 0], "its owner exists");
        assert_eq!(g.set(&r, &meta("lost", &["none"], json!({})), true), ["lost"], "its owner does not");
        assert_eq!(g.set(&r, &meta("early", &["none"], json!({})), false), [""; 0], "its owner may be listed later");
        assert_eq!(g.remove("rs"), ["pod"]);
        let mut suspects = g.suspects();
        suspects.sort();
        assert_eq!(suspects, ["early", "lost", "pod"]);
        assert_eq!(g.remove("pod"), [""; 0]);
        assert!(g.dependents("rs").is_empty());
    }

    #[test]
    fn a_waiting_owner_is_looked_at_when_dependents_go() {
        let (mut g, r) = (Graph::default(), resource("pods"));
        g.set(&r, &meta("rs", &[], json!({})), true);
        g.set(&r, &meta("pod", &["rs"], json!({})), true);
        let deleting = json!({"deletionTimestamp": "1970-01-01T00:00:01Z", "finalizers": [FOREGROUND]});
        assert_eq!(g.set(&r, &meta("rs", &[], deleting.clone()), true), ["rs"]);
        assert_eq!(g.set(&r, &meta("rs", &[], deleting), true), [""; 0], "once is enough");
        assert!(g.is_waiting("rs"));
        assert_eq!(
            g.set(&r, &meta("late", &["rs"], json!({})), true),
            ["late"],
            "a dependent that comes late goes too"
        );
        assert_eq!(g.remove("pod"), ["rs"]);
        assert_eq!(g.set(&r, &meta("late", &[], json!({})), true), ["rs"], "a dependent was set free");
    }

    #[test]
    fn a_new_list_shows_what_is_gone() {
        let (mut g, pods, sets) = (Graph::default(), resource("pods"), resource("sets"));
        g.set(&sets, &meta("rs", &[], json!({})), true);
        g.set(&pods, &meta("a", &["rs"], json!({})), true);
        assert_eq!(g.retain(&pods, &HashSet::from(["a".to_owned()])), [""; 0]);
        assert_eq!(g.retain(&sets, &HashSet::new()), ["a"]);
        assert!(!g.knows("rs") && g.knows("a"));
    }
}
