//! PodSecurity: what the namespace's labels let pods do, by the Pod Security Standards (baseline and restricted).
//!
//! `pod-security.kubernetes.io/enforce` refuses pods; `warn` adds a warning, for pods and for what has a pod template.
//! Pinned versions (`…-version`) are read and taken for the latest: the standards only grew more exact.

use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::KindStore;
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// A level that there is not is the strictest: a slip in a label opens nothing.
    fn parse(text: &str) -> Self {
        match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            _ => Self::Restricted,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

pub(super) struct PodSecurity {
    pub(super) namespaces: Arc<KindStore>,
}

/// The pod's or the template's metadata and spec, for the kinds that have one.
fn pod_of<'a>(request: &AdmissionRequest<'_>, object: &'a Value) -> Option<&'a Value> {
    let attributes = request.attributes;
    match (attributes.group.as_str(), attributes.resource.as_str(), attributes.subresource.as_str()) {
        ("", "pods", "" | "ephemeralcontainers") => Some(object),
        ("", "replicationcontrollers", "") | ("apps", _, "") | ("batch", "jobs", "") => {
            object.pointer("/spec/template").filter(|template| template.is_object())
        }
        ("batch", "cronjobs", "") => object.pointer("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let Some(pod) = pod_of(request, object) else { return Ok(()) };
        let is_pod = request.attributes.resource == "pods";
        // What a pod may do is settled once; of later changes only ephemeral containers and images matter.
        let same_spec = request.old_object.is_some_and(|old| old.get("spec") == object.get("spec"));
        let Some(namespace) = self.namespaces.get("", &request.attributes.namespace).filter(|_| !same_spec) else {
            return Ok(());
        };
        let level = |mode: &str| namespace.label(&format!("{PREFIX}{mode}")).map_or(Level::Privileged, Level::parse);
        let (enforce, warn) = (if is_pod { level("enforce") } else { Level::Privileged }, level("warn"));
        let describe =
            |level: Level| Some(problems(pod, level)).filter(|found| !found.is_empty()).map(|f| f.join(", "));
        if let Some(found) = describe(enforce) {
            let why = format!("violates PodSecurity \"{}:latest\": {found}", enforce.as_str());
            return Err(Status::forbidden("", "pods", meta::name(object), why));
        }
        if let Some(found) = describe(warn) {
            let text = format!("would violate PodSecurity \"{}:latest\": {found}", warn.as_str());
            request.warnings.push(text);
        }
        Ok(())
    }
}

/// One container of a pod.
struct Container<'a> {
    name: &'a str,
    value: &'a Value,
}

fn containers(pod: &Value) -> Vec<Container<'_>> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let all = lists.iter().filter_map(|list| meta::at(pod, &["spec", list])?.as_array()).flatten();
    all.map(|value| Container { name: meta::text_at(value, &["name"]), value }).collect()
}

/// Names of the containers for which something holds: `containers "a", "b"`.
fn those(pod: &Value, holds: impl Fn(&Value) -> bool) -> Option<String> {
    let found: Vec<String> =
        containers(pod).iter().filter(|c| holds(c.value)).map(|c| format!("{:?}", c.name)).collect();
    match found.as_slice() {
        [] => None,
        [one] => Some(format!("container {one}")),
        many => Some(format!("containers {}", many.join(", "))),
    }
}

fn problems(pod: &Value, level: Level) -> Vec<String> {
    let mut found = Vec::new();
    if level >= Level::Baseline {
        baseline(pod, &mut found);
    }
    if level >= Level::Restricted {
        restricted(pod, &mut found);
    } else if level >= Level::Baseline {
        baseline_only(pod, &mut found);
    }
    found
}

