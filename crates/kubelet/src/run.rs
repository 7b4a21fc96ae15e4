//! Wires one kubelet together and runs it until its token is cancelled.

use crate::config::Config;
use crate::context::{Context, Shared};
use crate::directory::Directory;
use crate::logs;
use crate::node::{self, Capacity};
use crate::objects::Objects;
use crate::pods::Pods;
use crate::tokens::Tokens;
use crate::writer::Writer;
use client::{Informers, Recorder};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Image pulls at one time.
const PULLS_MAX: usize = 5;

/// Why a kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder it needs.
    #[error("cannot make folder {path}")]
    Folder {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs a kubelet. Returns when the token is cancelled and everything it owns has ended; pods go on.
pub async fn run(mut config: Config, token: CancellationToken) -> Result<(), Error> {
    for dir in [Some(&config.root_dir), Some(&config.log_dir), config.static_pod_dir.as_ref()].into_iter().flatten() {
        std::fs::create_dir_all(dir).map_err(|source| Error::Folder { path: dir.display().to_string(), source })?;
    }
    let server = config.server.take();
    let port = server.as_ref().and_then(|s| s.listener.local_addr().ok()).map(|a| a.port());
    let informers = Informers::new(config.client.clone(), token.clone());
    let pods = informers.with_fields::<Pod>(&format!("spec.nodeName={}", config.node_name));
    let directory = Directory::default();
    let context = context(config, port, &informers, &directory, token.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(node::run(context.clone()));
    tasks.spawn(node::renew_lease(context.clone()));
    tasks.spawn(context.writer.clone().run(context.config.client.clone(), token.clone()));
    tasks.spawn(logs::rotate(context.clone(), directory.clone()));
    tasks.spawn(crate::images::run(context.clone(), directory.clone()));
    if let Some(server) = server {
        tasks.spawn(crate::server::run(server, context.clone(), directory.clone()));
    }
    tasks.spawn(Pods::new(context, directory, pods).run());
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = done {
            tracing::error!(%error, "a part of the kubelet ended in an unforeseen way");
        }
    }
    informers.ended().await;
    Ok(())
}

fn context(
    config: Config,
    port: Option<u16>,
    informers: &Informers,
    directory: &Directory,
    token: CancellationToken,
) -> Shared {
    let to_worker = directory.clone();
    let changed = Arc::new(move |uid: &str| {
        to_worker.tell(uid, |news| news.objects = true);
    });
    let capacity = config.capacity.clone().unwrap_or_else(|| Capacity::of_machine(&config.root_dir));
    let starts = std::thread::available_parallelism().map_or(2, usize::from) * 4;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    Arc::new(Context {
        capacity,
        port,
        objects: Objects::new(config.client.clone(), token.clone(), changed),
        tokens: Tokens::new(config.client.clone()),
        services: informers.all::<Service>(),
        node: informers.with_fields::<Node>(&format!("metadata.name={}", config.node_name)),
        writer: Writer::default(),
        recorder: Recorder::new(config.client.clone(), "kubelet", &config.node_name, token.clone()),
        starts: Semaphore::new(starts),
        pulls: Semaphore::new(PULLS_MAX),
        hostname: if hostname.is_empty() { config.node_name.clone() } else { hostname },
        config,
        token,
    })
}
