//! The cluster domain: from a name and a type to records. Pure.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::{EndpointEntry, Index, Port, ServiceEntry, Target, undashed};

/// How long answers may be kept, in seconds.
pub(crate) const TTL: u32 = 5;
/// The version of the DNS specification, as `dns-version.<domain>` tells it.
const VERSION: &str = "1.1.0";

/// What the zone says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not the cluster's: ask upstream.
    Elsewhere,
    /// No such name.
    NoName,
    /// The records of the type (none: the name exists without any), and the addresses of names in them.
    Records(Vec<RData>, Vec<Record>),
    /// Another name, whose records are wanted.
    Alias(Name),
}

impl Answer {
    fn none() -> Answer {
        Answer::Records(Vec::new(), Vec::new())
    }
}

/// The cluster domain.
pub(crate) struct Zone {
    domain: Name,
}

impl Zone {
    /// A zone of a domain such as `cluster.local`.
    pub(crate) fn new(domain: &str) -> Result<Zone, hickory_proto::ProtoError> {
        let mut domain = Name::from_ascii(domain)?.to_lowercase();
        domain.set_fqdn(true);
        Ok(Zone { domain })
    }

    /// The record that says how long a denial may be kept.
    pub(crate) fn soa(&self) -> Record {
        let (server, contact) = (self.child(&["ns", "dns"]), self.child(&["hostmaster"]));
        let soa = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// Whether a name is in the domain, and so never leaves the node.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// Answers for a name; case does not matter.
    pub(crate) fn resolve(&self, index: &Index, name: &Name, kind: RecordType) -> Answer {
        if !self.contains(name) {
            return self.reverse(index, name, kind);
        }
        let count = usize::from(name.num_labels() - self.domain.num_labels());
        let labels = name.iter().take(count).map(|label| String::from_utf8_lossy(label).to_ascii_lowercase());
        let labels: Vec<String> = labels.collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => self.apex(kind),
            ["dns-version"] if kind == RecordType::TXT => {
                Answer::Records(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))], Vec::new())
            }
            ["dns-version" | "svc" | "pod" | "dns"] | ["ns", "dns"] => Answer::none(),
            [namespace, "svc"] if index.has_namespace(namespace) => Answer::none(),
            [label, _, "pod"] => pod(label, kind),
            [_, "pod"] => Answer::none(),
            [service, namespace, "svc"] => self.service(index, namespace, service, kind),
            [endpoint, service, namespace, "svc"] => endpoint_of(index, namespace, service, endpoint, kind),
            [port, protocol, service, namespace, "svc"] => self.port(index, [port, protocol, service, namespace], kind),
            _ => Answer::NoName,
        }
    }

    fn apex(&self, kind: RecordType) -> Answer {
        let records = match kind {
            RecordType::SOA => vec![self.soa().data],
            RecordType::NS => vec![RData::NS(NS(self.child(&["ns", "dns"])))],
            _ => Vec::new(),
        };
        Answer::Records(records, Vec::new())
    }

    fn service(&self, index: &Index, namespace: &str, name: &str, kind: RecordType) -> Answer {
        let Some(service) = index.service(namespace, name) else { return Answer::NoName };
        match &service.target {
            Target::External(other) => external(other, kind),
            Target::Cluster(list) if kind != RecordType::SRV => addresses(list.iter().copied(), kind),
            Target::Headless if kind != RecordType::SRV => {
                let endpoints = index.slices(namespace, name).flat_map(|slice| &slice.endpoints);
                addresses(endpoints.map(|endpoint| endpoint.address), kind)
            }
            _ => self.servers(index, namespace, name, service, |_| true),
        }
    }

    /// `_port._protocol.service.namespace.svc`.
    fn port(&self, index: &Index, labels: [&str; 4], kind: RecordType) -> Answer {
        let [port, protocol, name, namespace] = labels;
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Answer::NoName;
        };
        let Some(service) = index.service(namespace, name) else { return Answer::NoName };
        let wanted = |other: &Port| other.name == port && other.protocol == protocol;
        let slices = || index.slices(namespace, name).flat_map(|slice| &slice.ports);
        if !service.ports.iter().any(wanted) && !slices().any(wanted) {
            return Answer::NoName;
        }
        match kind {
            RecordType::SRV => self.servers(index, namespace, name, service, wanted),
            _ => Answer::none(),
        }
    }

    /// SRV records of the ports, and the addresses of their targets.
    fn servers(
        &self,
        index: &Index,
        namespace: &str,
        name: &str,
        service: &ServiceEntry,
        wanted: impl Fn(&Port) -> bool,
    ) -> Answer {
        let mut found: Vec<(u16, Name, IpAddr)> = Vec::new();
        match &service.target {
            Target::External(_) => {}
            Target::Cluster(list) => {
                let target = self.child(&[name, namespace, "svc"]);
                for port in service.ports.iter().filter(|port| wanted(port)) {
                    found.extend(list.iter().map(|address| (port.number, target.clone(), *address)));
                }
            }
            Target::Headless => {
                for slice in index.slices(namespace, name) {
                    for port in slice.ports.iter().filter(|port| wanted(port)) {
                        found.extend(slice.endpoints.iter().map(|endpoint| {
                            let target = self.child(&[&endpoint.label, name, namespace, "svc"]);
                            (port.number, target, endpoint.address)
                        }));
                    }
                }
            }
        }
        let mut records = Vec::new();
        let mut glue = Vec::new();
        // Upstream's servers share a weight of 100.
        let weight = (100 / found.len().max(1)).max(1) as u16;
        for (port, target, address) in found {
            let server = RData::SRV(SRV::new(0, weight, port, target.clone()));
            if !records.contains(&server) {
                records.push(server);
            }
            let address = Record::from_rdata(target, TTL, data(address));
            if !glue.contains(&address) {
                glue.push(address);
            }
        }
        Answer::Records(records, glue)
    }

    /// The names of an address. One that the cluster does not know may be somebody else's.
    fn reverse(&self, index: &Index, name: &Name, kind: RecordType) -> Answer {
        let Some(address) = arpa(name) else { return Answer::Elsewhere };
        let names = index.names(address);
        if names.is_empty() {
            return Answer::Elsewhere;
        }
        let records = names.into_iter().map(|labels| {
            let labels: Vec<&str> = labels.iter().map(String::as_str).chain(["svc"]).collect();
            RData::PTR(PTR(self.child(&labels)))
        });
        match kind {
            RecordType::PTR => Answer::Records(records.collect(), Vec::new()),
            _ => Answer::none(),
        }
    }

    /// A name in the domain. Labels come from names that the API has checked; others give the domain itself.
    fn child(&self, labels: &[&str]) -> Name {
        let child = Name::from_labels(labels.iter().map(|label| label.as_bytes()));
        child.and_then(|child| child.append_domain(&self.domain)).unwrap_or_else(|_| self.domain.clone())
    }
}

