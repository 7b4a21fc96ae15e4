//! Which endpoints of a Service's port take traffic.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use network::conntrack::Endpoint as Address;

/// The endpoints of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Those anywhere in the cluster.
    pub(crate) cluster: Vec<Address>,
    /// Those on this node.
    pub(crate) local: Vec<Address>,
}

/// The endpoints that take traffic for a port: the ready ones; where there are none, those that still serve while they
/// terminate (KEP-1669). The choice is made for the cluster and for the node separately.
pub(crate) fn select<'a>(port: &ServicePort, slices: impl Iterator<Item = &'a EndpointSlice>, node: &str) -> Endpoints {
    let mut ready = Endpoints::default();
    let mut leaving = Endpoints::default();
    for slice in slices.filter(|slice| slice.address_type == "IPv4") {
        let Some(number) = target(port, slice) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let group = match readiness(endpoint) {
                Readiness::Ready => &mut ready,
                Readiness::Leaving => &mut leaving,
                Readiness::No => continue,
            };
            let address = endpoint.addresses.first().and_then(|a| a.parse::<Ipv4Addr>().ok());
            let Some(address) = address else { continue };
            group.cluster.push((address, number));
            if endpoint.node_name.as_deref() == Some(node) {
                group.local.push((address, number));
            }
        }
    }
    Endpoints {
        cluster: first_with_any(ready.cluster, leaving.cluster),
        local: first_with_any(ready.local, leaving.local),
    }
}

fn first_with_any(first: Vec<Address>, second: Vec<Address>) -> Vec<Address> {
    let mut chosen = if first.is_empty() { second } else { first };
    // An endpoint may be in two slices while it moves.
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

enum Readiness {
    Ready,
    Leaving,
    No,
}

fn readiness(endpoint: &Endpoint) -> Readiness {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Readiness::Ready,
        (false, true) => Readiness::Leaving,
        (false, false) => Readiness::No,
    }
}

/// The port's number in a slice: ports belong together by name.
fn target(port: &ServicePort, slice: &EndpointSlice) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let found = slice.ports.iter().flatten().find(|other| {
        other.name.as_deref().unwrap_or_default() == name && other.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found.and_then(|port| port.port).and_then(|number| u16::try_from(number).ok())
}
