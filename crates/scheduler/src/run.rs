//! The owner of queue and view: takes events in, decides, and has decisions carried out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use client::{Client, EventType, Recorder, reference};
use futures::stream::{BoxStream, StreamExt, select_all};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::carry_out::{self, Outcome};
use crate::decide::{Decision, decide};
use crate::filter::Class;
use crate::queue::Queue;
use crate::view::{ClusterView, Placed};

/// Calls to the API at one time.
const CALLS_MAX: usize = 128;

/// What the watches report.
#[expect(clippy::large_enum_variant, reason = "each is handled at once, none is kept")]
enum Seen {
    Pod(watcher::Event<Pod>),
    Node(watcher::Event<Node>),
    Namespace(watcher::Event<Namespace>),
}

/// The scheduler's state; one task owns it.
struct Scheduler {
    client: Client,
    name: String,
    recorder: Recorder,
    view: ClusterView,
    queue: Queue,
    calls: JoinSet<Outcome>,
    /// Pods whose binding is under way: the watch does not show it yet.
    assumed: HashSet<String>,
    /// Objects of a list that is being read; what is not in it at its end is gone.
    listed_pods: HashSet<String>,
    listed_nodes: HashSet<String>,
    pods_synced: bool,
    nodes_synced: bool,
    turn: usize,
}

pub(crate) async fn run(config: Config, token: CancellationToken) {
    let recorder = Recorder::new(config.client.clone(), &config.name, "", token.clone());
    let mut events = watch(&config.client);
    let mut scheduler = Scheduler {
        client: config.client,
        name: config.name,
        recorder,
        view: ClusterView::default(),
        queue: Queue::default(),
        calls: JoinSet::new(),
        assumed: HashSet::new(),
        listed_pods: HashSet::new(),
        listed_nodes: HashSet::new(),
        pods_synced: false,
        nodes_synced: false,
        turn: 0,
    };
    loop {
        let due = scheduler.queue.next_due().filter(|_| scheduler.is_ready());
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = token.cancelled() => break,
            Some(event) = events.next() => scheduler.apply(event),
            Some(done) = scheduler.calls.join_next(), if !scheduler.calls.is_empty() => scheduler.settle(done),
            () = timer => {}
        }
        scheduler.schedule();
    }
    scheduler.calls.shutdown().await;
}

/// All watches as one stream. A watch that fails is tried again with a back-off.
fn watch(client: &Client) -> impl futures::Stream<Item = Seen> + use<> {
    fn one<K>(client: &Client, wrap: fn(watcher::Event<K>) -> Seen) -> BoxStream<'static, Seen>
    where
        K: client::Kind,
    {
        let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
        let logged = events.filter_map(move |event| {
            let event = event
                .inspect_err(|error| tracing::debug!(kind = %K::kind(&()), %error, "watch failed, it is tried again"));
            std::future::ready(event.ok().map(wrap))
        });
        logged.boxed()
    }
    select_all([one(client, Seen::Pod), one(client, Seen::Node), one(client, Seen::Namespace)])
}

impl Scheduler {
    /// Deciding on half a picture would fill the wrong nodes.
    fn is_ready(&self) -> bool {
        self.pods_synced && self.nodes_synced && self.calls.len() < CALLS_MAX
    }

