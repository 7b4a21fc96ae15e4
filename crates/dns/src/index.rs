//! What DNS knows of Services and EndpointSlices: a few fields of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A named port: name, protocol in lower case, number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) number: u16,
}

/// What a Service's name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Its own addresses.
    Cluster(Vec<IpAddr>),
    /// Its endpoints.
    Headless,
    /// Another name.
    External(String),
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub(crate) target: Target,
    pub(crate) ports: Vec<Port>,
}

/// An endpoint that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointEntry {
    pub(crate) address: IpAddr,
    /// The label before the Service's name: its host name, or its address with dashes.
    pub(crate) label: String,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceEntry {
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<EndpointEntry>,
}

/// Whose an address is; Services come before endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Service(String),
    Endpoint { service: String, slice: String, label: String },
}

/// Services by `namespace/name`, their slices, and who has an address.
#[derive(Debug, Default)]
pub(crate) struct Index {
    services: BTreeMap<String, ServiceEntry>,
    slices: HashMap<String, BTreeMap<String, SliceEntry>>,
    addresses: HashMap<IpAddr, BTreeSet<Holder>>,
}

impl Index {
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services.get(&format!("{namespace}/{name}"))
    }

    /// Whether the namespace has any Service.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let prefix = format!("{namespace}/");
        self.services.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    /// The slices of a Service.
    pub(crate) fn slices(&self, namespace: &str, name: &str) -> impl Iterator<Item = &SliceEntry> {
        self.slices.get(&format!("{namespace}/{name}")).into_iter().flat_map(BTreeMap::values)
    }

    /// The labels before `svc` of the names that an address has, Service's own names first. An endpoint has a name when
    /// its host name was asked for, or its Service is headless.
    pub(crate) fn names(&self, address: IpAddr) -> Vec<Vec<String>> {
        let holders = self.addresses.get(&address).into_iter().flatten();
        let split = |key: &str| {
            let (namespace, name) = client::split_key(key);
            vec![name.to_owned(), namespace.to_owned()]
        };
        let names = holders.filter_map(|holder| match holder {
            Holder::Service(key) => Some(split(key)),
            Holder::Endpoint { service, label, .. } => {
                self.services.get(service)?;
                Some([vec![label.clone()], split(service)].concat())
            }
        });
        names.collect()
    }

    /// Takes in a Service as it is now.
    pub(crate) fn put_service(&mut self, service: &Service) {
        let key = client::key(service);
        self.remove_service(&key);
        let Some(entry) = service_entry(service) else { return };
        if let Target::Cluster(addresses) = &entry.target {
            for address in addresses {
                self.addresses.entry(*address).or_default().insert(Holder::Service(key.clone()));
            }
        }
        self.services.insert(key, entry);
    }

    /// Forgets a Service.
    pub(crate) fn remove_service(&mut self, key: &str) {
        if let Some(ServiceEntry { target: Target::Cluster(addresses), .. }) = self.services.remove(key) {
            for address in addresses {
                self.release(address, &Holder::Service(key.to_owned()));
            }
        }
    }

    /// Takes in a slice as it is now.
    pub(crate) fn put_slice(&mut self, slice: &EndpointSlice) {
        let Some((service, name)) = owner(slice) else { return };
        let entry = slice_entry(slice);
        for endpoint in &entry.endpoints {
            let holder = holder(&service, &name, endpoint);
            self.addresses.entry(endpoint.address).or_default().insert(holder);
        }
        self.slices.entry(service).or_default().insert(name, entry);
    }

    /// Forgets a slice, as it was.
    pub(crate) fn remove_slice(&mut self, slice: &EndpointSlice) {
        let Some((service, name)) = owner(slice) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let entry = slices.remove(&name);
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        for endpoint in entry.into_iter().flat_map(|entry| entry.endpoints) {
            self.release(endpoint.address, &holder(&service, &name, &endpoint));
        }
    }

    fn release(&mut self, address: IpAddr, holder: &Holder) {
        if let Some(holders) = self.addresses.get_mut(&address) {
            holders.remove(holder);
            if holders.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }
}

fn holder(service: &str, slice: &str, endpoint: &EndpointEntry) -> Holder {
    Holder::Endpoint { service: service.to_owned(), slice: slice.to_owned(), label: endpoint.label.clone() }
}

fn service_entry(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port).ok()?,
        })
    });
    let target = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => Target::External(spec.external_name.clone()?),
        (_, Some("None")) => Target::Headless,
        (_, first) => {
            let all = spec.cluster_ips.as_deref().unwrap_or_default();
            let all = all.iter().map(String::as_str).chain(first);
            let addresses: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
            Target::Cluster(addresses.into_iter().collect())
        }
    };
    Some(ServiceEntry { target, ports: ports.collect() })
}

fn slice_entry(slice: &EndpointSlice) -> SliceEntry {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port?).ok()?,
        })
    });
    let mut endpoints = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        if ready == Some(false) {
            continue;
        }
        for address in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            let label = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
            endpoints.push(EndpointEntry { address, label });
        }
    }
    SliceEntry { ports: ports.collect(), endpoints }
}

fn protocol(protocol: Option<&str>) -> String {
    protocol.unwrap_or("TCP").to_ascii_lowercase()
}

/// An address as one label.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a label is the dashed form of.
pub(crate) fn undashed(label: &str) -> Option<IpAddr> {
    let four = label.replace('-', ".").parse().map(IpAddr::V4).ok();
    four.or_else(|| label.replace('-', ":").parse().map(IpAddr::V6).ok())
}

/// The key of a slice's Service, and the slice's own name.
fn owner(slice: &EndpointSlice) -> Option<(String, String)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some((format!("{namespace}/{service}"), slice.metadata.name.clone()?))
}
