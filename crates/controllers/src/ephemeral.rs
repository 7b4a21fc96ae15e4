//! Claims of a pod's own: made for its ephemeral volumes, and gone with it.

use std::sync::Arc;

use client::{EventType, Informer, Recorder, reference};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim as Claim, PersistentVolumeClaimTemplate as Template, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, is_namespace_terminating, message};
use crate::pods::{is_finished, is_terminating};

struct Ephemeral {
    shared: Arc<Shared>,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<Claim>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let controller = Ephemeral {
        shared: Arc::clone(shared),
        recorder: shared.recorder("ephemeral_volume"),
        pods: shared.informers.all(),
        claims: shared.informers.all(),
    };
    let (pods, claims) = (controller.pods.clone(), controller.claims.clone());
    Loop::new(shared, controller, Arc::new(Queue::new()))
        .on(&pods, |_, queue, delta| {
            if templates(delta.object()).next().is_some() {
                queue.add(client::key(&**delta.object()));
            }
        })
        .on(&claims, |_, queue, delta| {
            let claim = delta.object();
            let owners = claim.metadata.owner_references.iter().flatten();
            if let Some(owner) = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "Pod") {
                queue.add(format!("{}/{}", claim.metadata.namespace.as_deref().unwrap_or_default(), owner.name));
            }
        })
        .start(4);
}

/// A pod's ephemeral volumes: their names, and what their claims are made from.
fn templates(pod: &Pod) -> impl Iterator<Item = (&str, &Template)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| Some((volume.name.as_str(), volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

fn is_of(claim: &Claim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// The claim of a volume.
fn claim(pod: &Pod, name: &str, template: &Template) -> Claim {
    let given = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Claim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}

impl Controller for Ephemeral {
    const NAME: &'static str = "ephemeral-volume-controller";

    fn all(&self) -> Vec<String> {
        let with = self.pods.list().into_iter().filter(|pod| templates(pod).next().is_some());
        with.map(|pod| client::key(&*pod)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(pod) = self.pods.get(key).filter(|pod| !is_terminating(pod) && !is_finished(pod)) else {
            return Ok(());
        };
        let (namespace, pod_name) = client::split_key(key);
        for (volume, template) in templates(&pod) {
            let name = format!("{pod_name}-{volume}");
            let place = format!("{namespace}/{name}");
            match self.claims.get(&place) {
                Some(claim) if is_of(&claim, &pod) => continue,
                Some(_) => {
                    let why = format!("PVC {place} was not created for pod {key} (pod is not owner)");
                    self.recorder.event(
                        &reference(&*pod),
                        EventType::Warning,
                        "FailedBinding",
                        format!("ephemeral volume {volume}: {why}"),
                    );
                    return Err(Error::NotYet(why));
                }
                None => {}
            }
            let made =
                self.shared.api::<Claim>(namespace).create(&PostParams::default(), &claim(&pod, &name, template)).await;
            match made {
                Err(error) if is_namespace_terminating(&error) => {}
                Err(error) => {
                    let text = format!("ephemeral volume {volume}: create PVC {place}: {}", message(&error));
                    self.recorder.event(&reference(&*pod), EventType::Warning, "FailedBinding", text);
                    return Err(error).step("create claim", &place);
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, pod};
    use serde_json::json;

    #[test]
    fn a_claim_is_its_pods() {
        let volumes = json!([
            {"name": "a", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"k": "v"}}, "spec": {"storageClassName": "c"}}}},
            {"name": "b", "emptyDir": {}},
        ]);
        let pod = pod("p").spec(|spec| spec.volumes = Some(object(volumes))).build();
        let all: Vec<_> = templates(&pod).collect();
        assert_eq!(all.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["a"]);
        let made = claim(&pod, "p-a", all[0].1);
        assert!(is_of(&made, &pod) && !is_of(&Claim::default(), &pod));
        assert_eq!(made.metadata.labels.as_ref().and_then(|labels| labels.get("k")).map(String::as_str), Some("v"));
        assert_eq!(made.spec.and_then(|spec| spec.storage_class_name).as_deref(), Some("c"));
    }
}
