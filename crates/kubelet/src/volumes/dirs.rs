//! The folders of a pod below the kubelet's root, and their removal.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::io;
use std::path::{Path, PathBuf};

/// Paths of one pod: `<root>/pods/<uid>/…`.
#[derive(Clone, Debug)]
pub struct PodDirs {
    /// `<root>/pods/<uid>`.
    pub pod: PathBuf,
}

impl PodDirs {
    /// For the pod of that UID.
    pub fn new(root: &Path, uid: &str) -> PodDirs {
        PodDirs { pod: root.join("pods").join(uid) }
    }

    /// The folder of a volume.
    pub fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.pod.join("volumes").join(plugin).join(name)
    }

    /// The folder of a container's own files (termination messages).
    pub fn container(&self, name: &str) -> PathBuf {
        self.pod.join("containers").join(name)
    }

    /// `/etc/hosts` of the pod.
    pub fn hosts(&self) -> PathBuf {
        self.pod.join("etc-hosts")
    }

    /// Where a subPath is mounted for a container.
    pub fn subpath(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.pod.join("volume-subpaths").join(volume).join(container).join(index.to_string())
    }
}

/// Mount points at or below a path, deepest last in the table first.
fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(&path))
        .collect();
    found.reverse();
    Ok(found)
}

/// The kernel writes blanks, tabs, newlines and backslashes in octal.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, c) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, c);
    }
    out
}

pub(super) fn is_mount_point(path: &Path) -> bool {
    let exact = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    mounts_below(path).is_ok_and(|m| m.contains(&exact))
}

pub(super) fn mount_tmpfs(path: &Path, size: u64) -> io::Result<()> {
    let options = if size > 0 { format!("mode=0777,size={size}") } else { "mode=0777".to_owned() };
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).map_err(io::Error::from)
}

/// Unmounts all below a pod's folder and removes it. What is mounted is never walked into.
pub fn clean_up(dirs: &PodDirs) -> io::Result<()> {
    if !dirs.pod.exists() {
        return Ok(());
    }
    for point in mounts_below(&dirs.pod)? {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(io::Error::from)?;
    }
    let left = mounts_below(&dirs.pod)?;
    if let Some(point) = left.first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    std::fs::remove_dir_all(&dirs.pod)
}

/// Removes the volumes of a pod that ended, and keeps the rest (termination messages).
pub fn clean_volumes(dirs: &PodDirs) -> io::Result<()> {
    for folder in ["volumes", "volume-subpaths"] {
        let part = PodDirs { pod: dirs.pod.join(folder) };
        clean_up(&part)?;
    }
    Ok(())
}
