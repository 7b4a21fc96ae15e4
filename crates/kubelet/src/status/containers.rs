//! Container statuses.

use super::{Input, Lists, Stage, time};
use crate::spec::{self, Kind};
use crate::view::View;
use cri::ContainerState as RuntimeState;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, Pod, PodStatus, VolumeMountStatus,
};

/// The scheme of container ids.
pub(crate) const SCHEME: &str = "kijabi://";

const LOST: &str = "The container could not be located when the pod was terminated";

pub(crate) fn waiting(reason: &str, message: &str) -> ContainerState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let waiting = ContainerStateWaiting { reason: text(reason), message: text(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The statuses of all containers in the order of the specification.
pub(crate) fn statuses(input: &Input<'_>, old: &PodStatus) -> Lists {
    let has_init = !spec::init_containers(input.pod).is_empty();
    let mut lists = Lists::default();
    for (kind, c) in spec::containers(input.pod) {
        let old = old_status(old, kind, &c.name);
        lists.all.push((kind, one(input, kind, &c, old, has_init)));
    }
    lists
}

pub(crate) fn old_status<'a>(old: &'a PodStatus, kind: Kind, name: &str) -> Option<&'a ContainerStatus> {
    let list = match kind {
        Kind::Init | Kind::Sidecar => old.init_container_statuses.as_ref(),
        Kind::Regular => old.container_statuses.as_ref(),
        Kind::Ephemeral => old.ephemeral_container_statuses.as_ref(),
    };
    list?.iter().find(|s| s.name == name)
}

fn one(input: &Input<'_>, kind: Kind, c: &Container, old: Option<&ContainerStatus>, has_init: bool) -> ContainerStatus {
    let mut tries = input.view.of(&c.name).filter(|s| !s.id.is_empty());
    let latest = tries.next();
    let default_reason = if has_init && kind != Kind::Ephemeral { "PodInitializing" } else { "ContainerCreating" };
    let mut status = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        state: Some(waiting(default_reason, "")),
        volume_mounts: mounts(c),
        ..ContainerStatus::default()
    };
    let Some(latest) = latest else {
        without_container(input, kind, c, old, &mut status);
        return status;
    };
    fill(input, c, latest, &mut status);
    if let Some(before) = tries.next() {
        status.last_state = Some(state(input, before)).filter(|s| s.terminated.is_some());
    }
    if status.last_state.is_none() {
        status.last_state = old.filter(|o| o.restart_count == status.restart_count).and_then(|o| o.last_state.clone());
    }
    // A container that shall run again and cannot yet is waiting, and what it did before is its last state.
    if let Some(why) = input.local.waiting.get(&c.name)
        && latest.state != RuntimeState::Running
        && input.stage == Stage::Running
    {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(&why.reason, &why.message));
    }
    status
}

/// The status of a container the runtime has nothing of: it never ran, or is lost (after a reboot).
fn without_container(
    input: &Input<'_>,
    kind: Kind,
    c: &Container,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    if let Some(why) = input.local.waiting.get(&c.name) {
        status.state = Some(waiting(&why.reason, &why.message));
    }
    let Some(old) = old else {
        if kind == Kind::Init && any_regular(input.pod, input.view) {
            status.state = Some(completed_unseen());
        }
        return;
    };
    if old.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        *status = old.clone();
        return;
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let ran = old.state.as_ref().is_some_and(|s| s.running.is_some());
    if ran && status.last_state.as_ref().is_none_or(|s| s.terminated.is_none()) {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(lost(message));
        if input.pod.metadata.deletion_timestamp.is_none() {
            status.restart_count += 1;
        }
    }
}

fn any_regular(pod: &Pod, view: &View) -> bool {
    spec::spec(pod).containers.iter().any(|c| view.latest(&c.name).is_some())
}

fn completed_unseen() -> ContainerState {
    let message = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
    let terminated = ContainerStateTerminated {
        reason: Some("Completed".into()),
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn lost(message: &str) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn fill(input: &Input<'_>, c: &Container, s: &cri::ContainerStatus, status: &mut ContainerStatus) {
    status.restart_count = i32::try_from(s.metadata.attempt).unwrap_or(i32::MAX);
    status.container_id = Some(format!("{SCHEME}{}", s.id));
    match input.local.images.get(&s.id) {
        Some(names) => {
            status.image = names.image.clone();
            status.image_id = names.image_id.clone();
        }
        None => status.image_id = s.image_id.clone(),
    }
    status.state = Some(state(input, s));
    status.resources = Some(c.resources.clone().unwrap_or_default());
    status.allocated_resources = c.resources.as_ref().and_then(|r| r.requests.clone());
    status.user = input.local.users.get(&s.id).map(|u| ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: u.uid,
            gid: u.gid,
            supplemental_groups: (!u.groups.is_empty()).then(|| u.groups.clone()),
        }),
    });
}

fn state(input: &Input<'_>, s: &cri::ContainerStatus) -> ContainerState {
    match s.state {
        RuntimeState::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(time(s.started_at_ns)) }),
            ..ContainerState::default()
        },
        RuntimeState::Exited => {
            let message = input.local.term_messages.get(&s.id).filter(|m| !m.is_empty());
            let message = message.cloned().or_else(|| (!s.message.is_empty()).then(|| s.message.clone()));
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: s.exit_code,
                    reason: (!s.reason.is_empty()).then(|| s.reason.clone()),
                    message,
                    started_at: (s.started_at_ns != 0).then(|| time(s.started_at_ns)),
                    finished_at: Some(time(s.finished_at_ns)),
                    container_id: Some(format!("{SCHEME}{}", s.id)),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            }
        }
        RuntimeState::Created | RuntimeState::Unknown => waiting("ContainerCreating", ""),
    }
}

fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = c
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// Gives every container of a pod that ended a terminated state.
pub(crate) fn conclude(pod: &Pod, lists: &mut Lists) {
    let ran = |s: &ContainerStatus| s.container_id.is_some();
    let initialized = lists.all.iter().any(|(k, s)| *k == Kind::Regular && ran(s));
    let no_init = spec::init_containers(pod).is_empty();
    for (kind, status) in &mut lists.all {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            continue;
        }
        if let Some(last) = status.last_state.take_if(|s| s.terminated.is_some() && status.container_id.is_some()) {
            status.state = Some(last);
        } else if initialized || no_init || (*kind == Kind::Init && ran(status)) {
            status.state = Some(lost(LOST));
        }
    }
}

/// Fills in `ready` and `started`.
pub(crate) fn readiness(input: &Input<'_>, lists: &mut Lists) {
    for (kind, status) in &mut lists.all {
        let Some((_, c)) = spec::container(input.pod, &status.name) else { continue };
        let latest = input.view.latest(&status.name);
        let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
        let id = latest.map(|s| s.id.as_str()).unwrap_or_default();
        match kind {
            Kind::Init => {
                let done = status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
                status.ready = done;
                status.started = Some(false);
                if running {
                    status.started = Some(true);
                }
            }
            Kind::Ephemeral => {}
            Kind::Regular | Kind::Sidecar => {
                let started = running && (c.startup_probe.is_none() || input.local.started.contains(id));
                let probed = c.readiness_probe.is_none() || input.local.ready.contains(id);
                status.started = Some(started);
                status.ready = started && probed && input.stage != Stage::Ended;
            }
        }
    }
}
