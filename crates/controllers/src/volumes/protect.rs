//! What is used is not removed: a finalizer keeps claims while pods have them, volumes while claims have them, and classes of
//! attributes while volumes or claims are of them. The finalizers come with admission; here they go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    PersistentVolume as Volume, PersistentVolumeClaim as Claim, PersistentVolumeClaimCondition as Condition, Pod,
};
use k8s_openapi::api::storage::v1::VolumeAttributesClass as Attributes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;

use super::{Volumes, claims_of, phase};
use crate::control::{Error, Step};
use crate::pods::is_finished;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES: &str = "kubernetes.io/vac-protection";

/// The metadata without the finalizer; none when the object is not to be removed, or held by others only.
fn freed(metadata: &ObjectMeta, finalizer: &str) -> Option<ObjectMeta> {
    let held = metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|name| name == finalizer));
    (metadata.deletion_timestamp.is_some() && held).then(|| {
        let mut metadata = metadata.clone();
        metadata.finalizers.iter_mut().for_each(|all| all.retain(|name| name != finalizer));
        metadata
    })
}

/// Whether a pod on a node keeps a claim. An ended pod keeps what it names, but not what was made for it alone.
fn keeps(pod: &Pod, claim: &str) -> bool {
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty()));
    let own = || {
        let (_, name) = client::split_key(claim);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.filter_map(|v| v.persistent_volume_claim.as_ref()).any(|source| source.claim_name == name)
    };
    placed && claims_of(pod).iter().any(|named| named == claim) && (!is_finished(pod) || own())
}

/// The condition that tells since when no pod names a bound claim; none when it is there already.
fn unused(claim: &Claim, used: bool) -> Option<Condition> {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let status = if used { "False" } else { "True" };
    if conditions.iter().any(|condition| condition.type_ == "Unused" && condition.status == status) {
        return None;
    }
    let (reason, message) = match used {
        true => ("PodUsingPVC", "A pod is currently referencing this PVC"),
        false => ("NoPodsUsingPVC", "No pods are currently referencing this PVC"),
    };
    Some(Condition {
        type_: "Unused".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(jiff::Timestamp::now())),
        ..Condition::default()
    })
}

impl Volumes {
    fn pods_with(&self, key: &str, what: impl Fn(&Pod) -> bool) -> bool {
        let (namespace, _) = client::split_key(key);
        self.pods.list_in(namespace).iter().any(|pod| what(pod))
    }

    /// Lets go of a claim that is to be removed and not used; whether it did. A bound one is told whether pods name it.
    pub(super) async fn protect_claim(&self, claim: &Arc<Claim>, key: &str) -> Result<bool, Error> {
        let (namespace, name) = client::split_key(key);
        if claim.metadata.deletion_timestamp.is_none() && phase(claim) == "Bound" {
            let used = self.pods_with(key, |pod| !is_finished(pod) && claims_of(pod).iter().any(|named| named == key));
            if let Some(condition) = unused(claim, used) {
                let mut claim = (**claim).clone();
                let conditions = claim.status.get_or_insert_default().conditions.get_or_insert_default();
                conditions.retain(|condition| condition.type_ != "Unused");
                conditions.push(condition);
                let api = self.shared.api::<Claim>(namespace);
                let written = api.replace_status(name, &PostParams::default(), &claim).await;
                written.unless_gone("tell whether pods use claim", key)?;
                return Ok(true);
            }
        }
        let Some(metadata) = freed(&claim.metadata, CLAIM) else { return Ok(false) };
        if self.pods_with(key, |pod| keeps(pod, key)) {
            return Ok(false);
        }
        let claim = Claim { metadata, ..(**claim).clone() };
        let api = self.shared.api::<Claim>(namespace);
        api.replace(name, &PostParams::default(), &claim).await.unless_gone("let go of claim", key)?;
        Ok(true)
    }

    /// Lets go of a volume that is to be removed and not bound; whether it did.
    pub(super) async fn protect_volume(&self, volume: &Arc<Volume>, key: &str) -> Result<bool, Error> {
        let bound = volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        let Some(metadata) = freed(&volume.metadata, VOLUME).filter(|_| !bound) else { return Ok(false) };
        let volume = Volume { metadata, ..(**volume).clone() };
        let api = self.shared.cluster::<Volume>();
        api.replace(key, &PostParams::default(), &volume).await.unless_gone("let go of volume", key)?;
        Ok(true)
    }

    /// Lets go of a class of attributes that is to be removed and that nothing is of.
    pub(super) async fn protect_attributes(&self, key: &str) -> Result<(), Error> {
        let Some(class) = self.attributes.get(key) else { return Ok(()) };
        let Some(metadata) = freed(&class.metadata, ATTRIBUTES) else { return Ok(()) };
        let volumes = self.volumes.list();
        let of_volume = |volume: &Arc<Volume>| volume.spec.as_ref()?.volume_attributes_class_name.clone();
        let of_claim = |claim: &Arc<Claim>| {
            let status = claim.status.as_ref();
            let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
            let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
            let gets = status.and_then(|status| status.modify_volume_status.as_ref());
            let gets = gets.and_then(|modify| modify.target_volume_attributes_class_name.clone());
            [asked, has, gets]
        };
        let used = volumes.iter().filter_map(of_volume).any(|name| name == key)
            || self.claims.list().iter().flat_map(of_claim).flatten().any(|name| name == key);
        if used {
            return Ok(());
        }
        let class = Attributes { metadata, ..(*class).clone() };
        let api = self.shared.cluster::<Attributes>();
        api.replace(key, &PostParams::default(), &class).await.unless_gone("let go of attributes class", key).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, pod};
    use serde_json::json;

    #[test]
    fn who_keeps_a_claim() {
        let with = |phase: &str, node: &str, volume: serde_json::Value| {
            let volume = object(volume);
            pod("p").node(node).phase(phase).spec(|spec| spec.volumes = Some(vec![volume])).build()
        };
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}});
        let own = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        for (phase, node, volume, expected) in [
            ("Running", "n1", named.clone(), true),
            ("Succeeded", "n1", named.clone(), true),
            ("Pending", "", named, false),
            ("Running", "n1", own.clone(), true),
            ("Succeeded", "n1", own, false),
            ("Running", "n1", json!({"name": "v", "emptyDir": {}}), false),
        ] {
            assert_eq!(keeps(&with(phase, node, volume.clone()), "default/p-v"), expected, "{phase} {node} {volume}");
        }
    }

    #[test]
    fn only_what_is_deleted_is_let_go() {
        let meta = |deleted: bool, finalizers: &[&str]| {
            let mut value = json!({"finalizers": finalizers});
            if deleted {
                value["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            object::<ObjectMeta>(value)
        };
        assert_eq!(freed(&meta(false, &[CLAIM]), CLAIM), None);
        assert_eq!(freed(&meta(true, &["other"]), CLAIM), None);
        let left = freed(&meta(true, &["other", CLAIM]), CLAIM).and_then(|metadata| metadata.finalizers);
        assert_eq!(left, Some(vec!["other".to_owned()]));
    }
}
