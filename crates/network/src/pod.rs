//! The pod network of one node: what all pods share, and attaching and detaching them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::conntrack::{ConntrackError, Tracker};
use crate::link::{self, Inside, Route, Veth, WayToPod};
use crate::netlink::{Protocol, Refusal, Socket};
use crate::netns::{self, NetnsError};
use crate::nft::{self, NftError, Skeleton, Table, Transport};
use crate::records::{AllocateError, Record, Records};
use crate::rules::{self, Ranges};

/// The name of the link inside a pod.
const POD_LINK: &str = "eth0";
/// The names of pods' links on the node start so, in all instances.
pub(crate) const LINK_PREFIX: &str = "kj";
/// The longest name of a link, in bytes.
const LINK_NAME_MAX: usize = 15;
/// The mark of hardware addresses made here: locally administered, then the IPv4 address.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];
/// Where the pod range is kept between runs.
const RANGE_FILE: &str = "pod-range";

/// How a node's pod network is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// A folder of its own for address records.
    pub data_dir: PathBuf,
    /// The name of this instance: names of links and tables come from it, so that instances on one machine do not
    /// meet. Their ranges must differ too.
    pub instance: String,
    /// The largest packet of pods, in bytes.
    pub mtu: u32,
    /// All pods of the cluster; traffic to them is not masqueraded.
    pub cluster_cidr: Cidr,
    /// All service addresses. They are routed to the gateway link, so that the node itself reaches services also when
    /// it has no default route.
    pub service_cidr: Option<Cidr>,
    /// This node's share of `cluster_cidr`, when it is known from the start.
    pub pod_cidr: Option<Cidr>,
}

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Transport,
    /// The pod's port.
    pub pod_port: u16,
    /// The node's port.
    pub host_port: u16,
    /// The node's address it is on; `None` is all of them.
    pub host_address: Option<Ipv4Addr>,
}

/// Why the pod network could not do something.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The instance's name cannot be part of names in the kernel.
    #[error("instance name {0:?} is not made of 1 to 60 letters, digits and hyphens")]
    Instance(String),
    /// The address records could not be read or written.
    #[error("cannot use the pod address records at {path}")]
    Records {
        /// Where they are.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Netlink(#[source] io::Error),
    /// The kernel refused something about a link, address or route.
    #[error("cannot {step} {name}")]
    Link {
        /// What was to be done.
        step: &'static str,
        /// To what.
        name: String,
        /// Why.
        source: Refusal,
    },
    /// A kernel setting could not be changed.
    #[error("cannot set {path} to {value}")]
    Setting {
        /// The file under /proc/sys.
        path: String,
        /// The value.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another link of the machine uses the pods' addresses.
    #[error(
        "the pod range {range} overlaps the address {address} that this machine has already; choose another with the pod range flag"
    )]
    RangeInUse {
        /// The pods' range.
        range: Cidr,
        /// The address in the way.
        address: Ipv4Addr,
    },
    /// The node has no pod range yet.
    #[error("the node has no pod range yet")]
    NoRange,
    /// The pod range cannot be changed any more.
    #[error("cannot change the pod range to {range}: pods have addresses outside it")]
    RangeFixed {
        /// The new range.
        range: Cidr,
    },
    /// Every address of the range is in use.
    #[error("no free address in {0}")]
    Exhausted(Cidr),
    /// A network namespace made trouble.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// nftables made trouble.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// Connection tracking made trouble.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
}

/// The names of an instance's things in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The link that carries the gateway address, at most 15 bytes.
    pub link: String,
    /// The pod network's nftables table.
    pub table: String,
    /// The nftables table that the service proxy uses.
    pub services: String,
}

impl Names {
    /// The names of an instance.
    pub fn new(instance: &str) -> Result<Names, NetworkError> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if instance.is_empty() || instance.len() > 60 || !instance.chars().all(good) {
            return Err(NetworkError::Instance(instance.to_owned()));
        }
        let readable = format!("kj-{instance}");
        let link = if readable.len() <= LINK_NAME_MAX { readable } else { format!("kj-{:012x}", hash(instance) >> 16) };
        let table = format!("kijabi-{instance}");
        Ok(Names { link, services: format!("{table}-services"), table })
    }
}

