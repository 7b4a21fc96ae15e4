//! IPAddresses: the object beside each address that a Service holds. The API server gives addresses out; these tell whose each is.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Delta, Informer};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code};

const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

struct Addresses {
    shared: Arc<Shared>,
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let controller =
        Addresses { shared: Arc::clone(shared), services: shared.informers.all(), addresses: shared.informers.all() };
    let (services, addresses) = (controller.services.clone(), controller.addresses.clone());
    Loop::new(shared, controller, Arc::new(Queue::new()))
        .on(&services, |_, queue, delta| {
            let old = match delta {
                Delta::Applied { old: Some(old), .. } => ips(old),
                _ => Vec::new(),
            };
            let new = ips(delta.object());
            let unchanged = old == new && !matches!(delta, Delta::Deleted(_));
            old.into_iter().chain(new).filter(|_| !unchanged).for_each(|ip| queue.add(place(delta.object(), ip)));
        })
        .on(&addresses, |_, queue, delta| {
            let address = delta.object();
            if let (true, Ok(ip)) = (is_ours(address), client::key(&**address).parse()) {
                queue.add(place_of(address, ip));
            }
        })
        .start(4);
}

/// The addresses a Service holds.
fn ips(service: &Service) -> Vec<IpAddr> {
    let list = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    list.filter_map(|ip| ip.parse().ok()).collect()
}

/// A key: whose address, and which.
fn place(service: &Service, ip: IpAddr) -> String {
    format!("{} {ip}", client::key(service))
}

fn place_of(address: &IPAddress, ip: IpAddr) -> String {
    let parent = &address.spec.parent_ref;
    format!("{}/{} {ip}", parent.namespace.as_deref().unwrap_or_default(), parent.name)
}

fn is_ours(address: &IPAddress) -> bool {
    let labels = address.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1)
}

/// The object of an address.
fn object(service: &str, ip: IpAddr) -> IPAddress {
    let (namespace, name) = client::split_key(service);
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels =
        [(MANAGED_BY.0, MANAGED_BY.1), (FAMILY, family)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let parent_ref = ParentReference {
        group: None,
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        resource: "services".to_owned(),
    };
    IPAddress {
        metadata: ObjectMeta { name: Some(ip.to_string()), labels: Some(labels.into()), ..ObjectMeta::default() },
        spec: IPAddressSpec { parent_ref },
    }
}

impl Controller for Addresses {
    const NAME: &'static str = "service-ipaddress-controller";

    fn all(&self) -> Vec<String> {
        let services = self.services.list();
        let held = services.iter().flat_map(|service| ips(service).into_iter().map(|ip| place(service, ip)));
        let known = self.addresses.list();
        let known = known.iter().filter(|address| is_ours(address));
        let known = known.filter_map(|a| Some(place_of(a, client::key(&**a).parse().ok()?)));
        held.chain(known).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some((service, ip)) = key.split_once(' ').and_then(|(s, ip)| Some((s, ip.parse::<IpAddr>().ok()?))) else {
            return Ok(());
        };
        let held = self.services.get(service).is_some_and(|service| ips(&service).contains(&ip));
        let name = ip.to_string();
        let api = self.shared.cluster::<IPAddress>();
        match (held, self.addresses.get(&name)) {
            (true, None) => match api.create(&PostParams::default(), &object(service, ip)).await {
                // The one of the Service that had it before is on its way out: its end will be told.
                Err(error) if code(&error) == 409 => Ok(()),
                other => other.step("note address", &name).map(drop),
            },
            // Of another Service: it goes first, when that one is gone.
            (true, Some(address)) if is_ours(&address) && place_of(&address, ip) != key => {
                let owner = place_of(&address, ip);
                let other = owner.split_once(' ').and_then(|(service, _)| self.services.get(service));
                if other.is_some_and(|other| ips(&other).contains(&ip)) {
                    return Ok(());
                }
                self.release(&address, &name).await?;
                Err(Error::NotYet(format!("the address {name} to be free")))
            }
            (false, Some(address)) if is_ours(&address) && place_of(&address, ip) == key => {
                self.release(&address, &name).await
            }
            _ => Ok(()),
        }
    }
}

impl Addresses {
    async fn release(&self, address: &IPAddress, name: &str) -> Result<(), Error> {
        let exactly = Preconditions { uid: address.metadata.uid.clone(), resource_version: None };
        let how = DeleteParams::default().preconditions(exactly);
        match self.shared.cluster::<IPAddress>().delete(name, &how).await {
            Err(error) if code(&error) == 409 => Ok(()),
            other => other.unless_gone("forget address", name).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_tells_whose_it_is() {
        let service: Service = crate::testing::object(json!({
            "metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIPs": ["10.0.0.1", "fd00::1", "None"]},
        }));
        let ips = ips(&service);
        assert_eq!(ips.len(), 2);
        for (ip, family) in ips.into_iter().zip(["IPv4", "IPv6"]) {
            let made = object("n/s", ip);
            assert!(is_ours(&made));
            assert_eq!(place_of(&made, ip), place(&service, ip));
            assert_eq!(
                made.metadata.labels.as_ref().and_then(|labels| labels.get(FAMILY)).map(String::as_str),
                Some(family)
            );
        }
    }
}
