//! Containers: names, images, ports, environment, mounts.

use super::at::{At, Errors};
use super::{probes, resources, security, text, volumes};
use crate::look::Look;
use machinery::name;
use serde_json::Value;

/// Checks the containers of every kind of a pod; `names` are those of its volumes.
pub(super) fn check_all(spec: &Value, at: &At<'_>, names: &[&str], errors: &mut Errors) {
    let main = at.field("containers");
    let init = at.field("initContainers");
    let mut seen: Vec<&str> = Vec::new();
    if spec.items("containers").is_empty() {
        errors.required(&main, "");
    }
    for (list, at, is_init) in [("containers", &main, false), ("initContainers", &init, true)] {
        for (index, container) in spec.items(list).iter().enumerate() {
            let at = at.index(index);
            check(spec, container, &at, is_init, names, errors);
            restart(container, &at, errors);
            let name = container.text("name");
            if !name.is_empty() && seen.contains(&name) {
                errors.duplicate(&at.field("name"), name);
            }
            seen.push(name);
        }
    }
    host_ports(spec, "containers", &main, errors);
    ephemeral(spec, &at.field("ephemeralContainers"), names, &seen, errors);
}

/// What may not be asked of a container that is added for a look.
const NOT_EPHEMERAL: [&str; 6] = ["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];

fn ephemeral(spec: &Value, at: &At<'_>, volumes: &[&str], taken: &[&str], errors: &mut Errors) {
    let mut seen = taken.to_vec();
    for (index, container) in spec.items("ephemeralContainers").iter().enumerate() {
        let at = at.index(index);
        let target = container.text("targetContainerName");
        check(spec, container, &at, false, volumes, errors);
        let name = container.text("name");
        if !name.is_empty() && seen.contains(&name) {
            errors.duplicate(&at.field("name"), name);
        }
        seen.push(name);
        if !target.is_empty() && !taken.contains(&target) {
            errors.not_found(&at.field("targetContainerName"), target);
        }
        let empty = |field: &str| match container.at(field) {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty() && field == "resources",
            other => other.is_null(),
        };
        for field in NOT_EPHEMERAL.into_iter().filter(|field| !empty(field)) {
            errors.forbidden(&at.field(field), "cannot be set for an Ephemeral Container");
        }
    }
}

/// The policy of a single container, and the rules by exit code.
fn restart(container: &Value, at: &At<'_>, errors: &mut Errors) {
    let policy = container.text("restartPolicy");
    let rules = container.items("restartPolicyRules");
    if container.has("restartPolicy") {
        errors.one_of(&at.field("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    } else if !rules.is_empty() {
        errors.required(&at.field("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    let list = at.field("restartPolicyRules");
    for (index, rule) in rules.iter().enumerate() {
        let at = list.index(index);
        errors.one_of(&at.field("action"), rule.text("action"), &["Restart", "RestartAllContainers"]);
        if !rule.has("exitCodes") {
            errors.required(&at.field("exitCodes"), "must be specified");
        } else {
            let operator = rule.text("exitCodes.operator");
            errors.one_of(&at.field("exitCodes.operator"), operator, &["In", "NotIn"]);
        }
    }
}

fn check(spec: &Value, container: &Value, at: &At<'_>, is_init: bool, volumes: &[&str], errors: &mut Errors) {
    let name = container.text("name");
    if name.is_empty() {
        errors.required(&at.field("name"), "");
    } else {
        errors.texts(&at.field("name"), name, name::dns1123_label(name));
    }
    if container.text("image").is_empty() {
        errors.required(&at.field("image"), "");
    }
    let policy = container.text("terminationMessagePolicy");
    errors.one_of(&at.field("terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    errors.one_of(
        &at.field("imagePullPolicy"),
        container.text("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    ports(spec, container, &at.field("ports"), errors);
    environment(container, at, errors);
    mounts(container, &at.field("volumeMounts"), volumes, errors);
    devices(container, &at.field("volumeDevices"), volumes, errors);
    claims(spec, container, &at.field("resources.claims"), errors);
    resources::check(container.at("resources"), &at.field("resources"), errors);
    resize(container, &at.field("resizePolicy"), errors);
    security::container(container.at("securityContext"), &at.field("securityContext"), errors);
    let sidecar = container.text("restartPolicy") == "Always";
    if is_init && !sidecar {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                errors.forbidden(&at.field(field), "may not be set for init containers without restartPolicy=Always");
            }
        }
    } else {
        let grace = spec.at("terminationGracePeriodSeconds").as_i64().unwrap_or(30);
        probes::lifecycle(container.at("lifecycle"), &at.field("lifecycle"), grace, errors);
        probes::all(container, at, errors);
    }
}

/// The devices of the pod that a container uses.
fn claims(spec: &Value, container: &Value, at: &At<'_>, errors: &mut Errors) {
    let known: Vec<&str> = spec.items("resourceClaims").iter().map(|claim| claim.text("name")).collect();
    let mut seen: Vec<String> = Vec::new();
    for (index, claim) in container.items("resources.claims").iter().enumerate() {
        let (name, request, at) = (claim.text("name"), claim.text("request"), at.index(index));
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let whole = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        if seen.contains(&whole) {
            errors.duplicate(&at, whole.clone());
        }
        if !request.is_empty() && seen.iter().any(|other| other == name) {
            errors.duplicate(&at, name);
        }
        seen.push(whole);
        if !known.contains(&name) {
            let which = if known.is_empty() { "which is empty".to_owned() } else { format!("[{}]", known.join(" ")) };
            let detail = format!("must be one of the names in pod.spec.resourceClaims {which}");
            errors.not_found_because(&at, name, detail);
        }
    }
}

/// What a change of a container's resources does to it.
fn resize(container: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for policy in container.items("resizePolicy") {
        let name = policy.text("resourceName");
        if seen.contains(&name) {
            errors.duplicate(at, name);
        }
        seen.push(name);
        for (field, known) in
            [("resourceName", ["cpu", "memory"]), ("restartPolicy", ["NotRequired", "RestartContainer"])]
        {
            match policy.text(field) {
                "" => errors.required(at, ""),
                text => errors.one_of(at, text, &known),
            }
        }
    }
}

/// Volumes that are used as block devices.
fn devices(container: &Value, at: &At<'_>, volumes: &[&str], errors: &mut Errors) {
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mounts = container.items("volumeMounts");
    for (index, device) in container.items("volumeDevices").iter().enumerate() {
        let (name, path, at) = (device.text("name"), device.text("devicePath"), at.index(index));
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        if names.contains(&name) {
            errors.invalid(&at.field("name"), name, "must be unique");
        }
        names.push(name);
        if !volumes.contains(&name) {
            errors.not_found(&at.field("name"), name);
        }
        if path.is_empty() {
            errors.required(&at.field("devicePath"), "");
        }
        if paths.contains(&path) {
            errors.invalid(&at.field("devicePath"), path, "must be unique");
        }
        if !path.is_empty() {
            text::no_parent(path, &at.field("devicePath"), errors);
            paths.push(path);
        }
        if mounts.iter().any(|mount| mount.text("mountPath") == path) {
            errors.invalid(&at.field("devicePath"), path, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.text("name") == name) {
            errors.invalid(&at.field("name"), name, "must not already exist in volumeMounts");
        }
    }
}

fn ports(spec: &Value, container: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in container.items("ports").iter().enumerate() {
        let at = at.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let wrong = name::port_name(name);
            if wrong.is_empty() && names.contains(&name) {
                errors.duplicate(&at.field("name"), name);
            }
            names.push(name);
            errors.texts(&at.field("name"), name, wrong);
        }
        match port.int("containerPort") {
            0 => errors.required(&at.field("containerPort"), ""),
            _ => text::port_number(port.at("containerPort"), &at.field("containerPort"), errors),
        }
        let host = port.int("hostPort");
        if host != 0 {
            text::port_number(port.at("hostPort"), &at.field("hostPort"), errors);
        }
        if spec.flag("hostNetwork") && host != 0 && host != port.int("containerPort") {
            errors.invalid(&at.field("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
        }
        errors.one_of(&at.field("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports(spec: &Value, list: &str, at: &At<'_>, errors: &mut Errors) {
    let mut taken: Vec<String> = Vec::new();
    for (index, container) in spec.items(list).iter().enumerate() {
        let at = at.index(index);
        let at = at.field("ports");
        for (index, port) in container.items("ports").iter().enumerate().filter(|(_, p)| p.int("hostPort") != 0) {
            let key = format!("{}/{}/{}", port.text("protocol"), port.text("hostIP"), port.int("hostPort"));
            if taken.contains(&key) {
                errors.duplicate(&at.index(index).field("hostPort"), key.as_str());
            }
            taken.push(key);
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn environment(container: &Value, at: &At<'_>, errors: &mut Errors) {
    let env = at.field("env");
    for (index, variable) in container.items("env").iter().enumerate() {
        let at = env.index(index);
        match variable.text("name") {
            "" => errors.required(&at.field("name"), ""),
            name => errors.texts(&at.field("name"), name, name::env_var_name(name)),
        }
        if variable.has("valueFrom") {
            value_from(variable, &at.field("valueFrom"), errors);
        }
    }
    let from = at.field("envFrom");
    // Upstream leaves the index out of some of these paths.
    for (index, source) in container.items("envFrom").iter().enumerate() {
        let here = from.index(index);
        let at = &from;
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            errors.texts(&here.field("prefix"), prefix, name::env_var_name(prefix));
        }
        let kinds: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|k| source.has(k)).collect();
        match kinds.len() {
            0 => errors.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(at, "", "may not have more than one field specified at a time"),
        }
        for kind in kinds {
            if source.at(kind).text("name").is_empty() {
                errors.required(&at.field(kind).field("name"), "");
            }
        }
    }
}

fn value_from(variable: &Value, at: &At<'_>, errors: &mut Errors) {
    let from = variable.at("valueFrom");
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<&str> = kinds.into_iter().filter(|k| from.has(k)).collect();
    for kind in &given {
        let (source, at) = (from.at(kind), at.field(kind));
        match *kind {
            "fieldRef" => volumes::field_reference(source, &at, ENV_FIELDS, errors),
            "resourceFieldRef" if source.text("resource").is_empty() => errors.required(&at.field("resource"), ""),
            "configMapKeyRef" | "secretKeyRef" => {
                let (name, key) = (source.text("name"), source.text("key"));
                errors.texts(&at.field("name"), name, name::dns1123_subdomain(name));
                match key {
                    "" => errors.required(&at.field("key"), ""),
                    _ => errors.texts(&at.field("key"), key, name::config_map_key(key)),
                }
            }
            _ => {}
        }
    }
    if given.is_empty() {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(at, "", detail);
    } else if !variable.text("value").is_empty() {
        errors.invalid(at, "", "may not be specified when `value` is not empty");
    } else if given.len() > 1 {
        errors.invalid(at, "", "may not have more than one field specified at a time");
    }
}

fn mounts(container: &Value, at: &At<'_>, volumes: &[&str], errors: &mut Errors) {
    let mut paths: Vec<&str> = Vec::new();
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        let here = at.index(index);
        let (name, path) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.required(&here.field("name"), "");
        }
        if !volumes.contains(&name) {
            errors.not_found(&here.field("name"), name);
        }
        if path.is_empty() {
            errors.required(&here.field("mountPath"), "");
        }
        if paths.contains(&path) {
            errors.invalid(&here.field("mountPath"), path, "must be unique");
        }
        paths.push(path);
        // Upstream leaves the index out of these paths.
        if !mount.text("subPath").is_empty() {
            text::local_path(mount.text("subPath"), &at.field("subPath"), errors);
        }
        if !mount.text("subPathExpr").is_empty() {
            if !mount.text("subPath").is_empty() {
                errors.invalid(
                    &at.field("subPathExpr"),
                    mount.text("subPathExpr"),
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            text::local_path(mount.text("subPathExpr"), &at.field("subPathExpr"), errors);
        }
        propagation(container, mount, &here, errors);
    }
}

/// How mounts inside and outside of a container meet.
fn propagation(container: &Value, mount: &Value, at: &At<'_>, errors: &mut Errors) {
    let mode = mount.text("mountPropagation");
    let here = at.field("mountPropagation");
    if mount.has("mountPropagation") {
        errors.one_of(&here, mode, &["Bidirectional", "HostToContainer", "None"]);
        if mode == "Bidirectional" && !container.flag("securityContext.privileged") {
            errors.forbidden(&here, "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let here = at.field("recursiveReadOnly");
    match mount.text("recursiveReadOnly") {
        "" if !mount.has("recursiveReadOnly") => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag("readOnly") {
                errors.forbidden(&here, "may only be specified when readOnly is true");
            }
            if !mode.is_empty() && mode != "None" {
                errors.forbidden(&here, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => errors.unsupported(&here, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}
