//! Containers started, stopped, removed.

use crate::files;
use crate::state::{Container, Core, Pod, cannot_run, internal, lock, now_ns};
use cri::{ContainerEventKind, ContainerState};
use runtime::client;
use runtime::spec::ContainerRecord;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// Kills everything in a container.
pub(crate) fn kill(sandbox: &Core, container: &Container) -> cri::Result<()> {
    sandbox.cgroups.kill(&container.cgroup).map_err(|e| internal("kill the container", &e))
}

impl Core {
    pub(crate) async fn start(self: &Arc<Self>, id: &str) -> cri::Result<()> {
        let (pod, container) = self.container(id)?;
        let again = container.start_asked.swap(true, Ordering::SeqCst);
        if again || container.state() != ContainerState::Created {
            return Err(cri::Error::FailedPrecondition(format!("container {id} was started already")));
        }
        let file = files::read_container(&pod.dir, id).map_err(|e| internal("read container state", &e))?;
        match pod.shim.start_container(file.spec).await {
            Ok(running) => {
                container.started(running.pid, running.started_at_ns);
                self.tell(&pod, id, ContainerEventKind::Started);
                Ok(())
            }
            Err(client::Error::Failed(failure)) => {
                let record = ContainerRecord {
                    id: id.to_owned(),
                    finished_at_ns: now_ns(),
                    exit_code: failure.exit_code,
                    start_error: Some(failure.message.clone()),
                    ..ContainerRecord::default()
                };
                if container.learn(&record) {
                    self.tell(&pod, id, ContainerEventKind::Stopped);
                }
                Err(cri::Error::Internal(cannot_run(&failure.message)))
            }
            Err(error) => Err(internal("start the container", &error)),
        }
    }

    pub(crate) async fn stop(self: &Arc<Self>, id: &str, timeout: Duration) -> cri::Result<()> {
        let Ok((pod, container)) = self.container(id) else { return Ok(()) };
        if container.state() != ContainerState::Running {
            return Ok(());
        }
        let mut ended = container.ended.subscribe();
        if !timeout.is_zero() {
            match pod.shim.signal(id, container.stop_signal).await {
                Ok(()) => {
                    let end = ended.wait_for(|ended| *ended);
                    if tokio::time::timeout(timeout, end).await.is_ok() {
                        return Ok(());
                    }
                }
                Err(error) => tracing::debug!(container = id, %error, "the stop signal was not delivered"),
            }
        }
        let victim = container.clone();
        self.blocking(move |this| kill(this, &victim)).await?;
        let end = ended.wait_for(|ended| *ended);
        match tokio::time::timeout(KILL_PATIENCE, end).await {
            Ok(_) => Ok(()),
            Err(_) => Err(cri::Error::Internal(format!("container {id} was killed but did not end"))),
        }
    }

    pub(crate) async fn remove(self: &Arc<Self>, id: &str) -> cri::Result<()> {
        let Ok((pod, container)) = self.container(id) else { return Ok(()) };
        self.stop(id, Duration::ZERO).await?;
        let _gone_with_it = pod.shim.forget(id).await;
        self.clean(&pod, id, Some(&container.cgroup)).await?;
        if lock(&pod.containers).remove(id).is_some() {
            self.tell(&pod, id, ContainerEventKind::Deleted);
        }
        Ok(())
    }

    /// Removes what belongs to a container: cgroup, snapshot, files.
    pub(crate) async fn clean(self: &Arc<Self>, pod: &Arc<Pod>, id: &str, cgroup: Option<&str>) -> cri::Result<()> {
        let cgroup = cgroup.map_or_else(|| format!("{}/{id}", lock(&pod.file).cgroup), str::to_owned);
        let (dir, name) = (pod.dir.clone(), id.to_owned());
        self.blocking(move |this| {
            this.cgroups.remove(&cgroup).map_err(|e| internal("remove the container's cgroup", &e))?;
            // What is not there was removed before.
            let _gone = std::fs::remove_file(files::container_path(&dir, &name));
            let _gone = std::fs::remove_file(client::record_path(&dir, &name));
            let _gone = std::fs::remove_dir(dir.join(&name));
            Ok::<_, cri::Error>(())
        })
        .await?;
        match self.images.remove_snapshot(id).await {
            Err(error) if !error.is_not_found() => Err(internal("remove the container's files", &error)),
            _ => Ok(()),
        }
    }
}
