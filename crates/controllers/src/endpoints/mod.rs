//! Endpoints: which addresses serve a Service, as EndpointSlices and as the older Endpoints object.

mod legacy;
mod mirror;
mod plan;

use std::sync::Arc;

use client::{Delta, Informer, select};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};

use self::plan::{Action, MANAGED_BY, MANAGER, SERVICE_NAME, Zones};
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, is_namespace_terminating};
use crate::create::generate_name;
use crate::expectations::Expectations;
use crate::pods;

const ZONE: &str = "topology.kubernetes.io/zone";

struct Slices {
    shared: Arc<Shared>,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    /// Slices created that the cache does not show yet, by the key of the Service.
    expectations: Expectations,
}

/// Starts the controllers: of slices for Services that select pods, and for Endpoints written by hand.
pub(crate) fn start(shared: &Arc<Shared>) {
    mirror::start(shared);
    let all = Slices {
        shared: Arc::clone(shared),
        services: shared.informers.all(),
        pods: shared.informers.all(),
        nodes: shared.informers.all(),
        slices: shared.informers.all(),
        endpoints: shared.informers.all(),
        expectations: Expectations::default(),
    };
    let (services, pods, nodes) = (all.services.clone(), all.pods.clone(), all.nodes.clone());
    let (slices, endpoints) = (all.slices.clone(), all.endpoints.clone());
    Loop::new(shared, all, Arc::new(Queue::new()))
        .on_own(&services)
        .on(&pods, Slices::pod_changed)
        .on(&nodes, Slices::node_changed)
        .on(&slices, Slices::slice_changed)
        .on(&endpoints, |_, queue, delta| queue.add(client::key(&**delta.object())))
        .start(16);
}

/// What of a pod endpoints depend on. Most changes of a pod leave it alone.
fn relevant(pod: &Pod) -> impl PartialEq + use<'_> {
    let spec = pod.spec.as_ref();
    (
        pod.metadata.labels.as_ref(),
        pod.status.as_ref().and_then(|s| s.pod_ips.as_ref()),
        (pods::is_ready(pod), pods::is_terminating(pod), pods::is_finished(pod)),
        spec.and_then(|s| s.node_name.as_deref()),
        spec.and_then(|s| s.hostname.as_deref()),
    )
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).map(String::as_str) == Some(MANAGER)
}

/// The selector of a Service whose endpoints are ours to keep.
fn selector(service: &Service) -> Option<&select::Labels> {
    let spec = service.spec.as_ref()?;
    spec.selector.as_ref().filter(|s| !s.is_empty() && spec.type_.as_deref() != Some("ExternalName"))
}

