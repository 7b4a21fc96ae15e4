//! The pure heart of a pod worker: from what shall be and what is, what to do next.

use crate::backoff::delay_text;
use crate::labels;
use crate::spec::{self, Kind};
use crate::state::{Condemned, Local, Waiting};
use crate::view::View;
use cri::{ContainerState, ContainerStatus};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeMap;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set up the volumes and make a sandbox, stopping those there are.
    MakeSandbox {
        /// Its attempt number.
        attempt: u32,
    },
    /// Start a container.
    Start {
        /// Which list it stands in.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// Stop a container.
    Kill {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// For the event.
        message: String,
        /// Seconds to end in, where a probe says other than the pod.
        grace_s: Option<i64>,
    },
    /// Stop all sandboxes: nothing runs in them any more.
    StopSandboxes,
    /// The pod came to its end: stop what is left, and never start anything again.
    Finish,
}

/// What to do now, and when to look again though nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order. Of `MakeSandbox` and `Start`, only the first is taken; then a new plan is made.
    pub actions: Vec<Action>,
    /// Nanoseconds since 1970.
    pub wake_ns: Option<i64>,
    /// Containers that wait, and for what.
    pub waiting: BTreeMap<String, Waiting>,
}

struct Planner<'a> {
    pod: &'a Pod,
    view: &'a View,
    local: &'a Local,
    now_ns: i64,
    plan: Plan,
}

/// The back-off key of a container: a changed definition starts afresh.
pub fn backoff_key(c: &Container) -> String {
    format!("{}/{}", c.name, spec::container_hash(c))
}

/// Plans for a pod that shall run.
pub fn plan(pod: &Pod, view: &View, local: &Local, now_ns: i64) -> Plan {
    let mut planner = Planner { pod, view, local, now_ns, plan: Plan::default() };
    planner.run();
    planner.plan
}

