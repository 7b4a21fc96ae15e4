//! The writes that bind a volume and a claim, and those that part them.

use std::sync::Arc;

use client::reference;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume as Volume, PersistentVolumeClaim as Claim};
use kube::api::PostParams;

use super::plan::{self, BY_CONTROLLER, COMPLETE, PROVISIONERS, Told, annotated};
use super::{Volumes, fit, phase};
use crate::control::{Error, Step};

fn annotate(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, key: &str, value: &str) {
    metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// The volume with its promise to the claim; none when it has it.
fn promised(volume: &Volume, claim: &Claim) -> Option<Volume> {
    let to = fit::claimant(volume);
    if to.is_some_and(|to| fit::is_promised(volume, claim) && to.uid == claim.metadata.uid) {
        return None;
    }
    let by_user = fit::is_promised(volume, claim);
    let mut volume = volume.clone();
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        resource_version: claim.metadata.resource_version.clone(),
        ..reference(claim)
    };
    volume.spec.get_or_insert_default().claim_ref = Some(reference);
    if !by_user {
        annotate(&mut volume.metadata, BY_CONTROLLER, "yes");
    }
    Some(volume)
}

/// The claim with its volume; none when it has it.
fn given(claim: &Claim, volume: &Volume) -> Option<Claim> {
    let mut changed = claim.clone();
    let spec = changed.spec.get_or_insert_default();
    if spec.volume_name != volume.metadata.name {
        spec.volume_name.clone_from(&volume.metadata.name);
        annotate(&mut changed.metadata, BY_CONTROLLER, "yes");
    }
    if !annotated(&changed.metadata, COMPLETE) {
        annotate(&mut changed.metadata, COMPLETE, "yes");
    }
    (changed != *claim).then_some(changed)
}

