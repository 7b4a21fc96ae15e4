//! `up --detach`: the same program in the background, watched until it is ready.

use crate::folder::Folder;
use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The variable that tells the background program which descriptor to close when it is ready.
pub(crate) const READY_FD: &str = "KIJABI_READY_FD";

/// Starts the program again without `--detach`, lets it print here until it says that it is ready, and returns.
pub(crate) fn start(folder: &Folder) -> Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.log_file())
        .with_context(|| format!("cannot open {}", folder.log_file().display()))?;
    let (read, write) = rustix::pipe::pipe().context("cannot make a pipe")?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "--detach" && a != "-d");
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .args(arguments)
        .env(READY_FD, write.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stderr(log)
        .process_group(0);
    let mut child = command.spawn().context("cannot start in the background")?;
    drop(write);
    let mut said = Vec::new();
    std::fs::File::from(read).read_to_end(&mut said).context("waiting for the background program")?;
    if said == b"ready" {
        return Ok(());
    }
    let status = child.wait()?;
    let log = std::fs::read_to_string(folder.log_file()).unwrap_or_default();
    let last = log.lines().rfind(|l| l.starts_with("kijabi: ")).unwrap_or("").trim_start_matches("kijabi: ");
    match last {
        "" => bail!("it ended with {status}; its log is {}", folder.log_file().display()),
        why => bail!("{why}"),
    }
}

/// In the background program: tells the one that started it, and writes to the log from now on.
pub(crate) fn ready(folder: &Folder) -> Result<()> {
    let Some(fd) = std::env::var(READY_FD).ok().and_then(|fd| fd.parse().ok()) else { return Ok(()) };
    let log = OpenOptions::new().create(true).append(true).open(folder.log_file())?;
    rustix::stdio::dup2_stdout(&log)?;
    let pipe = inherited(fd);
    rustix::io::write(&pipe, b"ready")?;
    Ok(())
}

#[allow(unsafe_code)]
fn inherited(fd: i32) -> OwnedFd {
    // SAFETY: the number was given to this process for this one use by `start`, and nothing else owns the descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
