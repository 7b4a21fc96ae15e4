//! The rules of one Service: pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::Transport;
use network::conntrack::Endpoint;
use network::nft::{Chain, Data, Element, Fields, Fragment, Kind, Load, Rule, SetHolds, SetSpec, Verdict};

use crate::NodeInfo;
use crate::endpoints::{Endpoints, select};
use crate::skeleton::{
    ADDRESSES, DEAD_ADDRESSES, DEAD_NODE_PORTS, ENDPOINTS, MASQUERADE, MASQUERADE_ADDRESSES, MASQUERADE_NODE_PORTS,
    MASQUERADE_OWN, NODE_PORT_ENDPOINTS, NODE_PORTS, REFUSE, SPREAD_MAX, spread, spread_node_port,
};

/// How long a source is remembered when the Service does not say (three hours, as upstream).
const AFFINITY_SECONDS: i32 = 10_800;

/// The rules of a Service, and its UDP ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The rules; empty when the Service needs none (no address of its own, another one's name).
    pub fragment: Fragment,
    /// For each UDP port: where clients address it (no address: node port) and who answers.
    pub udp: Vec<UdpPort>,
}

/// A UDP port of a Service: tracked connections to it that someone else answers are stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpPort {
    /// The addresses and ports clients use; no address means any of the node.
    pub fronts: Vec<(Option<Ipv4Addr>, u16)>,
    /// Who answers.
    pub endpoints: Vec<Endpoint>,
}

/// Plans the rules of a Service. `slices` are those of this Service.
pub fn plan<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice> + Clone, node: &NodeInfo) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = service.spec.as_ref() else { return plan };
    if spec.type_.as_deref() == Some("ExternalName") {
        return plan;
    }
    let Some(cluster_address) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) else {
        return plan;
    };
    for port in spec.ports.iter().flatten() {
        let Some((protocol, number)) = parse_port(port) else { continue };
        let planner = Planner {
            spec,
            name: name(service, protocol, number),
            protocol,
            endpoints: select(port, slices.clone(), &node.name),
            node,
            fronts: Fronts::new(service, spec, port, cluster_address, number),
        };
        planner.add_to(&mut plan);
    }
    plan
}

fn parse_port(port: &ServicePort) -> Option<(Transport, u16)> {
    let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Transport::Tcp,
        "UDP" => Transport::Udp,
        "SCTP" => Transport::Sctp,
        _ => return None,
    };
    Some((protocol, u16::try_from(port.port).ok()?))
}

/// The common part of the names of a port's chains: also what a person reads in `nft list`.
fn name(service: &Service, protocol: Transport, number: u16) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let protocol = match protocol {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
    };
    format!("{namespace}/{name}/{protocol}/{number}")
}

/// Where clients address a port.
struct Fronts {
    cluster: Ipv4Addr,
    /// External addresses.
    external: Vec<Ipv4Addr>,
    /// Load-balancer addresses.
    balancer: Vec<Ipv4Addr>,
    node_port: Option<u16>,
    number: u16,
}

impl Fronts {
    fn new(service: &Service, spec: &ServiceSpec, port: &ServicePort, cluster: Ipv4Addr, number: u16) -> Fronts {
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
        let ingress = ingress.into_iter().flatten();
        // With mode Proxy the load balancer wants to see the traffic: it is not short-cut.
        let ingress = ingress
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_ref());
        let parse = |ips: &mut dyn Iterator<Item = &String>| {
            let parsed = ips.filter_map(|ip| ip.parse().ok());
            parsed.filter(|ip| *ip != cluster).collect::<BTreeSet<Ipv4Addr>>()
        };
        let external = parse(&mut spec.external_ips.iter().flatten());
        let balancer = &parse(&mut ingress.into_iter()) - &external;
        let (external, balancer) = (Vec::from_iter(external), Vec::from_iter(balancer));
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
        let node_port = node_port.filter(|port| *port != 0);
        Fronts { cluster, external, balancer, node_port, number }
    }
}

struct Planner<'a> {
    spec: &'a ServiceSpec,
    name: String,
    protocol: Transport,
    endpoints: Endpoints,
    node: &'a NodeInfo,
    fronts: Fronts,
}

