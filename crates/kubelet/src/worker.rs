//! The owner of one pod: it alone decides what happens to it, from its first sight to the removal of its last file.
//!
//! Loop: news, outcomes of actions and timers are applied one by one to what the worker knows; then a pure plan says what
//! to do; what takes time runs beside the worker. At most one sandbox or container is being made at a time; kills run
//! beside that. The stages are `Running` → `Ending` (deleted, completed, past its deadline) → `Ended`; there is no way back.

mod apply;
mod finish;

pub(crate) use finish::Remains;

use crate::context::Shared;
use crate::directory::Directory;
use crate::inbox::Inbox;
use crate::ops::{self, Kill, Mounted, Outcome, StartInput};
use crate::plan::{Action, Plan, backoff_key, plan, plan_termination};
use crate::probes::Prober;
use crate::spec::{self, Kind};
use crate::state::{Local, Waiting};
use crate::status::{self, Stage, Verdict};
use crate::view::{View, now_ns};
use client::EventType;
use cri::ContainerState;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SECOND_NS: i64 = 1_000_000_000;
/// How long actions under way may finish when the kubelet ends.
const LEAVE: Duration = Duration::from_secs(5);

/// The worker of one pod.
pub(crate) struct Worker {
    context: Shared,
    directory: Directory,
    inbox: Inbox,
    pod: Arc<Pod>,
    /// The mirror of a static pod, as the API has it.
    mirror: Option<Arc<Pod>>,
    view: View,
    local: Local,
    prober: Prober,
    mounted: Option<Mounted>,
    refreshing: bool,
    refresh_again: bool,
    stage: Stage,
    verdict: Option<Verdict>,
    /// The node refused it: nothing of it ever runs here.
    rejected: bool,
    /// When the pod must have ended.
    end_by_ns: i64,
    sandboxes_stopped: bool,
    /// The object is gone from the API: nobody to report to.
    gone: bool,
    cleaned: bool,
    previous: Option<PodStatus>,
    tasks: JoinSet<Outcome>,
    /// Ends what the pod waits for when it shall end.
    cancel: CancellationToken,
    quit: bool,
}

impl Worker {
    /// A worker for a pod, with what the runtime has of it already.
    pub(crate) fn new(context: Shared, directory: Directory, inbox: Inbox, pod: Arc<Pod>, view: View) -> Worker {
        let cancel = context.token.child_token();
        Worker {
            prober: Prober::new(context.clone(), inbox.clone()),
            context,
            directory,
            inbox,
            pod,
            mirror: None,
            view,
            local: Local::default(),
            mounted: None,
            refreshing: false,
            refresh_again: false,
            stage: Stage::Running,
            verdict: None,
            rejected: false,
            end_by_ns: 0,
            sandboxes_stopped: false,
            gone: false,
            cleaned: false,
            previous: None,
            tasks: JoinSet::new(),
            cancel,
            quit: false,
        }
    }

    /// The node refuses the pod.
    pub(crate) fn reject(&mut self, verdict: Verdict) {
        let message = verdict.message.clone();
        let short = message.strip_prefix("Pod was rejected: ").unwrap_or(&message).to_owned();
        self.context.pod_event(&self.pod, EventType::Warning, &verdict.reason, short);
        self.verdict = Some(verdict);
        self.rejected = true;
        self.begin_end();
    }

    /// Lives until the pod is gone (or the kubelet ends).
    pub(crate) async fn run(mut self) -> String {
        let uid = spec::uid(&self.pod).to_owned();
        self.adopt().await;
        while !self.quit {
            let wake = self.step();
            if self.gone && self.cleaned {
                break;
            }
            let sleep = wake.map(|at| Duration::from_nanos((at - now_ns()).max(1_000_000).unsigned_abs()));
            let token = self.context.token.clone();
            tokio::select! {
                () = token.cancelled() => break,
                news = self.inbox.news() => self.apply_news(news).await,
                Some(outcome) = self.tasks.join_next(), if !self.tasks.is_empty() => match outcome {
                    Ok(outcome) => self.apply_outcome(outcome).await,
                    Err(error) => self.task_failed(&error),
                },
                () = async { match sleep { Some(d) => tokio::time::sleep(d).await, None => std::future::pending().await } } => {}
            }
        }
        self.leave().await;
        uid
    }

