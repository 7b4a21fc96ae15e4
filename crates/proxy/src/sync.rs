//! The loop: follows Services and EndpointSlices and applies what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Delta, Informer, Informers};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::Transport;
use network::conntrack::{Connection, ConntrackError, Tracker};
use network::nft::{NftError, Table};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::plan::{Plan, UdpPort, plan};
use crate::{NodeInfo, skeleton};

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The shortest time between two transactions: a burst is gathered meanwhile, a single change goes at once.
const GATHER: Duration = Duration::from_millis(5);
/// How long to wait after a failed transaction, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How often it is looked whether somebody removed the table.
const CHECK: Duration = Duration::from_secs(60);

/// What the service proxy needs.
pub struct Config {
    /// Where Services and EndpointSlices come from; shared with others, above all DNS.
    pub informers: Arc<Informers>,
    /// The node.
    pub node: NodeInfo,
    /// The name of the nftables table: [`network::Names::services`].
    pub table: String,
}

/// Why the service proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// nftables cannot be reached.
    #[error("the service proxy cannot use nftables")]
    Nft(#[from] NftError),
    /// Tracked connections cannot be reached.
    #[error("the service proxy cannot use connection tracking")]
    Conntrack(#[from] ConntrackError),
}

/// Keeps the node's rules equal to the cluster's Services until the token is cancelled. The rules stay in force then.
/// Must be called in the node's network namespace. Transactions run on the calling task: they take well under a
/// millisecond, a first one with thousands of Services some tens.
pub async fn run(config: Config, token: CancellationToken) -> Result<(), ProxyError> {
    let table = Table::open(config.table, skeleton(&config.node))?;
    let tracker = Arc::new(Mutex::new(Tracker::open()?));
    let services = config.informers.all::<Service>();
    let slices = config.informers.all::<EndpointSlice>();
    let mut changes = (services.subscribe(), slices.subscribe());
    tokio::select! {
        () = async { tokio::join!(services.synced(), slices.synced()); } => {}
        () = token.cancelled() => return Ok(()),
    }
    let mut proxy = Proxy {
        node: config.node,
        table,
        tracker,
        services,
        slices,
        by_service: HashMap::new(),
        applied: HashMap::new(),
        dirty: BTreeSet::new(),
        pending: true,
        pause: GATHER,
    };
    proxy.read_all();
    let mut last = Instant::now() - GATHER;
    let mut check = tokio::time::interval_at(last + CHECK, CHECK);
    loop {
        if proxy.pending && last.elapsed() >= proxy.pause {
            proxy.apply().await;
            last = Instant::now();
        }
        let due = async {
            match proxy.pending {
                false => std::future::pending().await,
                true => tokio::time::sleep_until(last + proxy.pause).await,
            }
        };
        // What is known comes first, so that a burst becomes one transaction.
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            delta = changes.0.recv() => match delta {
                Ok(delta) => proxy.service(&delta),
                Err(RecvError::Lagged(_)) => proxy.read_all(),
                Err(RecvError::Closed) => return Ok(()),
            },
            delta = changes.1.recv() => match delta {
                Ok(delta) => proxy.slice(&delta),
                Err(RecvError::Lagged(_)) => proxy.read_all(),
                Err(RecvError::Closed) => return Ok(()),
            },
            () = due => {}
            _ = check.tick() => proxy.check(),
        }
    }
}

/// Slices of a Service by their own names: a list of their endpoints would be smaller, but these are shared anyway.
type Slices = BTreeMap<String, Arc<EndpointSlice>>;

struct Proxy {
    node: NodeInfo,
    table: Table,
    /// Held by one task on another thread at a time, while a list of connections is read.
    tracker: Arc<Mutex<Tracker>>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    by_service: HashMap<String, Slices>,
    /// The Services that have rules, with their UDP ports.
    applied: HashMap<String, Vec<UdpPort>>,
    /// The Services that changed, and whether anything is to be written: at the start also an empty table.
    dirty: BTreeSet<String>,
    pending: bool,
    pause: Duration,
}

impl Proxy {
    /// Starts over from the informers' caches.
    fn read_all(&mut self) {
        self.by_service.clear();
        for slice in self.slices.list() {
            if let Some(service) = owner(&slice) {
                let slices = self.by_service.entry(service).or_default();
                slices.insert(slice.metadata.name.clone().unwrap_or_default(), slice);
            }
        }
        self.dirty.extend(self.services.list().iter().map(|service| client::key(&**service)));
        self.dirty.extend(self.applied.keys().cloned());
        self.pending = true;
    }

