//! Log files of containers, in the CRI format: reading, following, rotating; and termination messages.

mod read;
mod rotate;
mod stream;

pub use read::Options;
pub use rotate::run as rotate;
pub use stream::stream;

use crate::labels;
use cri::ContainerStatus;
use std::path::{Path, PathBuf};

/// Bytes of a termination message.
const MESSAGE_MAX: usize = 4096;
/// Bytes and lines of a log that stand in for one.
const FALLBACK_BYTES: usize = 2048;
const FALLBACK_LINES: usize = 80;

fn clipped(text: &[u8], max: usize) -> String {
    String::from_utf8_lossy(&text[..text.len().min(max)]).into_owned()
}

/// Why a container ended, in its own words: its termination message, or the end of its log where it asked for that.
pub fn termination_message(status: &ContainerStatus) -> String {
    let Some(file) = status.annotations.get(labels::TERMINATION_MESSAGE_FILE) else { return String::new() };
    let message = std::fs::read(file).unwrap_or_default();
    if !message.is_empty() {
        return clipped(&message, MESSAGE_MAX);
    }
    let fallback =
        status.annotations.get(labels::TERMINATION_MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if !fallback || status.exit_code == 0 {
        return String::new();
    }
    let mut out = Vec::new();
    for line in read::last_lines(&status.log_path, FALLBACK_LINES) {
        out.extend_from_slice(&line);
    }
    let start = out.len().saturating_sub(FALLBACK_BYTES);
    String::from_utf8_lossy(&out[start..]).into_owned()
}

/// A log and its rotated parts, the oldest first: `0.log.20260101-000000`, …, `0.log`.
pub fn files(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().map(|n| format!("{}.", n.to_string_lossy())).unwrap_or_default();
    let dir = log.parent().unwrap_or(Path::new("/"));
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&name))
        .map(|e| e.path())
        .collect();
    rotated.sort();
    rotated.push(log.to_owned());
    rotated
}

/// Removes a log with its rotated parts.
pub fn remove(log: &Path) {
    for file in files(log) {
        let _ = std::fs::remove_file(file);
    }
}
