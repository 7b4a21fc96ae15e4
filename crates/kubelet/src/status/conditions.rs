//! Pod conditions.

use super::{Input, Lists, time};
use crate::spec::{self, Kind};
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

/// The conditions the kubelet sets.
pub(crate) const OURS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

struct Finding {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn yes() -> Finding {
        Finding { status: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Finding {
        Finding { status: false, reason, message: message.into() }
    }
}

/// All conditions: the kubelet's, and those others set, kept as they are.
pub(crate) fn conditions(input: &Input<'_>, old: &PodStatus, lists: &Lists, phase: &str) -> Vec<PodCondition> {
    let api = input.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let foreign = api.iter().filter(|c| !OURS.contains(&c.type_.as_str()));
    let containers_ready = containers_ready(input, lists, phase);
    let ready = if containers_ready.status {
        gates(input, api)
    } else {
        Finding::no(containers_ready.reason, containers_ready.message.clone())
    };
    let found = [
        (OURS[0], sandbox(input)),
        (OURS[1], initialized(lists, phase)),
        (OURS[2], ready),
        (OURS[3], containers_ready),
        (OURS[4], Finding::yes()),
    ];
    let mut out: Vec<PodCondition> = found.into_iter().map(|(t, f)| condition(input, old, t, f)).collect();
    out.extend(foreign.cloned());
    out
}

fn condition(input: &Input<'_>, old: &PodStatus, type_: &str, finding: Finding) -> PodCondition {
    let status = if finding.status { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == status);
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: (!finding.reason.is_empty()).then(|| finding.reason.to_owned()),
        message: (!finding.message.is_empty()).then_some(finding.message),
        observed_generation: input.pod.metadata.generation,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(input.now_ns))),
        last_probe_time: None,
    }
}

fn sandbox(input: &Input<'_>) -> Finding {
    let host = spec::host_network(input.pod);
    match input.view.sandbox() {
        _ if input.view.ready_sandbox(host).is_some() => Finding::yes(),
        None => Finding::no("PodSandboxNotReady", "no pod sandbox exists"),
        Some(s) if s.state == cri::PodSandboxState::Ready => {
            Finding::no("PodSandboxNotReady", "pod sandbox has no IP address")
        }
        Some(_) => Finding::no("PodSandboxNotReady", "pod sandbox is not ready"),
    }
}

fn initialized(lists: &Lists, phase: &str) -> Finding {
    if phase == "Succeeded" {
        return Finding { status: true, reason: "PodCompleted", message: String::new() };
    }
    let started = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
        s.started == Some(true) || s.state.as_ref().is_some_and(|st| st.running.is_some() || st.terminated.is_some())
    };
    if lists.all.iter().any(|(k, s)| *k == Kind::Regular && s.container_id.is_some() && started(s)) {
        return Finding::yes();
    }
    let incomplete: Vec<&str> = lists
        .all
        .iter()
        .filter(|(k, s)| match k {
            Kind::Init => !s.ready,
            Kind::Sidecar => s.started != Some(true),
            _ => false,
        })
        .map(|(_, s)| s.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Finding::yes();
    }
    Finding::no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
}

fn containers_ready(input: &Input<'_>, lists: &Lists, phase: &str) -> Finding {
    match phase {
        "Succeeded" => return Finding::no("PodCompleted", ""),
        "Failed" => return Finding::no("PodFailed", ""),
        _ => {}
    }
    let unready: Vec<String> = spec::containers(input.pod)
        .filter(|(k, _)| matches!(k, Kind::Sidecar | Kind::Regular))
        .filter(|(_, c)| !lists.get(&c.name).is_some_and(|s| s.ready))
        .map(|(_, c)| c.name.clone())
        .collect();
    if unready.is_empty() {
        return Finding::yes();
    }
    Finding::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn gates(input: &Input<'_>, api: &[PodCondition]) -> Finding {
    let mut missing = Vec::new();
    for gate in spec::spec(input.pod).readiness_gates.iter().flatten() {
        let t = &gate.condition_type;
        match api.iter().find(|c| c.type_ == *t) {
            None => missing.push(format!("corresponding condition of pod readiness gate \"{t}\" does not exist.")),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate \"{t}\" is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() { Finding::yes() } else { Finding::no("ReadinessGatesNotReady", missing.join(", ")) }
}
