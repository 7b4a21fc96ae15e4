//! Links, addresses and routes: the few requests to rtnetlink that a pod network needs.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::cidr::Cidr;
use crate::netlink::{ACK, Attrs, Batch, CREATE, DUMP, EXCLUSIVE, REPLACE, Refusal, Socket, attribute};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOR: u16 = 28;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUTPUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_SOURCE: u16 = 7;
/// The type of a route to nowhere (RTN_UNREACHABLE).
const UNREACHABLE: u8 = 7;

// Attributes of a link (IFLA_*).
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const ALIAS: u16 = 20;
const NETNS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP: u16 = 5;
const BRIDGE_MULTICAST_SNOOPING: u16 = 23;
const AF_SPEC: u16 = 26;
const INET_CONF: u16 = 1;
const CONF_ROUTE_LOCALNET: u16 = 26;
const INET6_ADDRESS_MODE: u16 = 8;
const INET6_NO_ADDRESS: u8 = 1;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const UP: u32 = 1;
const IPV4: u8 = libc::AF_INET as u8;
/// The index of loopback in every network namespace.
const LOOPBACK: u32 = 1;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
}

/// The two ends of a veth pair to make.
pub(crate) struct Veth<'a> {
    /// The name of the end that stays, and its description.
    pub(crate) host: &'a str,
    pub(crate) alias: &'a str,
    pub(crate) mac: Mac,
    /// The name and hardware address of the other end, and the namespace it moves to.
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) peer_netns: BorrowedFd<'a>,
    pub(crate) mtu: u32,
}

fn link_header(index: u32, up: bool) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        header[8..12].copy_from_slice(&UP.to_ne_bytes());
        header[12..16].copy_from_slice(&UP.to_ne_bytes());
    }
    header
}

/// Makes the link that carries the node's own address in the pod network: a bridge without ports.
pub(crate) fn add_bridge(socket: &mut Socket, name: &str) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    batch.message(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, false), |link| {
        link.text(NAME, name);
        link.nest(LINK_INFO, |info| {
            info.text(INFO_KIND, "bridge").nest(INFO_DATA, |data| {
                data.u32(BRIDGE_FORWARD_DELAY, 0).u32(BRIDGE_STP, 0);
                data.u8(BRIDGE_MULTICAST_SNOOPING, 0);
            });
        });
    });
    batch.message(NEW_LINK, ACK, &link_header(0, true), |link| {
        link.text(NAME, name).nest(AF_SPEC, put_families);
    });
    socket.execute(batch)
}

/// Makes a veth pair: one end stays, up, with the route to the pod; the other goes into the pod, not up yet (the kernel
/// cannot bring up the second end before the first is there).
pub(crate) fn add_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    batch.message(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, false), |link| {
        link.text(NAME, veth.host).bytes(ADDRESS, &veth.mac).u32(MTU, veth.mtu);
        link.nest(LINK_INFO, |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&link_header(0, false)).text(NAME, veth.peer).u32(MTU, veth.mtu);
                    peer.bytes(ADDRESS, &veth.peer_mac);
                    peer.u32(NETNS_FD, veth.peer_netns.as_raw_fd() as u32);
                });
            });
        });
    });
    batch.message(NEW_LINK, ACK, &link_header(0, true), |link| {
        link.text(NAME, veth.host).text(ALIAS, veth.alias).nest(AF_SPEC, put_families);
    });
    socket.execute(batch)
}

/// A link may carry packets of the node's loopback addresses (node ports on 127.0.0.1), and needs no address of IPv6.
fn put_families(families: &mut Attrs<'_>) {
    families.nest(libc::AF_INET as u16, |inet| {
        inet.nest(INET_CONF, |conf| {
            conf.u32(CONF_ROUTE_LOCALNET, 1);
        });
    });
    put_no_ipv6(families);
}

fn put_no_ipv6(families: &mut Attrs<'_>) {
    families.nest(libc::AF_INET6 as u16, |inet6| {
        inet6.u8(INET6_ADDRESS_MODE, INET6_NO_ADDRESS);
    });
}

/// The way from the node to a pod.
pub(crate) struct WayToPod {
    /// The node's end of the pair.
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: Mac,
    /// The address the node speaks from.
    pub(crate) source: Ipv4Addr,
}

