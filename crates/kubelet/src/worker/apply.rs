//! How news and outcomes change what a worker knows. Nothing here decides what to do next.

use super::{SECOND_NS, Worker};
use crate::inbox::{News, ProbeKind};
use crate::logs;
use crate::ops::{Outcome, StartError, Started};
use crate::pull;
use crate::spec;
use crate::state::{Condemned, Failure, Waiting};
use crate::status::Stage;
use crate::view::{View, now_ns};
use cri::{ContainerState, ContainerStatus, PodSandboxStatus};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;

/// Between tries of what failed for a reason that may pass.
const RETRY_NS: i64 = 10 * SECOND_NS;

impl Worker {
    pub(super) async fn apply_news(&mut self, news: News) {
        if let Some(pod) = news.pod {
            self.new_pod(pod);
        }
        if news.deleted {
            self.gone = true;
            self.begin_end();
        }
        if news.objects {
            // What failed for want of an object is tried at once.
            self.local.failures.retain(|_, f| f.waiting.reason == "ErrImagePull");
            if self.stage == Stage::Running && self.mounted.is_some() {
                self.refresh_volumes();
            }
        }
        if news.relist {
            self.relist().await;
        }
        for id in news.runtime {
            self.look_at(&id).await;
        }
        for (id, kind, good) in news.probes {
            self.probed(&id, kind, good);
        }
        self.quit |= news.quit;
    }

    fn new_pod(&mut self, pod: Arc<Pod>) {
        if crate::statics::is_mirror(&pod) && crate::statics::is_static(&self.pod) {
            self.mirror = Some(pod);
            self.previous = None;
            return;
        }
        let labels_changed = pod.metadata.labels != self.pod.metadata.labels
            || pod.metadata.annotations != self.pod.metadata.annotations
            || pod.spec != self.pod.spec;
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_some() {
            match self.stage {
                Stage::Running => self.begin_end(),
                Stage::Ending => self.hurry(),
                Stage::Ended => {}
            }
        } else if labels_changed && self.stage == Stage::Running && self.mounted.is_some() {
            self.refresh_volumes();
        }
    }

    /// The pod was deleted once more, with less grace: containers being stopped are stopped sooner.
    fn hurry(&mut self) {
        let end_by = now_ns() + spec::grace_seconds(&self.pod) * SECOND_NS;
        if end_by + SECOND_NS >= self.end_by_ns {
            return;
        }
        self.end_by_ns = end_by;
        let left = Duration::from_secs(spec::grace_seconds(&self.pod).max(0).unsigned_abs());
        for id in self.local.killing.clone() {
            let context = self.context.clone();
            self.tasks.spawn(async move {
                if let Err(error) = context.runtime().stop_container(&id, left).await {
                    tracing::warn!(%id, %error, "a container could not be stopped sooner");
                }
                Outcome::Killed(id)
            });
        }
    }

    async fn relist(&mut self) {
        let uid = spec::uid(&self.pod);
        let Ok(sandboxes) = self.context.runtime().list_pod_sandboxes().await else { return };
        let Ok(containers) = self.context.runtime().list_containers(None).await else { return };
        let sandboxes: Vec<PodSandboxStatus> = sandboxes.into_iter().filter(|s| s.metadata.uid == uid).collect();
        let ours = |c: &ContainerStatus| sandboxes.iter().any(|s| s.id == c.pod_sandbox_id);
        let containers: Vec<ContainerStatus> = containers.into_iter().filter(ours).collect();
        self.view = View::new(sandboxes, Vec::new());
        for c in containers {
            self.note(c).await;
        }
    }

    /// Asks the runtime about one sandbox or container.
    async fn look_at(&mut self, id: &str) {
        if self.view.sandboxes().iter().any(|s| s.id == id) {
            match self.context.runtime().pod_sandbox_status(id).await {
                Ok(status) => self.view.put_sandbox(status),
                Err(cri::Error::NotFound { .. }) => self.view.forget(id),
                Err(error) => tracing::warn!(%id, %error, "no status of a sandbox"),
            }
            return;
        }
        match self.context.runtime().container_status(id).await {
            Ok(status) => self.note(status).await,
            Err(cri::Error::NotFound { .. }) => {
                self.view.forget(id);
                self.local.forget(id);
            }
            Err(error) => tracing::warn!(%id, %error, "no status of a container"),
        }
    }

