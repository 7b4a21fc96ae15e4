//! The commands that speak to a running cluster, or tidy up after one.

pub(crate) mod image;
mod reset;

use crate::control;
use crate::folder::Folder;
use crate::parts::PartStatus;
use crate::progress::Progress;
use anyhow::{Context, Result, bail, ensure};
use http::Method;
pub(crate) use reset::{down, reset};

/// `kijabi status`: fails when a part is not healthy.
pub(crate) fn status(folder: &Folder, json: bool) -> Result<()> {
    ensure!(folder.exists(), "there is no cluster in {}; start one with `kijabi up`", folder.root().display());
    ensure!(
        folder.running().is_some(),
        "the cluster in {} is not running; start it with `kijabi up`",
        folder.root().display()
    );
    let parts: Vec<PartStatus> =
        crate::block_on(control::ask(&folder.control_socket(), Method::GET, "/status", control::empty()))?;
    if json {
        Progress::say(serde_json::to_string_pretty(&parts)?);
    } else {
        for part in &parts {
            Progress::say(format_args!(
                "{:<12} {:<8} {}",
                part.name,
                if part.healthy { "healthy" } else { "FAILED" },
                part.message
            ));
        }
    }
    match parts.iter().filter(|p| !p.healthy).count() {
        0 => Ok(()),
        n => bail!("{n} of {} parts are not healthy", parts.len()),
    }
}

/// `kijabi kubeconfig`.
pub(crate) fn kubeconfig(folder: &Folder) -> Result<()> {
    let path = folder.kubeconfig();
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("there is no kubeconfig in {}; start the cluster with `kijabi up`", folder.root().display())
    })?;
    Progress::say(text.trim_end());
    Ok(())
}
