//! Pods get a service account, its token as a projected volume, and its pull secrets.

use super::creates_pod;
use crate::context::{AdmissionPlugin, AdmissionRequest};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Letters and digits of generated names: no vowels, so that no words come out.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(super) struct ServiceAccount {
    pub(super) accounts: Arc<KindStore>,
}

#[async_trait]
impl AdmissionPlugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !creates_pod(request) {
            return Ok(());
        }
        let namespace = request.attributes.namespace.as_str();
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        if meta::at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_some() {
            return check_mirror(pod);
        }
        let name = match meta::text_at(pod, &["spec", "serviceAccountName"]) {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        let spec = meta::member(pod, "spec");
        spec.insert("serviceAccountName".to_owned(), json!(name));
        spec.insert("serviceAccount".to_owned(), json!(name));
        let Some(account) = self.accounts.get(namespace, &name) else {
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            return Err(Status::forbidden("", "pods", meta::name(pod), why));
        };
        let account = account.value();
        if wants_token(pod, &account) {
            mount_token(pod);
        }
        let none = |value: Option<&Value>| value.is_none_or(|v| v.as_array().is_none_or(Vec::is_empty));
        if none(meta::at(pod, &["spec", "imagePullSecrets"]))
            && let Some(secrets) = account.get("imagePullSecrets").filter(|secrets| !none(Some(secrets)))
        {
            meta::member(pod, "spec").insert("imagePullSecrets".to_owned(), secrets.clone());
        }
        Ok(())
    }
}

/// A mirror of a static pod may not use what only the API knows.
fn check_mirror(pod: &Value) -> Result<(), Status> {
    let refuse = |why: &str| Err(Status::forbidden("", "pods", meta::name(pod), why));
    if !meta::text_at(pod, &["spec", "serviceAccountName"]).is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    let volumes = meta::at(pod, &["spec", "volumes"]).and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        if sources.any(|source| source.get("serviceAccountToken").is_some()) {
            return refuse("a mirror pod may not use ServiceAccountToken volume projections");
        }
    }
    Ok(())
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let of_pod = meta::at(pod, &["spec", "automountServiceAccountToken"]).and_then(Value::as_bool);
    let of_account = account.get("automountServiceAccountToken").and_then(Value::as_bool);
    of_pod.or(of_account).unwrap_or(true)
}

/// Mounts the token into each container that has nothing at its place.
fn mount_token(pod: &mut Value) {
    let volumes = meta::at(pod, &["spec", "volumes"]).and_then(Value::as_array);
    let existing = volumes.into_iter().flatten().find(|volume| {
        let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        meta::text_at(volume, &["name"]).starts_with(VOLUME_PREFIX)
            && sources.any(|source| source.get("serviceAccountToken").is_some())
    });
    let existing = existing.map(|volume| meta::text_at(volume, &["name"]).to_owned());
    let name = existing.clone().unwrap_or_else(generated_name);
    let spec = meta::member(pod, "spec");
    let mut mounted = false;
    for containers in ["initContainers", "containers"] {
        let containers = spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers {
            let has = |mount: &Value| mount.get("mountPath").is_some_and(|path| path == MOUNT_PATH);
            if container["volumeMounts"].as_array().is_some_and(|mounts| mounts.iter().any(has)) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        match spec.get_mut("volumes").and_then(Value::as_array_mut) {
            Some(volumes) => volumes.push(volume(&name)),
            None => {
                spec.insert("volumes".to_owned(), json!([volume(&name)]));
            }
        }
    }
}

fn generated_name() -> String {
    let suffix = (0..5).map(|_| char::from(SUFFIX_ALPHABET[fastrand::usize(..SUFFIX_ALPHABET.len())]));
    VOLUME_PREFIX.chars().chain(suffix).collect()
}

fn volume(name: &str) -> Value {
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_a_token() {
        let cases = [
            (json!({}), json!({}), true),
            (json!({"spec": {"automountServiceAccountToken": false}}), json!({}), false),
            (json!({}), json!({"automountServiceAccountToken": false}), false),
            (
                json!({"spec": {"automountServiceAccountToken": true}}),
                json!({"automountServiceAccountToken": false}),
                true,
            ),
        ];
        for (pod, account, expected) in cases {
            assert_eq!(wants_token(&pod, &account), expected, "{pod} {account}");
        }
    }

    #[test]
    fn each_container_without_a_mount_gets_one() {
        let own = json!({"name": "own", "mountPath": MOUNT_PATH});
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [own]}],
        }});
        mount_token(&mut pod);
        let name = pod["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5);
        for container in [&pod["spec"]["initContainers"][0], &pod["spec"]["containers"][0]] {
            assert_eq!(container["volumeMounts"][0]["name"], name);
        }
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let mut all_own = json!({"spec": {"containers": [{"name": "b", "volumeMounts": [own]}]}});
        mount_token(&mut all_own);
        assert_eq!(all_own["spec"].get("volumes"), None);
    }
}