    /// Lets actions under way finish, for a while.
    async fn leave(&mut self) {
        self.cancel.cancel();
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LEAVE, rest).await;
    }

    fn task_failed(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(pod = %spec::full_name(&self.pod), %error, "an action on a pod failed in an unforeseen way; it is tried again");
        self.local.busy = false;
        self.local.killing.clear();
        self.refreshing = false;
    }

    /// Takes over what runs already: nothing of it is restarted.
    async fn adopt(&mut self) {
        if spec::is_terminal(&self.pod) || self.pod.metadata.deletion_timestamp.is_some() {
            self.begin_end();
        }
        let known = self.view.containers().to_vec();
        if known.is_empty() {
            return;
        }
        let api = self.pod.status.clone().unwrap_or_default();
        for c in known {
            self.carry_over(&api, &c);
            self.note(c).await;
        }
        if self.stage == Stage::Running {
            self.refresh_volumes();
        }
    }

    /// A running container keeps the readiness it had: a restart of the kubelet is none of its business.
    fn carry_over(&mut self, api: &PodStatus, c: &cri::ContainerStatus) {
        let Some((kind, spec_of)) = spec::container(&self.pod, &c.metadata.name) else { return };
        let Some(old) = status::old_status(api, kind, &c.metadata.name) else { return };
        if old.container_id.as_deref() != Some(&format!("{}{}", status::SCHEME, c.id)) {
            return;
        }
        if old.started == Some(true) && spec_of.startup_probe.is_some() {
            self.local.started.insert(c.id.clone());
        }
        if old.ready {
            self.local.ready.insert(c.id.clone());
        }
    }

    /// Plans and acts. Returns when to look again.
    fn step(&mut self) -> Option<i64> {
        let mut wake = self.deadline();
        let plan = match self.stage {
            Stage::Running => plan(&self.pod, &self.view, &self.local, now_ns()),
            Stage::Ending => plan_termination(&self.pod, &self.view, &self.local, self.sandboxes_stopped),
            Stage::Ended => Plan::default(),
        };
        wake = earliest(wake, plan.wake_ns);
        if self.stage == Stage::Running {
            self.show_waiting(plan.waiting);
            wake = earliest(wake, self.token_renewal());
            wake = earliest(wake, self.local.failures.get("").map(|f| f.retry_ns).filter(|_| self.mounted.is_none()));
        }
        for action in plan.actions {
            self.act(action);
        }
        if self.stage == Stage::Ending && self.sandboxes_stopped && !self.local.busy && self.local.killing.is_empty() {
            self.stage = Stage::Ended;
        }
        self.sync_probes();
        self.emit();
        if self.stage == Stage::Ended {
            self.finish();
        }
        wake
    }

    /// Ends the pod when it was active for too long; else when that will be.
    fn deadline(&mut self) -> Option<i64> {
        let limit = spec::spec(&self.pod).active_deadline_seconds?;
        let status = self.previous.as_ref().or(self.pod.status.as_ref())?;
        let started = status.start_time.as_ref()?.0.as_nanosecond();
        let at = i64::try_from(started).ok()? + limit * SECOND_NS;
        if self.stage != Stage::Running {
            return None;
        }
        if now_ns() < at {
            return Some(at);
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.context.pod_event(&self.pod, EventType::Normal, "DeadlineExceeded", message);
        self.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message: message.into() });
        self.begin_end();
        None
    }

    fn token_renewal(&mut self) -> Option<i64> {
        let at = self.context.tokens.renew_ns(spec::uid(&self.pod))?;
        if now_ns() >= at && !self.refreshing {
            self.refresh_volumes();
        }
        Some(at.max(now_ns() + SECOND_NS))
    }

    /// The pod shall end, within its grace.
    fn begin_end(&mut self) {
        if self.stage == Stage::Running {
            self.stage = Stage::Ending;
            self.local.waiting.clear();
            self.cancel.cancel();
            self.end_by_ns = now_ns() + spec::grace_seconds(&self.pod) * SECOND_NS;
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Finish => self.begin_end(),
            Action::Kill { id, name, message, grace_s } => self.kill(id, name, message, grace_s),
            Action::MakeSandbox { attempt } if !self.local.busy => self.make_sandbox(attempt),
            Action::Start { kind, name } if !self.local.busy => self.start(kind, &name),
            Action::StopSandboxes if !self.local.busy => {
                self.local.busy = true;
                let ids = self.view.sandboxes().iter().map(|s| s.id.clone()).collect();
                self.tasks.spawn(ops::stop_sandboxes(self.context.clone(), ids));
            }
            Action::MakeSandbox { .. } | Action::Start { .. } | Action::StopSandboxes => {}
        }
    }

    fn make_sandbox(&mut self, attempt: u32) {
        self.local.busy = true;
        let old: Vec<String> = self.view.sandboxes().iter().map(|s| s.id.clone()).collect();
        if !old.is_empty() && !self.local.failures.contains_key("") {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.context.pod_event(&self.pod, EventType::Normal, "SandboxChanged", text);
        }
        let op = ops::make_sandbox(self.context.clone(), self.pod.clone(), old, attempt, self.cancel.clone());
        self.tasks.spawn(op);
    }

    fn start(&mut self, kind: Kind, name: &str) {
        if self.refreshing {
            // What it is made from is being read anew; the outcome brings us back here.
            return;
        }
        let Some(mounted) = self.mounted.clone() else {
            // An adopted pod whose volumes could not be had: not before its time.
            if self.local.failures.get("").is_none_or(|f| now_ns() >= f.retry_ns) {
                self.refresh_volumes();
            }
            return;
        };
        let Some(sandbox) = self.view.ready_sandbox(spec::host_network(&self.pod)).cloned() else { return };
        let latest = self.view.latest(name).cloned();
        let mut leftover = None;
        let attempt = match &latest {
            Some(s) if s.state == ContainerState::Created => {
                leftover = Some(s.id.clone());
                s.metadata.attempt
            }
            Some(s) => s.metadata.attempt + 1,
            None => self.attempt_by_logs(name),
        };
        if let (Some(s), Some((_, c))) = (&latest, spec::container(&self.pod, name))
            && s.state == ContainerState::Exited
        {
            self.local.backoff.next(&backoff_key(&c), s.finished_at_ns, now_ns());
        }
        self.local.busy = true;
        let input = StartInput { kind, name: name.to_owned(), sandbox, attempt, leftover, mounted };
        self.tasks.spawn(ops::start(self.context.clone(), self.pod.clone(), input, self.cancel.clone()));
    }

    /// After a loss of all containers, log files tell how often one was started.
    fn attempt_by_logs(&self, name: &str) -> u32 {
        let dir = ops::log_dir(&self.context, &self.pod).join(name);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let numbers = entries.filter_map(|e| e.file_name().to_string_lossy().split('.').next()?.parse::<u32>().ok());
        numbers.max().map_or(0, |n| n + 1)
    }

    fn kill(&mut self, id: String, name: String, message: String, grace_s: Option<i64>) {
        self.local.killing.insert(id.clone());
        let left = (self.end_by_ns - now_ns()).div_euclid(SECOND_NS) + 1;
        let own = spec::grace_seconds(&self.pod);
        let grace_s = grace_s.unwrap_or(if self.stage == Stage::Running { own } else { left.clamp(0, own.max(0)) });
        // A sidecar whose turn comes late still gets a moment.
        let grace_s = if own > 0 { grace_s.max(2) } else { grace_s };
        let kill = Kill { id, name, message, grace_s, hook: true };
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.tasks.spawn(async move {
            ops::stop(&context, &pod, &kill).await;
            Outcome::Killed(kill.id)
        });
    }

    /// Brings volumes up to date with what they are made from.
    fn refresh_volumes(&mut self) {
        if self.refreshing {
            self.refresh_again = true;
            return;
        }
        self.refreshing = true;
        let ips = self.view.sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.tasks.spawn(async move { Outcome::Volumes(ops::mount(&context, &pod, &ips).await) });
    }

    /// Tells once, as an event, what a container waits for.
    fn show_waiting(&mut self, new: std::collections::BTreeMap<String, Waiting>) {
        for (name, waiting) in &new {
            if self.local.waiting.get(name).is_some_and(|old| old.reason == waiting.reason) {
                continue;
            }
            match waiting.reason.as_str() {
                "CrashLoopBackOff" => {
                    let text =
                        format!("Back-off restarting failed container {name} in pod {}", spec::full_name(&self.pod));
                    self.context.container_event(&self.pod, name, EventType::Warning, "BackOff", text);
                }
                "ImagePullBackOff" => {
                    let image = spec::container(&self.pod, name).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
                    let text = format!("Back-off pulling image \"{image}\"");
                    self.context.container_event(&self.pod, name, EventType::Normal, "BackOff", text);
                    let text = "Error: ImagePullBackOff";
                    self.context.container_event(&self.pod, name, EventType::Warning, "Failed", text);
                }
                _ => {}
            }
        }
        self.local.waiting = new;
    }

    fn sync_probes(&mut self) {
        if self.stage == Stage::Ended {
            self.prober.stop();
        } else {
            self.prober.sync(&self.pod, &self.view, &self.local, self.stage == Stage::Ending);
        }
    }

    /// Makes the status and hands it on when it differs.
    fn emit(&mut self) {
        self.directory.publish(&self.pod, &self.view, &self.local.waiting);
        if self.gone {
            return;
        }
        let target = match &self.mirror {
            Some(mirror) => mirror.clone(),
            None if crate::statics::is_static(&self.pod) => return,
            None => self.pod.clone(),
        };
        let made = match &self.verdict {
            Some(verdict) if self.rejected => {
                self.previous.is_none().then(|| status::rejected(&self.pod, verdict, now_ns()))
            }
            _ => Some(self.status()),
        };
        if let Some(made) = made
            && self.previous.as_ref() != Some(&made)
        {
            self.context.writer.put(&target, self.previous.as_ref(), made.clone());
            self.previous = Some(made);
        }
    }

    fn status(&self) -> PodStatus {
        status::generate(&status::Input {
            pod: &self.pod,
            previous: self.previous.as_ref(),
            view: &self.view,
            local: &self.local,
            node_ips: &self.context.config.node_ips,
            now_ns: now_ns(),
            stage: self.stage,
            verdict: self.verdict.as_ref(),
        })
    }
}

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