/// Routes a pod's address to its link. Its hardware address is known: nobody has to ask, and there is no limit on
/// how many neighbours are remembered.
pub(crate) fn add_way(socket: &mut Socket, way: &WayToPod) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    push_neighbor(&mut batch, way.index, way.address, way.mac);
    let network = Cidr::new(way.address, 32);
    push_route(&mut batch, Route::OnLink { network, index: way.index, source: way.source });
    socket.execute(batch)
}

/// What the inside of a pod needs.
pub(crate) struct Inside {
    /// The pod's end of the pair.
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    /// The gateway, and the hardware address of the node's end.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) gateway_mac: Mac,
}

/// Sets up the inside of a pod: loopback, its only address, and everything else by way of the gateway.
/// The address has no network of its own (/32): other pods of the node are behind the gateway too.
pub(crate) fn configure_pod(socket: &mut Socket, inside: &Inside) -> Result<(), Refusal> {
    let &Inside { index, address, gateway, gateway_mac } = inside;
    let mut batch = Batch::default();
    batch.message(NEW_LINK, ACK, &link_header(LOOPBACK, true), |_| {});
    batch.message(NEW_LINK, ACK, &link_header(index, true), |link| {
        link.nest(AF_SPEC, put_no_ipv6);
    });
    push_address(&mut batch, index, address);
    push_neighbor(&mut batch, index, gateway, gateway_mac);
    push_route(&mut batch, Route::Default { index, gateway });
    socket.execute(batch)
}

fn push_neighbor(batch: &mut Batch, index: u32, address: Ipv4Addr, mac: Mac) {
    const PERMANENT: u8 = 0x80;
    const DESTINATION: u16 = 1;
    const HARDWARE: u16 = 2;
    let [a, b, c, d] = index.to_ne_bytes();
    let [low, high] = u16::from(PERMANENT).to_ne_bytes();
    let header = [IPV4, 0, 0, 0, a, b, c, d, low, high, 0, 0];
    batch.message(NEW_NEIGHBOR, ACK | CREATE | REPLACE, &header, |attrs| {
        attrs.bytes(DESTINATION, &address.octets()).bytes(HARDWARE, &mac);
    });
}

/// Gives a link an address without a network; one it has already is fine.
pub(crate) fn add_address(socket: &mut Socket, index: u32, address: Ipv4Addr) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    push_address(&mut batch, index, address);
    socket.execute(batch)
}

fn push_address(batch: &mut Batch, index: u32, address: Ipv4Addr) {
    batch.message(NEW_ADDRESS, ACK | CREATE | REPLACE, &address_header(index, 32), |attrs| {
        put_address(attrs, address);
    });
}

fn put_address(attrs: &mut Attrs<'_>, address: Ipv4Addr) {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    attrs.bytes(IFA_ADDRESS, &address.octets()).bytes(IFA_LOCAL, &address.octets());
}

fn address_header(index: u32, prefix: u8) -> [u8; ADDRESS_HEADER] {
    let [a, b, c, d] = index.to_ne_bytes();
    [IPV4, prefix, 0, 0, a, b, c, d]
}

/// Takes an address from a link.
pub(crate) fn remove_address(socket: &mut Socket, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    batch.message(DELETE_ADDRESS, ACK, &address_header(index, prefix), |attrs| {
        put_address(attrs, address);
    });
    socket.execute(batch)
}

/// A route; setting one replaces that of the same destination.
#[derive(Clone, Copy)]
pub(crate) enum Route {
    /// To a network that is on a link; the node speaks from `source` there.
    OnLink { network: Cidr, index: u32, source: Ipv4Addr },
    /// Everything, by way of a gateway on a link.
    Default { index: u32, gateway: Ipv4Addr },
    /// Nowhere: the sender learns it at once. More specific routes win.
    Unreachable { network: Cidr },
}

/// Sets a route.
pub(crate) fn add_route(socket: &mut Socket, route: Route) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    push_route(&mut batch, route);
    socket.execute(batch)
}

/// Takes the route to nowhere away.
pub(crate) fn remove_unreachable(socket: &mut Socket, network: Cidr) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    let header = route_header(network.prefix(), 0, UNREACHABLE, 0);
    batch.message(DELETE_ROUTE, ACK, &header, |route| {
        route.bytes(ROUTE_DESTINATION, &network.address().octets());
    });
    socket.execute(batch)
}

