//! The fixed part of the services' table.

use network::nft::{Chain, Hook, HookPoint, Kind, Load, Rule, SetHolds, SetSpec, Skeleton, Transport, Verdict};

use crate::NodeInfo;

/// What a destination address, protocol and port lead to.
pub(crate) const ADDRESSES: &str = "service-addresses";
/// What a protocol and port of any address of the node lead to.
pub(crate) const NODE_PORTS: &str = "service-node-ports";
/// The endpoints behind an address, protocol and port, numbered from 0.
pub(crate) const ENDPOINTS: &str = "endpoints";
/// The same behind node ports.
pub(crate) const NODE_PORT_ENDPOINTS: &str = "node-port-endpoints";
/// The most endpoints that are kept in those maps. Services with as many endpoints share one chain there, and a change of
/// endpoints is one of elements only; a Service with more has a chain of its own.
pub(crate) const SPREAD_MAX: usize = 16;
/// Where nobody answers: what is refused or dropped.
pub(crate) const DEAD_ADDRESSES: &str = "no-endpoint-addresses";
/// The same for node ports.
pub(crate) const DEAD_NODE_PORTS: &str = "no-endpoint-node-ports";
/// Whose source is rewritten, by where the connection was first addressed to.
pub(crate) const MASQUERADE_ADDRESSES: &str = "masquerade-addresses";
/// The same for node ports.
pub(crate) const MASQUERADE_NODE_PORTS: &str = "masquerade-node-ports";
/// Refuses a connection.
pub(crate) const REFUSE: &str = "refuse";
/// Rewrites the source.
pub(crate) const MASQUERADE: &str = "masquerade";
/// Rewrites the source of what this node itself sends.
pub(crate) const MASQUERADE_OWN: &str = "masquerade-own";

const SERVICES: &str = "services";
const DEAD: &str = "dead-services";

/// The usual order of the kernel's hooks.
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;

const ADDRESSED: [Load; 3] = [Load::Destination, Load::Protocol, Load::Port];
const ON_NODE: [Load; 2] = [Load::Protocol, Load::Port];
const FIRST_ADDRESSED: [Load; 3] = [Load::OriginalDestination, Load::Protocol, Load::OriginalPort];
const FIRST_ON_NODE: [Load; 2] = [Load::Protocol, Load::OriginalPort];

/// The fixed part of the table: its maps, and the chains at the hooks that look into them.
pub fn skeleton(node: &NodeInfo) -> Skeleton {
    let with_address = || vec![Kind::Address, Kind::Protocol, Kind::Port];
    let without = || vec![Kind::Protocol, Kind::Port];
    let map = |name: &str, keys| SetSpec { name: name.into(), keys, holds: SetHolds::Verdicts, timeout_ms: None };
    let endpoints = |name: &str, keys: Vec<Kind>| SetSpec {
        keys: [keys, vec![Kind::Number]].concat(),
        holds: SetHolds::Values(vec![Kind::Address, Kind::Port]),
        ..map(name, Vec::new())
    };
    Skeleton {
        sets: vec![
            map(ADDRESSES, with_address()),
            map(NODE_PORTS, without()),
            endpoints(ENDPOINTS, with_address()),
            endpoints(NODE_PORT_ENDPOINTS, without()),
            map(DEAD_ADDRESSES, with_address()),
            map(DEAD_NODE_PORTS, without()),
            map(MASQUERADE_ADDRESSES, with_address()),
            map(MASQUERADE_NODE_PORTS, without()),
        ],
        chains: chains(node),
    }
}

fn chains(node: &NodeInfo) -> Vec<(Option<Hook>, Chain)> {
    let at = |point, priority, nat| Some(Hook { point, priority, nat });
    let jump = |chain: &str| vec![Rule::new().verdict(Verdict::Jump(chain.into()))];
    let new = || vec![Rule::new().new_connection().verdict(Verdict::Jump(DEAD.into()))];
    let chain = |name: &str, rules| Chain { name: name.into(), rules };
    use HookPoint::{Forward, Input, Output, Postrouting, Prerouting};
    let fixed = vec![
        (at(Prerouting, DESTINATION_NAT, true), chain("prerouting", jump(SERVICES))),
        (at(Output, DESTINATION_NAT, true), chain("output", jump(SERVICES))),
        (at(Input, FILTER, false), chain("filter-input", new())),
        (at(Forward, FILTER, false), chain("filter-forward", new())),
        (at(Output, FILTER, false), chain("filter-output", new())),
        (at(Postrouting, SOURCE_NAT, true), chain("postrouting", leaving(node))),
        (None, chain(SERVICES, services())),
        (None, chain(DEAD, dead(node))),
        (None, chain(REFUSE, refuse())),
        (None, chain(MASQUERADE, vec![Rule::new().masquerade()])),
        (None, chain(MASQUERADE_OWN, vec![Rule::new().from_this_node().masquerade()])),
    ];
    let spread = (1..=SPREAD_MAX).flat_map(|count| {
        let rule = |map, fields: &[Load]| vec![Rule::new().redirect_by_chance(map, fields, count as u32)];
        [
            (None, chain(&spread(count), rule(ENDPOINTS, &ADDRESSED))),
            (None, chain(&spread_node_port(count), rule(NODE_PORT_ENDPOINTS, &ON_NODE))),
        ]
    });
    fixed.into_iter().chain(spread).collect()
}

/// The chain that picks one of so many endpoints from the map of addresses.
pub(crate) fn spread(count: usize) -> String {
    format!("spread/{count}")
}

/// The same from the map of node ports.
pub(crate) fn spread_node_port(count: usize) -> String {
    format!("spread-node-port/{count}")
}

fn services() -> Vec<Rule> {
    vec![Rule::new().decide(ADDRESSES, &ADDRESSED), Rule::new().to_this_node().decide(NODE_PORTS, &ON_NODE)]
}

fn dead(node: &NodeInfo) -> Vec<Rule> {
    vec![
        Rule::new().decide(DEAD_ADDRESSES, &ADDRESSED),
        Rule::new().to_this_node().decide(DEAD_NODE_PORTS, &ON_NODE),
        // Whoever still goes to a service address here found no Service: it must not leave by the default route.
        Rule::new().within(Load::Destination, node.service_cidr).verdict(Verdict::Goto(REFUSE.into())),
    ]
}

fn refuse() -> Vec<Rule> {
    vec![Rule::new().transport(Transport::Tcp).reset(), Rule::new().unreachable()]
}

fn leaving(node: &NodeInfo) -> Vec<Rule> {
    let to_service = || Rule::new().within(Load::OriginalDestination, node.service_cidr);
    vec![
        Rule::new().not_redirected().verdict(Verdict::Return),
        to_service().outside(Load::Source, node.cluster_cidr).masquerade(),
        to_service().verdict(Verdict::Return),
        Rule::new().decide(MASQUERADE_ADDRESSES, &FIRST_ADDRESSED),
        Rule::new().decide(MASQUERADE_NODE_PORTS, &FIRST_ON_NODE),
    ]
}
