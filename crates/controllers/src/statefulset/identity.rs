//! Who a pod of a StatefulSet is: its name, its labels, its host name, and the volumes that are always its own.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::create::from_template;
use crate::history::HASH;
use crate::owner;

/// The pod's name, as a label.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Its ordinal, as a label.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The pod of `set` with this ordinal, of the revision with this template and hash.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, hash: &str, ordinal: i32) -> Pod {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let name = format!("{set_name}-{ordinal}");
    let mut pod = from_template(template, namespace, "", owner::reference(set));
    pod.metadata.name = Some(name.clone());
    pod.metadata.generate_name = Some(format!("{set_name}-"));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
    let claims = claims(set, ordinal);
    let volumes = spec.volumes.get_or_insert_default();
    for (volume, claim) in claims {
        volumes.retain(|v| v.name != volume);
        volumes.push(Volume {
            name: volume,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.metadata.name.unwrap_or_default(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    spec.volumes = spec.volumes.take().filter(|v| !v.is_empty());
    pod
}

/// The claims of the pod with this ordinal, by the name of the volume they are for.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let selector = set.spec.selector.match_labels.clone().unwrap_or_default();
    templates
        .map(|template| {
            let volume = template.metadata.name.clone().unwrap_or_default();
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selector.clone());
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(format!("{volume}-{set_name}-{ordinal}")),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            };
            (volume, claim)
        })
        .collect()
}

/// A pod that is the set's, but was adopted without the labels that say so, gets them; `None` if all is right.
pub(super) fn repaired(set: &StatefulSet, pod: &Arc<Pod>) -> Option<Pod> {
    let name = pod.metadata.name.clone()?;
    let ordinal = super::plan::ordinal(set.metadata.name.as_deref()?, pod)?;
    let wanted = [(POD_NAME, name), (POD_INDEX, ordinal.to_string())];
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    if wanted.iter().all(|(k, v)| labels.get(*k) == Some(v)) {
        return None;
    }
    let mut pod = Pod::clone(pod);
    pod.metadata.labels.get_or_insert_default().extend(wanted.map(|(k, v)| (k.to_owned(), v)));
    Some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn a_pod_has_a_name_and_volumes_of_its_own() {
        let set: StatefulSet = object(json!({"metadata": {"name": "db", "namespace": "a", "uid": "u"}, "spec": {
            "serviceName": "peers", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}}));
        let template = set.spec.template.clone();
        let pod = pod(&set, &template, "h", 2);
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("db-2"));
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-2"), Some("peers")));
        let volumes = spec.volumes.as_ref().unwrap();
        assert_eq!(volumes.len(), 1, "the claim takes the place of the template's volume");
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-2");
        assert_eq!(repaired(&set, &Arc::new(pod.clone())), None);
        let mut bare = pod;
        bare.metadata.labels = None;
        assert!(repaired(&set, &Arc::new(bare)).is_some());
    }
}
