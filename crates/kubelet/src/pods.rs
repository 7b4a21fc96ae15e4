//! The pods of this node: one worker for each, from the API, from files, and from what the runtime still has.

use crate::admit;
use crate::context::Shared;
use crate::directory::Directory;
use crate::inbox::Inbox;
use crate::inotify::Watch;
use crate::labels;
use crate::spec;
use crate::statics;
use crate::view::View;
use crate::volumes::PodDirs;
use crate::worker::{Remains, Worker};
use client::{Delta, Informer};
use cri::{ContainerEvent, ContainerState, ContainerStatus, PodSandboxStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{Id, JoinError, JoinSet};

/// Before a worker that failed is replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(10);

/// All workers. One task owns it.
pub(crate) struct Pods {
    context: Shared,
    directory: Directory,
    informer: Informer<Pod>,
    /// What is known of each pod, by UID.
    known: BTreeMap<String, Arc<Pod>>,
    /// Static pods by UID.
    statics: HashMap<String, Arc<Pod>>,
    workers: JoinSet<String>,
    /// Whose worker a task is.
    owners: HashMap<Id, String>,
    chores: JoinSet<()>,
    /// What the runtime had at the start, by pod UID, until its pod is seen.
    adopted: HashMap<String, View>,
}

impl Pods {
    /// No pods yet.
    pub(crate) fn new(context: Shared, directory: Directory, informer: Informer<Pod>) -> Pods {
        Pods {
            context,
            directory,
            informer,
            known: BTreeMap::new(),
            statics: HashMap::new(),
            workers: JoinSet::new(),
            owners: HashMap::new(),
            chores: JoinSet::new(),
            adopted: HashMap::new(),
        }
    }

    /// Runs until the kubelet ends.
    pub(crate) async fn run(mut self) {
        let mut events = self.context.runtime().events();
        let mut deltas = self.informer.subscribe();
        let token = self.context.token.clone();
        tokio::select! {
            () = token.cancelled() => return,
            () = self.start() => {}
        }
        let watch = self.watch_statics();
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                delta = deltas.recv() => self.delta(delta),
                event = events.recv() => self.event(event),
                Some(done) = self.workers.join_next_with_id(), if !self.workers.is_empty() => self.ended(done),
                Some(_) = self.chores.join_next(), if !self.chores.is_empty() => {}
                () = changed(watch.as_ref()) => self.read_statics(),
            }
        }
        while self.workers.join_next().await.is_some() {}
        self.chores.abort_all();
    }

    /// First what runs, then what shall run, then what is left over.
    async fn start(&mut self) {
        self.adopted = list_runtime(&self.context).await;
        self.informer.synced().await;
        self.context.services.synced().await;
        self.read_statics();
        let mut pods = self.informer.list();
        // Pods that were admitted before come first, so that they keep their place.
        pods.sort_by_key(|p| (!self.adopted.contains_key(spec::uid(p)), p.metadata.creation_timestamp.clone()));
        for pod in pods {
            self.update(pod);
        }
        self.clean_up();
    }

    fn delta(&mut self, delta: Result<Delta<Pod>, RecvError>) {
        match delta {
            Ok(Delta::Applied { new, .. }) => self.update(new),
            Ok(Delta::Deleted(old)) => self.deleted(&old),
            Err(RecvError::Lagged(_)) => {
                let now = self.informer.list();
                let uids: HashSet<String> = now.iter().map(|p| spec::uid(p).to_owned()).collect();
                let gone: Vec<Arc<Pod>> =
                    self.known.values().filter(|p| !uids.contains(spec::uid(p))).cloned().collect();
                gone.iter().filter(|p| !statics::is_static(p)).for_each(|p| self.deleted(p));
                now.into_iter().for_each(|p| self.update(p));
            }
            Err(RecvError::Closed) => {}
        }
    }

    /// A pod is new or changed.
    fn update(&mut self, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        if statics::is_mirror(&pod) {
            self.mirror(&pod);
            return;
        }
        let before = self.known.insert(uid.clone(), pod.clone());
        if before.is_some() && self.directory.tell(&uid, |news| news.pod = Some(pod.clone())) {
            return;
        }
        self.spawn(pod);
    }

    fn spawn(&mut self, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        let inbox = Inbox::default();
        self.directory.add(&pod, inbox.clone());
        let view = self.adopted.remove(&uid).unwrap_or_default();
        let fresh =
            view.sandboxes().is_empty() && !spec::is_terminal(&pod) && pod.metadata.deletion_timestamp.is_none();
        let mut worker = Worker::new(self.context.clone(), self.directory.clone(), inbox, pod.clone(), view);
        if fresh && let Some(verdict) = self.admit(&pod) {
            worker.reject(verdict);
        }
        let task = self.workers.spawn(worker.run());
        self.owners.insert(task.id(), uid);
    }

    fn admit(&self, pod: &Pod) -> Option<crate::status::Verdict> {
        let active = |p: &&Arc<Pod>| spec::uid(p) != spec::uid(pod) && !spec::is_terminal(p);
        // Of pods that came together, only those that were looked at count.
        let seen = |p: &&Arc<Pod>| self.directory.contains(spec::uid(p));
        let others: Vec<&Pod> = self.known.values().filter(active).filter(seen).map(|p| &**p).collect();
        let node = self.context.node.get(&self.context.config.node_name);
        admit::check(pod, &others, node.as_deref(), &self.context.capacity, self.context.config.max_pods)
    }

    fn deleted(&mut self, pod: &Pod) {
        let uid = spec::uid(pod);
        if let Some(hash) = statics::mirror_hash(pod) {
            // Someone deleted the picture; the pod itself is still there.
            if let Some(own) = self.statics.get(hash).cloned() {
                self.make_mirror(own);
            }
            return;
        }
        self.known.remove(uid);
        self.context.writer.forget(uid);
        self.directory.tell(uid, |news| news.deleted = true);
    }

    fn ended(&mut self, done: Result<(Id, String), JoinError>) {
        match done {
            Ok((id, uid)) => {
                self.owners.remove(&id);
                self.directory.remove(&uid);
                self.known.remove(&uid);
            }
            Err(error) => {
                let uid = self.owners.remove(&error.id()).unwrap_or_default();
                tracing::error!(%uid, %error, "a pod worker ended in an unforeseen way; another takes the pod over");
                if let Some(pod) = self.known.get(&uid).cloned() {
                    self.replace(pod);
                }
            }
        }
    }

    /// A new worker adopts what the one before left, after a pause: what ended that one may end this one.
    fn replace(&mut self, pod: Arc<Pod>) {
        let (context, directory) = (self.context.clone(), self.directory.clone());
        let uid = spec::uid(&pod).to_owned();
        let inbox = Inbox::default();
        directory.add(&pod, inbox.clone());
        let owner = uid.clone();
        let task = self.workers.spawn(async move {
            tokio::select! {
                () = context.token.cancelled() => return uid,
                () = tokio::time::sleep(REPLACE_AFTER) => {}
            }
            let view = list_runtime(&context).await.remove(&uid).unwrap_or_default();
            Worker::new(context, directory, inbox, pod, view).run().await
        });
        self.owners.insert(task.id(), owner);
    }

    fn event(&mut self, event: Result<ContainerEvent, RecvError>) {
        match event {
            Ok(event) => {
                self.directory.tell(&event.pod_uid, |news| {
                    news.runtime.insert(event.container_id);
                });
            }
            Err(RecvError::Lagged(_)) => self.directory.tell_all(|news| news.relist = true),
            Err(RecvError::Closed) => {}
        }
    }

    /// Ends and removes what no pod owns: pods deleted while the kubelet was away, and their folders.
    fn clean_up(&mut self) {
        for (uid, view) in std::mem::take(&mut self.adopted) {
            let context = self.context.clone();
            self.chores.spawn(async move { remove_orphan(&context, &uid, &view).await });
        }
        let root = self.context.config.root_dir.clone();
        // Looked at before the first new pod can come, so that none of them is taken for a leftover.
        let entries = std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
        let uids = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        let left: Vec<PodDirs> =
            uids.filter(|uid| !self.known.contains_key(uid)).map(|uid| PodDirs::new(&root, &uid)).collect();
        self.chores.spawn_blocking(move || {
            for dirs in left {
                if let Err(error) = crate::volumes::clean_up(&dirs) {
                    let path = dirs.pod.display();
                    tracing::warn!(%path, %error, "the folder of a pod that is gone could not be removed");
                }
            }
        });
    }

    fn watch_statics(&self) -> Option<Watch> {
        let dir = self.context.config.static_pod_dir.as_ref()?;
        Watch::folder(dir)
            .inspect_err(
                |error| tracing::warn!(path = %dir.display(), %error, "the folder of static pods cannot be watched"),
            )
            .ok()
    }

    fn read_statics(&mut self) {
        let Some(dir) = &self.context.config.static_pod_dir else { return };
        let found = statics::read_folder(dir, &self.context.config.node_name);
        let new: HashMap<String, Arc<Pod>> =
            found.into_iter().map(|p| (spec::uid(&p).to_owned(), Arc::new(p))).collect();
        let gone: Vec<Arc<Pod>> =
            self.statics.iter().filter(|(uid, _)| !new.contains_key(*uid)).map(|(_, p)| p.clone()).collect();
        for pod in gone {
            self.statics.remove(spec::uid(&pod));
            self.known.remove(spec::uid(&pod));
            self.directory.tell(spec::uid(&pod), |news| news.deleted = true);
            self.remove_mirror(&pod);
        }
        for (uid, pod) in new {
            if self.statics.insert(uid, pod.clone()).is_none() {
                self.update(pod.clone());
                self.make_mirror(pod);
            }
        }
    }

    fn make_mirror(&mut self, pod: Arc<Pod>) {
        let context = self.context.clone();
        self.chores.spawn(async move {
            let node = context.node.get(&context.config.node_name);
            let uid = node.as_ref().and_then(|n| n.metadata.uid.as_deref());
            let mirror = statics::mirror(&pod, uid, &context.config.node_name);
            let api = Api::<Pod>::namespaced(context.config.client.clone(), spec::namespace(&pod));
            match api.create(&PostParams::default(), &mirror).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => tracing::warn!(pod = %spec::full_name(&pod), %error, "no mirror pod could be made"),
            }
        });
    }

    fn remove_mirror(&mut self, pod: &Arc<Pod>) {
        let (context, pod) = (self.context.clone(), pod.clone());
        self.chores.spawn(async move {
            let api = Api::<Pod>::namespaced(context.config.client.clone(), spec::namespace(&pod));
            let Ok(Some(old)) = api.get_opt(spec::name(&pod)).await else { return };
            if statics::is_mirror(&old) {
                let preconditions = Preconditions { uid: old.metadata.uid, resource_version: None };
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                if let Err(error) = api.delete(spec::name(&pod), &params).await {
                    tracing::warn!(pod = %spec::full_name(&pod), %error, "a mirror pod could not be deleted");
                }
            }
        });
    }

    /// A mirror pod was seen: its static pod reports through it; without one it is deleted.
    fn mirror(&mut self, mirror: &Arc<Pod>) {
        let own = statics::mirror_hash(mirror).and_then(|hash| self.statics.get(hash)).cloned();
        match own {
            Some(own) if mirror.metadata.deletion_timestamp.is_none() => {
                self.directory.tell(spec::uid(&own), |news| news.pod = Some(mirror.clone()));
            }
            _ => self.context.writer.delete(mirror),
        }
    }
}

