//! The scheduler: gives every pod a node.
//!
//! Flow: the watch of pods, nodes and namespaces feeds one owner task (`run`). It keeps the waiting pods (`queue`) and the
//! cluster as decisions need it (`view`); for each waiting pod it filters the nodes (`filter`, with `resources`, `labels`,
//! `affinity`, `spread`), scores those that remain (`score`) and decides (`decide`), or looks for pods to evict (`preempt`).
//! The decision is pure and takes microseconds; binding is a call to the API, done by tasks beside the loop.
//!
//! Invariants: a pod that is being bound counts as running on its node at once (assumed), so no node is filled twice; a
//! pod that fits nowhere is tried again only when a change could help, and after a back-off of 1 to 10 seconds; nothing
//! polls; only this task changes the view.
//!
//! Never: it binds no pod that names another scheduler, that has scheduling gates, or that is being deleted.

mod affinity;
mod carry_out;
mod decide;
mod filter;
mod index;
mod preempt;
mod queue;
mod resources;
mod run;
mod score;
mod spread;
#[cfg(test)]
mod testing;
mod view;

use client::Client;
use tokio_util::sync::CancellationToken;

/// What the scheduler is given.
pub struct Config {
    /// The client, with the scheduler's identity (`system:kube-scheduler`).
    pub client: Client,
    /// Pods that name this scheduler are its business.
    pub name: String,
}

impl Config {
    /// The default scheduler on a client.
    pub fn new(client: Client) -> Config {
        Config { client, name: "default-scheduler".to_owned() }
    }
}

/// Schedules pods until the token is cancelled.
pub async fn run(config: Config, token: CancellationToken) {
    run::run(config, token).await;
}
