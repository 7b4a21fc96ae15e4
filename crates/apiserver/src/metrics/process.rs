//! What the kernel says of this process, under the names every exporter uses.

use super::text::{Labels, Page};

/// Ticks of the kernel's clock a second, as `/proc` counts for user space on every architecture we run on.
const TICKS: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

pub(super) fn write(page: &mut Page) {
    let none = Labels::default();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may have anything in it; what follows its last bracket are numbers.
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').filter_map(|text| text.parse().ok()).collect();
    // Without the name and the state before them: user and system time, start, memory.
    if let [.., _] = fields.as_slice()
        && fields.len() > 20
    {
        page.family("process_cpu_seconds_total", "counter", "Processor time used, in seconds.");
        page.value(&none, (fields[10] + fields[11]) / TICKS);
        page.family("process_start_time_seconds", "gauge", "Start of the process, in seconds since 1970.");
        page.value(&none, boot_seconds() + fields[18] / TICKS);
        page.family("process_virtual_memory_bytes", "gauge", "Address space, in bytes.");
        page.value(&none, fields[19]);
    }
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    if let Some(pages) = statm.split(' ').nth(1).and_then(|text| text.parse::<u64>().ok()) {
        page.family("process_resident_memory_bytes", "gauge", "Memory in use, in bytes.");
        page.value(&none, pages * PAGE_BYTES);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.family("process_open_fds", "gauge", "Open files.");
        page.value(&none, open.count());
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    if let Some(most) = files.and_then(|rest| rest.split_whitespace().next()) {
        page.family("process_max_fds", "gauge", "Files that may be open at once.");
        page.value(&none, most);
    }
}

/// When the machine was started, in seconds since 1970.
fn boot_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}