    /// Takes in the newest state of a container, and what its end left behind.
    pub(super) async fn note(&mut self, status: ContainerStatus) {
        let id = status.id.clone();
        if !self.view.sandboxes().iter().any(|s| s.id == status.pod_sandbox_id) {
            return;
        }
        if !self.local.images.contains_key(&id) {
            self.name_image(&status).await;
        }
        if status.state == ContainerState::Exited {
            self.local.killing.remove(&id);
            self.local.ready.remove(&id);
            self.local.started.remove(&id);
            self.local.term_messages.entry(id).or_insert_with(|| logs::termination_message(&status));
        } else if status.state == ContainerState::Running
            && !self.local.users.contains_key(&id)
            && let Some(user) = crate::ops::process_user(status.pid)
        {
            self.local.users.insert(id, user);
        }
        self.view.put_container(status);
    }

    async fn name_image(&mut self, status: &ContainerStatus) {
        let Some((_, c)) = spec::container(&self.pod, &status.metadata.name) else { return };
        let c = c.into_owned();
        if let Ok(Some(image)) = self.context.images().image_status(&status.image_id).await {
            self.local.images.insert(status.id.clone(), pull::names(&c, &image));
        }
    }

    fn probed(&mut self, id: &str, kind: ProbeKind, good: bool) {
        if self.view.container(id).is_none_or(|c| c.state != ContainerState::Running) {
            return;
        }
        match (kind, good) {
            (ProbeKind::Startup, true) => {
                self.local.started.insert(id.to_owned());
            }
            (ProbeKind::Startup, false) => {
                self.local.condemned.insert(id.to_owned(), Condemned::Startup);
            }
            (ProbeKind::Readiness, true) => {
                self.local.ready.insert(id.to_owned());
            }
            (ProbeKind::Readiness, false) => {
                self.local.ready.remove(id);
            }
            (ProbeKind::Liveness, false) if self.stage == Stage::Running => {
                self.local.condemned.insert(id.to_owned(), Condemned::Liveness);
            }
            (ProbeKind::Liveness, _) => {}
        }
    }

