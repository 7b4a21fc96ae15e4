//! Endpoints that users write by hand, for Services without a selector, become EndpointSlices: only those are read by proxies.

use std::sync::Arc;

use client::{Delta, Informer};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use super::plan::{MANAGED_BY, SERVICE_NAME};
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, is_namespace_terminating};
use crate::create::generate_name;
use crate::expectations::Expectations;
use crate::owner;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are not mirrored: whoever writes them writes slices, too.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints once served as locks of leader elections.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The most addresses taken from one subset.
const ADDRESSES_MAX: usize = 1000;

struct Mirror {
    shared: Arc<Shared>,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    expectations: Expectations,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let mirror = Mirror {
        shared: Arc::clone(shared),
        services: shared.informers.all(),
        endpoints: shared.informers.all(),
        slices: shared.informers.all(),
        expectations: Expectations::default(),
    };
    let (services, endpoints, slices) = (mirror.services.clone(), mirror.endpoints.clone(), mirror.slices.clone());
    Loop::new(shared, mirror, Arc::new(Queue::new()))
        .on_own(&endpoints)
        .on(&services, |_, queue, delta| queue.add(client::key(&**delta.object())))
        .on(&slices, Mirror::slice_changed)
        .start(4);
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).map(String::as_str) == Some(MANAGER)
}

fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|l| l.get(SKIP)).map(String::as_str) == Some("true");
    let lock = meta.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let free = service.and_then(|s| s.spec.as_ref()).is_some_and(|s| s.selector.as_ref().is_none_or(|m| m.is_empty()));
    !skipped && !lock && free && meta.deletion_timestamp.is_none()
}

/// The slices of one Endpoints object: one for each subset and address family.
fn wanted(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.retain(|k, _| !k.starts_with("endpoints.kubernetes.io/"));
    labels.insert(SERVICE_NAME.to_owned(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for family in ["IPv4", "IPv6"] {
            let members = members(subset, family);
            if members.is_empty() {
                continue;
            }
            slices.push(EndpointSlice {
                address_type: family.to_owned(),
                metadata: ObjectMeta {
                    namespace: endpoints.metadata.namespace.clone(),
                    labels: Some(labels.clone()),
                    owner_references: Some(vec![owner::reference(endpoints)]),
                    ..ObjectMeta::default()
                },
                ports: ports(subset),
                endpoints: Some(members),
            });
        }
    }
    slices
}

fn ports(subset: &EndpointSubset) -> Option<Vec<k8s_openapi::api::discovery::v1::EndpointPort>> {
    let port = |p: &k8s_openapi::api::core::v1::EndpointPort| k8s_openapi::api::discovery::v1::EndpointPort {
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: p.app_protocol.clone(),
    };
    subset.ports.as_ref().map(|ports| ports.iter().map(port).collect())
}

fn members(subset: &EndpointSubset, family: &str) -> Vec<Endpoint> {
    let of = |list: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
        let mine = list.iter().flatten().filter(|a| a.ip.contains(':') == (family == "IPv6"));
        mine.map(|a| Endpoint {
            addresses: vec![a.ip.clone()],
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            hostname: a.hostname.clone(),
            node_name: a.node_name.clone(),
            target_ref: a.target_ref.clone(),
            ..Endpoint::default()
        })
        .collect()
    };
    let mut all = of(&subset.addresses, true);
    all.extend(of(&subset.not_ready_addresses, false));
    all.truncate(ADDRESSES_MAX);
    all
}

/// Whether the slice says the same already.
fn same(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    a.address_type == b.address_type
        && a.ports == b.ports
        && a.endpoints == b.endpoints
        && a.metadata.labels == b.metadata.labels
}

impl Mirror {
    fn slice_changed(&self, queue: &Queue, delta: &Delta<EndpointSlice>) {
        let slice = delta.object();
        let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
        if let Some(service) = service.filter(|_| is_ours(slice)) {
            let key = format!("{}/{service}", slice.metadata.namespace.as_deref().unwrap_or_default());
            self.expectations.created(&key, slice.metadata.name.as_deref().unwrap_or_default());
            queue.add(key);
        }
    }

