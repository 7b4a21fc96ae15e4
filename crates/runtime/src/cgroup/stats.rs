//! What a cgroup's processes use.

use super::hierarchy::Hierarchies;
use std::path::Path;

/// Numbers of a cgroup; zero where the kernel tells none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nanoseconds of CPU.
    pub cpu_ns: u64,
    /// Bytes of memory with caches.
    pub memory_bytes: u64,
    /// Bytes of memory without what the kernel can drop at once.
    pub working_set_bytes: u64,
    /// Bytes of anonymous memory.
    pub rss_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of a `name value` line.
fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

pub(super) fn read(hierarchies: &Hierarchies, full: &Path) -> Stats {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut stats = Stats::default();
    if let Some(folder) = hierarchies.version2(full) {
        stats.cpu_ns = field(&text(&folder.join("cpu.stat")), "usage_usec") * 1000;
    } else if let Some(folder) = hierarchies.version1("cpuacct", full) {
        stats.cpu_ns = number(&folder.join("cpuacct.usage")).unwrap_or(0);
    }
    let inactive;
    if let Some(folder) = hierarchies.version1("memory", full) {
        let memory = text(&folder.join("memory.stat"));
        stats.memory_bytes = number(&folder.join("memory.usage_in_bytes")).unwrap_or(0);
        stats.rss_bytes = field(&memory, "total_rss");
        inactive = field(&memory, "total_inactive_file");
    } else if let Some(folder) = hierarchies.version2(full) {
        let memory = text(&folder.join("memory.stat"));
        stats.memory_bytes = number(&folder.join("memory.current")).unwrap_or(0);
        stats.rss_bytes = field(&memory, "anon");
        inactive = field(&memory, "inactive_file");
    } else {
        inactive = 0;
    }
    stats.working_set_bytes = stats.memory_bytes.saturating_sub(inactive);
    stats.pids = hierarchies.controller("pids", full).and_then(|f| number(&f.join("pids.current"))).unwrap_or(0);
    stats
}
