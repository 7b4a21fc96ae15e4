//! Nodes: whether they are alive, what that means for pods, and which network their pods get.

mod health;
mod ipam;
mod pods;
mod taints;

use std::sync::Arc;

use crate::control::Shared;

/// Starts the controllers of nodes. Without a `cluster_cidr` nodes get no pod network.
pub(crate) fn start(shared: &Arc<Shared>, cluster_cidr: &str, mask: u8) {
    health::start(shared);
    pods::start(shared);
    match ipam::Pool::new(cluster_cidr, mask) {
        Ok(Some(pool)) => ipam::start(shared, pool),
        Ok(None) => {}
        Err(error) => tracing::error!(cluster_cidr, mask, error, "nodes get no pod network"),
    }
}
