//! The cluster's DNS: names of Services and pods from shared informers, everything else from upstream resolvers.
//!
//! A query arrives by UDP or TCP ([`Server`]). A name in the cluster domain, or a reverse name of an address the cluster
//! knows, is answered at once from the index of Services and EndpointSlices, which one task keeps by their deltas;
//! any other is forwarded, with a small cache. Answers follow the Kubernetes DNS specification 1.1.0: `A`, `AAAA`, `SRV` and
//! `PTR` of Services, headless ones by endpoint and host name, `CNAME` (with what it leads to) for ExternalName, `A`
//! of pods by their dashed address. A name that exists without records of the asked type is NODATA, with the SOA.
//!
//! How pods reach it: the server listens on an address of the node that all pods reach, best the pod network's gateway
//! address (`network::PodNetwork::gateway`), on any port. The Service `kube-system/kube-dns`, without selector, has an
//! EndpointSlice with that address and port ([`service_objects`], which the binary writes), so that the address in every
//! pod's `resolv.conf` stays the Service's and the service proxy does the rest. Nothing has to bind port 53, which the
//! machine's own resolver may hold.
//!
//! Invariants: a query of the cluster domain never leaves the node; before the informers have synced it fails (SERVFAIL)
//! instead of denying a name that may exist; answers to UDP queries fit what the client said it takes, or are marked
//! truncated; at most [`FORWARDS_MAX`] queries wait for upstreams, others fail at once. It never asks itself: upstreams that
//! are its own addresses are left out.

mod forward;
mod index;
mod server;
mod service;
mod wire;
mod zone;

pub use forward::{FORWARDS_MAX, Upstreams};
pub use server::{Config, DnsError, Server, run};
pub use service::service_objects;