    fn service(&mut self, delta: &Delta<Service>) {
        self.dirty.insert(client::key(&**delta.object()));
        self.pending = true;
    }

    fn slice(&mut self, delta: &Delta<EndpointSlice>) {
        let name = delta.object().metadata.name.clone().unwrap_or_default();
        // The label may have changed: the slice leaves one Service and joins another.
        let old = match delta {
            Delta::Applied { old, .. } => old.as_ref(),
            Delta::Deleted(old) => Some(old),
        };
        for service in old.and_then(|old| owner(old)).into_iter().chain(owner(delta.object())) {
            if let Some(slices) = self.by_service.get_mut(&service) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            self.dirty.insert(service);
            self.pending = true;
        }
        if let Delta::Applied { new, .. } = delta
            && let Some(service) = owner(new)
        {
            self.by_service.entry(service).or_default().insert(name, Arc::clone(new));
        }
    }

    /// Others may remove all tables there are (`nft flush ruleset`), and nobody is told.
    fn check(&mut self) {
        match self.table.check() {
            Ok(true) => {}
            Ok(false) => {
                if !self.pending {
                    tracing::warn!(
                        table = self.table.name(),
                        "somebody changed the rules of services, writing them anew"
                    );
                }
                self.pending = true;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot look whether the rules of services are there");
            }
        }
    }

    /// Writes the rules of all Services that changed, in one transaction.
    async fn apply(&mut self) {
        let start = Instant::now();
        let dirty = std::mem::take(&mut self.dirty);
        let plans: Vec<(String, Option<Plan>)> = dirty.into_iter().map(|key| self.plan(key)).collect();
        let changes = plans.iter().map(|(key, plan)| {
            let fragment = plan.as_ref().map(|plan| plan.fragment.clone());
            (key.as_str().into(), fragment)
        });
        if let Err(error) = self.table.apply(changes) {
            self.pause = if self.pause == GATHER { RETRY.0 } else { RETRY.1.min(self.pause * 2) };
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, retry = ?self.pause, "cannot write the rules of services");
            self.dirty.extend(plans.into_iter().map(|(key, _)| key));
            return;
        }
        self.pause = GATHER;
        self.pending = false;
        let count = plans.len();
        let stale = self.note(plans);
        tracing::debug!(services = count, time = ?start.elapsed(), "rules of services written");
        if !stale.is_empty() {
            forget(&self.tracker, stale).await;
        }
    }

    /// What a Service should have; nothing when it is gone or needs no rules.
    fn plan(&self, key: String) -> (String, Option<Plan>) {
        let slices = self.by_service.get(&key);
        let slices = slices.into_iter().flat_map(BTreeMap::values).map(|slice| &**slice);
        let service = self.services.get(&key);
        let plan = service.map(|service| plan(&service, slices, &self.node));
        let plan = plan.filter(|plan| *plan != Plan::default());
        (key, plan)
    }

    /// Remembers what was applied, and says which UDP ports may have connections that lead astray.
    fn note(&mut self, plans: Vec<(String, Option<Plan>)>) -> Vec<UdpPort> {
        let mut stale = Vec::new();
        for (key, plan) in plans {
            let before = match &plan {
                Some(plan) => self.applied.insert(key, plan.udp.clone()),
                None => self.applied.remove(&key),
            };
            let now = plan.map(|plan| plan.udp).unwrap_or_default();
            let before = before.unwrap_or_default();
            let gone = before.iter().filter(|port| !now.iter().any(|now| now.fronts == port.fronts));
            let gone = gone.map(|port| UdpPort { endpoints: Vec::new(), ..port.clone() });
            stale.extend(gone);
            stale.extend(now.into_iter().filter(|port| !before.contains(port)));
        }
        stale
    }
}

/// The key of a slice's Service.
fn owner(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{namespace}/{name}"))
}

/// A UDP client that keeps its port would go on to an endpoint that is gone, or to where there was no Service yet.
async fn forget(tracker: &Arc<Mutex<Tracker>>, ports: Vec<UdpPort>) {
    let stale = move |connection: &Connection| {
        ports.iter().any(|port| {
            let (address, number) = connection.destination;
            port.fronts.iter().any(|(front, port)| *port == number && front.is_none_or(|front| front == address))
                && !port.endpoints.contains(&connection.answerer)
        })
    };
    let tracker = Arc::clone(tracker);
    let forget = move || {
        let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
        tracker.forget(Transport::Udp, stale)
    };
    match tokio::task::spawn_blocking(forget).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(count)) => tracing::debug!(count, "forgot UDP connections to endpoints that are gone"),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot forget UDP connections to endpoints that are gone");
        }
    }
}
