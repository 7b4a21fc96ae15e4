//! The pure making of a pod's `status` from what the runtime has and what the worker remembers.

mod conditions;
mod containers;

pub(crate) use conditions::OURS;
pub(crate) use containers::{SCHEME, old_status};

use crate::spec::{self, Kind};
use crate::state::Local;
use crate::view::View;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Nanoseconds since 1970 as the API writes times.
pub fn time(ns: i64) -> Time {
    Time(Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A phase the kubelet decided on, whatever the containers say: rejection, deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For programs: `DeadlineExceeded`, `OutOfcpu`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How far the pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It shall run.
    Running,
    /// It shall end; some containers may still run.
    Ending,
    /// Nothing of it runs, nor ever will.
    Ended,
}

/// All a status is made from.
pub struct Input<'a> {
    /// Specification, and the status the API has.
    pub pod: &'a Pod,
    /// The status made before, if any.
    pub previous: Option<&'a PodStatus>,
    /// What the runtime has.
    pub view: &'a View,
    /// What the worker remembers.
    pub local: &'a Local,
    /// Addresses of the node.
    pub node_ips: &'a [String],
    /// Time.
    pub now_ns: i64,
    /// How far it is.
    pub stage: Stage,
    /// A decided phase.
    pub verdict: Option<&'a Verdict>,
}

/// Makes the status.
pub fn generate(input: &Input<'_>) -> PodStatus {
    let api = input.pod.status.clone().unwrap_or_default();
    let old = input.previous.unwrap_or(&api);
    let mut lists = containers::statuses(input, old);
    if input.stage == Stage::Ended {
        containers::conclude(input.pod, &mut lists);
    }
    let phase = final_phase(input, &lists, old, &api);
    containers::readiness(input, &mut lists);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        observed_generation: input.pod.metadata.generation,
        qos_class: api.qos_class.clone().or_else(|| Some(crate::resources::qos_class(input.pod).to_owned())),
        start_time: old.start_time.clone().or_else(|| Some(time(input.now_ns))),
        nominated_node_name: api.nominated_node_name.clone(),
        resource_claim_statuses: api.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    if let Some(verdict) = input.verdict {
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    } else if old.phase.as_deref() == Some(phase) {
        status.reason = old.reason.clone().or(api.reason.clone());
        status.message = old.message.clone().or(api.message.clone());
    }
    addresses(input, old, &mut status);
    status.conditions = Some(conditions::conditions(input, old, &lists, phase));
    let [init, regular, ephemeral] = lists.split();
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!regular.is_empty()).then_some(regular);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

/// The status of a pod this node refuses: no containers, no start.
pub fn rejected(pod: &Pod, verdict: &Verdict, now_ns: i64) -> PodStatus {
    let api = pod.status.clone().unwrap_or_default();
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(verdict.reason.clone()),
        message: Some(verdict.message.clone()),
        start_time: api.start_time.or_else(|| Some(time(now_ns))),
        qos_class: api.qos_class.or_else(|| Some(crate::resources::qos_class(pod).to_owned())),
        observed_generation: pod.metadata.generation,
        conditions: api.conditions,
        ..PodStatus::default()
    }
}

/// The statuses of a pod's containers, in the order of the specification.
#[derive(Default)]
pub(crate) struct Lists {
    /// Kind and status.
    pub(crate) all: Vec<(Kind, ContainerStatus)>,
}

impl Lists {
    pub(crate) fn get(&self, name: &str) -> Option<&ContainerStatus> {
        self.all.iter().map(|(_, s)| s).find(|s| s.name == name)
    }

    fn split(self) -> [Vec<ContainerStatus>; 3] {
        let mut out = [Vec::new(), Vec::new(), Vec::new()];
        for (kind, status) in self.all {
            let list = match kind {
                Kind::Init | Kind::Sidecar => 0,
                Kind::Regular => 1,
                Kind::Ephemeral => 2,
            };
            out[list].push(status);
        }
        // Regular statuses are sorted by name; the others keep the order of the specification.
        out[1].sort_by(|a, b| a.name.cmp(&b.name));
        out
    }
}