const HARMLESS_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];
const PLAIN_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn strings(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    meta::at(pod, &["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten()
}

/// Rules that hold at both levels.
fn baseline(pod: &Value, found: &mut Vec<String>) {
    let flag = |field: &str| meta::at(pod, &["spec", field]) == Some(&Value::Bool(true));
    let host: Vec<String> =
        ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| flag(f)).map(|f| format!("{f}=true")).collect();
    if !host.is_empty() {
        found.push(format!("host namespaces ({})", host.join(", ")));
    }
    let privileged = |c: &Value| c.pointer("/securityContext/privileged") == Some(&Value::Bool(true));
    if let Some(who) = those(pod, privileged) {
        found.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    let paths: Vec<String> = volumes(pod)
        .filter(|volume| volume.get("hostPath").is_some_and(|path| !path.is_null()))
        .map(|volume| format!("{:?}", meta::text_at(volume, &["name"])))
        .collect();
    if !paths.is_empty() {
        let noun = if paths.len() == 1 { "volume" } else { "volumes" };
        found.push(format!("hostPath volumes ({noun} {})", paths.join(", ")));
    }
    let host_ports = |c: &Value| {
        let ports = c.get("ports").and_then(Value::as_array).into_iter().flatten();
        ports.filter_map(|port| port["hostPort"].as_u64()).any(|port| port > 0)
    };
    if let Some(who) = those(pod, host_ports) {
        found.push(format!("hostPort ({who} uses hostPorts)"));
    }
    let proc_mount = |c: &Value| c.pointer("/securityContext/procMount").is_some_and(|mount| mount != "Default");
    if let Some(who) = those(pod, proc_mount) {
        found.push(format!("procMount ({who} must not set securityContext.procMount to \"Unmasked\")"));
    }
    let sysctls = pod.pointer("/spec/securityContext/sysctls").and_then(Value::as_array).into_iter().flatten();
    let unsafe_ones: Vec<&str> =
        sysctls.map(|sysctl| meta::text_at(sysctl, &["name"])).filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
    if !unsafe_ones.is_empty() {
        found.push(format!("forbidden sysctls ({})", unsafe_ones.join(", ")));
    }
    let type_ok = |context: Option<&Value>| {
        let kind = context.map(|c| meta::text_at(c, &["seLinuxOptions", "type"])).unwrap_or_default();
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t" | "container_engine_t")
            && context.and_then(|c| c.pointer("/seLinuxOptions/user")).is_none()
            && context.and_then(|c| c.pointer("/seLinuxOptions/role")).is_none()
    };
    if !type_ok(pod.pointer("/spec/securityContext")) || those(pod, |c| !type_ok(c.get("securityContext"))).is_some() {
        found.push("seLinuxOptions (forbidden type, user or role)".to_owned());
    }
    host_process(pod, found);
    host_of_probes(pod, found);
    app_armor(pod, found);
}

/// `pod and container "a"`: what sets something, of the pod itself and of its containers.
fn setters(pod: &Value, sets: impl Fn(&Value) -> bool) -> Option<String> {
    let of_pod = pod.get("spec").is_some_and(&sets).then(|| "pod".to_owned());
    let found: Vec<String> = of_pod.into_iter().chain(those(pod, sets)).collect();
    Some(found.join(" and ")).filter(|found| !found.is_empty())
}

/// Windows' way out of a container.
fn host_process(pod: &Value, found: &mut Vec<String>) {
    let sets = |at: &Value| at.pointer("/securityContext/windowsOptions/hostProcess") == Some(&Value::Bool(true));
    if let Some(who) = setters(pod, sets) {
        found.push(format!("hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"));
    }
}

/// Probes and hooks that make the node call another host than the pod.
fn host_of_probes(pod: &Value, found: &mut Vec<String>) {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let hosts = |c: &Value| -> Vec<String> {
        let paths = HANDLERS.iter().flat_map(|at| [format!("{at}/httpGet/host"), format!("{at}/tcpSocket/host")]);
        let hosts = paths.filter_map(|path| c.pointer(&path)?.as_str().map(str::to_owned));
        hosts.filter(|host| !host.is_empty()).collect()
    };
    let mut all: Vec<String> = containers(pod).iter().flat_map(|c| hosts(c.value)).collect();
    all.sort();
    all.dedup();
    if let Some(who) = those(pod, |c| !hosts(c).is_empty()) {
        let uses = if who.starts_with("containers") { "use" } else { "uses" };
        let noun = if all.len() == 1 { "host" } else { "hosts" };
        let all: Vec<String> = all.iter().map(|host| format!("{host:?}")).collect();
        let all = all.join(", ");
        found.push(format!("probe or lifecycle host ({who} {uses} probe or lifecycle {noun} {all})"));
    }
}

/// No container without its AppArmor profile, neither by field nor by the annotation of old.
fn app_armor(pod: &Value, found: &mut Vec<String>) {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad = |at: &Value| {
        let kind = at.pointer("/securityContext/appArmorProfile/type").and_then(Value::as_str);
        kind.filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost")).map(str::to_owned)
    };
    let annotations = meta::at(pod, &["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten();
    let good = |profile: &str| profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
    let mut annotated: Vec<String> = annotations
        .filter(|(key, value)| key.starts_with(ANNOTATION) && !value.as_str().is_none_or(good))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    annotated.sort();
    let mut values: Vec<String> = pod.get("spec").and_then(bad).into_iter().collect();
    values.extend(containers(pod).iter().filter_map(|c| bad(c.value)));
    values.sort();
    values.dedup();
    values.extend(annotated.iter().cloned());
    let mut who: Vec<String> = setters(pod, |at| bad(at).is_some()).into_iter().collect();
    if !annotated.is_empty() {
        who.push(if annotated.len() == 1 { "annotation" } else { "annotations" }.to_owned());
    }
    if !values.is_empty() {
        let noun = if values.len() == 1 { "profile" } else { "profiles" };
        let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        let (who, values) = (who.join(" and "), values.join(", "));
        found.push(format!("forbidden AppArmor {noun} ({who} must not set AppArmor profile type to {values})"));
    }
}

/// Where the restricted level has a stricter rule of its own.
fn baseline_only(pod: &Value, found: &mut Vec<String>) {
    let adds = |c: &Value| {
        strings(c.pointer("/securityContext/capabilities/add")).iter().any(|cap| !HARMLESS_CAPABILITIES.contains(cap))
    };
    if let Some(who) = those(pod, adds) {
        found.push(format!(
            "non-default capabilities ({who} must not include other capabilities in securityContext.capabilities.add)"
        ));
    }
    let unconfined = |at: &Value, path: &str| at.pointer(path).is_some_and(|kind| kind == "Unconfined");
    if unconfined(pod, "/spec/securityContext/seccompProfile/type") {
        found
            .push("seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")".to_owned());
    } else if let Some(who) = those(pod, |c| unconfined(c, "/securityContext/seccompProfile/type")) {
        found
            .push(format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")"));
    }
}

fn restricted(pod: &Value, found: &mut Vec<String>) {
    let escalates = |c: &Value| c.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false));
    if let Some(who) = those(pod, escalates) {
        found.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let keeps = |c: &Value| {
        let all = strings(c.pointer("/securityContext/capabilities/drop")).contains(&"ALL");
        let adds = strings(c.pointer("/securityContext/capabilities/add"));
        !all || adds.iter().any(|cap| *cap != "NET_BIND_SERVICE")
    };
    if let Some(who) = those(pod, keeps) {
        found.push(format!("unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"));
    }
    let plain = |volume: &&Value| PLAIN_VOLUMES.iter().any(|kind| volume.get(kind).is_some_and(|v| !v.is_null()));
    let odd: Vec<String> = volumes(pod)
        .filter(|volume| !plain(volume) && volume.as_object().is_some_and(|v| v.len() > 1))
        .map(|volume| format!("{:?}", meta::text_at(volume, &["name"])))
        .collect();
    if !odd.is_empty() {
        found.push(format!("restricted volume types ({})", odd.join(", ")));
    }
    let of_pod = pod.pointer("/spec/securityContext/runAsNonRoot").and_then(Value::as_bool);
    let may_be_root = |c: &Value| {
        let own = c.pointer("/securityContext/runAsNonRoot").and_then(Value::as_bool);
        own.or(of_pod) != Some(true)
    };
    if of_pod == Some(false) {
        found.push("runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)".to_owned());
    } else if let Some(who) = those(pod, may_be_root) {
        found.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    let zero = Some(&json!(0)).cloned();
    let root = |at: Option<&Value>| at.cloned() == zero;
    if root(pod.pointer("/spec/securityContext/runAsUser")) {
        found.push("runAsUser=0 (pod must not set runAsUser=0)".to_owned());
    } else if let Some(who) = those(pod, |c| root(c.pointer("/securityContext/runAsUser"))) {
        found.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
    }
    let good =
        |kind: Option<&Value>| kind.and_then(Value::as_str).is_some_and(|k| k == "RuntimeDefault" || k == "Localhost");
    let of_pod = pod.pointer("/spec/securityContext/seccompProfile/type");
    let unprotected = |c: &Value| !good(c.pointer("/securityContext/seccompProfile/type").or(of_pod));
    if let Some(who) = those(pod, unprotected) {
        found.push(format!("seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_level_refuses() {
        let pod = |context: Value, spec: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "a", "securityContext": context}]}});
            for (key, value) in spec.as_object().unwrap() {
                pod["spec"][key] = value.clone();
            }
            pod
        };
        let strict = json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        });
        let with = |path: &str, value: Value| {
            let mut context = strict.clone();
            context[path] = value;
            context
        };
        let none = json!({});
        let cases = [
            (
                pod(none.clone(), none.clone()),
                "",
                "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ),
            (pod(strict.clone(), none.clone()), "", ""),
            (pod(with("privileged", json!(true)), none.clone()), "privileged", "privileged"),
            (
                pod(strict.clone(), json!({"hostNetwork": true, "hostPID": true})),
                "host namespaces (hostNetwork=true, hostPID=true)",
                "host namespaces",
            ),
            (
                pod(strict.clone(), json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
                "hostPath volumes (volume \"v\")",
                "hostPath volumes (volume \"v\"), restricted volume types (\"v\")",
            ),
            (
                pod(with("capabilities", json!({"add": ["SYS_ADMIN"]})), none.clone()),
                "non-default capabilities",
                "unrestricted capabilities",
            ),
            (pod(with("capabilities", json!({"add": ["CHOWN"]})), none.clone()), "", "unrestricted capabilities"),
            (
                pod(with("seccompProfile", json!({"type": "Unconfined"})), none.clone()),
                "seccompProfile",
                "seccompProfile",
            ),
            (pod(with("runAsUser", json!(0)), none.clone()), "", "runAsUser=0"),
            (
                pod(strict.clone(), json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}})),
                "forbidden sysctls (kernel.msgmax)",
                "forbidden sysctls",
            ),
        ];
        for (pod, baseline, restricted) in cases {
            for (level, expected) in [(Level::Baseline, baseline), (Level::Restricted, restricted)] {
                let found = problems(&pod, level).join(", ");
                assert!(
                    found.starts_with(expected) && found.is_empty() == expected.is_empty(),
                    "{found:?} / {expected:?}"
                );
            }
            assert!(problems(&pod, Level::Privileged).is_empty());
        }
    }
}
