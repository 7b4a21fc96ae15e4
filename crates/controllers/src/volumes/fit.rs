//! Which volume a claim gets: by class, size, modes, labels and who was promised what.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::select;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume as Volume, PersistentVolumeClaim as Claim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use machinery::quantity::Quantity;

/// The old way to name a class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn annotated<'a>(annotations: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    annotations.and_then(|all| all.get(key)).map(String::as_str)
}

/// The class a claim asks for; empty for none.
pub(super) fn claim_class(claim: &Claim) -> &str {
    let named = || claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotated(claim.metadata.annotations.as_ref(), CLASS).or_else(named).unwrap_or_default()
}

fn volume_class(volume: &Volume) -> &str {
    let named = || volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotated(volume.metadata.annotations.as_ref(), CLASS).or_else(named).unwrap_or_default()
}

fn storage(amounts: Option<&BTreeMap<String, Amount>>) -> Quantity {
    let amount = amounts.and_then(|all| all.get("storage"));
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or(Quantity::ZERO)
}

/// How large a volume is.
pub(super) fn capacity(volume: &Volume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn requested(claim: &Claim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

fn modes(volume: &Volume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

fn has_modes(volume: &Volume, claim: &Claim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| modes(volume).contains(mode))
}

/// Whether both are file systems, or both block devices.
pub(super) fn same_form(volume: &Volume, claim: &Claim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    of_volume.unwrap_or("Filesystem") == of_claim.unwrap_or("Filesystem")
}

fn same_attributes(volume: &Volume, claim: &Claim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

/// Whom a volume is promised to.
pub(super) fn claimant(volume: &Volume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is promised to this claim, by name or by uid too.
pub(super) fn is_promised(volume: &Volume, claim: &Claim) -> bool {
    claimant(volume).is_some_and(|to| {
        to.name == claim.metadata.name
            && to.namespace == claim.metadata.namespace
            && to.uid.as_deref().is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
    })
}

/// Why a volume cannot be the one a claim names; upstream's words.
pub(super) fn unfit(volume: &Volume, claim: &Claim) -> Option<String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let rules = [
        (volume.metadata.deletion_timestamp.is_some(), format!("the volume is marked for deletion {name:?}")),
        (capacity(volume) < requested(claim), "requested PV is too small".to_owned()),
        (volume_class(volume) != claim_class(claim), "storageClassName does not match".to_owned()),
        (!same_attributes(volume, claim), "volumeAttributesClassName does not match".to_owned()),
        (!same_form(volume, claim), "incompatible volumeMode".to_owned()),
        (!has_modes(volume, claim), "incompatible accessMode".to_owned()),
    ];
    rules.into_iter().find(|(broken, _)| *broken).map(|(_, why)| why)
}

/// The volume for a claim that names none: one promised to it, else the smallest that fits, of those with the fewest modes. When
/// binding waits for a pod, only a promised one.
pub(super) fn best(claim: &Claim, volumes: &[Arc<Volume>], waits: bool) -> Option<Arc<Volume>> {
    let size = requested(claim);
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let could = |volume: &&Arc<Volume>| {
        (claimant(volume).is_none() || is_promised(volume, claim))
            && has_modes(volume, claim)
            && capacity(volume) >= size
            && same_form(volume, claim)
            && same_attributes(volume, claim)
            && volume.metadata.deletion_timestamp.is_none()
    };
    let free = |volume: &Volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        !waits
            && phase == Some("Available")
            && selector.is_none_or(|selector| select::matches(selector, volume.metadata.labels.as_ref()))
            && volume_class(volume) == claim_class(claim)
    };
    let candidates = volumes.iter().filter(could).filter_map(|volume| {
        let promised = is_promised(volume, claim);
        (promised || free(volume)).then_some((volume, promised))
    });
    let order = |(volume, promised): &(&Arc<Volume>, bool)| {
        (modes(volume).len(), !promised, capacity(volume), volume.metadata.name.clone())
    };
    candidates.min_by(|a, b| order(a).cmp(&order(b))).map(|(volume, _)| Arc::clone(volume))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, modes: &[&str], change: impl FnOnce(&mut Value)) -> Arc<Volume> {
        let mut value = json!({
            "metadata": {"name": name, "labels": {"tier": name}},
            "spec": {"capacity": {"storage": size}, "accessModes": modes, "storageClassName": "c"},
            "status": {"phase": "Available"},
        });
        change(&mut value);
        Arc::new(object(value))
    }

    fn claim(size: &str, modes: &[&str], change: impl FnOnce(&mut Value)) -> Claim {
        let mut value = json!({
            "metadata": {"name": "x", "namespace": "n", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": size}}, "accessModes": modes, "storageClassName": "c"},
        });
        change(&mut value);
        object(value)
    }

    #[test]
    fn the_smallest_that_fits() {
        let promised = |uid: &str| json!({"name": "x", "namespace": "n", "uid": uid});
        let volumes = [
            volume("small", "1Gi", &["ReadWriteOnce"], |_| {}),
            volume("large", "10Gi", &["ReadWriteOnce"], |_| {}),
            volume("middle", "5Gi", &["ReadWriteOnce"], |_| {}),
            volume("many", "2Gi", &["ReadWriteOnce", "ReadOnlyMany"], |_| {}),
            volume("other-class", "3Gi", &["ReadWriteOnce"], |v| v["spec"]["storageClassName"] = json!("d")),
            volume("block", "3Gi", &["ReadWriteOnce"], |v| v["spec"]["volumeMode"] = json!("Block")),
            volume("taken", "3Gi", &["ReadWriteOnce"], |v| {
                v["spec"]["claimRef"] = json!({"name": "y", "namespace": "n", "uid": "z"});
            }),
            volume("released", "3Gi", &["ReadWriteOnce"], |v| v["status"]["phase"] = json!("Released")),
            volume("ours", "50Gi", &["ReadWriteMany"], |v| {
                v["spec"]["claimRef"] = promised("");
                v["spec"]["storageClassName"] = json!("d");
            }),
            volume("of-another-life", "50Gi", &["ReadWriteMany"], |v| v["spec"]["claimRef"] = promised("old")),
        ];
        let rows = [
            (claim("2Gi", &["ReadWriteOnce"], |_| {}), false, Some("middle")),
            (claim("1Gi", &["ReadWriteOnce"], |_| {}), false, Some("small")),
            (claim("20Gi", &["ReadWriteOnce"], |_| {}), false, None),
            (claim("1Gi", &["ReadOnlyMany"], |_| {}), false, Some("many")),
            (claim("1Gi", &["ReadWriteMany"], |_| {}), false, Some("ours")),
            (claim("1Gi", &["ReadWriteMany"], |_| {}), true, Some("ours")),
            (claim("1Gi", &["ReadWriteOnce"], |_| {}), true, None),
            (claim("3Gi", &["ReadWriteOnce"], |c| c["spec"]["volumeMode"] = json!("Block")), false, Some("block")),
            (
                claim("3Gi", &["ReadWriteOnce"], |c| c["spec"]["storageClassName"] = json!("d")),
                false,
                Some("other-class"),
            ),
            (
                claim("1Gi", &["ReadWriteOnce"], |c| c["spec"]["selector"] = json!({"matchLabels": {"tier": "large"}})),
                false,
                Some("large"),
            ),
        ];
        for (at, (claim, waits, expected)) in rows.into_iter().enumerate() {
            let found = best(&claim, &volumes, waits).and_then(|volume| volume.metadata.name.clone());
            assert_eq!(found.as_deref(), expected, "row {at}");
        }
        let why = |name: usize, claim: &Claim| unfit(&volumes[name], claim);
        let once = claim("2Gi", &["ReadWriteOnce"], |_| {});
        assert_eq!(why(0, &once).as_deref(), Some("requested PV is too small"));
        assert_eq!(why(1, &once), None);
        assert_eq!(why(4, &once).as_deref(), Some("storageClassName does not match"));
        assert_eq!(why(5, &once).as_deref(), Some("incompatible volumeMode"));
        assert_eq!(why(9, &once).as_deref(), Some("incompatible accessMode"));
    }
}