fn pod(label: &str, kind: RecordType) -> Answer {
    match undashed(label) {
        Some(address) => addresses(std::iter::once(address), kind),
        None => Answer::NoName,
    }
}

fn endpoint_of(index: &Index, namespace: &str, service: &str, label: &str, kind: RecordType) -> Answer {
    let protocol = label.strip_prefix('_');
    let slices = || index.slices(namespace, service);
    let named = |endpoint: &&EndpointEntry| endpoint.label.eq_ignore_ascii_case(label);
    let mut found = slices().flat_map(|slice| &slice.endpoints).filter(named).peekable();
    if let Some(entry) = index.service(namespace, service) {
        if found.peek().is_some() {
            return addresses(found.map(|endpoint| endpoint.address), kind);
        }
        // `_tcp.service…` has names below it.
        let ports = entry.ports.iter().chain(slices().flat_map(|slice| &slice.ports));
        if protocol.is_some_and(|protocol| ports.into_iter().any(|port| port.protocol == protocol)) {
            return Answer::none();
        }
    }
    Answer::NoName
}

fn external(name: &str, kind: RecordType) -> Answer {
    if let Ok(address) = name.parse() {
        return addresses(std::iter::once(address), kind);
    }
    let Ok(mut name) = Name::from_ascii(name) else { return Answer::none() };
    name.set_fqdn(true);
    Answer::Alias(name)
}

fn addresses(list: impl Iterator<Item = IpAddr>, kind: RecordType) -> Answer {
    let records = list.map(data).filter(|data| kind == data.record_type() || kind == RecordType::ANY);
    let mut unique: Vec<RData> = Vec::new();
    for record in records {
        if !unique.contains(&record) {
            unique.push(record);
        }
    }
    Answer::Records(unique, Vec::new())
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

/// The address of a full reverse name.
fn arpa(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    let whole = network.prefix_len() == network.max_prefix_len();
    whole.then(|| network.addr())
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
