//! The controllers: loops that watch what was asked for, compare it with what is, and change the one towards the other.
//!
//! Flow: an informer's delta names a key (`control`), the key waits in a work queue, one task at a time reconciles it: it
//! reads the caches, asks a pure `plan` what to do, and does it through the API. Each controller is a module; its plan has
//! the tests, its loop is thin.
//!
//! Workloads: `deployment` → `replicas`, `job` and `cronjob`, `daemonset`, `statefulset`, with `create` and `adopt` for
//! their pods, and `expectations` so that a stale cache never leads to a pod too many. Services: `endpoints`. Lives and
//! deaths: `namespace`, `garbage` (owner references), `ttl`, `node` (health, taints, eviction, pod networks, lost pods),
//! `disruption`, `quota`. Furniture: `furnish` (default ServiceAccount, root certificate), `aggregate` (ClusterRoles).
//! `certificates` approves and signs requests, cleans up after them and publishes the authority; `tokens` fills the Secrets
//! of service accounts; `volumes` binds claims and keeps what is used, `ephemeral`
//! makes the claims of pods; `migrate` writes objects anew in the present version.
//!
//! Invariants: a controller knows only the API; it keeps nothing that a restart would miss; every write is guarded by the
//! version or the uid that the decision was made on; no polling: timers run only for something that is due.
//!
//! Never: a controller never talks to another one, to the store or to a node.

mod adopt;
mod aggregate;
mod certificates;
mod control;
mod create;
mod cronjob;
mod daemonset;
mod deployment;
mod discover;
mod disruption;
mod endpoints;
mod ephemeral;
mod expectations;
mod furnish;
mod garbage;
mod history;
mod job;
mod migrate;
mod namespace;
mod node;
mod owner;
mod pods;
mod quota;
mod replicas;
mod statefulset;
#[cfg(test)]
mod testing;
mod tokens;
mod ttl;
mod volumes;

use std::sync::Arc;

use client::{Client, Informers};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use pki::Pki;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{POD_CALLS, Shared};

/// What the controllers are given.
pub struct Config {
    /// The client, with an identity that may do all this (`system:kube-controller-manager`).
    pub client: Client,
    /// The range pod networks are cut from, for instance `10.244.0.0/16`; empty leaves nodes without `podCIDR`.
    pub cluster_cidr: String,
    /// The size of a node's pod network (24 for IPv4).
    pub node_cidr_mask: u8,
    /// The cluster's authority: its certificate is published in every namespace, its signers sign what is approved.
    pub pki: Arc<Pki>,
}

/// Runs all controllers until the token is cancelled; returns when all their tasks have ended.
pub async fn run(config: Config, token: CancellationToken) {
    let informers = Informers::new(config.client.clone(), token.clone());
    let tasks = TaskTracker::new();
    let pod_calls = Semaphore::new(POD_CALLS);
    let shared = Arc::new(Shared { client: config.client, informers, token: token.clone(), tasks, pod_calls });
    furnish::start(&shared, config.pki.authority().certificate_pem().to_owned());
    certificates::start(&shared, &config.pki);
    tokens::start(&shared, &config.pki);
    volumes::start(&shared);
    ephemeral::start(&shared);
    migrate::start(&shared);
    deployment::start(&shared);
    replicas::start::<ReplicaSet>(&shared);
    replicas::start::<ReplicationController>(&shared);
    daemonset::start(&shared);
    endpoints::start(&shared);
    garbage::start(&shared);
    job::start(&shared);
    cronjob::start(&shared);
    ttl::start(&shared);
    statefulset::start(&shared);
    disruption::start(&shared);
    quota::start(&shared);
    aggregate::start(&shared);
    namespace::start(&shared);
    node::start(&shared, &config.cluster_cidr, config.node_cidr_mask);
    token.cancelled().await;
    shared.tasks.close();
    shared.tasks.wait().await;
    shared.informers.ended().await;
}