/// The networks that routes lead to nowhere.
pub(crate) fn unreachable(socket: &mut Socket) -> Result<Vec<Cidr>, Refusal> {
    let mut batch = Batch::default();
    batch.message(GET_ROUTE, DUMP, &route_header(0, 0, 0, 0), |_| {});
    let mut found = Vec::new();
    socket.query(&batch, |_, payload| {
        let parse = || {
            let destination = attribute(payload.get(ROUTE_HEADER..)?, ROUTE_DESTINATION)?;
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(destination).ok()?);
            (payload[7] == UNREACHABLE).then(|| Cidr::new(address, payload[1]))
        };
        found.extend(parse());
    })?;
    Ok(found)
}

fn route_header(prefix: u8, scope: u8, kind: u8, flags: u32) -> [u8; ROUTE_HEADER] {
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    let [a, b, c, d] = flags.to_ne_bytes();
    [IPV4, prefix, 0, 0, MAIN, STATIC, scope, kind, a, b, c, d]
}

fn push_route(batch: &mut Batch, route: Route) {
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    const ON_LINK: u32 = 4;
    let header = match route {
        Route::OnLink { network, .. } => route_header(network.prefix(), SCOPE_LINK, UNICAST, 0),
        Route::Default { .. } => route_header(0, 0, UNICAST, ON_LINK),
        Route::Unreachable { network } => route_header(network.prefix(), 0, UNREACHABLE, 0),
    };
    batch.message(NEW_ROUTE, ACK | CREATE | REPLACE, &header, |attrs| {
        match route {
            Route::OnLink { network, index, source } => attrs
                .bytes(ROUTE_DESTINATION, &network.address().octets())
                .u32(ROUTE_OUTPUT, index)
                .bytes(ROUTE_SOURCE, &source.octets()),
            Route::Default { index, gateway } => attrs.bytes(ROUTE_GATEWAY, &gateway.octets()).u32(ROUTE_OUTPUT, index),
            Route::Unreachable { network } => attrs.bytes(ROUTE_DESTINATION, &network.address().octets()),
        };
    });
}

/// Removes a link by name, and with a veth its other end.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> Result<(), Refusal> {
    let mut batch = Batch::default();
    batch.message(DELETE_LINK, ACK, &link_header(0, false), |link| {
        link.text(NAME, name);
    });
    socket.execute(batch)
}

/// The index of a link by name.
pub(crate) fn index(socket: &mut Socket, name: &str) -> Result<Option<u32>, Refusal> {
    let mut batch = Batch::default();
    batch.message(GET_LINK, 0, &link_header(0, false), |link| {
        link.text(NAME, name);
    });
    let mut found = None;
    let result = socket.query_one(&batch, |_, payload| found = parse_link(payload));
    match result {
        Err(refusal) if refusal.errno == rustix::io::Errno::NODEV => Ok(None),
        Err(refusal) => Err(refusal),
        Ok(()) => Ok(found.map(|link| link.index)),
    }
}

/// Every link of the namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Link>, Refusal> {
    let mut batch = Batch::default();
    batch.message(GET_LINK, DUMP, &link_header(0, false), |_| {});
    let mut links = Vec::new();
    socket.query(&batch, |_, payload| links.extend(parse_link(payload)))?;
    Ok(links)
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let attributes = payload.get(LINK_HEADER..)?;
    let name = attribute(attributes, NAME)?;
    Some(Link {
        index: number(payload.get(4..8)?)?,
        name: text(name),
        alias: attribute(attributes, ALIAS).map(text).unwrap_or_default(),
    })
}

/// Every IPv4 address of the namespace: the index of its link, the address and its network.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, Ipv4Addr, Cidr)>, Refusal> {
    const IFA_LOCAL: u16 = 2;
    let mut batch = Batch::default();
    batch.message(GET_ADDRESS, DUMP, &address_header(0, 0), |_| {});
    let mut found = Vec::new();
    socket.query(&batch, |_, payload| {
        let parse = || {
            let local = attribute(payload.get(ADDRESS_HEADER..)?, IFA_LOCAL)?;
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(local).ok()?);
            Some((number(payload.get(4..8)?)?, address, Cidr::new(address, payload[1])))
        };
        found.extend(parse());
    })?;
    Ok(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
