//! The pod network of a node, and the nftables engine under pods and services.
//!
//! Each pod has a veth pair: one end in the pod's network namespace ([`netns`]) as `eth0`, with one address of the node's
//! pod range (/32) and a default route; the other on the node, with the route to that address. [`PodNetwork`] also owns
//! one link (a bridge without ports) that carries the gateway address: an address of the node that every pod reaches,
//! whatever other links there are. Pods are not ports of that bridge: every packet passes the node's routing, where
//! services, host ports and policies see it, whether the machine filters bridged packets (`bridge-nf-call-iptables`) or
//! not; and no pod can answer for another's address.
//!
//! Addresses are recorded as files before anything else happens, one per pod: a crash at any point leaves a state that
//! the next [`PodNetwork::open`] completes or undoes, and an address never has two owners.
//!
//! [`nft`] describes an nftables table as data and writes differences in single transactions. The pod network has one
//! table (masquerading out, host ports); the service proxy another ([`Names::services`]). No packet marks are used:
//! what was rewritten is recognized by the connection's original destination, so several instances on one machine, and
//! others' rules, never meet.
//!
//! [`conntrack`] forgets connections to endpoints that are gone.
//!
//! Invariants: no program is run, everything goes by netlink; only links, tables and records that carry the instance's
//! name are touched; sockets stay in the network namespace that [`PodNetwork::open`] was called in; rules stay in force
//! when the program ends. IPv4 only so far: ranges, addresses and tables are of that family.
//!
//! Between nodes (not there yet): a VXLAN link per node beside the bridge, one route and one neighbour entry per peer
//! node; [`Config::cluster_cidr`] keeps such traffic from being masqueraded already.

mod cidr;
pub mod conntrack;
mod link;
mod netlink;
pub mod netns;
pub mod nft;
mod pod;
mod records;
mod rules;

pub use cidr::{Cidr, ParseCidrError};
pub use netlink::Refusal;
pub use nft::Transport;
pub use pod::{Config, Names, NetworkError, NetworkStatus, PodNetwork, PortMapping};
