//! `kijabi down` and `kijabi reset`.

use crate::config::{Config, Settings};
use crate::control;
use crate::folder::{Folder, Lock};
use crate::progress::Progress;
use crate::up::engines;
use anyhow::{Context, Result, bail, ensure};
use http::Method;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the program may take to end when asked.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends the program, and its pods unless they shall stay.
pub(crate) fn down(folder: &Folder, keep_pods: bool) -> Result<()> {
    ensure!(folder.exists(), "there is no cluster in {}", folder.root().display());
    if folder.running().is_some() {
        stop(folder, !keep_pods)?;
        Progress::say(if keep_pods { "stopped; pods go on" } else { "stopped" });
        return Ok(());
    }
    if keep_pods {
        Progress::say("it was not running");
        return Ok(());
    }
    // The program was killed earlier: its pods may still run.
    let lock = folder.lock()?;
    block_on_engines(folder, &lock, async |engines| {
        engines.stop_pods().await;
        Ok(())
    })?;
    Progress::say("it was not running; its pods are stopped");
    Ok(())
}

/// Ends everything and removes every trace.
pub(crate) fn reset(folder: &Folder) -> Result<()> {
    if !folder.exists() {
        Progress::say(format_args!("there is no cluster in {}", folder.root().display()));
        return Ok(());
    }
    if folder.running().is_some() {
        stop(folder, true)?;
    }
    let lock = folder.lock()?;
    block_on_engines(folder, &lock, async |engines| engines.reset().await)?;
    unmount_below(folder.root())?;
    std::fs::remove_dir_all(folder.root()).with_context(|| format!("cannot remove {}", folder.root().display()))?;
    Progress::say(format_args!("removed everything of the cluster in {}", folder.root().display()));
    Ok(())
}

/// Unmounts what is mounted below the folder (volumes in memory), the last first.
fn unmount_below(root: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let points =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).filter(|point| point.starts_with(root));
    for point in points.collect::<Vec<_>>().iter().rev() {
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// A path of `/proc/self/mountinfo`: space, tab, newline and backslash are written as octal numbers.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn stop(folder: &Folder, with_pods: bool) -> Result<()> {
    let path = if with_pods { "/stop?pods" } else { "/stop" };
    let asked: Result<bool> =
        crate::block_on(control::ask(&folder.control_socket(), Method::POST, path, control::empty()));
    if let Err(error) = asked {
        // It is starting still, or stuck: a signal reaches it too.
        let pid = folder.running().and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Ok(()) };
        tracing::debug!(%error, "the control socket does not answer");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot signal the program")?;
    }
    let end = Instant::now() + END_TIMEOUT;
    while folder.running().is_some() {
        if Instant::now() > end {
            bail!("the program did not end in {END_TIMEOUT:?}; its log is {}", folder.log_file().display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Opens the engines of a cluster that does not run. The lock proves that it does not.
fn block_on_engines(
    folder: &Folder,
    _lock: &Lock,
    work: impl AsyncFnOnce(&engines::Engines) -> Result<()>,
) -> Result<()> {
    let config = Config::load(folder.root(), None, Settings::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let engines = engines::open(config, folder.clone()).await?;
        let done = work(&engines).await;
        engines.close().await;
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mounts() {
        for (written, path) in [("/a/b", "/a/b"), ("/a\\040b", "/a b"), ("/a\\134", "/a\\"), ("/a\\04", "/a\\04")] {
            assert_eq!(unescape(written), Path::new(path), "{written}");
        }
    }
}
