//! Defaults of pods and their parts that are more than a fixed value.

use super::{Object, is_unset, items_mut, object_in, set_absent, text};
use serde_json::{Value, json};

/// What holds for pods but not for templates of pods.
pub(super) fn pod(pod: &mut Object) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), json!(1));
    }
    set_absent(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    if let Some(requests) = object_in(resources, "requests") {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn host_ports(container: &mut Object) {
    for port in items_mut(container, "ports") {
        if is_unset(port.get("hostPort"), false)
            && let Some(number) = port.get("containerPort").cloned()
            && number.as_i64() != Some(0)
        {
            port.insert("hostPort".to_owned(), number);
        }
    }
}

/// Keeps the old name of the service account's field in step.
pub(super) fn service_account(spec: &mut Object) {
    let name = if text(spec, "serviceAccountName").is_empty() {
        text(spec, "serviceAccount")
    } else {
        text(spec, "serviceAccountName")
    };
    if !name.is_empty() {
        let name = Value::from(name);
        spec.insert("serviceAccountName".to_owned(), name.clone());
        spec.insert("serviceAccount".to_owned(), name);
    }
}

/// Keeps the one address and the list of addresses in step; the one wins.
pub(super) fn addresses(status: &mut Object) {
    let one = text(status, "podIP").to_owned();
    let first = status.get("podIPs").and_then(|l| l.get(0)).map(|a| a["ip"].as_str().unwrap_or_default().to_owned());
    match first {
        Some(first) if one.is_empty() => {
            status.insert("podIP".to_owned(), first.into());
        }
        Some(first) if first == one => {}
        _ if one.is_empty() => {}
        _ => {
            status.insert("podIPs".to_owned(), json!([{"ip": one}]));
        }
    }
}

/// `Always` for images that move, `IfNotPresent` for the others.
pub(super) fn pull_policy(container: &mut Object) {
    if is_unset(container.get("imagePullPolicy"), false) {
        let policy = policy_of(text(container, "image"));
        container.insert("imagePullPolicy".to_owned(), policy.into());
    }
}

/// A volume without a source is an empty directory.
pub(super) fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}

/// The pull policy of a volume that is an image.
pub(super) fn image_volume(source: &mut Object) {
    if is_unset(source.get("pullPolicy"), false) {
        let policy = policy_of(text(source, "reference"));
        source.insert("pullPolicy".to_owned(), policy.into());
    }
}

/// An image without tag and digest means `latest`; what cannot be an image reference counts as pinned, as upstream has it.
fn policy_of(image: &str) -> &'static str {
    if !is_reference(image) {
        return "IfNotPresent";
    }
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether the text can be an image reference: a lower-case repository, then perhaps a tag and a digest.
fn is_reference(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let (path, tag) = match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => (&name[..at], &name[at + 1..]),
        _ => (name, "latest"),
    };
    let (host, path) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("", path),
    };
    let in_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    let in_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let in_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric()) && p.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    host.chars().all(in_host)
        && path.chars().all(in_path)
        && path.split('/').all(part)
        && !tag.is_empty()
        && tag.chars().all(in_tag)
}

#[cfg(test)]
mod tests {
    use super::policy_of;

    #[test]
    fn pull_policies() {
        let cases = [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("registry:5000/busybox", "Always"),
            ("registry:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:e3b0", "IfNotPresent"),
            ("", "IfNotPresent"),
            (" x ", "IfNotPresent"),
            ("Upper", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(policy_of(image), policy, "{image}");
        }
    }
}
