//! Security contexts of pods and containers.

use super::at::{At, Errors};
use crate::look::Look;
use serde_json::Value;

const ID_MAX: i64 = 2_147_483_647;
const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// What a pod as a whole asks for.
pub(super) fn pod(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    let context = spec.at("securityContext");
    let at = at.field("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        errors.in_range(&at.field(field), context.at(field), 0, ID_MAX);
    }
    let groups = at.field("supplementalGroups");
    for (index, group) in context.items("supplementalGroups").iter().enumerate() {
        errors.in_range(&groups.index(index), group, 0, ID_MAX);
    }
    if context.has("fsGroupChangePolicy") {
        errors.one_of(
            &at.field("fsGroupChangePolicy"),
            context.text("fsGroupChangePolicy"),
            &["Always", "OnRootMismatch"],
        );
    }
    seccomp(context, &at, errors);
    sysctls(context, &at, errors);
    if spec.flag("hostPID") && spec.flag("shareProcessNamespace") {
        let value = spec.at("shareProcessNamespace").clone();
        errors.invalid(
            &at.field("shareProcessNamespace"),
            value,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
}

fn sysctls(context: &Value, at: &At<'_>, errors: &mut Errors) {
    let at = at.field("sysctls");
    let mut seen = Vec::new();
    for (index, sysctl) in context.items("sysctls").iter().enumerate() {
        let (name, at) = (sysctl.text("name"), at.index(index));
        let at = at.field("name");
        if name.is_empty() {
            errors.required(&at, "");
        } else if name.len() > 253 || !is_sysctl(name) {
            errors.invalid(&at, name, format!("must have at most 253 characters and match regex {SYSCTL}"));
        } else if seen.contains(&name) {
            errors.duplicate(&at, name);
        }
        seen.push(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.split(['.', '/']).all(|part| part.starts_with(edge) && part.ends_with(edge) && part.chars().all(inner))
}

fn seccomp(context: &Value, at: &At<'_>, errors: &mut Errors) {
    let profile = context.at("seccompProfile");
    if profile.is_null() {
        return;
    }
    let at = at.field("seccompProfile");
    let file = at.field("localhostProfile");
    match profile.text("type") {
        "Localhost" if profile.text("localhostProfile").is_empty() => {
            errors.required(&file, "must be set when seccomp type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" if profile.has("localhostProfile") => {
            let value = profile.at("localhostProfile").clone();
            errors.invalid(&file, value, "can only be set when seccomp type is Localhost");
        }
        "Localhost" => super::text::local_path(profile.text("localhostProfile"), &file, errors),
        "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(&at.field("type"), "type is required when seccompProfile is set"),
        other => errors.unsupported(&at.field("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// What one container asks for.
pub(super) fn container(context: &Value, at: &At<'_>, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        errors.in_range(&at.field(field), context.at(field), 0, ID_MAX);
    }
    if context.has("procMount") {
        errors.one_of(&at.field("procMount"), context.text("procMount"), &["Default", "Unmasked"]);
    }
    seccomp(context, at, errors);
    if context.at("allowPrivilegeEscalation") == &Value::Bool(false) {
        if context.flag("privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(at, context.clone(), detail);
        }
        if context.items("capabilities.add").iter().any(|c| c == "CAP_SYS_ADMIN" || c == "SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(at, context.clone(), detail);
        }
    }
}
