//! Services: from the API's Services and EndpointSlices to the node's nftables rules.
//!
//! [`plan`] is pure: one Service with its EndpointSlices, and what is known of the node, gives the one fragment of rules
//! that the Service adds to the table whose fixed part is [`skeleton`]. [`run`] follows both kinds by informers, gathers
//! what changed, and applies the difference in one kernel transaction. A packet finds its Service by one lookup in a map,
//! however many Services there are.
//!
//! What happens to a packet, in the order of the hooks:
//! - *prerouting, output* (nat): address, protocol and port (or protocol and port, for node ports) lead to the port's chain,
//!   which picks an endpoint at random, or the one it picked before for the same source (session affinity), and rewrites
//!   the destination.
//! - *input, forward, output* (filter): new connections to a Service without endpoints, or to a service address that no
//!   Service has, are refused (TCP reset, ICMP port unreachable) or, when only this node's endpoints count and
//!   there are none, dropped.
//! - *postrouting* (nat): traffic from outside the cluster gets the node's address as its source, so that the answer comes
//!   back this way, except where the Service asks for the source to be kept. What kind of connection it is, is read
//!   from its original destination: no packet marks.
//!
//! A pod that reaches itself by its Service is the pod network's business (crate `network`).
//!
//! Invariants: the rules stay in force when the program ends; the first transaction of the next run replaces the whole
//! table at once, after both informers have synced; only this one table is touched. It never asks where a Service's
//! addresses came from, and speaks IPv4 only.

mod endpoints;
mod plan;
mod skeleton;
mod sync;

pub use plan::plan;
pub use skeleton::skeleton;
pub use sync::{Config, ProxyError, run};

use network::Cidr;

/// What the rules depend on besides Services and EndpointSlices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node's name, as in `endpoints[].nodeName`.
    pub name: String,
    /// All pods of the cluster: traffic from them is not masqueraded on its way to a Service's own address.
    pub cluster_cidr: Cidr,
    /// All service addresses.
    pub service_cidr: Cidr,
}