fn addresses(input: &Input<'_>, old: &PodStatus, status: &mut PodStatus) {
    let hosts = input.node_ips;
    status.host_ip = hosts.first().cloned();
    status.host_ips = (!hosts.is_empty()).then(|| hosts.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let ips: Vec<String> = if spec::host_network(input.pod) {
        hosts.to_vec()
    } else if input.stage == Stage::Ended {
        old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect()
    } else {
        input.view.ready_sandbox(false).map(|s| s.ips.clone()).unwrap_or_default()
    };
    // A pod that is ending keeps the address it had, so that those who still talk to it know it.
    let ips = if ips.is_empty() && input.stage != Stage::Running {
        old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect()
    } else {
        ips
    };
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

fn terminal(phase: Option<&str>) -> Option<&'static str> {
    match phase {
        Some("Succeeded") => Some("Succeeded"),
        Some("Failed") => Some("Failed"),
        _ => None,
    }
}

fn final_phase(input: &Input<'_>, lists: &Lists, old: &PodStatus, api: &PodStatus) -> &'static str {
    // What the API shows as over stays over.
    if let Some(phase) = terminal(api.phase.as_deref()) {
        return phase;
    }
    if input.verdict.is_some() {
        return "Failed";
    }
    if let Some(phase) = terminal(old.phase.as_deref()) {
        return phase;
    }
    phase(input, lists)
}

#[derive(Default)]
struct Counts {
    pending_init: u32,
    pending_sidecars: u32,
    failed_init: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    stopped_for_good: u32,
    succeeded: u32,
}

fn phase(input: &Input<'_>, lists: &Lists) -> &'static str {
    let pod = input.pod;
    let mut n = Counts::default();
    for (kind, c) in spec::containers(pod) {
        let status = lists.get(&c.name);
        match kind {
            Kind::Init => count_init(pod, &c, status, &mut n),
            Kind::Sidecar => count_sidecar(status, &mut n),
            Kind::Regular => count_regular(pod, &c, status, &mut n),
            Kind::Ephemeral => {}
        }
    }
    let initialized = spec::spec(pod).containers.iter().any(|c| input.view.latest(&c.name).is_some());
    if input.stage == Stage::Ended {
        return if n.stopped > 0 && n.stopped == n.succeeded && n.failed_init == 0 { "Succeeded" } else { "Failed" };
    }
    if n.failed_init > 0 {
        return "Failed";
    }
    if n.pending_init > 0 || (n.pending_sidecars > 0 && !initialized) || n.waiting > 0 {
        return "Pending";
    }
    if n.running > 0 && n.unknown == 0 {
        return "Running";
    }
    if n.running == 0 && n.stopped > 0 && n.unknown == 0 {
        if n.stopped != n.stopped_for_good {
            return "Running";
        }
        return if n.stopped == n.succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

fn exit_of(status: &ContainerStatus) -> (Option<i32>, bool, bool) {
    let state = status.state.as_ref();
    let running = state.is_some_and(|s| s.running.is_some());
    let waiting = state.is_some_and(|s| s.waiting.is_some());
    let ended = if waiting { status.last_state.as_ref() } else { state };
    (ended.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code), running, waiting)
}

fn count_init(pod: &Pod, c: &k8s_openapi::api::core::v1::Container, status: Option<&ContainerStatus>, n: &mut Counts) {
    match status.map(exit_of) {
        Some((Some(code), false, _)) => {
            if code != 0 && !spec::should_restart(pod, Kind::Init, c, code) {
                n.failed_init += 1;
            } else if code != 0 {
                n.pending_init += 1;
            }
        }
        _ => n.pending_init += 1,
    }
}

fn count_sidecar(status: Option<&ContainerStatus>, n: &mut Counts) {
    let Some(status) = status else {
        n.unknown += 1;
        return;
    };
    match exit_of(status) {
        (_, true, _) => {
            n.running += 1;
            n.pending_sidecars += u32::from(status.started != Some(true));
        }
        (Some(_), ..) => {}
        (None, false, waiting) => {
            n.pending_sidecars += 1;
            n.waiting += u32::from(waiting);
            n.unknown += u32::from(!waiting);
        }
    }
}

fn count_regular(
    pod: &Pod,
    c: &k8s_openapi::api::core::v1::Container,
    status: Option<&ContainerStatus>,
    n: &mut Counts,
) {
    let Some(status) = status else {
        n.unknown += 1;
        return;
    };
    match exit_of(status) {
        (_, true, _) => n.running += 1,
        (Some(code), _, waiting) => {
            n.stopped += 1;
            n.stopped_for_good += u32::from(!spec::should_restart(pod, Kind::Regular, c, code));
            n.succeeded += u32::from(code == 0 && !waiting);
        }
        (None, false, true) => n.waiting += 1,
        (None, false, false) => n.unknown += 1,
    }
}

#[cfg(test)]
mod tests;