    pub(super) async fn apply_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Cancelled => self.local.busy = false,
            Outcome::Sandbox(result) => {
                self.local.busy = false;
                match result {
                    Ok((status, mounted)) => {
                        self.local.failures.remove("");
                        self.mounted = Some(mounted);
                        self.retire(&status).await;
                        let id = status.id.clone();
                        self.view.put_sandbox(status);
                        // It may have ended before it was known here.
                        self.look_at(&id).await;
                        self.fill_addresses();
                    }
                    Err(message) => self.failed("", "ContainerCreating", message),
                }
            }
            Outcome::Volumes(result) => self.volumes(result),
            Outcome::Start(name, started, result) => {
                self.local.busy = false;
                self.started(&name, started, result).await;
            }
            Outcome::Killed(id) => {
                self.look_at(&id).await;
                self.local.killing.remove(&id);
            }
            Outcome::SandboxesStopped(result) => {
                self.local.busy = false;
                match result {
                    Ok(()) => self.sandboxes_stopped = true,
                    Err(error) => {
                        tracing::warn!(pod = %spec::full_name(&self.pod), %error, "a sandbox could not be stopped; it is tried again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
                for id in self.view.sandboxes().iter().map(|s| s.id.clone()).collect::<Vec<_>>() {
                    self.look_at(&id).await;
                }
            }
        }
    }

    /// Old sandboxes are stopped by now: see how, so that their containers show as ended.
    async fn retire(&mut self, new: &PodSandboxStatus) {
        let old: Vec<String> = self.view.sandboxes().iter().map(|s| s.id.clone()).filter(|id| *id != new.id).collect();
        let running: Vec<String> = self.view.alive().map(|c| c.id.clone()).collect();
        for id in old.into_iter().chain(running) {
            self.look_at(&id).await;
        }
    }

    /// Volumes may hold the pod's address: written again now that it is known.
    fn fill_addresses(&mut self) {
        let wants = spec::spec(&self.pod).volumes.iter().flatten().any(|v| {
            let direct = v.downward_api.as_ref().and_then(|d| d.items.as_ref());
            let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
            let projected = projected.filter_map(|s| s.downward_api.as_ref()?.items.as_ref());
            direct
                .into_iter()
                .chain(projected)
                .flatten()
                .any(|f| f.field_ref.as_ref().is_some_and(|r| r.field_path.starts_with("status.")))
        });
        if wants {
            self.refresh_volumes();
        }
    }

    fn volumes(&mut self, result: Result<crate::ops::Mounted, crate::volumes::VolumeError>) {
        self.refreshing = false;
        match result {
            Ok(mounted) => {
                self.mounted = Some(mounted);
                self.local.failures.remove("");
            }
            Err(error) if self.stage == Stage::Running => {
                let text = error.to_string();
                self.context.pod_event(&self.pod, client::EventType::Warning, "FailedMount", text.clone());
                // What is in place stays; what could not be had is had again when it changes or with the next try.
                if self.mounted.is_none() {
                    self.failed("", "ContainerCreating", text);
                }
            }
            Err(_) => {}
        }
        if std::mem::take(&mut self.refresh_again) && self.stage == Stage::Running {
            self.refresh_volumes();
        }
    }

    async fn started(&mut self, name: &str, started: Option<Box<Started>>, result: Result<(), StartError>) {
        if let Some(started) = started {
            let Started { status, image, user } = *started;
            self.local.images.insert(status.id.clone(), image);
            self.local.users.extend(user.map(|u| (status.id.clone(), u)));
            self.note(status).await;
            self.prune(name);
        }
        match result {
            Ok(()) => {
                self.local.failures.remove(name);
                let image = spec::container(&self.pod, name).and_then(|(_, c)| c.image.clone());
                self.local.pulls.reset(&image.unwrap_or_default());
            }
            Err(error) => self.failed(name, error.reason, error.message),
        }
    }

    /// Notes a failure, and when to try again.
    fn failed(&mut self, name: &str, reason: &str, message: String) {
        let now = now_ns();
        let count = self.local.failures.get(name).map_or(0, |f| f.count) + 1;
        let waiting = Waiting { reason: reason.into(), message: message.clone() };
        let mut failure = Failure { waiting, settled: None, settles_ns: 0, retry_ns: now + RETRY_NS, count };
        match reason {
            "ErrImagePull" => {
                let image = spec::container(&self.pod, name).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
                self.local.pulls.next(&image, now, now);
                let (until, delay) = self.local.pulls.until(&image, now, now).unwrap_or((now + RETRY_NS, RETRY_NS));
                let text = format!("Back-off pulling image \"{image}\": ErrImagePull: {message}");
                failure.settled = Some(Waiting { reason: "ImagePullBackOff".into(), message: text });
                failure.settles_ns = now + (delay / 2).min(5 * SECOND_NS);
                failure.retry_ns = until;
            }
            // The container is there, ended: its own back-off rules.
            "RunContainerError" | "PostStartHookError" => failure.retry_ns = now + SECOND_NS,
            "ContainerCreating" => failure.retry_ns = now + (SECOND_NS << count.min(5)).min(RETRY_NS),
            _ => {}
        }
        self.local.failures.insert(name.to_owned(), failure);
    }

    /// Removes what ended before the last try; one is kept for its logs.
    fn prune(&mut self, name: &str) {
        let old: Vec<ContainerStatus> =
            self.view.of(name).skip(2).filter(|c| c.state == ContainerState::Exited).cloned().collect();
        for c in old {
            self.view.forget(&c.id);
            self.local.forget(&c.id);
            let context = self.context.clone();
            self.tasks.spawn(async move {
                match context.runtime().remove_container(&c.id).await {
                    Ok(()) => logs::remove(&c.log_path),
                    Err(error) => tracing::warn!(id = %c.id, %error, "an old container could not be removed"),
                }
                Outcome::Killed(c.id)
            });
        }
    }
}