/// The claim in a phase, with what it has of its volume; none when it says so. The size is told when it becomes bound, and not
/// again: a file system may be smaller than its device.
fn in_phase(claim: &Claim, phase: &str, volume: Option<&Volume>) -> Option<Claim> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let moved = status.phase.as_deref() != Some(phase);
    match volume.and_then(|volume| volume.spec.as_ref()) {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            if moved {
                status.capacity.clone_from(&spec.capacity);
            }
            if moved && phase == "Bound" {
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    status.phase = Some(phase.to_owned());
    (changed != *claim).then_some(changed)
}

impl Volumes {
    /// Binds both: promise, phase, volume, phase; each where it is not so yet.
    pub(super) async fn bind(&self, volume: &Volume, claim: &Claim) -> Result<(), Error> {
        let key = client::key(claim);
        let (namespace, name) = client::split_key(&key);
        let mut volume = volume.clone();
        if let Some(changed) = promised(&volume, claim) {
            let api = self.shared.cluster::<Volume>();
            let written = api.replace(&client::key(&changed), &PostParams::default(), &changed).await;
            volume = written.step("promise volume to claim", &key)?;
        }
        let volume = self.set_volume_phase(&volume, "Bound", None).await?;
        let mut claim = claim.clone();
        let api = self.shared.api::<Claim>(namespace);
        if let Some(changed) = given(&claim, &volume) {
            claim = api.replace(name, &PostParams::default(), &changed).await.step("give claim its volume", &key)?;
        }
        if let Some(changed) = in_phase(&claim, "Bound", Some(&volume)) {
            api.replace_status(name, &PostParams::default(), &changed).await.step("mark claim bound", &key)?;
        }
        Ok(())
    }

    pub(super) async fn set_claim_phase(&self, claim: &Claim, to: &str, told: Option<Told>) -> Result<(), Error> {
        // What waits on is told why each time; what is lost, once.
        if to == "Pending" || phase(claim) != to {
            self.tell(claim, told);
        }
        let Some(changed) = in_phase(claim, to, None) else { return Ok(()) };
        let key = client::key(claim);
        let (namespace, name) = client::split_key(&key);
        let api = self.shared.api::<Claim>(namespace);
        api.replace_status(name, &PostParams::default(), &changed).await.unless_gone("mark claim", &key).map(drop)
    }

    pub(super) async fn classify(&self, claim: &Claim, class: String) -> Result<(), Error> {
        let key = client::key(claim);
        let (namespace, name) = client::split_key(&key);
        let mut claim = claim.clone();
        claim.spec.get_or_insert_default().storage_class_name = Some(class);
        let api = self.shared.api::<Claim>(namespace);
        api.replace(name, &PostParams::default(), &claim)
            .await
            .unless_gone("give claim the default class", &key)
            .map(drop)
    }

    /// Asks a provisioner outside for a volume.
    pub(super) async fn provision(&self, claim: &Claim, by: &str) -> Result<(), Error> {
        let asked = |key: &&str| {
            claim.metadata.annotations.as_ref().and_then(|all| all.get(*key)).is_some_and(|value| value == by)
        };
        let mut changed = claim.clone();
        PROVISIONERS.iter().for_each(|key| annotate(&mut changed.metadata, key, by));
        if !PROVISIONERS.iter().all(asked) {
            let key = client::key(claim);
            let (namespace, name) = client::split_key(&key);
            let api = self.shared.api::<Claim>(namespace);
            let written = api.replace(name, &PostParams::default(), &changed).await;
            return written.unless_gone("ask for a volume for claim", &key).map(drop);
        }
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{by}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.set_claim_phase(claim, "Pending", Some((false, "ExternalProvisioning", text))).await
    }

    /// The claim that a volume is promised to. One that the cache does not know is looked up, before the volume is taken from it.
    pub(super) async fn claimed_by(&self, volume: &Volume) -> Result<Option<Arc<Claim>>, Error> {
        let Some(to) = fit::claimant(volume).filter(|to| to.uid.is_some()) else { return Ok(None) };
        let (Some(namespace), Some(name)) = (&to.namespace, &to.name) else { return Ok(None) };
        let known = self.claims.get(&format!("{namespace}/{name}"));
        if known.as_ref().is_some_and(|claim| claim.metadata.uid == to.uid) {
            return Ok(known);
        }
        let found = self.shared.api::<Claim>(namespace).get(name).await.unless_gone("look up claim", name)?;
        Ok(found.map(Arc::new))
    }

    /// Writes the phase, unless it is so.
    pub(super) async fn set_volume_phase(
        &self,
        volume: &Volume,
        phase: &str,
        told: Option<Told>,
    ) -> Result<Volume, Error> {
        let status = volume.status.clone().unwrap_or_default();
        let message = told.as_ref().map(|(.., text)| text.clone());
        if status.phase.as_deref() == Some(phase) && status.message == message {
            return Ok(volume.clone());
        }
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = message;
        let key = client::key(volume);
        let api = self.shared.cluster::<Volume>();
        let written = api.replace_status(&key, &PostParams::default(), &changed).await.step("mark volume", &key)?;
        self.tell(volume, told);
        Ok(written)
    }

    /// A volume whose claim is gone.
    pub(super) async fn reclaim(&self, volume: &Volume) -> Result<(), Error> {
        let now = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let mut volume = volume.clone();
        if !matches!(now, "Released" | "Failed") {
            volume = self.set_volume_phase(&volume, "Released", None).await?;
        }
        match plan::reclaim(&volume) {
            Some(told) => self.set_volume_phase(&volume, "Failed", Some(told)).await.map(drop),
            None => Ok(()),
        }
    }

    /// A volume whose claim has another one. What a user promised stays promised to the name.
    pub(super) async fn unbind(&self, volume: &Volume) -> Result<(), Error> {
        let mut changed = volume.clone();
        let by_us = annotated(&changed.metadata, BY_CONTROLLER);
        let spec = changed.spec.get_or_insert_default();
        if by_us {
            spec.claim_ref = None;
            changed.metadata.annotations.iter_mut().for_each(|all| drop(all.remove(BY_CONTROLLER)));
        } else {
            spec.claim_ref.iter_mut().for_each(|to| to.uid = None);
        }
        let key = client::key(volume);
        let api = self.shared.cluster::<Volume>();
        let written = api.replace(&key, &PostParams::default(), &changed).await.step("free volume", &key)?;
        self.set_volume_phase(&written, "Available", None).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn a_binding_is_written_once() {
        let volume: Volume = object(json!({
            "metadata": {"name": "v"}, "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"]},
        }));
        let claim: Claim = object(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "7"}, "spec": {},
            "status": {"phase": "Pending"},
        }));
        let volume = promised(&volume, &claim).expect("it is not promised yet");
        let to = fit::claimant(&volume).expect("it is promised");
        assert_eq!((to.uid.as_deref(), to.kind.as_deref()), (Some("u"), Some("PersistentVolumeClaim")));
        assert!(annotated(&volume.metadata, BY_CONTROLLER));
        assert_eq!(promised(&volume, &claim), None);
        let claim = given(&claim, &volume).expect("it has no volume yet");
        assert_eq!(given(&claim, &volume), None);
        let bound = in_phase(&claim, "Bound", Some(&volume)).expect("it is pending");
        assert_eq!(
            bound.status.as_ref().and_then(|s| s.capacity.clone()),
            volume.spec.as_ref().and_then(|s| s.capacity.clone())
        );
        assert_eq!(in_phase(&bound, "Bound", Some(&volume)), None);
        // A user's promise by name is completed, not taken over.
        let by_user: Volume =
            object(json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"name": "c", "namespace": "n"}}}));
        let completed = promised(&by_user, &claim).expect("the uid is missing");
        assert!(!annotated(&completed.metadata, BY_CONTROLLER));
    }
}
