//! APIServices.

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use serde_json::Value;

pub(super) fn api_service(object: &Value, errors: &mut Errors) {
    let (group, version) = (object.text("spec.group"), object.text("spec.version"));
    let (own, required) = (object.text("metadata.name"), format!("{version}.{group}"));
    if own != required && !own.is_empty() && name::path_segment(own).is_empty() {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.invalid(&At::root("metadata.name"), own, detail);
    }
    if group.is_empty() && version != "v1" {
        errors.required(&At::root("spec.group"), "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        errors.texts(&At::root("spec.group"), group, name::dns1123_subdomain(group));
    }
    errors.texts(&At::root("spec.version"), version, name::dns1035_label(version));
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let at = At::root("spec");
        let given = object.at("spec").int(field);
        if !(1..=max).contains(&given) {
            errors.invalid(&at.field(field), given, format!("must be positive and less than {max}"));
        }
    }
    let (bundle, insecure) = (object.text("spec.caBundle"), *object.at("spec.insecureSkipTLSVerify") == true);
    if !object.has("spec.service") {
        if !bundle.is_empty() {
            let bytes = format!("{} bytes", bundle.trim_end_matches('=').len() * 3 / 4);
            errors.invalid(&At::root("spec.caBundle"), bytes, "local APIServices may not have a caBundle");
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&At::root("spec.insecureSkipTLSVerify"), true, detail);
        }
        return;
    }
    for field in ["spec.service.namespace", "spec.service.name"] {
        if object.text(field).is_empty() {
            errors.required(&At::root(field), "");
        }
    }
    let port = if object.has("spec.service.port") { object.int("spec.service.port") } else { 443 };
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.invalid(&At::root("spec.service.port"), port, detail);
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.invalid(&At::root("spec.insecureSkipTLSVerify"), true, detail);
    }
}
