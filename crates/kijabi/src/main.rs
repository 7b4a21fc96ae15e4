//! `kijabi`: Kubernetes in one program. The command line; everything else is wired in [`up`].
//!
//! The program is also its own shim (one a pod, see `runtime`) and the server of its hello example; both are told apart
//! before anything is set up.

mod command;
mod config;
mod control;
mod folder;
mod hello;
mod host;
mod memory;
mod parts;
mod progress;
mod up;

use anyhow::{Result, ensure};
use clap::{CommandFactory, Parser, Subcommand};
use folder::Folder;
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Kubernetes in one program
#[derive(Parser)]
#[command(name = "kijabi", version = VERSION, disable_help_subcommand = true)]
struct Cli {
    /// Folder that holds everything of this cluster
    #[arg(long, global = true, value_name = "FOLDER", default_value = "/var/lib/kijabi", env = "KIJABI_DATA_DIR")]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster
    Up(Box<up::Up>),
    /// Stop the cluster and its pods; its data stays
    Down {
        /// Leave the pods running
        #[arg(long)]
        keep_pods: bool,
    },
    /// Stop the cluster and remove everything it ever made
    Reset,
    /// Say of each part whether it is healthy, or why not
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a kubeconfig for the cluster's administrator
    Kubeconfig,
    /// The node's images
    #[command(subcommand)]
    Image(command::image::Image),
    /// Print versions
    Version,
    /// Print a completion script
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Serve the hello example (inside its container)
    #[command(hide = true)]
    Hello {
        /// Port to listen on
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
}

/// This program's version and the Kubernetes it is.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes v1.37.2)");

fn main() -> ExitCode {
    if runtime::shim::requested() {
        return ExitCode::from(u8::try_from(runtime::shim::main()).unwrap_or(1));
    }
    memory::return_soon();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "this is the command line")]
fn complain(error: &anyhow::Error) {
    eprintln!("kijabi: {error:#}");
}

fn run(cli: Cli) -> Result<()> {
    let folder = Folder::new(&cli.data_dir)?;
    if matches!(cli.command, Command::Up(_) | Command::Down { .. } | Command::Reset) {
        ensure!(rustix::process::geteuid().is_root(), "this needs root: try again with sudo");
    }
    match cli.command {
        Command::Up(up) => up.run(&folder),
        Command::Down { keep_pods } => command::down(&folder, keep_pods),
        Command::Reset => command::reset(&folder),
        Command::Status { json } => command::status(&folder, json),
        Command::Kubeconfig => command::kubeconfig(&folder),
        Command::Image(image) => image.run(&folder),
        Command::Version => {
            progress::Progress::say(format_args!("kijabi {VERSION}"));
            Ok(())
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kijabi", &mut script);
            progress::Progress::say(String::from_utf8_lossy(&script));
            Ok(())
        }
        Command::Hello { port } => hello::serve(port),
    }
}

/// A runtime for a command that asks one thing.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