impl Slices {
    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        let old = match delta {
            Delta::Applied { old: Some(old), .. } if relevant(old) == relevant(pod) => return,
            Delta::Applied { old, .. } => old.as_ref(),
            Delta::Deleted(_) => None,
        };
        for service in self.services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let Some(wanted) = selector(&service) else { continue };
            let matches = |p: &Pod| select::contains(p.metadata.labels.as_ref(), wanted);
            if matches(pod) || old.is_some_and(|o| matches(o)) {
                queue.add(client::key(&*service));
            }
        }
    }

    /// A node's zone is part of every endpoint on it.
    fn node_changed(&self, queue: &Queue, delta: &Delta<Node>) {
        let zone = |n: &Node| n.metadata.labels.as_ref().and_then(|l| l.get(ZONE)).cloned();
        let changed = match delta {
            Delta::Applied { old: Some(old), new } => zone(old) != zone(new),
            Delta::Applied { old: None, new } => zone(new).is_some(),
            Delta::Deleted(_) => false,
        };
        if changed {
            self.all().into_iter().for_each(|key| queue.add(key));
        }
    }

    fn slice_changed(&self, queue: &Queue, delta: &Delta<EndpointSlice>) {
        let meta = &delta.object().metadata;
        let service = meta.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
        if let Some(service) = service.filter(|_| is_ours(delta.object())) {
            let key = format!("{}/{service}", meta.namespace.as_deref().unwrap_or_default());
            self.expectations.created(&key, meta.name.as_deref().unwrap_or_default());
            queue.add(key);
        }
    }

    fn zones(&self) -> Zones {
        let zone = |n: &Node| Some((n.metadata.name.clone()?, n.metadata.labels.as_ref()?.get(ZONE)?.clone()));
        self.nodes.list().iter().filter_map(|n| zone(n)).collect()
    }

    async fn apply(&self, key: &str, action: Action) -> Result<(), Error> {
        let api = self.shared.api::<EndpointSlice>(client::split_key(key).0);
        match action {
            Action::Create(slice) => {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                self.expectations.creating(key, [name]);
                let Err(error) = api.create(&PostParams::default(), &slice).await else { return Ok(()) };
                self.expectations.created(key, name);
                if is_namespace_terminating(&error) { Ok(()) } else { Err(error).step("create endpoint slice", name) }
            }
            Action::Update(slice) => {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                api.replace(name, &PostParams::default(), &slice).await.step("update endpoint slice", name).map(drop)
            }
            Action::Delete(name) => {
                let deleted = api.delete(&name, &DeleteParams::default()).await;
                deleted.unless_gone("delete endpoint slice", &name).map(drop)
            }
        }
    }

    async fn write_endpoints(&self, service: &Service, pods: &[Arc<Pod>], key: &str) -> Result<(), Error> {
        let current = self.endpoints.get(key);
        let Some(wanted) = legacy::plan(service, pods, current.as_deref()) else { return Ok(()) };
        let (namespace, name) = client::split_key(key);
        let api = self.shared.api::<Endpoints>(namespace);
        if current.is_some() {
            return api.replace(name, &PostParams::default(), &wanted).await.step("update endpoints", key).map(drop);
        }
        match api.create(&PostParams::default(), &wanted).await {
            Err(e) if is_namespace_terminating(&e) || code(&e) == 409 => Ok(()),
            other => other.step("create endpoints", key).map(drop),
        }
    }

    /// The Service is gone: its Endpoints object goes with it (slices are its property, the garbage collector's work).
    async fn clean_up(&self, key: &str) -> Result<(), Error> {
        let managed = |e: &Endpoints| {
            let labels = e.metadata.labels.as_ref();
            labels.and_then(|l| l.get("endpoints.kubernetes.io/managed-by")).is_some_and(|m| m == "endpoint-controller")
        };
        if self.endpoints.get(key).is_none_or(|e| !managed(&e)) {
            return Ok(());
        }
        let (namespace, name) = client::split_key(key);
        let deleted = self.shared.api::<Endpoints>(namespace).delete(name, &DeleteParams::default()).await;
        deleted.unless_gone("delete endpoints", key).map(drop)
    }
}

impl Controller for Slices {
    const NAME: &'static str = "endpoint-slice-controller";

    fn all(&self) -> Vec<String> {
        self.services.list().iter().map(|s| client::key(&**s)).collect()
    }

    fn lost(&self) {
        self.expectations.reset();
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(service) = self.services.get(key) else { return self.clean_up(key).await };
        let Some(wanted) = selector(&service) else { return Ok(()) };
        if service.metadata.deletion_timestamp.is_some() || !self.expectations.satisfied(key) {
            return Ok(());
        }
        let (namespace, name) = client::split_key(key);
        let pods: Vec<_> = self.pods.list_in(namespace);
        let pods: Vec<_> = pods.into_iter().filter(|p| select::contains(p.metadata.labels.as_ref(), wanted)).collect();
        let belongs = |s: &EndpointSlice| {
            is_ours(s) && s.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)).map(String::as_str) == Some(name)
        };
        let slices: Vec<_> = self.slices.list_in(namespace).into_iter().filter(|s| belongs(s)).collect();
        let prefix = format!("{name}-");
        let actions = plan::plan(&service, &pods, &self.zones(), &slices, || generate_name(&prefix));
        for action in actions {
            self.apply(key, action).await?;
        }
        self.write_endpoints(&service, &pods, key).await
    }
}
