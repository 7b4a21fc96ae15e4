//! What is to be done about a claim and about a volume: pure functions of both, after upstream's persistent-volume controller.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume as Volume, PersistentVolumeClaim as Claim};
use k8s_openapi::api::storage::v1::StorageClass as Class;

use super::fit;

/// Written on what this controller bound, and on claims whose binding is complete.
pub(super) const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(super) const COMPLETE: &str = "pv.kubernetes.io/bind-completed";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Written by the scheduler, when a pod waits for a volume on a node.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Provisioners are asked by these.
pub(super) const PROVISIONERS: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
/// The provisioner of classes that have none.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// An event: whether it warns, its reason, its text.
pub(super) type Told = (bool, &'static str, String);

/// What is to be done about a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimAction {
    /// It waits (`Pending`), or its volume is gone (`Lost`).
    Phase(&'static str, Option<Told>),
    /// It gets this volume.
    Bind(Arc<Volume>),
    /// It gets the default class.
    Classify(String),
    /// A provisioner is to make a volume.
    Provision(String),
}

/// What is to be done about a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum VolumeAction {
    /// It is `Available` or `Bound`.
    Phase(&'static str),
    /// Its claim is gone: `Released`, and then what its policy says.
    Reclaim,
    /// Its claim has another volume: it is free again, but for its claim's name when a user wrote that.
    Unbind,
    /// Its claim knows nothing of it yet.
    TellClaim,
}

pub(super) fn annotated(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, key: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|all| all.contains_key(key))
}

fn named(claim: &Claim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// `classes` are all there are; `default` is the name of the default one.
pub(super) fn claim(
    claim: &Claim,
    volumes: &[Arc<Volume>],
    classes: &[Arc<Class>],
    default: Option<&str>,
) -> ClaimAction {
    let of = |name: &str| volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name));
    match (annotated(&claim.metadata, COMPLETE), named(claim)) {
        (true, "") => {
            lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        (true, name) => match of(name) {
            None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) => match fit::claimant(volume) {
                Some(to) if to.uid != claim.metadata.uid => {
                    lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
                }
                _ => ClaimAction::Bind(Arc::clone(volume)),
            },
        },
        (false, "") => unbound(claim, volumes, classes, default),
        (false, name) => wanted(claim, of(name)),
    }
}

fn lost(reason: &'static str, text: &str) -> ClaimAction {
    ClaimAction::Phase("Lost", Some((true, reason, text.to_owned())))
}

/// A claim that names its volume.
fn wanted(claim: &Claim, volume: Option<&Arc<Volume>>) -> ClaimAction {
    let Some(volume) = volume else { return ClaimAction::Phase("Pending", None) };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let waits = |reason, text| ClaimAction::Phase("Pending", Some((true, reason, text)));
    if fit::claimant(volume).is_none() {
        return match fit::unfit(volume, claim) {
            Some(why) => waits("VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}")),
            None => ClaimAction::Bind(Arc::clone(volume)),
        };
    }
    match fit::is_promised(volume, claim) {
        true => ClaimAction::Bind(Arc::clone(volume)),
        false => waits("FailedBinding", format!("volume {name:?} already bound to a different claim.")),
    }
}

/// A claim that takes any volume.
fn unbound(claim: &Claim, volumes: &[Arc<Volume>], classes: &[Arc<Class>], default: Option<&str>) -> ClaimAction {
    let name = fit::claim_class(claim);
    let class = classes.iter().find(|class| !name.is_empty() && class.metadata.name.as_deref() == Some(name));
    let waits = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = fit::best(claim, volumes, waits) {
        return ClaimAction::Bind(volume);
    }
    let unclassified = claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_none()) && name.is_empty();
    if let Some(default) = default.filter(|_| unclassified) {
        return ClaimAction::Classify(default.to_owned());
    }
    let tell = |warns, reason, text: &str| ClaimAction::Phase("Pending", Some((warns, reason, text.to_owned())));
    if waits && !annotated(&claim.metadata, SELECTED_NODE) {
        return tell(false, "WaitForFirstConsumer", "waiting for first consumer to be created before binding");
    }
    match class {
        None if name.is_empty() => {
            tell(false, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
        }
        None => tell(true, "ProvisioningFailed", &format!("storageclass.storage.k8s.io {name:?} not found")),
        Some(class) if class.provisioner == NO_PROVISIONER => {
            tell(true, "ProvisioningFailed", "storageclass.storage.k8s.io has no provisioner, and no volume fits")
        }
        Some(class) => ClaimAction::Provision(class.provisioner.clone()),
    }
}

