//! A container's rights: the pod's security context, overridden by the container's own.

use crate::spec;
use cri::{NamespaceMode, NamespaceOptions, SeccompProfile, SecurityContext};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile as ApiSeccomp};
use std::path::{Path, PathBuf};

/// The user an image's configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// A number.
    Id(i64),
    /// A name, to be looked up in the image.
    Name(String),
}

impl ImageUser {
    /// From the `USER` of an image: a number or name, with or without a group; empty for root.
    pub fn parse(text: &str) -> ImageUser {
        let user = text.split(':').next().unwrap_or_default();
        if user.is_empty() {
            return ImageUser::Id(0);
        }
        user.parse().map_or_else(|_| ImageUser::Name(user.to_owned()), ImageUser::Id)
    }
}

/// The Linux namespaces of a pod.
pub fn namespaces(pod: &Pod) -> NamespaceOptions {
    let s = spec::spec(pod);
    let node_if = |on: Option<bool>| if on == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (s.host_pid, s.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOptions { network: node_if(s.host_network), pid, ipc: node_if(s.host_ipc) }
}

/// Whether a container asks for all rights.
pub fn privileged(c: &Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged) == Some(true)
}

fn seccomp(profile: Option<&ApiSeccomp>, root: &Path) -> Result<SeccompProfile, String> {
    let Some(profile) = profile else { return Ok(SeccompProfile::Unconfined) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(SeccompProfile::Unconfined),
        "RuntimeDefault" => Ok(SeccompProfile::RuntimeDefault),
        "Localhost" => {
            let file = profile.localhost_profile.as_deref().filter(|f| !f.is_empty());
            let file = file.ok_or("localhostProfile must be set if seccompProfile type is Localhost.")?;
            let clean = Path::new(file).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !clean {
                return Err(format!("localhostProfile {file:?} must be a relative path without '..'"));
            }
            Ok(SeccompProfile::Localhost(root.join("seccomp").join(file)))
        }
        other => Err(format!("unsupported seccomp profile type {other:?}")),
    }
}

/// The effective rights of a container.
pub fn context(pod: &Pod, c: &Container, image: &ImageUser, root: &Path) -> Result<SecurityContext, String> {
    let p = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = c.security_context.clone().unwrap_or_default();
    unsupported(pod, c)?;
    let run_as_user = own.run_as_user.or(p.run_as_user);
    verify_non_root(pod, c, run_as_user, own.run_as_non_root.or(p.run_as_non_root) == Some(true), image)?;
    let privileged = own.privileged == Some(true);
    let caps = own.capabilities.unwrap_or_default();
    let adds_admin = caps.add.iter().flatten().any(|c| matches!(c.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN" | "ALL"));
    let mut groups: Vec<i64> = p.fs_group.into_iter().collect();
    groups.extend(p.supplemental_groups.iter().flatten());
    let (image_id, image_name) = match image {
        ImageUser::Id(id) => (Some(*id), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    let bare = |list: Option<Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|c| c.strip_prefix("CAP_").unwrap_or(&c).to_owned()).collect()
    };
    Ok(SecurityContext {
        privileged,
        run_as_user: run_as_user.or(image_id),
        run_as_group: own.run_as_group.or(p.run_as_group),
        run_as_username: if run_as_user.is_none() { image_name } else { String::new() },
        supplemental_groups: groups,
        supplemental_groups_strict: p.supplemental_groups_policy.as_deref() == Some("Strict"),
        add_capabilities: bare(caps.add),
        drop_capabilities: bare(caps.drop),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged && !adds_admin,
        seccomp: if privileged {
            SeccompProfile::Unconfined
        } else {
            seccomp(own.seccomp_profile.as_ref().or(p.seccomp_profile.as_ref()), root)?
        },
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        namespaces: namespaces(pod),
    })
}

/// What this node cannot do is refused, never silently left out.
fn unsupported(pod: &Pod, c: &Container) -> Result<(), String> {
    let s = spec::spec(pod);
    if s.host_users == Some(false) {
        return Err("user namespaces (hostUsers: false) are not supported by this node".into());
    }
    let p = s.security_context.as_ref();
    let profile = c.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let profile = profile.or_else(|| p.and_then(|p| p.app_armor_profile.as_ref()));
    match profile.map(|a| a.type_.as_str()) {
        Some("Localhost") => Err("Cannot enforce AppArmor: AppArmor is not enabled on the host".into()),
        _ => Ok(()),
    }
}

fn verify_non_root(pod: &Pod, c: &Container, user: Option<i64>, asked: bool, image: &ImageUser) -> Result<(), String> {
    if !asked {
        return Ok(());
    }
    let whom = format!("(pod: \"{}\", container: {})", spec::full_name(pod), c.name);
    match (user, image) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whom}")),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Name(name)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whom}"
        )),
        (None, ImageUser::Id(0)) => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        (None, ImageUser::Id(_)) => Ok(()),
    }
}

/// The folder of seccomp profiles below the kubelet's root.
pub fn seccomp_dir(root: &Path) -> PathBuf {
    root.join("seccomp")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod_context: serde_json::Value, own: serde_json::Value, user: &str) -> Result<SecurityContext, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap();
        context(&pod, &spec::spec(&pod).containers[0], &ImageUser::parse(user), Path::new("/root"))
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let got = check(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 9, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                   "capabilities": {"add": ["CAP_NET_ADMIN"], "drop": ["ALL"]}}),
            "",
        )
        .unwrap();
        assert_eq!(
            (got.run_as_user, got.run_as_group, got.supplemental_groups.as_slice()),
            (Some(9), Some(2), &[3, 4][..])
        );
        assert!(got.no_new_privs && got.readonly_rootfs);
        assert_eq!((got.add_capabilities[0].as_str(), got.drop_capabilities[0].as_str()), ("NET_ADMIN", "ALL"));
        assert_eq!(got.seccomp, SeccompProfile::RuntimeDefault);
    }

    #[test]
    fn the_image_names_the_user_when_nobody_else_does() {
        let got = check(json!({}), json!({}), "nginx:nginx").unwrap();
        assert_eq!((got.run_as_user, got.run_as_username.as_str()), (None, "nginx"));
        assert_eq!(check(json!({}), json!({}), "101").unwrap().run_as_user, Some(101));
    }

    #[test]
    fn root_is_refused_where_non_root_is_asked() {
        let whom = "(pod: \"p_n(u)\", container: c)";
        for (pod, own, user, want) in [
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                "",
                format!("container has runAsNonRoot and image will run as root {whom}"),
            ),
            (
                json!({"runAsNonRoot": true, "runAsUser": 0}),
                json!({}),
                "5",
                format!("container's runAsUser breaks non-root policy {whom}"),
            ),
            (
                json!({}),
                json!({"runAsNonRoot": true}),
                "web",
                format!(
                    "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {whom}"
                ),
            ),
        ] {
            assert_eq!(check(pod, own, user), Err(want));
        }
        assert!(check(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "").is_ok());
        assert!(check(json!({"runAsNonRoot": true}), json!({}), "1000").is_ok());
    }

    #[test]
    fn profiles_stay_below_their_folder() {
        let profile = |f: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": f}});
        let got = check(json!({}), profile("a/b.json"), "").unwrap();
        assert_eq!(got.seccomp, SeccompProfile::Localhost("/root/seccomp/a/b.json".into()));
        assert!(check(json!({}), profile("../x"), "").is_err());
        assert!(check(json!({}), profile("/x"), "").is_err());
    }
}
