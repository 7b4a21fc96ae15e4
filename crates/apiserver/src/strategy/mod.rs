//! What differs from kind to kind: which parts a write may change, what is reset, what is deleted gracefully.
//!
//! A [`Strategy`] works on values in the storage version, after defaulting. Most kinds need only their [`Facts`].

mod certificates;
mod conditions;
mod definition;
mod facts;
mod namespace;
mod pod;
mod policy;
mod qos;
mod service;
mod workload;

pub(crate) use facts::Facts;
pub(crate) use qos::class as qos_class;

use crate::context::UserInfo;
use crate::meta;
use machinery::apply::Set;
use machinery::field::{FieldError, Path};
use machinery::schema::{Schema, TypeRef};
use serde_json::{Value, json};
use std::sync::Arc;

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// A namespace's `spec.finalizers`.
    Finalize,
    /// The approval conditions of a certificate request.
    Approval,
    /// A pod's ephemeral containers.
    EphemeralContainers,
}

/// The behaviour of a kind.
pub(crate) trait Strategy: Send + Sync {
    /// What is particular about it.
    fn facts(&self) -> &Facts;

    /// Brings a new object into its first state.
    fn prepare_create(&self, object: &mut Value) {
        self.facts().prepare_create(object);
    }

    /// Writes into a new object who made it.
    fn note_creator(&self, object: &mut Value, user: &UserInfo) {
        let _ = (object, user);
    }

    /// Takes back what a write of this part may not change.
    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        self.facts().prepare_update(part, object, old);
    }

    /// What is wrong with a new object, beyond what `api::validate` says.
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let _ = object;
        Vec::new()
    }

    /// What is wrong with a change, beyond what `api::validate` says.
    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        let _ = (part, object, old);
        Vec::new()
    }

    /// Of fields, those that the write of a part can change.
    fn writable(&self, part: Part, fields: Set) -> Set {
        self.facts().writable(part, fields)
    }

    /// How many seconds a deleted object is given; none when the kind knows no grace.
    fn grace_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let _ = (object, requested);
        None
    }

    /// Something other than grace and finalizers that keeps a deleted object (a namespace's own finalizers).
    fn held(&self, object: &Value) -> bool {
        let _ = object;
        false
    }

    /// What else changes when deletion begins (a namespace's phase).
    fn begin_deletion(&self, object: &mut Value) {
        let _ = object;
    }
}

/// A strategy of nothing but facts.
struct Plain(Facts);

impl Strategy for Plain {
    fn facts(&self) -> &Facts {
        &self.0
    }
}

/// The strategy of a built-in kind, whose stored form is of a type.
pub(crate) fn builtin(group: &str, resource: &str, has_status: bool, stored: TypeRef<'_>) -> Arc<dyn Strategy> {
    let mut facts = Facts::of(group, resource, has_status);
    if let Some(status) = stored.field("status") {
        facts.empty_status = Schema::zero(status.ty());
    }
    match (group, resource) {
        ("", "pods") => Arc::new(pod::PodStrategy(facts)),
        ("apiextensions.k8s.io", _) => Arc::new(definition::DefinitionStrategy(facts)),
        ("", "services") => Arc::new(service::ServiceStrategy(facts)),
        ("", "namespaces") => Arc::new(namespace::NamespaceStrategy(facts)),
        ("apps", "daemonsets") => Arc::new(workload::DaemonSetStrategy(facts)),
        ("batch", "jobs") => Arc::new(workload::JobStrategy(facts)),
        ("", "persistentvolumes" | "persistentvolumeclaims") => Arc::new(workload::VolumeStrategy(facts)),
        ("", "secrets") => Arc::new(workload::SecretStrategy(facts)),
        ("certificates.k8s.io", "certificatesigningrequests") => Arc::new(certificates::SigningRequestStrategy(facts)),
        ("certificates.k8s.io", "clustertrustbundles") => Arc::new(certificates::TrustBundleStrategy(facts)),
        ("certificates.k8s.io", "podcertificaterequests") => Arc::new(certificates::PodCertificateStrategy(facts)),
        ("admissionregistration.k8s.io", _) => Arc::new(policy::PolicyStrategy(facts)),
        _ => Arc::new(Plain(facts)),
    }
}

/// Keeps what no update may change in `metadata`, whatever the kind and part.
pub(crate) fn keep_metadata(object: &mut Value, old: &Value) {
    let was = |field: &str| meta::at(old, &["metadata", field]).cloned();
    let metadata = meta::metadata(object);
    if !metadata.contains_key("uid") {
        meta::set(metadata, "uid", was("uid"));
    }
    if let Some(created) = was("creationTimestamp") {
        metadata.insert("creationTimestamp".to_owned(), created);
    }
    // A client can neither begin nor take back a deletion.
    meta::set(metadata, "deletionTimestamp", was("deletionTimestamp"));
    meta::set(metadata, "deletionGracePeriodSeconds", was("deletionGracePeriodSeconds"));
    metadata.remove("selfLink");
    metadata.remove("managedFields");
}

/// What upstream demands of every update's metadata.
pub(crate) fn validate_metadata_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if meta::text(object, field) != meta::text(old, field) {
            errors.push(FieldError::invalid(&path.child(field), meta::text(object, field), "field is immutable"));
        }
    }
    if meta::deleting(old) {
        let before = meta::finalizers(old);
        let added: Vec<_> = meta::finalizers(object).into_iter().filter(|name| !before.contains(name)).collect();
        if !added.is_empty() {
            let list = added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"),
            ));
        }
    }
    errors
}

/// Sets `metadata.generation`.
fn set_generation(object: &mut Value, generation: i64) {
    meta::metadata(object).insert("generation".to_owned(), json!(generation));
}
