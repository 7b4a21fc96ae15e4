//! The loop every controller runs in: deltas become keys, keys wait in a queue, each key is reconciled by one task at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, Informer, Informers, Kind, Recorder, WorkQueue};
use futures::future::BoxFuture;
use kube::Api;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a key waits longer and longer (up to about 20 seconds) for something else, and how long each time from then on.
const PATIENCE: u32 = 12;
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Keys waiting to be reconciled.
pub(crate) type Queue = WorkQueue<String>;

/// A step that failed. The loop logs it and tries the key again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call to the API did not succeed.
    #[error("{step} {name}: {source}")]
    Call {
        /// What was tried, for instance `create pod`.
        step: &'static str,
        /// The object it was tried on.
        name: String,
        /// The API's answer.
        source: kube::Error,
    },
    /// Something else must happen first, and nothing will tell when it did. Not a failure.
    #[error("waiting for {0}")]
    NotYet(String),
    /// The object cannot be worked on as it is.
    #[error("{0}")]
    Unusable(String),
}

impl Error {
    /// Somebody else wrote the object first; the next try will see that.
    fn is_conflict(&self) -> bool {
        matches!(self, Error::Call { source, .. } if code(source) == 409)
    }
}

/// The HTTP status of an API error, zero if there was none.
pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Whether the API refused because the namespace is going away.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|d| d.causes.iter());
    status.code == 403
        && (causes.into_iter().any(|c| c.reason == "NamespaceTerminating")
            || status.message.contains("is being terminated"))
}

/// The message of an API error as a person should read it.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Names the step that a call to the API was.
pub(crate) trait Step<T> {
    /// The call was `step` on `name`.
    fn step(self, step: &'static str, name: &str) -> Result<T, Error>;
    /// As [`Step::step`]; an object that does not exist gives `None`.
    fn unless_gone(self, step: &'static str, name: &str) -> Result<Option<T>, Error>;
}

impl<T> Step<T> for Result<T, kube::Error> {
    fn step(self, step: &'static str, name: &str) -> Result<T, Error> {
        self.map_err(|source| Error::Call { step, name: name.to_owned(), source })
    }

    fn unless_gone(self, step: &'static str, name: &str) -> Result<Option<T>, Error> {
        match self {
            Err(e) if code(&e) == 404 => Ok(None),
            other => other.step(step, name).map(Some),
        }
    }
}

/// What all controllers are made from.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) token: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Pods being made and deleted, of all controllers: more at a time than the API server works on would only wait there, and be
    /// refused when too many wait.
    pub(crate) pod_calls: Semaphore,
}

/// How many [`Shared::pod_calls`] there are.
pub(crate) const POD_CALLS: usize = 64;

impl Shared {
    /// The typed API of one namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of a kind without namespaces (or of all namespaces).
    pub(crate) fn cluster<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// A writer of events for one controller.
    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.client.clone(), component, "", self.token.clone())
    }

    /// Runs a task until it ends or the controllers are stopped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            token.run_until_cancelled(task).await;
        });
    }
}

/// One controller: where its keys come from, and what it does about one.
pub(crate) trait Controller: Send + Sync + 'static {
    /// The name in logs.
    const NAME: &'static str;
    /// The key of every object it is responsible for.
    fn all(&self) -> Vec<String>;
    /// Deltas were lost, what was remembered about them must be forgotten.
    fn lost(&self) {}
    /// Brings the object with this key to what it should be.
    fn reconcile(&self, key: &str) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A controller being put together.
pub(crate) struct Loop<C> {
    shared: Arc<Shared>,
    controller: Arc<C>,
    queue: Arc<Queue>,
    synced: Vec<BoxFuture<'static, ()>>,
}

impl<C: Controller> Loop<C> {
    pub(crate) fn new(shared: &Arc<Shared>, controller: C, queue: Arc<Queue>) -> Self {
        Loop { shared: Arc::clone(shared), controller: Arc::new(controller), queue, synced: Vec::new() }
    }

    /// Calls `map` for each change of a kind; it adds the keys that are concerned to the queue.
    pub(crate) fn on<K: Kind>(
        self,
        informer: &Informer<K>,
        map: impl Fn(&C, &Queue, &Delta<K>) + Send + 'static,
    ) -> Self {
        let mut deltas = informer.subscribe();
        let (controller, queue) = (Arc::clone(&self.controller), Arc::clone(&self.queue));
        self.shared.spawn(async move {
            loop {
                match deltas.recv().await {
                    Ok(delta) => map(&controller, &queue, &delta),
                    Err(RecvError::Lagged(_)) => {
                        controller.lost();
                        controller.all().into_iter().for_each(|key| queue.add(key));
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
        self.needs(informer)
    }

    /// Waits for a cache that is only read.
    pub(crate) fn needs<K: Kind>(mut self, informer: &Informer<K>) -> Self {
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.synced().await }));
        self
    }

    /// Adds the changed object itself to the queue.
    pub(crate) fn on_own<K: Kind>(self, informer: &Informer<K>) -> Self {
        self.on(informer, |_, queue, delta| queue.add(client::key(&**delta.object())))
    }

    /// Starts working, on at most `parallel` keys at a time, when all caches have their first list.
    pub(crate) fn start(self, parallel: usize) {
        let Loop { shared, controller, queue, synced } = self;
        let token = shared.token.clone();
        shared.tasks.spawn(async move {
            let work = async {
                futures::future::join_all(synced).await;
                controller.all().into_iter().for_each(|key| queue.add(key));
                run(controller, queue, parallel).await;
            };
            token.run_until_cancelled(work).await;
        });
    }
}

async fn run<C: Controller>(controller: Arc<C>, queue: Arc<Queue>, parallel: usize) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = running.join_next(), if !running.is_empty() => {}
            key = queue.get(), if running.len() < parallel => {
                let Some(key) = key else { return };
                let (controller, queue) = (Arc::clone(&controller), Arc::clone(&queue));
                running.spawn(async move { once(&*controller, &queue, key).await });
            }
        }
    }
}

async fn once<C: Controller>(controller: &C, queue: &Queue, key: String) {
    match controller.reconcile(&key).await {
        Ok(()) => queue.forget(&key),
        Err(Error::NotYet(what)) => {
            tracing::debug!(controller = C::NAME, key, what, "waiting");
            if queue.failures(&key) < PATIENCE {
                queue.add_rate_limited(key.clone());
            } else {
                queue.add_after(key.clone(), WAIT_MAX);
            }
        }
        Err(error) => {
            if error.is_conflict() {
                tracing::debug!(controller = C::NAME, key, %error, "the object changed meanwhile, trying again");
            } else {
                tracing::warn!(controller = C::NAME, key, %error, "reconciling failed, trying again later");
            }
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}