impl Planner<'_> {
    fn add_to(self, plan: &mut Plan) {
        let internal_local = is_local(self.spec.internal_traffic_policy.as_deref());
        let external_local = is_local(self.spec.external_traffic_policy.as_deref());
        let fragment = &mut plan.fragment;
        let affinity_ms = self.affinity_ms();
        let reachable = !self.endpoints.cluster.is_empty();
        if reachable && self.is_plain() {
            self.fronts(fragment, [&Front::Spread, &Front::Spread, &Front::Spread], external_local);
            if self.protocol == Transport::Udp {
                plan.udp.push(self.udp());
            }
            return;
        }
        let every: Arc<str> = format!("all/{}", self.name).into();
        if let Some(timeout) = affinity_ms {
            self.add_affinity(fragment, timeout);
        }
        if reachable {
            let rules = self.scatter(&self.endpoints.cluster);
            fragment.chains.push(Chain { name: every.clone(), rules });
        }
        let internal = match (reachable, internal_local, self.endpoints.local.is_empty()) {
            (false, ..) => Front::Refused,
            (true, false, _) => Front::Chain(every.clone()),
            (true, true, true) => Front::Dropped,
            (true, true, false) => {
                let name: Arc<str> = format!("own/{}", self.name).into();
                let rules = self.scatter(&self.endpoints.local);
                fragment.chains.push(Chain { name: name.clone(), rules });
                Front::Chain(name)
            }
        };
        let external = match (reachable, external_local && self.has_external()) {
            (false, _) => Front::Refused,
            (true, false) => Front::Chain(every),
            (true, true) => {
                let name: Arc<str> = format!("external/{}", self.name).into();
                let rules = self.external_rules(&every);
                fragment.chains.push(Chain { name: name.clone(), rules });
                Front::Chain(name)
            }
        };
        let balanced = self.source_ranges(fragment, &external);
        self.fronts(fragment, [&internal, &external, &balanced], external_local);
        if self.protocol == Transport::Udp {
            plan.udp.push(self.udp());
        }
    }

    fn has_external(&self) -> bool {
        let Fronts { external, balancer, node_port, .. } = &self.fronts;
        !external.is_empty() || !balancer.is_empty() || node_port.is_some()
    }

    /// What load-balancer addresses lead to: only sources in the Service's ranges get through, when it has some.
    fn source_ranges(&self, fragment: &mut Fragment, external: &Front) -> Front {
        let ranges = self.spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
        let ranges: Vec<&str> = ranges.iter().map(|range| range.trim()).collect();
        let Front::Chain(open) = external else { return external.clone() };
        if ranges.is_empty() || self.fronts.balancer.is_empty() {
            return external.clone();
        }
        let allowed = ranges.iter().filter_map(|range| range.parse().ok());
        let pass = allowed.map(|range| Rule::new().within(Load::Source, range).verdict(Verdict::Goto(open.clone())));
        let rules = pass.chain([Rule::new().verdict(Verdict::Drop)]).collect();
        let name: Arc<str> = format!("ranges/{}", self.name).into();
        fragment.chains.push(Chain { name: name.clone(), rules });
        Front::Chain(name)
    }

    /// Whether every front leads to every endpoint alike, and they are few.
    fn is_plain(&self) -> bool {
        let external_local = is_local(self.spec.external_traffic_policy.as_deref()) && self.has_external();
        let ranges = self.spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
        self.affinity_ms().is_none()
            && self.endpoints.cluster.len() <= SPREAD_MAX
            && !is_local(self.spec.internal_traffic_policy.as_deref())
            && !external_local
            && !ranges
    }

    /// How long a source is led to the same endpoint, when it is.
    fn affinity_ms(&self) -> Option<u64> {
        let wanted = self.spec.session_affinity.as_deref() == Some("ClientIP");
        wanted.then(|| {
            let config = self.spec.session_affinity_config.as_ref();
            let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
            u64::try_from(seconds.unwrap_or(AFFINITY_SECONDS)).unwrap_or(0).max(1) * 1000
        })
    }

    /// The name of the set of sources that are led to an endpoint, and of the chain that leads there.
    fn affinity_name(&self, (address, port): Endpoint) -> Arc<str> {
        format!("affinity/{}/{address}/{port}", self.name).into()
    }

    /// With affinity each endpoint has a set of its own, which goes when it goes, and a chain.
    fn add_affinity(&self, fragment: &mut Fragment, timeout_ms: u64) {
        let endpoints: BTreeSet<Endpoint> =
            self.endpoints.cluster.iter().chain(&self.endpoints.local).copied().collect();
        for endpoint in endpoints {
            let name = self.affinity_name(endpoint);
            fragment.sets.push(SetSpec {
                name: name.clone(),
                keys: vec![Kind::Address],
                holds: SetHolds::Nothing,
                timeout_ms: Some(timeout_ms),
            });
            let rules = vec![Rule::new().remember_source(&name, timeout_ms), Rule::new().redirect_to(&[endpoint])];
            fragment.chains.push(Chain { name, rules });
        }
    }

    /// Leads to one of the endpoints: with affinity to that of the source's last connection, if it is among them.
    fn scatter(&self, endpoints: &[Endpoint]) -> Vec<Rule> {
        if self.affinity_ms().is_none() {
            return vec![Rule::new().redirect_to(endpoints)];
        }
        let names: Vec<Arc<str>> = endpoints.iter().map(|endpoint| self.affinity_name(*endpoint)).collect();
        let goto = |name: &Arc<str>| Verdict::Goto(name.clone());
        let again = names.iter().map(|name| Rule::new().in_set(name, &[Load::Source]).verdict(goto(name)));
        let first = Rule::new().choose(names.iter().map(goto).collect());
        again.chain([first]).collect()
    }

    /// Traffic from outside stays on this node and keeps its source; pods and the node itself are served as by the
    /// Service's own address.
    fn external_rules(&self, every: &Arc<str>) -> Vec<Rule> {
        let everywhere = || Verdict::Goto(every.clone());
        let mut rules = vec![
            Rule::new().within(Load::Source, self.node.cluster_cidr).verdict(everywhere()),
            Rule::new().from_this_node().verdict(everywhere()),
        ];
        if self.endpoints.local.is_empty() {
            rules.push(Rule::new().verdict(Verdict::Drop));
        } else {
            rules.extend(self.scatter(&self.endpoints.local));
        }
        rules
    }

    /// The elements that lead to the chains, or to nobody.
    fn fronts(&self, fragment: &mut Fragment, [internal, external, balanced]: [&Front; 3], external_local: bool) {
        let Fronts { cluster, external: addresses, balancer, node_port, number } = &self.fronts;
        let on = |address: Ipv4Addr| Fields::new().address(address).protocol(self.protocol).port(*number);
        let masquerade = if external_local { MASQUERADE_OWN } else { MASQUERADE };
        let masquerade = Data::Verdict(Verdict::Goto(masquerade.into()));
        let elements = &mut fragment.elements;
        let mut add = |set, key: Fields, data| elements.push(Element { set, key: key.bytes(), data: Some(data) });
        let endpoints = &self.endpoints.cluster;
        let mut lead = |front: &Front, maps: &Maps, key: Fields| {
            let (set, verdict) = front.element(maps, endpoints.len());
            add(set, key.clone(), Data::Verdict(verdict));
            if matches!(front, Front::Spread) {
                for (number, (address, port)) in (0..).zip(endpoints) {
                    let endpoint = Fields::new().address(*address).port(*port).bytes();
                    add(maps.endpoints, key.clone().number(number), Data::Value(endpoint));
                }
            }
            if let Some(set) = maps.masquerade {
                add(set, key, masquerade.clone());
            }
        };
        lead(internal, &Maps { masquerade: None, ..Maps::ADDRESSES }, on(*cluster));
        for (front, addresses) in [(external, addresses), (balanced, balancer)] {
            addresses.iter().for_each(|address| lead(front, &Maps::ADDRESSES, on(*address)));
        }
        if let Some(port) = node_port {
            lead(external, &Maps::NODE_PORTS, Fields::new().protocol(self.protocol).port(*port));
        }
    }

    fn udp(self) -> UdpPort {
        let Fronts { cluster, external, balancer, node_port, number } = self.fronts;
        let addressed = std::iter::once(cluster).chain(external).chain(balancer);
        let fronts = addressed.map(|address| (Some(address), number));
        let fronts = fronts.chain(node_port.map(|port| (None, port))).collect();
        UdpPort { fronts, endpoints: self.endpoints.cluster }
    }
}

