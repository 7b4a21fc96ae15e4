//! Listening to shims: what ended, and whether the shim itself is still there.

use crate::state::{Core, Pod, lock, now_ns};
use cri::{ContainerEventKind, ContainerState};
use runtime::client::{self, Greeting};
use runtime::spec::ContainerRecord;
use runtime::wire::Reply;
use std::process::Child;
use std::sync::Arc;

impl Core {
    /// Follows a pod's shim in a task of its own. `child`: when this run of the program started it.
    pub(crate) fn watch(self: &Arc<Self>, pod: &Arc<Pod>, greeting: Greeting, child: Option<Child>) {
        let (this, pod, token) = (self.clone(), pod.clone(), self.token.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = this.follow(&pod, greeting) => this.lost(&pod, child).await,
            }
        });
    }

    /// Takes events until the shim is gone.
    async fn follow(&self, pod: &Pod, mut greeting: Greeting) {
        while let Ok(Some(reply)) = greeting.events.next().await {
            if let Reply::Ended(record) = reply {
                self.learn(pod, &record);
            }
        }
    }

    /// Takes what is known of a container's end and tells it.
    pub(crate) fn learn(&self, pod: &Pod, record: &ContainerRecord) {
        let container = lock(&pod.containers).get(&record.id).cloned();
        if container.is_some_and(|container| container.learn(record)) {
            self.tell(pod, &record.id, ContainerEventKind::Stopped);
        }
    }

    /// The shim is gone: after a stop as it should be, otherwise its containers are lost and the sandbox is not ready.
    async fn lost(self: &Arc<Self>, pod: &Arc<Pod>, child: Option<Child>) {
        pod.gone.send_replace(true);
        if let Some(mut child) = child {
            // It closed its connection at its end, so this is short.
            let _status = self.blocking(move |_| child.wait()).await;
        }
        let _one_at_a_time = pod.order.lock().await;
        if !pod.ready() {
            return;
        }
        tracing::warn!(sandbox = pod.id, "the shim of a pod is gone; its containers are killed");
        let lost = pod.clone();
        self.blocking(move |this| this.kill_all(&lost)).await;
        if let Err(error) = self.settle(pod).await {
            tracing::warn!(sandbox = pod.id, %error, "cannot clean up after a lost shim");
        }
    }

    pub(crate) fn kill_all(&self, pod: &Pod) {
        for container in pod.all() {
            if let Err(error) = crate::start::kill(self, &container) {
                tracing::warn!(container = container.id, %error, "a container of a lost shim cannot be killed");
            }
        }
    }

    /// Reads how containers ended, the shim being gone; one it wrote nothing of was lost. Gives those that newly ended.
    pub(crate) fn read_ends(&self, pod: &Pod) -> Vec<String> {
        let mut ended = Vec::new();
        for container in pod.all() {
            let mut record = client::read_record(&pod.dir, &container.id).unwrap_or_default();
            if container.state() == ContainerState::Created && record.started_at_ns == 0 && record.start_error.is_none()
            {
                // Never started: nothing was lost, and it never will be.
                record.start_error = Some("the sandbox was stopped before the container was started".to_owned());
            }
            if record.finished_at_ns == 0 {
                // As killed: nobody saw its exit code.
                (record.finished_at_ns, record.exit_code) = (now_ns(), 137);
            }
            record.id.clone_from(&container.id);
            if container.learn(&record) {
                ended.push(container.id.clone());
            }
        }
        ended
    }
}
