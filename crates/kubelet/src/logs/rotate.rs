//! Keeps logs small: looks at the sizes of running containers' logs now and then, and renames what is too large.

use super::files;
use crate::context::Shared;
use crate::directory::Directory;
use cri::ContainerState;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Between looks: a container that writes 10 MiB faster than this gets a larger file, not a lost line.
const EVERY: Duration = Duration::from_secs(10);

/// Rotates until the kubelet ends.
pub async fn run(context: Shared, directory: Directory) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = context.token.cancelled() => return,
            _ = tick.tick() => {}
        }
        for entry in directory.all() {
            for c in entry.view.containers().iter().filter(|c| c.state == ContainerState::Running) {
                let large = std::fs::metadata(&c.log_path).is_ok_and(|m| m.len() > context.config.log_bytes_max);
                if !large {
                    continue;
                }
                let renamed = rotate(&c.log_path, context.config.log_files_max);
                let reopened = match renamed {
                    Ok(()) => context.runtime().reopen_container_log(&c.id).await.map_err(|e| e.to_string()),
                    Err(e) => Err(e.to_string()),
                };
                if let Err(error) = reopened {
                    tracing::warn!(log = %c.log_path.display(), %error, "a log could not be rotated");
                }
            }
        }
    }
}

/// Renames the log, and removes the oldest parts beyond `keep` files in all.
fn rotate(log: &Path, keep: u32) -> io::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    std::fs::rename(log, name)?;
    let mut parts = files(log);
    parts.pop();
    let keep = usize::try_from(keep.saturating_sub(1)).unwrap_or(1);
    let excess = parts.len().saturating_sub(keep);
    parts.iter().take(excess).try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_parts_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for part in ["20200101-000000", "20200102-000000", "20200103-000000"] {
            std::fs::write(dir.path().join(format!("0.log.{part}")), "").unwrap();
        }
        std::fs::write(&log, "x").unwrap();
        rotate(&log, 3).unwrap();
        let left = files(&log);
        assert_eq!(left.len(), 3, "two parts and the name of the next: {left:?}");
        assert!(left[0].ends_with("0.log.20200103-000000"));
        assert!(!log.exists());
    }
}