/// The skeleton's sets for one kind of front.
struct Maps {
    alive: &'static str,
    dead: &'static str,
    endpoints: &'static str,
    masquerade: Option<&'static str>,
    spread: fn(usize) -> String,
}

impl Maps {
    const ADDRESSES: Maps = Maps {
        alive: ADDRESSES,
        dead: DEAD_ADDRESSES,
        endpoints: ENDPOINTS,
        masquerade: Some(MASQUERADE_ADDRESSES),
        spread,
    };
    const NODE_PORTS: Maps = Maps {
        alive: NODE_PORTS,
        dead: DEAD_NODE_PORTS,
        endpoints: NODE_PORT_ENDPOINTS,
        masquerade: Some(MASQUERADE_NODE_PORTS),
        spread: spread_node_port,
    };
}

/// What a front leads to.
#[derive(Clone)]
enum Front {
    /// Every endpoint, by the chain of all Services with as many.
    Spread,
    /// A chain of the Service.
    Chain(Arc<str>),
    /// Nobody anywhere: the client is told.
    Refused,
    /// Nobody on this node, and only this node counts: another node may have somebody.
    Dropped,
}

impl Front {
    fn element(&self, maps: &Maps, endpoints: usize) -> (&'static str, Verdict) {
        match self {
            Front::Spread => (maps.alive, Verdict::Goto((maps.spread)(endpoints).into())),
            Front::Chain(chain) => (maps.alive, Verdict::Goto(chain.clone())),
            Front::Refused => (maps.dead, Verdict::Goto(REFUSE.into())),
            Front::Dropped => (maps.dead, Verdict::Drop),
        }
    }
}

fn is_local(policy: Option<&str>) -> bool {
    policy == Some("Local")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
