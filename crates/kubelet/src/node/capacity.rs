//! What a node has.

use std::collections::BTreeMap;
use std::path::Path;

/// What a node has for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of the file system of the kubelet's folder.
    pub ephemeral_bytes: i64,
    /// Bytes of huge pages, by size as resources are named: `2Mi`.
    pub hugepages: BTreeMap<String, i64>,
}

impl Capacity {
    /// Of this machine.
    pub fn of_machine(root_dir: &Path) -> Capacity {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib =
            meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok());
        let disk = rustix::fs::statvfs(root_dir).or_else(|_| rustix::fs::statvfs("/"));
        let disk = disk.map_or(0, |s| i64::try_from(s.f_blocks.saturating_mul(s.f_frsize)).unwrap_or(i64::MAX));
        Capacity {
            cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: kib.unwrap_or(0) * 1024,
            ephemeral_bytes: disk,
            hugepages: hugepages(),
        }
    }
}

fn hugepages() -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) =
            name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")).and_then(|n| n.parse::<i64>().ok())
        else {
            continue;
        };
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
        let count: i64 = count.trim().parse().unwrap_or(0);
        let size = if kib >= 1 << 20 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
        out.insert(size, count * kib * 1024);
    }
    out
}