/// What the pod network looks like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// The link that carries the gateway address.
    pub link: String,
    /// This node's pod range.
    pub pod_cidr: Option<Cidr>,
    /// The node's own address in the pod network: the pods' gateway.
    pub gateway: Option<Ipv4Addr>,
    /// How many pods are attached.
    pub pods: usize,
    /// Whether the node forwards packets.
    pub forwarding: bool,
    /// Others' nftables chains that drop forwarded packets unless they accept them: pods may have no network. Rules of
    /// ours cannot overrule that.
    pub forward_blockers: Vec<String>,
}

/// The pod network of one node. All methods block for as long as a few system calls take (attaching about a
/// millisecond, detaching tens); call them from a thread that may. They may be called at once from many threads.
pub struct PodNetwork {
    config: Config,
    names: Names,
    state: Mutex<State>,
    /// For removing links, which takes the kernel some time: nobody else should wait for it longer than they must.
    remover: Mutex<Socket>,
}

struct State {
    socket: Socket,
    /// The index of the gateway link.
    link: u32,
    range: Option<Cidr>,
    records: Records,
    table: Table,
    tracker: Tracker,
}

impl PodNetwork {
    /// Sets up what all pods share, in the calling thread's network namespace, and takes over what an earlier run
    /// left: attached pods stay as they are, and their rules in force. Address records whose link is gone (the
    /// machine restarted) are dropped.
    pub fn open(config: Config) -> Result<PodNetwork, NetworkError> {
        let names = Names::new(&config.instance)?;
        let folder = config.data_dir.join("pods");
        let records = Records::open(folder.clone()).map_err(|source| NetworkError::Records { path: folder, source })?;
        let mut socket = Socket::open(Protocol::Route).map_err(NetworkError::Netlink)?;
        let link = ensure_link(&mut socket, &names.link)?;
        setting("ip_forward", "1")?;
        let table = Table::open(&names.table, rules::skeleton(None))?;
        let tracker = Tracker::open()?;
        let state = State { socket, link, range: None, records, table, tracker };
        for chain in nft::forward_blockers().unwrap_or_default() {
            tracing::warn!(
                chain,
                "this chain drops forwarded packets unless it accepts them: pods may have no network"
            );
        }
        let remover = Mutex::new(Socket::open(Protocol::Route).map_err(NetworkError::Netlink)?);
        let network = PodNetwork { state: Mutex::new(state), remover, names, config };
        network.adopt()?;
        if let Some(range) = network.config.pod_cidr {
            network.set_pod_cidr(range)?;
        }
        Ok(network)
    }

