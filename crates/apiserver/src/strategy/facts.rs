//! The facts that most kinds differ by.

use super::Part;
use crate::meta;
use machinery::apply::Set;
use serde_json::{Value, json};

/// When `metadata.generation` goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The kind has none.
    None,
    /// With everything but metadata and status.
    Spec,
    /// With annotations too, since they are copied to dependents.
    SpecAndAnnotations,
    /// With labels and annotations too.
    SpecAndMetadata,
    /// With everything but metadata.
    Whole,
}

/// What is particular about a kind.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The status can only be written through its subresource.
    pub(crate) status: bool,
    /// A new object may have a status.
    status_on_create: bool,
    /// The status of a new object.
    pub(crate) empty_status: Value,
    /// When the generation goes up.
    pub(crate) generation: Generation,
    /// A PUT of an object that does not exist makes it.
    pub(crate) create_on_update: bool,
    /// A PUT without `resourceVersion` overwrites.
    pub(crate) unconditional_update: bool,
    /// A deletion answers with the object instead of a Status.
    pub(crate) returns_deleted: bool,
    /// Dependents outlive the object when the client does not say.
    pub(crate) orphans_by_default: bool,
    /// The status subresource cannot change metadata.
    pub(crate) status_keeps_metadata: bool,
    /// What else the main part cannot change.
    not_in_main: &'static [&'static [&'static str]],
    /// What else the status subresource cannot change.
    not_in_status: &'static [&'static [&'static str]],
}

impl Facts {
    /// The facts of a built-in kind.
    pub(crate) fn of(group: &str, resource: &str, status: bool) -> Facts {
        Facts {
            status,
            status_on_create: (group, resource) == ("", "nodes"),
            empty_status: json!({}),
            generation: generation(group, resource),
            create_on_update: creates_on_update(group, resource),
            unconditional_update: !matches!(
                (group, resource),
                ("admissionregistration.k8s.io" | "coordination.k8s.io" | "certificates.k8s.io", _)
                    | ("node.k8s.io", "runtimeclasses")
                    | ("policy", "poddisruptionbudgets")
                    | ("storagemigration.k8s.io", _)
                    | ("storage.k8s.io", "csidrivers" | "csistoragecapacities" | "volumeattachments" | "csinodes")
            ) || resource == "certificatesigningrequests",
            returns_deleted: returns_deleted(group, resource),
            orphans_by_default: matches!((group, resource), ("batch", "jobs") | ("", "replicationcontrollers")),
            status_keeps_metadata: matches!(
                (group, resource),
                (
                    "admissionregistration.k8s.io"
                        | "storagemigration.k8s.io"
                        | "resource.k8s.io"
                        | "apiextensions.k8s.io",
                    _
                ) | ("certificates.k8s.io", "podcertificaterequests")
                    | ("networking.k8s.io", "servicecidrs")
                    | ("storage.k8s.io", "csinodes" | "volumeattachments")
            ),
            not_in_main: match (group, resource) {
                ("certificates.k8s.io", "certificatesigningrequests") => &[&["spec"]],
                _ => &[],
            },
            not_in_status: match (group, resource) {
                ("apps", "deployments") => &[&["metadata", "labels"]],
                ("", "pods") => &[&["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
                ("certificates.k8s.io", "certificatesigningrequests") => &[&["status", "conditions"]],
                _ => &[],
            },
        }
    }

    /// The facts of a custom kind.
    pub(crate) fn custom(status: bool) -> Facts {
        Facts {
            status,
            status_on_create: false,
            empty_status: Value::Null,
            generation: Generation::Whole,
            create_on_update: false,
            unconditional_update: false,
            returns_deleted: false,
            orphans_by_default: false,
            status_keeps_metadata: true,
            not_in_main: &[],
            not_in_status: &[],
        }
    }

    /// Of fields, those that the write of a part can change.
    pub(crate) fn writable(&self, part: Part, fields: Set) -> Set {
        let without = |fields: Set, path: &[&str]| fields.without(&Set::of(path));
        match part {
            Part::Main if self.status => {
                self.not_in_main.iter().fold(without(fields, &["status"]), |fields, path| without(fields, path))
            }
            Part::Main => fields,
            Part::Finalize => without(fields, &["status"]),
            Part::Status => {
                let fields = without(fields, &["spec"]);
                let fields = if self.status_keeps_metadata { without(fields, &["metadata"]) } else { fields };
                self.not_in_status.iter().fold(fields, |fields, path| without(fields, path))
            }
            Part::Approval => without(without(fields, &["spec"]), &["status", "certificate"]),
            Part::EphemeralContainers => fields.at_or_below(&["spec", "ephemeralContainers"]),
        }
    }

    /// First state: no status, first generation.
    pub(crate) fn prepare_create(&self, object: &mut Value) {
        if self.status && !self.status_on_create && object.get("status").is_some() {
            object["status"] = self.empty_status.clone();
        }
        let metadata = meta::metadata(object);
        match self.generation {
            Generation::None => metadata.remove("generation"),
            _ => metadata.insert("generation".to_owned(), json!(1)),
        };
    }

    /// What a write of the main part or the status may not change comes from the old object.
    pub(crate) fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        if part == Part::Main {
            if self.status {
                meta::copy(object, old, "status");
            }
        } else {
            self.only_status(object, old);
        }
        if part == Part::Status {
            // Whatever comes with a status (the revision of a Deployment, an annotation) is no new generation.
            meta::set(meta::metadata(object), "generation", meta::at(old, &["metadata", "generation"]).cloned());
        } else {
            self.prepare_generation(object, old);
        }
    }

    fn only_status(&self, object: &mut Value, old: &Value) {
        let mut merged = old.clone();
        meta::copy(&mut merged, object, "status");
        if !self.status_keeps_metadata {
            meta::copy(&mut merged, object, "metadata");
        } else if let Some(version) = meta::at(object, &["metadata", "resourceVersion"]) {
            meta::metadata(&mut merged).insert("resourceVersion".to_owned(), version.clone());
        }
        for path in self.not_in_status {
            if let ["metadata", field] = path {
                meta::set(meta::metadata(&mut merged), field, meta::at(old, path).cloned());
            }
        }
        *object = merged;
    }

    fn prepare_generation(&self, object: &mut Value, old: &Value) {
        let was = meta::at(old, &["metadata", "generation"]).cloned();
        let changed = self.generation != Generation::None && self.has_changed(object, old);
        let now = if changed { Some(json!(meta::generation(old) + 1)) } else { was };
        meta::set(meta::metadata(object), "generation", now);
    }

    fn has_changed(&self, object: &Value, old: &Value) -> bool {
        let fields: &[&str] = match self.generation {
            Generation::SpecAndAnnotations => &["annotations"],
            Generation::SpecAndMetadata => &["annotations", "labels"],
            _ => &[],
        };
        if self.generation == Generation::Whole {
            return members(object, &["metadata"]) != members(old, &["metadata"]);
        }
        let differs = |field: &&str| meta::at(object, &["metadata", field]) != meta::at(old, &["metadata", field]);
        fields.iter().any(differs) || !same_spec(object, old)
    }
}

/// Whether everything but metadata and status is the same.
fn same_spec(object: &Value, old: &Value) -> bool {
    const OTHERS: [&str; 4] = ["metadata", "status", "kind", "apiVersion"];
    match (object.get("spec"), old.get("spec")) {
        (Some(new), Some(old)) => new == old,
        _ => members(object, &OTHERS) == members(old, &OTHERS),
    }
}

/// The members of an object that are something, but for some.
fn members<'v>(object: &'v Value, except: &[&str]) -> Vec<(&'v String, &'v Value)> {
    let members = object.as_object().into_iter().flatten();
    let mut members: Vec<_> =
        members.filter(|(key, value)| !except.contains(&key.as_str()) && !value.is_null()).collect();
    members.sort_by_key(|(key, _)| *key);
    members
}

fn generation(group: &str, resource: &str) -> Generation {
    match (group, resource) {
        ("apps", "deployments") => Generation::SpecAndAnnotations,
        ("discovery.k8s.io", _) => Generation::SpecAndMetadata,
        ("", "pods" | "replicationcontrollers" | "podtemplates")
        | ("apps", "replicasets" | "statefulsets" | "daemonsets")
        | ("batch" | "autoscaling" | "policy" | "flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", _)
        | ("networking.k8s.io", "ingresses" | "ingressclasses" | "networkpolicies")
        | ("resource.k8s.io", "resourceslices" | "deviceclasses" | "devicetaintrules")
        | ("apiextensions.k8s.io", _)
        | ("scheduling.k8s.io", "priorityclasses") => Generation::Spec,
        _ => Generation::None,
    }
}

fn creates_on_update(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("" | "events.k8s.io", "events")
            | ("", "limitranges" | "services" | "endpoints")
            | ("rbac.authorization.k8s.io" | "coordination.k8s.io", _)
            | ("node.k8s.io", "runtimeclasses")
    )
}

fn returns_deleted(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "pods" | "services" | "namespaces" | "podtemplates" | "serviceaccounts" | "resourcequotas")
            | ("", "persistentvolumes" | "persistentvolumeclaims")
            | (
                "storage.k8s.io",
                "csidrivers" | "storageclasses" | "volumeattachments" | "csinodes" | "volumeattributesclasses"
            )
            | ("resource.k8s.io", _)
    )
}
