//! The end of a pod: volumes away at once; with the object deleted, everything else too.

use super::Worker;
use crate::ops;
use crate::spec;
use crate::volumes::{self, PodDirs};
use std::path::PathBuf;

impl Worker {
    /// Called whenever the pod has ended; cheap when there is nothing left to do.
    pub(super) fn finish(&mut self) {
        let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        if !deleted {
            if self.mounted.take().is_some() {
                self.release();
                let dirs = PodDirs::new(&self.context.config.root_dir, spec::uid(&self.pod));
                let pod = spec::full_name(&self.pod);
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = volumes::clean_volumes(&dirs) {
                        tracing::warn!(%pod, %error, "volumes of a pod that ended could not be removed");
                    }
                });
            }
            return;
        }
        if self.cleaned {
            return;
        }
        self.cleaned = true;
        self.release();
        let sandboxes = self.view.sandboxes().iter().map(|s| s.id.clone()).collect();
        let left = Remains {
            sandboxes,
            dirs: PodDirs::new(&self.context.config.root_dir, spec::uid(&self.pod)),
            log_dir: ops::log_dir(&self.context, &self.pod),
        };
        let (context, pod, gone) = (self.context.clone(), self.pod.clone(), self.gone);
        self.tasks.spawn(async move {
            left.remove(&*context.config.runtime).await;
            if !gone {
                context.writer.delete(&pod);
            }
            ops::Outcome::Cancelled
        });
    }

    fn release(&self) {
        self.context.objects.release(&self.pod);
        self.context.tokens.release(spec::uid(&self.pod));
    }
}

/// What a pod leaves on its node.
pub(crate) struct Remains {
    /// Sandboxes, stopped or not.
    pub(crate) sandboxes: Vec<String>,
    /// Folders.
    pub(crate) dirs: PodDirs,
    /// Logs.
    pub(crate) log_dir: PathBuf,
}

impl Remains {
    /// Removes all of it. What cannot be removed is logged; the next start of the kubelet tries again.
    pub(crate) async fn remove(self, runtime: &dyn cri::RuntimeService) {
        for id in &self.sandboxes {
            if let Err(error) = runtime.remove_pod_sandbox(id).await {
                tracing::warn!(%id, %error, "a sandbox could not be removed");
            }
        }
        let removed = tokio::task::spawn_blocking(move || {
            if let Err(error) = volumes::clean_up(&self.dirs) {
                tracing::warn!(path = %self.dirs.pod.display(), %error, "the folder of a pod could not be removed");
            }
            match std::fs::remove_dir_all(&self.log_dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %self.log_dir.display(), %error, "logs of a pod could not be removed");
                }
                _ => {}
            }
        });
        if let Err(error) = removed.await {
            tracing::error!(%error, "cleaning up after a pod failed");
        }
    }
}