/// What the runtime has, by pod; asks until it answers.
async fn list_runtime(context: &Shared) -> HashMap<String, View> {
    loop {
        let sandboxes = context.runtime().list_pod_sandboxes().await;
        let containers = context.runtime().list_containers(None).await;
        match (sandboxes, containers) {
            (Ok(sandboxes), Ok(containers)) => return by_pod(sandboxes, containers),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "the runtime does not say what runs; asking again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn changed(watch: Option<&Watch>) {
    match watch {
        Some(watch) => {
            if watch.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

fn by_pod(sandboxes: Vec<PodSandboxStatus>, containers: Vec<ContainerStatus>) -> HashMap<String, View> {
    let owner: HashMap<String, String> = sandboxes.iter().map(|s| (s.id.clone(), s.metadata.uid.clone())).collect();
    let mut parts: HashMap<String, (Vec<PodSandboxStatus>, Vec<ContainerStatus>)> = HashMap::new();
    for sandbox in sandboxes {
        parts.entry(sandbox.metadata.uid.clone()).or_default().0.push(sandbox);
    }
    for container in containers {
        if let Some(uid) = owner.get(&container.pod_sandbox_id) {
            parts.entry(uid.clone()).or_default().1.push(container);
        }
    }
    parts.into_iter().map(|(uid, (s, c))| (uid, View::new(s, c))).collect()
}

/// Ends a pod nobody knows any more, within the grace it was made with.
async fn remove_orphan(context: &Shared, uid: &str, view: &View) {
    let Some(sandbox) = view.sandbox() else { return };
    let grace = sandbox.annotations.get(labels::GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
    let running = view.containers().iter().filter(|c| c.state != ContainerState::Exited);
    let stops = running.map(|c| context.runtime().stop_container(&c.id, Duration::from_secs(grace)));
    futures::future::join_all(stops).await;
    let m = &sandbox.metadata;
    let remains = Remains {
        sandboxes: view.sandboxes().iter().map(|s| s.id.clone()).collect(),
        dirs: PodDirs::new(&context.config.root_dir, uid),
        log_dir: context.config.log_dir.join(format!("{}_{}_{}", m.namespace, m.name, m.uid)),
    };
    remains.remove(&*context.config.runtime).await;
}
