//! `kijabi up`: the one wiring function. Read [`cluster`] from top to bottom.
//!
//! Order at the start: what cannot be shared is taken first (the data folder's lock, the ports), so that a second program
//! fails before it changed anything. Then the slow things (certificates, store, images, shims) are opened side by side; the
//! API serves as soon as it can; each part starts when what it needs is there. At the end everything gets one signal,
//! finishes what it has begun, and is waited for; pods stay.

mod api;
mod detach;
mod dns;
pub(crate) mod engines;
mod example;
pub(crate) mod images;
mod node;
mod requests;

use crate::config::{Config, Settings};
use crate::control;
use crate::folder::Folder;
use crate::parts::Parts;
use crate::progress::Progress;
use anyhow::{Context, Result};
use apiserver::ApiServer;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Stack of a worker thread; deep recursion is bounded everywhere.
const STACK_BYTES: usize = 1 << 20;
/// Threads for blocking work at once.
const BLOCKING_THREADS_MAX: usize = 64;

/// Start the cluster
#[derive(clap::Args)]
pub(crate) struct Up {
    /// Return when the cluster is ready, and go on in the background
    #[arg(long, short)]
    detach: bool,
    /// File with the settings below, in YAML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Deploy the hello example and show its answer
    #[arg(long)]
    hello: bool,
    /// What to log: a level, or target=level,…
    #[arg(long, value_name = "FILTER", default_value = "warn", env = "KIJABI_LOG")]
    log: String,
    #[command(flatten)]
    settings: Settings,
}

/// What stands before anything runs.
struct Bound {
    api: TcpListener,
    kubelet: TcpListener,
    control: std::os::unix::net::UnixListener,
}

impl Up {
    pub(crate) fn run(self, folder: &Folder) -> Result<()> {
        let progress = Progress::new();
        // Huge pages are for those who use all of a page; this program's memory is many small things. Shims undo it for containers.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
        if self.detach {
            drop(folder.lock()?);
            return detach::start(folder);
        }
        crate::host::check()?;
        let config = Config::load(folder.root(), self.config.as_deref(), self.settings)?;
        let filter = EnvFilter::try_new(&self.log).with_context(|| format!("--log {:?}", self.log))?;
        let _lock = folder.lock()?;
        config.save()?;
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        let bound = bind(&config, folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(STACK_BYTES)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        runtime.block_on(cluster(config, folder.clone(), bound, self.hello, progress))
    }
}

fn bind(config: &Config, folder: &Folder) -> Result<Bound> {
    let listen = |what: &str, port: u16| {
        let address = SocketAddr::new(config.bind_address, port);
        let listener = TcpListener::bind(address).with_context(|| {
            format!("cannot listen on {address} for {what}; choose another port with --{what}-port")
        })?;
        listener.set_nonblocking(true)?;
        anyhow::Ok(listener)
    };
    let (api, kubelet) = (listen("api", config.api_port)?, listen("kubelet", config.kubelet_port)?);
    Ok(Bound { api, kubelet, control: control::listen(&folder.control_socket())? })
}

/// All of it, from the first file opened to the last task joined.
async fn cluster(config: Config, folder: Folder, bound: Bound, hello: bool, progress: Progress) -> Result<()> {
    let stop = requests::Stop::default();
    let token = stop.token.clone();
    let parts = Parts::new(token.clone());
    let signals = stop_signals()?;

    let engines = tokio::spawn(engines::open(config.clone(), folder.clone()));
    let pki = Arc::new(api::open_pki(&config, &folder).await?);
    let api = api::start(&config, &folder, &pki, bound.api, &parts, token.clone()).await?;
    progress.step(format_args!("the API serves at {}", config.server_url()));

    let engines = engines.await.context("opening the engines")??;
    let control = tokio::net::UnixListener::from_std(bound.control)?;
    let requests = requests::Requests::new(&parts, &engines, &api, &config.node_name, &stop);
    parts.run_once("control", control::serve(control, move |request| requests.clone().answer(request), token.clone()));
    parts.run("memory", crate::memory::trim_when_idle);
    node::start(&config, &folder, &pki, &engines, &api, bound.kubelet, &parts)?;
    node::wait_ready(&api, &config.node_name).await?;
    progress.step(format_args!("the node {} is ready", config.node_name));
    node::label(&api, &config.node_name).await?;

    let kubeconfig = folder.kubeconfig();
    let shown = kubeconfig.display().to_string();
    if hello {
        example::run(&engines.images, &api::client(&api, api::Identity::Admin), progress, &shown).await?;
    } else {
        Progress::say(format_args!("\nThe cluster is up. Next:\n\n  export KUBECONFIG={shown}\n  kubectl get nodes"));
    }
    detach::ready(&folder)?;

    signals.wait(&token).await;
    token.cancel();
    parts.ended().await;
    if stop.with_pods() {
        engines.stop_pods().await;
    }
    engines.close().await;
    Ok(())
}

/// The signals that end the program; pods stay.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

fn stop_signals() -> Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

impl Signals {
    /// Waits for a signal, or for `down`, which cancels the token.
    async fn wait(mut self, token: &CancellationToken) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = token.cancelled() => {}
        }
    }
}

/// The API server, as the other parts hold it.
pub(crate) type Api = Arc<ApiServer>;
