//! Static pods: told apart from those of the API, and read from a folder.

use crate::labels;
use crate::spec;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use sha2::{Digest, Sha256};
use std::path::Path;

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod comes from a file of this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, labels::CONFIG_SOURCE) == Some("file") && !is_mirror(pod)
}

/// Whether the object is the API's picture of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, labels::CONFIG_MIRROR).is_some()
}

/// The hash a mirror pod carries.
pub fn mirror_hash(pod: &Pod) -> Option<&str> {
    annotation(pod, labels::CONFIG_MIRROR)
}

/// The hash of a static pod.
pub fn config_hash(pod: &Pod) -> Option<&str> {
    annotation(pod, labels::CONFIG_HASH)
}

/// A pod of a file, as this node runs it: with the node's name, an identity of its own, and its hash.
pub fn parse(text: &str, node_name: &str) -> Result<Pod, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| format!("not YAML or JSON: {e}"))?;
    if value["kind"].as_str().is_some_and(|k| k != "Pod") {
        return Err(format!("a {} is not a Pod", value["kind"]));
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| format!("not a pod: {e}"))?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("the pod has no name")?;
    let spec = pod.spec.as_mut().ok_or("the pod has no spec")?;
    let hash = hex::encode(&Sha256::digest(format!("{node_name}\n{text}"))[..16]);
    spec.node_name = Some(node_name.to_owned());
    let everything =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(everything);
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{node_name}"));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(labels::CONFIG_SOURCE.into(), "file".into());
    annotations.insert(labels::CONFIG_HASH.into(), hash);
    Ok(pod)
}

/// The pods of a folder. Files that are no pods are logged and left out.
pub fn read_folder(dir: &Path, node_name: &str) -> Vec<Pod> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        let parsed = std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|t| parse(&t, node_name));
        match parsed {
            Ok(pod) => out.push(pod),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a static pod could not be read"),
        }
    }
    out
}

/// The object that stands for a static pod in the API.
pub fn mirror(pod: &Pod, node_uid: Option<&str>, node_name: &str) -> Pod {
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(labels::CONFIG_MIRROR.into(), spec::uid(pod).to_owned());
    if let Some(uid) = node_uid {
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node_name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
    }
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let text = r#"{"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
        let pod = parse(text, "n1").unwrap();
        assert_eq!((spec::name(&pod), spec::namespace(&pod)), ("web-n1", "default"));
        assert!(is_static(&pod));
        let mirror = mirror(&pod, Some("u"), "n1");
        assert!(is_mirror(&mirror) && !is_static(&mirror));
        assert_eq!(mirror_hash(&mirror), config_hash(&pod));
        assert_ne!(spec::uid(&parse(&text.replace("\"i\"", "\"j\""), "n1").unwrap()), spec::uid(&pod));
        let yaml = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: y\nspec:\n  containers:\n  - name: c\n    image: i\n";
        assert_eq!(spec::name(&parse(yaml, "n1").unwrap()), "y-n1");
        assert!(parse("kind: Service\nmetadata: {name: s}\nspec: {}", "n1").is_err());
        assert!(parse("{", "n1").is_err());
        assert!(parse("{}", "n1").is_err());
    }
}