impl Planner<'_> {
    fn run(&mut self) {
        let Some(sandbox) = self.view.ready_sandbox(spec::host_network(self.pod)) else {
            self.sandbox();
            return;
        };
        let sandbox_id = sandbox.id.clone();
        for e in spec::ephemeral_containers(self.pod) {
            if self.view.latest(&e.name).is_none() {
                self.want_start(Kind::Ephemeral, &spec::as_container(e));
            }
        }
        if self.init(&sandbox_id) {
            self.regular();
        }
    }

    fn wake(&mut self, at_ns: i64) {
        self.plan.wake_ns = Some(self.plan.wake_ns.map_or(at_ns, |w| w.min(at_ns)));
    }

    fn sandbox(&mut self) {
        let before = self.view.sandbox();
        let attempt = before.map_or(0, |s| s.metadata.attempt + 1);
        let has_run = !self.view.containers().is_empty();
        let any_left = spec::spec(self.pod).containers.iter().any(|c| self.shall_run(Kind::Regular, c));
        if has_run && ((before.is_some() && spec::restart_policy(self.pod) == "Never") || !any_left) {
            self.plan.actions.push(Action::Finish);
            return;
        }
        match self.local.failures.get("") {
            Some(failure) if self.now_ns < failure.retry_ns => self.wake(failure.retry_ns),
            _ => self.plan.actions.push(Action::MakeSandbox { attempt }),
        }
    }

    /// Whether the container has something left to do.
    fn shall_run(&self, kind: Kind, c: &Container) -> bool {
        match self.view.latest(&c.name) {
            Some(s) if s.state == ContainerState::Exited => {
                changed(c, s) || spec::should_restart(self.pod, kind, c, s.exit_code)
            }
            _ => true,
        }
    }

    /// Starts the container unless it has to wait.
    fn want_start(&mut self, kind: Kind, c: &Container) {
        if let Some(last) = self.view.latest(&c.name).filter(|s| s.state == ContainerState::Exited)
            && let Some((until, delay)) = self.local.backoff.until(&backoff_key(c), last.finished_at_ns, self.now_ns)
        {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                delay_text(delay),
                c.name,
                spec::full_name(self.pod)
            );
            self.plan.waiting.insert(c.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message });
            self.wake(until);
            return;
        }
        if let Some(failure) = self.local.failures.get(&c.name) {
            let settled = failure.settled.as_ref().filter(|_| self.now_ns >= failure.settles_ns);
            self.plan.waiting.insert(c.name.clone(), settled.unwrap_or(&failure.waiting).clone());
            if self.now_ns < failure.retry_ns {
                let settles = failure.settled.is_some() && self.now_ns < failure.settles_ns;
                self.wake(if settles { failure.settles_ns.min(failure.retry_ns) } else { failure.retry_ns });
                return;
            }
        }
        self.plan.actions.push(Action::Start { kind, name: c.name.clone() });
    }

    fn kill(&mut self, c: &Container, status: &ContainerStatus, why: &str, grace_s: Option<i64>, init: bool) {
        if self.local.killing.contains(&status.id) {
            return;
        }
        let what = if init { "Init container" } else { "Container" };
        let again = init || spec::should_restart(self.pod, Kind::Regular, c, 1) || why == "definition changed";
        let tail = if again && !init { ", will be restarted" } else { "" };
        self.plan.actions.push(Action::Kill {
            id: status.id.clone(),
            name: c.name.clone(),
            message: format!("{what} {} {why}{tail}", c.name),
            grace_s,
        });
    }

    /// Kills a running container that shall not go on; false when it may.
    fn condemned(&mut self, c: &Container, status: &ContainerStatus, init: bool) -> bool {
        let (why, probe) = match self.local.condemned.get(&status.id) {
            _ if changed(c, status) => ("definition changed", None),
            Some(Condemned::Liveness) => ("failed liveness probe", c.liveness_probe.as_ref()),
            Some(Condemned::Startup) => ("failed startup probe", c.startup_probe.as_ref()),
            None => return false,
        };
        let grace_s = probe.and_then(|p| p.termination_grace_period_seconds);
        self.kill(c, status, why, grace_s, init);
        true
    }

    fn started(&self, c: &Container, status: &ContainerStatus) -> bool {
        status.state == ContainerState::Running
            && (c.startup_probe.is_none() || self.local.started.contains(&status.id))
    }

    /// Takes care of the init containers; true when the regular ones may run.
    fn init(&mut self, sandbox_id: &str) -> bool {
        let pod = self.pod;
        let here = |view: &View, name: &str| view.of(name).find(|s| s.pod_sandbox_id == sandbox_id).cloned();
        let initialized = spec::spec(pod).containers.iter().any(|c| here(self.view, &c.name).is_some());
        let list = spec::init_containers(pod);
        for (i, c) in list.iter().enumerate() {
            let status = here(self.view, &c.name);
            let passed = initialized || list[i + 1..].iter().any(|later| here(self.view, &later.name).is_some());
            let go_on = if spec::is_sidecar(c) {
                self.sidecar(c, status.as_ref(), passed)
            } else {
                passed || self.init_container(c, status.as_ref())
            };
            if !go_on && !passed {
                return false;
            }
        }
        true
    }

    /// True when the sidecar does its work, so that the next may start.
    fn sidecar(&mut self, c: &Container, status: Option<&ContainerStatus>, passed: bool) -> bool {
        match status {
            Some(s) if s.state == ContainerState::Running => {
                if self.condemned(c, s, true) {
                    return passed;
                }
                self.started(c, s)
            }
            Some(s) if s.state == ContainerState::Unknown => {
                self.kill(c, s, "is in \"unknown\" state, try killing it before restart", None, true);
                false
            }
            _ => {
                self.want_start(Kind::Sidecar, c);
                false
            }
        }
    }

    /// True when the init container succeeded.
    fn init_container(&mut self, c: &Container, status: Option<&ContainerStatus>) -> bool {
        match status {
            Some(s) if s.state == ContainerState::Running => false,
            Some(s) if s.state == ContainerState::Exited => {
                if s.exit_code == 0 && s.reason != "OOMKilled" {
                    return true;
                }
                if spec::should_restart(self.pod, Kind::Init, c, s.exit_code.max(1)) {
                    self.want_start(Kind::Init, c);
                } else {
                    self.plan.actions.push(Action::Finish);
                }
                false
            }
            Some(s) if s.state == ContainerState::Unknown => {
                self.kill(c, s, "is in \"unknown\" state, try killing it before restart", None, true);
                false
            }
            _ => {
                self.want_start(Kind::Init, c);
                false
            }
        }
    }

    fn regular(&mut self) {
        let pod = self.pod;
        let mut busy = self.local.busy;
        for c in &spec::spec(pod).containers {
            match self.view.latest(&c.name).cloned() {
                Some(s) if s.state == ContainerState::Running => {
                    busy = true;
                    self.condemned(c, &s, false);
                }
                Some(s) if s.state == ContainerState::Unknown => {
                    busy = true;
                    self.kill(c, &s, "is in \"unknown\" state, try killing it before restart", None, false);
                }
                _ if self.shall_run(Kind::Regular, c) => {
                    busy = true;
                    self.want_start(Kind::Regular, c);
                }
                _ => {}
            }
        }
        if !busy {
            self.plan.actions.push(Action::Finish);
        }
    }
}

/// Whether the container was made from another definition than the present one.
fn changed(c: &Container, status: &ContainerStatus) -> bool {
    status.annotations.get(labels::HASH).is_some_and(|hash| *hash != spec::container_hash(c))
}

/// Plans for a pod that shall end: containers first, then sidecars in reverse order one after the other, then the sandbox.
/// `finished` is there once the sandboxes are stopped.
pub fn plan_termination(pod: &Pod, view: &View, local: &Local, sandboxes_stopped: bool) -> Plan {
    let mut plan = Plan::default();
    let sidecars: Vec<&str> =
        spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let rank = |c: &ContainerStatus| sidecars.iter().position(|n| *n == c.metadata.name);
    let mut first: Vec<&ContainerStatus> = view.alive().filter(|c| rank(c).is_none()).collect();
    if first.is_empty() {
        let last = view.alive().filter_map(rank).max();
        first = view.alive().filter(|c| rank(c) == last).collect();
    }
    for c in &first {
        if !local.killing.contains(&c.id) {
            plan.actions.push(Action::Kill {
                id: c.id.clone(),
                name: c.metadata.name.clone(),
                message: format!("Stopping container {}", c.metadata.name),
                grace_s: None,
            });
        }
    }
    if first.is_empty() && !local.busy && !sandboxes_stopped {
        plan.actions.push(Action::StopSandboxes);
    }
    plan
}

#[cfg(test)]
mod tests;
