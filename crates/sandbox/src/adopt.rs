//! Opening: finding again what an earlier run left; and removing all of it.

use crate::files;
use crate::state::{Config, Container, Core, Pod, lock};
use cri::PodSandboxState;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the sandbox service cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Cgroups cannot be used.
    #[error(transparent)]
    Cgroups(#[from] runtime::cgroup::Error),
    /// Its folder cannot be used.
    #[error("cannot use {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What an earlier run left cannot be cleaned up.
    #[error(transparent)]
    Leftovers(#[from] cri::Error),
}

impl Core {
    /// Opens the service: finds the sandboxes of earlier runs, greets their shims, and cleans up after those that are
    /// gone.
    ///
    /// # Errors
    /// When cgroups or the folder cannot be used.
    pub(crate) async fn open(config: Config) -> Result<Arc<Core>, OpenError> {
        let cgroups = runtime::cgroup::Tree::open(&config.cgroup_parent)?;
        let shims = cgroups.shims()?;
        let sandbox = Arc::new(Core::new(config, cgroups, shims));
        let folder = |source| OpenError::Folder { path: sandbox.root.clone(), source };
        std::fs::create_dir_all(&sandbox.root).map_err(folder)?;
        rustix::fs::chmod(&sandbox.root, rustix::fs::Mode::from(0o700)).map_err(|e| folder(e.into()))?;
        let entries = std::fs::read_dir(&sandbox.root).map_err(folder)?;
        let mut adoptions = tokio::task::JoinSet::new();
        for dir in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let sandbox = sandbox.clone();
            adoptions.spawn(async move { sandbox.adopt(dir).await });
        }
        while let Some(adopted) = adoptions.join_next().await {
            if let Ok(Err(error)) = adopted {
                tracing::warn!(%error, "a sandbox of an earlier run cannot be taken over; it stays for the next try");
            }
        }
        sandbox.sweep().await;
        Ok(sandbox)
    }

    async fn adopt(self: &Arc<Self>, dir: PathBuf) -> cri::Result<()> {
        let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = match files::read_pod(&dir) {
            Ok(file) if file.complete && file.status.id == id => file,
            // Half made when the program ended, or half written when the machine did.
            incomplete => {
                let cgroup = incomplete.map_or_else(|_| format!("pods/{id}"), |file| file.cgroup);
                let _not_there = runtime::client::Shim::at(&dir).shutdown().await;
                return self
                    .blocking(move |this| this.release(&dir, &id).and_then(|()| this.discard(&dir, &cgroup)))
                    .await;
            }
        };
        let was_ready = file.status.state == PodSandboxState::Ready;
        let pod = Arc::new(Pod::new(dir, file));
        for container in files::container_ids(&pod.dir) {
            match files::read_container(&pod.dir, &container) {
                Ok(file) => drop(lock(&pod.containers).insert(container, Arc::new(Container::new(&file)))),
                Err(error) => {
                    tracing::warn!(container, %error, "a container's state cannot be read; it is removed");
                    self.clean(&pod, &container, None).await?;
                }
            }
        }
        lock(&self.pods).insert(id, pod.clone());
        let greeting = if was_ready { pod.shim.subscribe().await.ok() } else { None };
        match greeting {
            Some(greeting) => {
                greeting.containers.iter().for_each(|record| self.learn(&pod, record));
                self.watch(&pod, greeting, None);
                Ok(())
            }
            None => {
                pod.gone.send_replace(true);
                if !was_ready {
                    self.read_ends(&pod);
                    return Ok(());
                }
                let lost = pod.clone();
                self.blocking(move |this| this.kill_all(&lost)).await;
                self.settle(&pod).await
            }
        }
    }

    /// Removes what no sandbox claims: snapshots and addresses whose owner was lost between two steps.
    async fn sweep(self: &Arc<Self>) {
        let pods: Vec<_> = lock(&self.pods).values().cloned().collect();
        let containers: BTreeSet<_> =
            pods.iter().flat_map(|pod| pod.all()).map(|container| container.id.clone()).collect();
        let ours = |id: &str| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        for snapshot in self.images.snapshots().into_iter().filter(|s| ours(&s.id) && !containers.contains(&s.id)) {
            if let Err(error) = self.images.remove_snapshot(&snapshot.id).await {
                tracing::warn!(snapshot = snapshot.id, %error, "a snapshot without a container cannot be removed");
            }
        }
        let pods: BTreeSet<_> = pods.iter().map(|pod| pod.id.clone()).collect();
        if let Err(error) = self.blocking(move |this| this.network.retain(|id| pods.contains(id))).await {
            tracing::warn!(%error, "addresses without a sandbox cannot be given back");
        }
    }

    /// Stops following shims; pods go on without this program.
    pub(crate) async fn close(&self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Removes everything of this instance: sandboxes, containers, mounts, cgroups, folders. The network's own things
    /// are [`network::PodNetwork::reset`]'s.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is removed all the same.
    pub(crate) async fn reset(self: &Arc<Self>) -> cri::Result<()> {
        let ids: Vec<_> = lock(&self.pods).keys().cloned().collect();
        let mut removals = tokio::task::JoinSet::new();
        for id in ids {
            let this = self.clone();
            removals.spawn(async move { this.remove_pod(&id).await });
        }
        let mut failure = None;
        while let Some(removed) = removals.join_next().await {
            if let Ok(Err(error)) = removed {
                failure.get_or_insert(error);
            }
        }
        let cleared = self.blocking(|this| clear(&this.root, &this.cgroups)).await;
        failure.map_or(cleared, Err)
    }
}

fn clear(root: &Path, cgroups: &runtime::cgroup::Tree) -> cri::Result<()> {
    cgroups.reset().map_err(|e| crate::state::internal("remove cgroups", &e))?;
    match std::fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(crate::state::internal("remove the sandboxes' folder", &error))
        }
        _ => Ok(()),
    }
}