/// `claim` is the one that the volume is promised to, by name.
pub(super) fn volume(volume: &Volume, claim: Option<&Claim>) -> VolumeAction {
    let Some(to) = fit::claimant(volume) else { return VolumeAction::Phase("Available") };
    let uid = to.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        return VolumeAction::Phase("Available");
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else {
        return VolumeAction::Reclaim;
    };
    match named(claim) {
        "" => VolumeAction::TellClaim,
        name if volume.metadata.name.as_deref() == Some(name) => VolumeAction::Phase("Bound"),
        _ => {
            let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
            let made_for_it = annotated(&volume.metadata, PROVISIONED_BY) && policy == Some("Delete");
            if made_for_it { VolumeAction::Reclaim } else { VolumeAction::Unbind }
        }
    }
}

/// What becomes of a released volume: nothing, or why it failed. Deleting what is behind a volume is its provisioner's matter.
pub(super) fn reclaim(volume: &Volume) -> Option<Told> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    match policy.unwrap_or("Retain") {
        "Retain" => None,
        "Delete" if annotated(&volume.metadata, PROVISIONED_BY) || is_driven(volume) => None,
        "Delete" => {
            let text = format!("error getting deleter volume plugin for volume {name:?}: no volume plugin matched");
            Some((true, "VolumeFailedDelete", text))
        }
        "Recycle" => Some((true, "VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned())),
        _ => {
            let text = "Volume has unrecognized PersistentVolumeReclaimPolicy";
            Some((true, "VolumeUnknownReclaimPolicy", text.to_owned()))
        }
    }
}

/// Whether a CSI driver is behind a volume.
fn is_driven(volume: &Volume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::{Value, json};

    fn made_volume(name: &str, claim_ref: Value, annotations: Value, policy: &str) -> Arc<Volume> {
        let mut value = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": policy},
            "status": {"phase": "Available"},
        });
        if !claim_ref.is_null() {
            value["spec"]["claimRef"] = claim_ref;
        }
        Arc::new(object(value))
    }

    fn made_claim(spec: Value, annotations: Value) -> Claim {
        let mut claim = json!({
            "metadata": {"name": "x", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]},
        });
        claim["spec"].as_object_mut().into_iter().for_each(|s| s.extend(spec.as_object().cloned().unwrap_or_default()));
        object(claim)
    }

    #[test]
    fn claims() {
        let to = |uid: &str| json!({"name": "x", "namespace": "n", "uid": uid});
        let free = made_volume("free", Value::Null, json!({}), "Retain");
        let ours = made_volume("ours", to("u"), json!({}), "Retain");
        let other = made_volume("other", json!({"name": "y", "namespace": "n", "uid": "w"}), json!({}), "Retain");
        let classes: Vec<Arc<Class>> = [
            json!({"metadata": {"name": "now"}, "provisioner": "acme.org/disk", "volumeBindingMode": "Immediate"}),
            json!({"metadata": {"name": "later"}, "provisioner": "acme.org/disk", "volumeBindingMode": "WaitForFirstConsumer"}),
        ]
        .into_iter()
        .map(|class| Arc::new(object(class)))
        .collect();
        let complete = json!({COMPLETE: "yes"});
        let class = |name: &str| json!({"storageClassName": name});
        let rows = [
            (json!({"storageClassName": ""}), json!({}), vec![&free], None, "Bind free"),
            (json!({"storageClassName": ""}), json!({}), vec![], Some("now"), "Pending FailedBinding"),
            (json!({}), json!({}), vec![], Some("now"), "Classify now"),
            (json!({}), json!({}), vec![&free], Some("now"), "Bind free"),
            (class("now"), json!({}), vec![&free], None, "Provision acme.org/disk"),
            (class("none"), json!({}), vec![], None, "Pending ProvisioningFailed"),
            (class("later"), json!({}), vec![], None, "Pending WaitForFirstConsumer"),
            (class("later"), json!({SELECTED_NODE: "n1"}), vec![], None, "Provision acme.org/disk"),
            (json!({"volumeName": "free"}), json!({}), vec![&free], None, "Bind free"),
            (
                json!({"volumeName": "free", "storageClassName": "c"}),
                json!({}),
                vec![&free],
                None,
                "Pending VolumeMismatch",
            ),
            (json!({"volumeName": "gone"}), json!({}), vec![&free], None, "Pending "),
            (json!({"volumeName": "other"}), json!({}), vec![&other], None, "Pending FailedBinding"),
            (json!({"volumeName": "ours"}), json!({}), vec![&ours], None, "Bind ours"),
            (json!({"volumeName": "ours"}), complete.clone(), vec![&ours], None, "Bind ours"),
            (json!({"volumeName": "other"}), complete.clone(), vec![&other], None, "Lost ClaimMisbound"),
            (json!({"volumeName": "gone"}), complete.clone(), vec![], None, "Lost ClaimLost"),
            (json!({}), complete, vec![&free], None, "Lost ClaimLost"),
        ];
        for (spec, annotations, volumes, default, expected) in rows {
            let volumes: Vec<_> = volumes.into_iter().cloned().collect();
            let found = match claim(&made_claim(spec.clone(), annotations), &volumes, &classes, default) {
                ClaimAction::Phase(phase, told) => {
                    format!("{phase} {}", told.map(|(_, reason, _)| reason).unwrap_or_default())
                }
                ClaimAction::Bind(volume) => format!("Bind {}", volume.metadata.name.as_deref().unwrap_or_default()),
                ClaimAction::Classify(name) => format!("Classify {name}"),
                ClaimAction::Provision(by) => format!("Provision {by}"),
            };
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn volumes() {
        let to = |uid: &str| json!({"name": "x", "namespace": "n", "uid": uid});
        let by_us = json!({BY_CONTROLLER: "yes"});
        let made = json!({PROVISIONED_BY: "acme.org/disk"});
        let bound = |name: &str| Some(made_claim(json!({"volumeName": name}), json!({})));
        let rows = [
            (Value::Null, json!({}), None, VolumeAction::Phase("Available"), None),
            (to(""), json!({}), bound("v"), VolumeAction::Phase("Available"), None),
            (to("u"), json!({}), bound("v"), VolumeAction::Phase("Bound"), None),
            (to("u"), json!({}), bound(""), VolumeAction::TellClaim, None),
            (to("u"), by_us, bound("w"), VolumeAction::Unbind, None),
            (to("u"), made.clone(), bound("w"), VolumeAction::Reclaim, None),
            (to("u"), made, None, VolumeAction::Reclaim, None),
            (to("old"), json!({}), bound("v"), VolumeAction::Reclaim, Some("VolumeFailedDelete")),
        ];
        for (claim_ref, annotations, claim, expected, failed) in rows {
            let made = made_volume("v", claim_ref.clone(), annotations, "Delete");
            assert_eq!(volume(&made, claim.as_ref()), expected, "{claim_ref}");
            if expected == VolumeAction::Reclaim {
                assert_eq!(reclaim(&made).map(|(_, reason, _)| reason), failed);
            }
        }
        let kept = made_volume("v", to("old"), json!({}), "Retain");
        assert_eq!(reclaim(&kept), None);
    }
}