    async fn create(&self, key: &str, mut slice: EndpointSlice) -> Result<(), Error> {
        let (namespace, service) = client::split_key(key);
        let name = generate_name(&format!("{service}-"));
        slice.metadata.name = Some(name.clone());
        self.expectations.creating(key, [name.as_str()]);
        let made = self.shared.api::<EndpointSlice>(namespace).create(&PostParams::default(), &slice).await;
        let Err(error) = made else { return Ok(()) };
        self.expectations.created(key, &name);
        if is_namespace_terminating(&error) { Ok(()) } else { Err(error).step("create endpoint slice", &name) }
    }
}

impl Controller for Mirror {
    const NAME: &'static str = "endpoint-slice-mirroring-controller";

    fn all(&self) -> Vec<String> {
        self.endpoints.list().iter().map(|e| client::key(&**e)).collect()
    }

    fn lost(&self) {
        self.expectations.reset();
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let (namespace, name) = client::split_key(key);
        if !self.expectations.satisfied(key) {
            return Ok(());
        }
        let service = self.services.get(key);
        let endpoints = self.endpoints.get(key).filter(|e| is_mirrored(e, service.as_deref()));
        let mut missing = endpoints.map(|e| wanted(&e)).unwrap_or_default();
        let mut slices = self.slices.list_in(namespace);
        let label = |s: &EndpointSlice| s.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)).cloned();
        slices.retain(|s| is_ours(s) && label(s).as_deref() == Some(name));
        let mut idle = Vec::new();
        for slice in slices {
            match missing.iter().position(|w| same(w, &slice)) {
                Some(i) => drop(missing.remove(i)),
                None => idle.push(slice),
            }
        }
        let api = self.shared.api::<EndpointSlice>(namespace);
        for slice in idle {
            let slice_name = slice.metadata.name.as_deref().unwrap_or_default();
            // A slice of another address family cannot be changed into one of this.
            let Some(i) = missing.iter().position(|w| w.address_type == slice.address_type) else {
                api.delete(slice_name, &DeleteParams::default())
                    .await
                    .unless_gone("delete endpoint slice", slice_name)?;
                continue;
            };
            let wanted = missing.remove(i);
            let mut update = EndpointSlice::clone(&slice);
            (update.endpoints, update.ports, update.metadata.labels) =
                (wanted.endpoints, wanted.ports, wanted.metadata.labels);
            api.replace(slice_name, &PostParams::default(), &update).await.step("update endpoint slice", slice_name)?;
        }
        for slice in missing {
            self.create(key, slice).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn hand_written_endpoints_become_slices() {
        let endpoints: Endpoints =
            object(json!({"metadata": {"name": "db", "namespace": "a", "uid": "e"}, "subsets": [
            {"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"port": 5432}]}]}));
        let slices = wanted(&endpoints);
        let shown: Vec<_> =
            slices.iter().map(|s| (s.address_type.as_str(), s.endpoints.as_ref().unwrap().len())).collect();
        assert_eq!(shown, [("IPv4", 2), ("IPv6", 1)]);
        assert_eq!(slices[0].endpoints.as_ref().unwrap()[1].conditions.as_ref().unwrap().ready, Some(false));
        assert!(same(&slices[0], &slices[0].clone()) && !same(&slices[0], &slices[1]));
    }

    #[test]
    fn only_those_without_a_selector_are_mirrored() {
        let endpoints = |meta: serde_json::Value| object::<Endpoints>(json!({"metadata": meta}));
        let service = |spec: serde_json::Value| object::<Service>(json!({"metadata": {}, "spec": spec}));
        let plain = endpoints(json!({"name": "db"}));
        let skipped = endpoints(json!({"name": "db", "labels": {SKIP: "true"}}));
        let (free, selecting) = (service(json!({})), service(json!({"selector": {"a": "b"}})));
        let rows = [
            (&plain, Some(&free), true),
            (&plain, Some(&selecting), false),
            (&plain, None, false),
            (&skipped, Some(&free), false),
        ];
        for (endpoints, service, want) in rows {
            assert_eq!(is_mirrored(endpoints, service), want, "{endpoints:?} {service:?}");
        }
    }
}
