//! What the machine must offer, checked before anything starts.

use anyhow::{Result, ensure};
use std::path::Path;

/// The oldest kernel: 5.13 has overlayfs, `mount_setattr` and the rest as they are used here.
const KERNEL_MIN: (u32, u32) = (5, 13);

/// Checks the kernel; the error lists everything that is missing.
pub(crate) fn check() -> Result<()> {
    let mut missing = Vec::new();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if parse_release(&release).is_some_and(|found| found < KERNEL_MIN) {
        missing.push(format!("Linux {}.{} or later (this is {release})", KERNEL_MIN.0, KERNEL_MIN.1));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for name in ["overlay", "tmpfs", "proc"] {
        // A module may not be loaded yet: it is when it is first mounted.
        let module = Path::new("/lib/modules").join(&release).join("kernel/fs/overlayfs");
        let loaded = filesystems.split_whitespace().any(|f| f == name);
        let loadable = name == "overlay" && module.exists();
        if !loaded && !loadable {
            missing.push(format!("the filesystem {name}"));
        }
    }
    for namespace in ["net", "pid", "mnt", "ipc", "uts"] {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            missing.push(format!("{namespace} namespaces"));
        }
    }
    if !Path::new("/sys/fs/cgroup").is_dir() {
        missing.push("control groups mounted at /sys/fs/cgroup".to_owned());
    }
    ensure!(missing.is_empty(), "this machine lacks {}", missing.join(", "));
    Ok(())
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(parse_release("6.18.0-cloud-amd64"), Some((6, 18)));
        assert_eq!(parse_release("5.4.0"), Some((5, 4)));
        assert_eq!(parse_release("strange"), None);
        check().unwrap();
    }
}
