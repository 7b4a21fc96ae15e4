//! What the machine must offer, checked before anything starts.

use anyhow::{Result, ensure};
use std::path::Path;

/// The oldest kernel: 5.13 has overlayfs, `mount_setattr` and the rest as they are used here.
const KERNEL_MIN: (u32, u32) = (5, 13);

/// Bits of `CapEff` in `/proc/self/status` (capabilities(7)) that running containers takes, beyond being root: root inside an
/// unprivileged container lacks them.
const CAPABILITIES: [(u32, &str); 5] =
    [(7, "CAP_SETUID"), (12, "CAP_NET_ADMIN"), (18, "CAP_SYS_CHROOT"), (21, "CAP_SYS_ADMIN"), (27, "CAP_MKNOD")];

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
    if !has_cgroups(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        missing
            .push("control groups: nothing of type cgroup or cgroup2 is mounted at or under /sys/fs/cgroup".to_owned());
    }
    let effective = effective_capabilities(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    for (_, name) in CAPABILITIES.iter().filter(|(bit, _)| effective.is_some_and(|held| held & (1 << bit) == 0)) {
        missing.push(format!("the capability {name} (root in a container that is not privileged?)"));
    }
    ensure!(missing.is_empty(), "this machine lacks {}", missing.join(", "));
    Ok(())
}

/// Whether a list of mounts (proc_pid_mounts(5)) has control groups where they belong.
fn has_cgroups(mounts: &str) -> bool {
    // What is mounted last covers what was there.
    let mut found = false;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(target), Some(kind)) = (fields.next(), fields.next()) else { continue };
        match target.strip_prefix("/sys/fs/cgroup") {
            Some("") => found = kind == "cgroup2",
            Some(below) if below.starts_with('/') => found |= kind.starts_with("cgroup"),
            _ => {}
        }
    }
    found
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
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

    #[test]
    fn what_proc_says() {
        let v2 = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let v1 = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let covered = format!("{v2}{v1}none /sys/fs/cgroup tmpfs rw 0 0\n");
        for (mounts, want) in [(v2, true), (v1, true), (&covered, false), ("", false), ("x", false)] {
            assert_eq!(has_cgroups(mounts), want, "{mounts}");
        }
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t00000000a80425fb\n"), Some(0xa804_25fb));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