    fn apply(&mut self, seen: Seen) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match seen {
            Seen::Pod(Init) => self.listed_pods.clear(),
            Seen::Pod(InitApply(pod)) => {
                self.listed_pods.insert(pod.metadata.uid.clone().unwrap_or_default());
                self.pod_changed(pod);
            }
            Seen::Pod(InitDone) => self.forget_unlisted_pods(),
            Seen::Pod(Apply(pod)) => self.pod_changed(pod),
            Seen::Pod(Delete(pod)) => self.pod_gone(pod.metadata.uid.as_deref().unwrap_or_default()),
            Seen::Node(Init) => self.listed_nodes.clear(),
            Seen::Node(InitApply(node)) => {
                self.listed_nodes.insert(node.metadata.name.clone().unwrap_or_default());
                self.node_changed(&node);
            }
            Seen::Node(InitDone) => self.forget_unlisted_nodes(),
            Seen::Node(Apply(node)) => self.node_changed(&node),
            Seen::Node(Delete(node)) => self.view.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Seen::Namespace(InitApply(namespace) | Apply(namespace)) => {
                let name = namespace.metadata.name.as_deref().unwrap_or_default();
                if self.view.set_namespace(name, namespace.metadata.labels.as_ref()) {
                    self.queue.wake(Class::AFFINITY, Instant::now());
                }
            }
            Seen::Namespace(Delete(namespace)) => {
                self.view.remove_namespace(namespace.metadata.name.as_deref().unwrap_or_default());
            }
            Seen::Namespace(Init | InitDone) => {}
        }
    }

    fn pod_changed(&mut self, mut pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") {
            return self.pod_gone(&uid);
        }
        let spec = pod.spec.as_ref();
        if spec.and_then(|s| s.node_name.as_ref()).is_some_and(|n| !n.is_empty()) {
            self.queue.remove(&uid);
            let news = !self.assumed.remove(&uid) && !self.view.has_place(&uid);
            self.view.set_pod(&pod);
            if news {
                self.queue.wake(Class::AFFINITY.and(Class::SPREAD), Instant::now());
            }
            return;
        }
        let mine = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler") == self.name;
        if pod.metadata.deletion_timestamp.is_some() || !mine {
            self.queue.remove(&uid);
            self.view.drop_nomination(&uid);
        } else if !self.assumed.contains(&uid) {
            pod.metadata.managed_fields = None;
            self.queue.set(Arc::new(pod), Instant::now());
        }
    }

    /// The pod ended or was deleted: what it took is free.
    fn pod_gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.assumed.remove(uid);
        if self.view.remove_pod(uid) {
            self.queue.wake(Class::ROOM.and(Class::AFFINITY).and(Class::SPREAD), Instant::now());
        }
    }

    fn node_changed(&mut self, node: &Node) {
        if self.view.set_node(node) {
            self.queue.wake(Class::ANY, Instant::now());
        }
    }

    fn forget_unlisted_pods(&mut self) {
        let known = self.view.placed().into_iter().chain(self.queue.uids());
        let gone: Vec<String> = known.filter(|uid| !self.listed_pods.contains(uid)).collect();
        gone.iter().for_each(|uid| self.pod_gone(uid));
        self.listed_pods = HashSet::new();
        self.pods_synced = true;
    }

    fn forget_unlisted_nodes(&mut self) {
        let gone: Vec<String> =
            self.view.nodes().map(|n| n.name.clone()).filter(|n| !self.listed_nodes.contains(n)).collect();
        gone.iter().for_each(|name| self.view.remove_node(name));
        self.listed_nodes = HashSet::new();
        self.nodes_synced = true;
    }

    /// Decides about every pod that may be tried now.
    fn schedule(&mut self) {
        while self.is_ready() {
            let Some(pod) = self.queue.pop(Instant::now()) else { return };
            match decide(&mut self.view, &pod, &mut self.turn) {
                Decision::Bind(node) => self.bind(pod, node),
                Decision::Wait { message, class, preempt } => {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    self.queue.block(&uid, class, Instant::now());
                    self.recorder.event(&reference(&*pod), EventType::Warning, "FailedScheduling", message.clone());
                    let nominated = preempt.as_ref().map(|p| p.node.clone());
                    match &nominated {
                        Some(node) => self.view.nominate(Placed::of(&pod), node),
                        None => self.view.drop_nomination(&uid),
                    }
                    let report = carry_out::report(self.client.clone(), Arc::clone(&pod), message, nominated);
                    self.calls.spawn(report);
                    if let Some(preemption) = preempt {
                        let evict = carry_out::evict(self.client.clone(), self.recorder.clone(), pod, preemption);
                        self.calls.spawn(evict);
                    }
                }
            }
        }
    }

    /// Counts the pod as running on the node, and tells the API.
    fn bind(&mut self, pod: Arc<Pod>, node: String) {
        self.assumed.insert(pod.metadata.uid.clone().unwrap_or_default());
        self.view.place(Placed::of(&pod), &node);
        self.calls.spawn(carry_out::bind(self.client.clone(), pod, node));
    }

    fn settle(&mut self, done: Result<Outcome, tokio::task::JoinError>) {
        match done {
            Ok(Outcome::Bound { pod, node }) => {
                let meta = &pod.metadata;
                let text = format!(
                    "Successfully assigned {}/{} to {node}",
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.name.as_deref().unwrap_or_default()
                );
                self.recorder.event(&reference(&*pod), EventType::Normal, "Scheduled", text);
                // The watch usually shows it first; if it does not, it will, and until then the pod stays assumed.
                self.queue.remove(meta.uid.as_deref().unwrap_or_default());
            }
            Ok(Outcome::NotBound { pod, error }) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                tracing::warn!(pod = client::key(&*pod), error, "binding failed");
                self.recorder.event(&reference(&*pod), EventType::Warning, "FailedScheduling", error);
                if self.assumed.remove(uid) {
                    self.view.remove_pod(uid);
                    self.queue.retry(uid);
                }
            }
            Ok(Outcome::Gone { uid }) => self.pod_gone(&uid),
            Ok(Outcome::Reported) => {}
            Err(error) => tracing::error!(%error, "a task of the scheduler failed"),
        }
    }
}
