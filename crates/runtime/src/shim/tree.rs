//! Mounts as descriptors: make them detached, then move them onto targets found below a root that paths cannot leave.

use crate::syscall::{MountAttr, mount_setattr};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// How many links that point to nothing yet are followed.
const LINKS_MAX: u32 = 20;

/// How paths of a container are resolved: symbolic links stay inside, `..` stops at the root.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A new, detached mount of a file system without a source.
pub(super) fn filesystem(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
            value => rustix::mount::fsconfig_set_string(context.as_fd(), *key, value)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// A detached copy of the mount at a path of the machine; all below it too when `recursive`.
pub(super) fn copy(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// A detached copy of the mount of what a descriptor stands for.
pub(super) fn copy_fd(fd: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(fd.as_fd(), "", flags)?)
}

/// Puts a detached mount onto a target.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount.as_fd(), "", target.as_fd(), "", flags)?)
}

/// Makes a mount and those below it read only.
pub(super) fn read_only(mount: impl AsFd, recursive: bool) -> io::Result<()> {
    mount_setattr(mount, recursive, MountAttr::new(crate::syscall::MOUNT_RDONLY, 0))
}

/// The root of a container while it is being built.
pub(super) struct Root(OwnedFd);

impl Root {
    /// The folder (a mount point) at a path of the machine.
    pub(super) fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Root(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// What a path inside leads to.
    pub(super) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.lookup(path, ResolveFlags::empty())
    }

    /// The same, refusing symbolic links on the way: for places an image must not redirect.
    pub(super) fn find_plain(&self, path: &Path) -> io::Result<OwnedFd> {
        self.lookup(path, ResolveFlags::NO_SYMLINKS)
    }

    fn lookup(&self, path: &Path, more: ResolveFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), INSIDE | more) {
                // A rename elsewhere made the kernel unsure that `..` stayed inside: look again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                found => return Ok(found?),
            }
        }
    }

    /// The folder at a path inside, made when missing; also where a link of the image points to nothing yet.
    pub(super) fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        self.folder_through(path, LINKS_MAX)
    }

    fn folder_through(&self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let mut at = self.find(Path::new("/"))?;
        let mut done = PathBuf::from("/");
        for part in path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)) {
            let above = done.clone();
            done.push(part);
            at = match self.find(&done) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from(0o755)) {
                        Ok(()) => self.find(&done)?,
                        Err(Errno::EXIST) if links > 0 => {
                            let target = rustix::fs::readlinkat(&at, part.as_os_str(), Vec::new())?;
                            self.folder_through(&above.join(OsStr::from_bytes(target.as_bytes())), links - 1)?
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                found => found?,
            };
        }
        Ok(at)
    }

    /// The file at a path inside, made empty when missing.
    pub(super) fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::from(0o644))?;
        self.find(path)
    }

    /// The folder that holds a path (made when missing), and the last part of the path.
    pub(super) fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display()));
        let name = path.file_name().ok_or_else(invalid)?;
        Ok((self.folder(path.parent().ok_or_else(invalid)?)?, name))
    }

    /// The descriptor of the root itself.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// Whether a descriptor stands for a folder.
pub(super) fn is_folder(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::statat(fd.as_fd(), "", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}
