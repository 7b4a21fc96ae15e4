//! The pod network's own nftables table: masquerading, host ports, and what may not come from pods.

use std::net::Ipv4Addr;

use crate::cidr::Cidr;
use crate::nft::{
    Chain, Data, Element, Fields, Fragment, Hook, HookPoint, Kind, Load, Rule, SetHolds, SetSpec, Skeleton, Transport,
    Verdict,
};
use crate::pod::{LINK_PREFIX, PortMapping};

const HAIRPIN: &str = "hairpin";
const HOST_PORTS: &str = "host-ports";
const HOST_ADDRESS_PORTS: &str = "host-address-ports";
const LOOPBACK: Cidr = Cidr::new(Ipv4Addr::LOCALHOST, 8);

/// Before connection tracking.
const RAW: i32 = -300;
/// Behind services (which are at the usual -100): they go first where both claim a port.
const HOST_PORT_PRIORITY: i32 = -95;
const SOURCE_NAT: i32 = 100;

/// The ranges the rules are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// This node's pods, and their gateway.
    pub(crate) pods: Cidr,
    pub(crate) gateway: Ipv4Addr,
    /// All pods of the cluster.
    pub(crate) cluster: Cidr,
}

pub(crate) fn skeleton(ranges: Option<Ranges>) -> Skeleton {
    let endpoint = || SetHolds::Values(vec![Kind::Address, Kind::Port]);
    let (address, protocol, port) = (Kind::Address, Kind::Protocol, Kind::Port);
    Skeleton {
        sets: vec![
            set(HAIRPIN, vec![address, address], SetHolds::Nothing),
            set(HOST_PORTS, vec![protocol, port], endpoint()),
            set(HOST_ADDRESS_PORTS, vec![address, protocol, port], endpoint()),
        ],
        chains: vec![
            base("raw-prerouting", HookPoint::Prerouting, RAW, false, vec![martian()]),
            base("prerouting", HookPoint::Prerouting, HOST_PORT_PRIORITY, true, to_host_ports()),
            base("output", HookPoint::Output, HOST_PORT_PRIORITY, true, to_host_ports()),
            base("postrouting", HookPoint::Postrouting, SOURCE_NAT, true, leaving(ranges)),
            (None, Chain { name: HOST_PORTS.into(), rules: host_ports() }),
        ],
    }
}

fn set(name: &str, keys: Vec<Kind>, holds: SetHolds) -> SetSpec {
    SetSpec { name: name.into(), keys, holds, timeout_ms: None }
}

fn base(name: &str, point: HookPoint, priority: i32, nat: bool, rules: Vec<Rule>) -> (Option<Hook>, Chain) {
    (Some(Hook { point, priority, nat }), Chain { name: name.into(), rules })
}

/// Links let loopback addresses pass (`route_localnet`), so that the node reaches node ports on 127.0.0.1. Without
/// this rule pods could also reach what listens on the node's loopback only (CVE-2020-8558).
fn martian() -> Rule {
    Rule::new().from_links(LINK_PREFIX).within(Load::Destination, LOOPBACK).verdict(Verdict::Drop)
}

fn to_host_ports() -> Vec<Rule> {
    vec![Rule::new().to_this_node().verdict(Verdict::Jump(HOST_PORTS.into()))]
}

fn host_ports() -> Vec<Rule> {
    let any = [Load::Protocol, Load::Port];
    let one = [Load::Destination, Load::Protocol, Load::Port];
    vec![Rule::new().redirect_by(HOST_ADDRESS_PORTS, &one), Rule::new().redirect_by(HOST_PORTS, &any)]
}

fn leaving(ranges: Option<Ranges>) -> Vec<Rule> {
    let Some(Ranges { pods, gateway, cluster }) = ranges else { return Vec::new() };
    vec![
        // A pod that reaches itself through a service or host port must not see its own address as the peer.
        Rule::new().in_set(HAIRPIN, &[Load::Source, Load::Destination]).source(gateway),
        // From the node's loopback into a pod: the answer has to find back.
        Rule::new().within(Load::Source, LOOPBACK).within(Load::Destination, pods).source(gateway),
        Rule::new().within(Load::Source, pods).outside(Load::Destination, cluster).masquerade(),
    ]
}

/// What a pod adds.
pub(crate) fn pod(address: Ipv4Addr, ports: &[PortMapping]) -> Fragment {
    let hairpin = Element { set: HAIRPIN, key: Fields::new().address(address).address(address).bytes(), data: None };
    let ports = ports.iter().map(|mapping| {
        let fields = Fields::new();
        let (set, fields) = match mapping.host_address {
            None => (HOST_PORTS, fields),
            Some(host) => (HOST_ADDRESS_PORTS, fields.address(host)),
        };
        let endpoint = Fields::new().address(address).port(mapping.pod_port).bytes();
        let protocol: Transport = mapping.protocol;
        Element {
            set,
            key: fields.protocol(protocol).port(mapping.host_port).bytes(),
            data: Some(Data::Value(endpoint)),
        }
    });
    Fragment { elements: std::iter::once(hairpin).chain(ports).collect(), ..Fragment::default() }
}
