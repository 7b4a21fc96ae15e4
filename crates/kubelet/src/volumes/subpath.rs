//! A path inside a volume as a mount of its own, safe against links that a container put there.
//!
//! The path is opened with `openat2`, which never leaves the volume, whatever the links say; what was opened is then bound
//! to a place only the kubelet writes, through its descriptor, so that nothing can be swapped in between.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(io::Error::from)
}

/// Opens `subpath` below `volume`, making missing folders with the volume's own permissions.
fn open(volume: &Path, subpath: &Path) -> io::Result<OwnedFd> {
    let root = openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
    match beneath(&root, subpath, OFlags::PATH) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mode = std::fs::metadata(volume)?.permissions().mode() & 0o777;
    let mut sofar = PathBuf::new();
    let mut parent = openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
    for part in subpath.components() {
        sofar.push(part);
        parent = match beneath(&root, &sofar, OFlags::PATH) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(mode)).map_err(io::Error::from)?;
                let made = beneath(&root, &sofar, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).map_err(io::Error::from)?;
                made
            }
            Err(e) => return Err(e),
        };
    }
    Ok(parent)
}

/// Binds `subpath` of the volume to `target`, and returns what to mount into the container.
pub fn prepare(volume: &Path, subpath: &str, target: &Path) -> io::Result<PathBuf> {
    let path = Path::new(subpath);
    if path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(io::Error::other(format!("subPath {subpath:?} must be relative and must not contain '..'")));
    }
    let source = open(volume, path)?;
    // After a restart of the program the old binding is still there; the volume may have moved on, so it is made anew.
    if super::dirs::is_mount_point(target) {
        rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH).map_err(io::Error::from)?;
    }
    let by_fd = format!("/proc/self/fd/{}", source.as_raw_fd());
    let is_dir = std::fs::metadata(&by_fd)?.is_dir();
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else {
        std::fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mount_bind(by_fd.as_str(), target).map_err(io::Error::from)?;
    mount_change(target, MountPropagationFlags::PRIVATE).map_err(io::Error::from)?;
    let _ = MountFlags::empty();
    Ok(target.to_owned())
}