    /// The names of this instance's things in the kernel.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The pods' gateway: the first address of the pod range. It is an address of this node that
    /// every pod reaches, whatever other links there are.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.state.lock().range.map(gateway)
    }

    /// What it looks like now.
    pub fn status(&self) -> NetworkStatus {
        let state = self.state.lock();
        let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        NetworkStatus {
            link: self.names.link.clone(),
            pod_cidr: state.range,
            gateway: state.range.map(gateway),
            pods: state.records.all().count(),
            forward_blockers: nft::forward_blockers().unwrap_or_default(),
            forwarding: forwarding.is_ok_and(|value| value.trim() == "1"),
        }
    }

    /// The sandboxes that are attached.
    pub fn sandboxes(&self) -> Vec<String> {
        self.state.lock().records.all().map(|record| record.sandbox.clone()).collect()
    }

    /// Sets this node's share of the pod addresses. The same again is free; another one is an error while pods have
    /// addresses outside it.
    pub fn set_pod_cidr(&self, range: Cidr) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.range == Some(range) {
            return Ok(());
        }
        if state.records.all().any(|record| !range.contains(record.address)) {
            return Err(NetworkError::RangeFixed { range });
        }
        self.give_range(state, range)?;
        state.table.set_skeleton(rules::skeleton(Some(self.ranges(range))));
        state.table.apply([])?;
        self.record_range(range)?;
        state.range = Some(range);
        Ok(())
    }

    /// Puts the gateway address on its link, and routes for pods that are not there and for services.
    fn give_range(&self, state: &mut State, range: Cidr) -> Result<(), NetworkError> {
        let name = &self.names.link;
        let wrap = |step| move |source| NetworkError::Link { step, name: name.clone(), source };
        let gateway = gateway(range);
        let (socket, own) = (&mut state.socket, state.link);
        let addresses = link::addresses(socket).map_err(wrap("list addresses beside"))?;
        for &(index, address, network) in &addresses {
            if index != own && network.prefix() > 0 && network.overlaps(range) {
                return Err(NetworkError::RangeInUse { range, address });
            }
        }
        for (_, address, network) in addresses.into_iter().filter(|(index, ..)| *index == own) {
            if address != gateway {
                link::remove_address(socket, own, address, network.prefix()).map_err(wrap("remove an address from"))?;
            }
        }
        let old = state.range.or_else(|| self.recorded_range());
        for network in link::unreachable(socket).map_err(wrap("list routes beside"))? {
            if Some(network) == old && network != range {
                link::remove_unreachable(socket, network).map_err(wrap("end the range of"))?;
            } else if network != range && network.overlaps(range) {
                return Err(NetworkError::RangeInUse { range, address: network.address() });
            }
        }
        link::add_address(socket, own, gateway).map_err(wrap("add the gateway address to"))?;
        link::add_route(socket, Route::Unreachable { network: range }).map_err(wrap("route absent pods beside"))?;
        if let Some(network) = self.config.service_cidr {
            link::add_route(socket, Route::OnLink { network, index: own, source: gateway })
                .map_err(wrap("route services to"))?;
        }
        Ok(())
    }

    fn ranges(&self, pods: Cidr) -> Ranges {
        Ranges { pods, gateway: gateway(pods), cluster: self.config.cluster_cidr }
    }

    /// The range is kept for the next run, which may have to serve its pods before it is told the range.
    fn record_range(&self, range: Cidr) -> Result<(), NetworkError> {
        let path = self.config.data_dir.join(RANGE_FILE);
        fs::write(&path, range.to_string()).map_err(|source| NetworkError::Records { path, source })
    }

    fn recorded_range(&self) -> Option<Cidr> {
        fs::read_to_string(self.config.data_dir.join(RANGE_FILE)).ok()?.parse().ok()
    }

    /// Connects a sandbox's network namespace: an address, the way out, loopback, and its host ports. A sandbox that
    /// is attached keeps its addresses. When this fails, nothing of it is left.
    pub fn attach(&self, sandbox: &str, netns: &Path, ports: &[PortMapping]) -> Result<Vec<IpAddr>, NetworkError> {
        let gateway = {
            let mut state = self.state.lock();
            let range = state.range.ok_or(NetworkError::NoRange)?;
            if let Some(record) = state.records.get(sandbox) {
                return Ok(vec![record.address.into()]);
            }
            let record = Record {
                sandbox: sandbox.to_owned(),
                netns: netns.to_owned(),
                ports: ports.to_vec(),
                address: Ipv4Addr::UNSPECIFIED,
            };
            state.records.allocate(range, record).map_err(|error| match error {
                AllocateError::Exhausted => NetworkError::Exhausted(range),
                AllocateError::Write(path, source) => NetworkError::Records { path, source },
            })?;
            gateway(range)
        };
        match self.connect(sandbox, netns, gateway) {
            Ok(address) => Ok(vec![address.into()]),
            Err(error) => {
                if let Err(error) = self.detach(sandbox) {
                    tracing::warn!(sandbox, %error, "cannot undo a failed attachment");
                }
                Err(error)
            }
        }
    }

    fn connect(&self, sandbox: &str, netns: &Path, gateway: Ipv4Addr) -> Result<Ipv4Addr, NetworkError> {
        let name = host_link(&self.config.instance, sandbox);
        let host_mac = host_mac(&name);
        let wrap = |step| {
            let name = name.clone();
            move |source| NetworkError::Link { step, name, source }
        };
        let file = fs::File::open(netns).map_err(|source| NetnsError::Enter { path: netns.to_owned(), source })?;
        let mut inside = netns::run(netns, || Socket::open(Protocol::Route))?.map_err(NetworkError::Netlink)?;
        let address = {
            let mut state = self.state.lock();
            let state = &mut *state;
            let record = state.records.get(sandbox).ok_or(NetworkError::NoRange)?;
            let veth = Veth {
                host: &name,
                alias: &format!("{}{sandbox}", self.alias_prefix()),
                mac: host_mac,
                peer: POD_LINK,
                peer_mac: mac(record.address),
                peer_netns: file.as_fd(),
                mtu: self.config.mtu,
            };
            match link::add_veth(&mut state.socket, &veth) {
                // Left by a run that ended between the link and its record: not in use by anyone.
                Err(refusal) if refusal.errno == Errno::EXIST => {
                    link::remove(&mut state.socket, &name).map_err(wrap("remove the old link"))?;
                    link::add_veth(&mut state.socket, &veth)
                }
                result => result,
            }
            .map_err(wrap("create the link"))?;
            let index = link::index(&mut state.socket, &name)
                .map_err(wrap("look for the link"))?
                .ok_or_else(|| wrap("find the new link")(Errno::NODEV.into()))?;
            let way = WayToPod { index, address: record.address, mac: mac(record.address), source: gateway };
            link::add_way(&mut state.socket, &way).map_err(wrap("lead the pod's address to"))?;
            let fragment = rules::pod(record.address, &record.ports);
            let address = record.address;
            state.table.apply([(sandbox.into(), Some(fragment))])?;
            address
        };
        let index = link::index(&mut inside, POD_LINK)
            .map_err(wrap("look inside the pod behind"))?
            .ok_or_else(|| wrap("find the pod's end of")(Errno::NODEV.into()))?;
        let settings = Inside { index, address, gateway, gateway_mac: host_mac };
        link::configure_pod(&mut inside, &settings).map_err(wrap("configure the pod behind"))?;
        Ok(address)
    }

    /// Disconnects a sandbox and frees its address. One that is not attached is fine. The network namespace itself
    /// is its owner's to remove.
    pub fn detach(&self, sandbox: &str) -> Result<(), NetworkError> {
        let name = host_link(&self.config.instance, sandbox);
        match link::remove(&mut self.remover.lock(), &name) {
            Ok(()) => {}
            Err(refusal) if refusal.errno == Errno::NODEV => {}
            Err(source) => {
                return Err(NetworkError::Link { step: "remove the link", name, source });
            }
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(record) = state.records.get(sandbox) {
            state.table.apply([(sandbox.into(), None)])?;
            if record.ports.iter().any(|port| port.protocol == Transport::Udp) {
                // Clients that keep their port would go on to the address, whoever has it next.
                let address = record.address;
                state.tracker.forget(Transport::Udp, |connection| connection.answerer.0 == address)?;
            }
        }
        state.records.release(sandbox).map_err(|(path, source)| NetworkError::Records { path, source })
    }

    /// Detaches every sandbox that `keep` does not want: what a crash between two steps may have left.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        self.sandboxes().iter().filter(|sandbox| !keep(sandbox)).try_for_each(|sandbox| {
            tracing::info!(sandbox, "releasing the network of a sandbox that is gone");
            self.detach(sandbox)
        })
    }

    /// The description of this instance's links starts so.
    fn alias_prefix(&self) -> String {
        format!("kijabi/{}/", self.config.instance)
    }

    /// Brings the rules of all recorded pods into force, forgets records without a link, and removes links without a
    /// record.
    fn adopt(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut links = self.own_links(state)?;
        let records: Vec<Record> = state.records.all().cloned().collect();
        let mut fragments = Vec::new();
        for record in records {
            let name = host_link(&self.config.instance, &record.sandbox);
            match links.iter().position(|link| *link == name) {
                Some(at) => {
                    links.swap_remove(at);
                    let rules = rules::pod(record.address, &record.ports);
                    fragments.push((record.sandbox.as_str().into(), Some(rules)));
                }
                None => state
                    .records
                    .release(&record.sandbox)
                    .map_err(|(path, source)| NetworkError::Records { path, source })?,
            }
        }
        self.remove_links(state, &links)?;
        if !fragments.is_empty() {
            let range = self.config.pod_cidr.or_else(|| self.recorded_range());
            state.table.set_skeleton(rules::skeleton(range.map(|range| self.ranges(range))));
        }
        state.table.apply(fragments)?;
        Ok(())
    }

    /// The names of the links of this instance's pods.
    fn own_links(&self, state: &mut State) -> Result<Vec<String>, NetworkError> {
        let prefix = self.alias_prefix();
        let links = link::list(&mut state.socket).map_err(|source| NetworkError::Link {
            step: "list the links beside",
            name: self.names.link.clone(),
            source,
        })?;
        let own = links.into_iter().filter(|link| link.alias.starts_with(&prefix));
        Ok(own.map(|link| link.name).collect())
    }

    fn remove_links(&self, state: &mut State, names: &[String]) -> Result<(), NetworkError> {
        for name in names {
            match link::remove(&mut state.socket, name) {
                Err(source) if source.errno != Errno::NODEV => {
                    return Err(NetworkError::Link { step: "remove the link", name: name.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes everything of this instance: links, routes, addresses and their records, rules, and the network
    /// namespaces of attached sandboxes. Processes in them keep them alive but cut off. Node-wide settings stay.
    pub fn reset(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut links = self.own_links(state)?;
        links.push(self.names.link.clone());
        self.remove_links(state, &links)?;
        let records: Vec<Record> = state.records.all().cloned().collect();
        for record in records {
            netns::remove(&record.netns)?;
            state.records.release(&record.sandbox).map_err(|(path, source)| NetworkError::Records { path, source })?;
        }
        if let Some(range) = state.range.take().or_else(|| self.recorded_range()) {
            match link::remove_unreachable(&mut state.socket, range) {
                Err(source) if source.errno != Errno::SRCH => {
                    let (step, name) = ("remove the route of", range.to_string());
                    return Err(NetworkError::Link { step, name, source });
                }
                _ => {}
            }
        }
        state.table.destroy()?;
        // The service proxy leaves its rules in force when it ends; without pods they lead nowhere.
        Ok(Table::open(&self.names.services, Skeleton::default())?.destroy()?)
    }

    /// Writes the rules anew if somebody removed them (`nft flush ruleset`): one cheap request when all is well.
    pub fn check(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        if !state.table.check()? {
            tracing::warn!(table = self.names.table, "somebody changed the pod network's rules, writing them anew");
            state.table.apply([])?;
        }
        Ok(())
    }
}

/// Writes a setting unless it has the value (a write of `ip_forward` resets others).
fn setting(name: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Setting { path, value, source })
}

fn ensure_link(socket: &mut Socket, name: &str) -> Result<u32, NetworkError> {
    let wrap = |step| move |source| NetworkError::Link { step, name: name.to_owned(), source };
    if let Some(index) = link::index(socket, name).map_err(wrap("look for the link"))? {
        return Ok(index);
    }
    link::add_bridge(socket, name).map_err(wrap("create the link"))?;
    let index = link::index(socket, name).map_err(wrap("look for the link"))?;
    index.ok_or_else(|| wrap("find the link just made,")(Errno::NODEV.into()))
}

fn gateway(range: Cidr) -> Ipv4Addr {
    range.nth(1)
}

/// A pod's hardware address comes from its address, so that what neighbours remember is never wrong.
fn mac(address: Ipv4Addr) -> link::Mac {
    let [a, b, c, d] = address.octets();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}

/// The hardware address of the node's end.
fn host_mac(link: &str) -> link::Mac {
    let [a, b, c, d, ..] = hash(link).to_be_bytes();
    [MAC_PREFIX[0], MAC_PREFIX[1] | 1, a, b, c, d]
}

/// The name of a sandbox's link on the node.
fn host_link(instance: &str, sandbox: &str) -> String {
    format!("{LINK_PREFIX}{:013x}", hash(&format!("{instance}/{sandbox}")) >> 12)
}

/// FNV-1a: names must be the same in every build of the program.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
