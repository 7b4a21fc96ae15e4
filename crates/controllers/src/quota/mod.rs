//! ResourceQuotas: how much of what a namespace may take is taken.
//!
//! Pods, Services and claims are read from the shared caches; other kinds are only counted ([`counts`]), each from the moment
//! some quota limits it.
//!
//! The API server charges what a request takes before it stores the object; this controller gives back what is no longer taken.
//! A charge whose object has not arrived yet must not be lost by a recount: objects are counted only when the quota has not
//! changed for a moment ([`SETTLED`]), and the write is refused when it changes meanwhile.

mod counts;
mod plan;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Delta, Informer, Kind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::PostParams;
use parking_lot::Mutex;

use self::counts::Counts;
use self::plan::Observed;
use self::usage::Amounts;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step};

/// By then the object of a charge is stored and seen, or its request has failed.
const SETTLED: Duration = Duration::from_millis(200);

struct Quotas {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    resource_claims: Informer<ResourceClaim>,
    counts: Arc<Counts>,
    /// The version of each quota that is to be counted, and since when it is the present one.
    settling: Mutex<HashMap<String, (Option<String>, Instant)>>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let all = Quotas {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        quotas: shared.informers.all(),
        pods: shared.informers.all(),
        services: shared.informers.all(),
        claims: shared.informers.all(),
        resource_claims: shared.informers.all(),
        counts: Arc::default(),
        settling: Mutex::default(),
    };
    let (quotas, pods, services) = (all.quotas.clone(), all.pods.clone(), all.services.clone());
    let (claims, resource_claims) = (all.claims.clone(), all.resource_claims.clone());
    Loop::new(shared, all, queue)
        .on_own(&quotas)
        .on(&pods, |all, _, delta| all.changed(delta, |pod| usage::pod(pod, Timestamp::now())))
        .on(&services, |all, _, delta| all.changed(delta, usage::service))
        .on(&claims, |all, _, delta| all.changed(delta, usage::claim))
        .on(&resource_claims, |all, _, delta| all.changed(delta, usage::resource_claim))
        .start(2);
}

impl Quotas {
    /// Looks at the quotas of an object's namespace when it takes more or less than before.
    fn changed<K: Kind>(&self, delta: &Delta<K>, usage: impl Fn(&K) -> Amounts) {
        let object = delta.object();
        let quotas = self.quotas.list_in(object.meta().namespace.as_deref().unwrap_or_default());
        let same =
            |old: &K| usage(old) == usage(object) && old.meta().deletion_timestamp == object.meta().deletion_timestamp;
        match delta {
            Delta::Applied { old: Some(old), .. } if quotas.is_empty() || same(old) => {}
            _ => quotas.iter().for_each(|quota| self.queue.add(client::key(&**quota))),
        }
    }
}

impl Quotas {
    /// Whether a quota can be counted now; else it is looked at again when it may be.
    fn is_settled(&self, key: &str, quota: &ResourceQuota) -> bool {
        if plan::is_unknown(quota) {
            return true;
        }
        let version = quota.metadata.resource_version.clone();
        let mut settling = self.settling.lock();
        match settling.get(key) {
            Some((known, since)) if *known == version && since.elapsed() >= SETTLED => {
                settling.remove(key);
                return true;
            }
            Some((known, _)) if *known == version => {}
            _ => drop(settling.insert(key.to_owned(), (version, Instant::now()))),
        }
        self.queue.add_after(key.to_owned(), SETTLED);
        false
    }
}

impl Controller for Quotas {
    const NAME: &'static str = "resourcequota-controller";

    fn all(&self) -> Vec<String> {
        self.quotas.list().iter().map(|quota| client::key(&**quota)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(quota) = self.quotas.get(key) else {
            self.settling.lock().remove(key);
            return Ok(());
        };
        if !self.is_settled(key, &quota) {
            return Ok(());
        }
        let (namespace, name) = client::split_key(key);
        let (queue, quotas) = (Arc::clone(&self.queue), self.quotas.clone());
        let changed = move |namespace: Option<&str>| {
            let concerned = namespace.map_or_else(|| quotas.list(), |namespace| quotas.list_in(namespace));
            concerned.iter().for_each(|quota| queue.add(client::key(&**quota)));
        };
        let counts = self.counts.of(&self.shared, namespace, &plan::counted(&quota), changed).await;
        let Some(counts) = counts.map_err(|error| Error::Unusable(error.to_string()))? else { return Ok(()) };
        let observed = Observed {
            pods: self.pods.list_in(namespace),
            services: self.services.list_in(namespace),
            claims: self.claims.list_in(namespace),
            resource_claims: self.resource_claims.list_in(namespace),
            counts,
        };
        let status = plan::plan(&quota, &observed, Timestamp::now());
        if quota.status.as_ref().is_some_and(|before| plan::same(before, &status)) {
            return Ok(());
        }
        let update = ResourceQuota { status: Some(status), ..ResourceQuota::clone(&quota) };
        let api = self.shared.api::<ResourceQuota>(namespace);
        api.replace_status(name, &PostParams::default(), &update)
            .await
            .unless_gone("write the status of", key)
            .map(drop)
    }
}
