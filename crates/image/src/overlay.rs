//! Mounts overlayfs, with as many layers as the kernel takes.
//!
//! The mount API of Linux 6.8 takes layers one by one. Before it, all options share one page, so layers are named by
//! short links in a directory that is open, through `/proc/self/fd`: room for some 190.

use rustix::fd::AsRawFd;
use rustix::fs::{self as rfs, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount as mount_classic, move_mount, unmount as umount,
};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Strings that the new mount API takes are shorter than this.
const STRING_LENGTH_MAX: usize = 255;
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// What to mount: overlayfs of these directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Read-only directories, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Where writes go, and overlayfs' working directory beside it; none for a read-only mount.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// The step that failed and why.
pub(crate) type Failed = (&'static str, io::Error);

impl Mount {
    /// Mounts it; `links` is a directory that may be made for the old way.
    pub(crate) fn mount(&self, target: &Path, links: &Path) -> Result<(), Failed> {
        if let Some((_, work)) = &self.upper {
            // What is written is lost with the machine anyway, so overlayfs need not flush it. Its mark of that
            // forbids the next mount, which is fine here: within one boot nothing was lost.
            let _ = fs::remove_dir_all(work.join("work/incompat/volatile"));
        }
        match self.mount_new(target) {
            Err((_, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::NAMETOOLONG)) => self.mount_old(target, links),
            other => other.map_err(|(step, errno)| (step, errno.into())),
        }
    }

    fn mount_new(&self, target: &Path) -> Result<(), (&'static str, Errno)> {
        let paths = self.lower.iter().chain(self.upper.iter().flat_map(|(upper, work)| [upper, work]));
        if paths.clone().any(|path| path.as_os_str().len() > STRING_LENGTH_MAX) {
            return Err(("fsconfig", Errno::NAMETOOLONG));
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| ("fsopen", e))?;
        let set = |key: &str, value: &Path| fsconfig_set_string(&context, key, value).map_err(|e| ("fsconfig", e));
        for lower in &self.lower {
            set("lowerdir+", lower)?;
        }
        set("index", Path::new("off"))?;
        if let Some((upper, work)) = &self.upper {
            set("upperdir", upper)?;
            set("workdir", work)?;
            fsconfig_set_flag(&context, "volatile").map_err(|e| ("fsconfig", e))?;
        }
        fsconfig_create(&context).map_err(|e| ("create overlayfs", e))?;
        let attributes = if self.upper.is_none() { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| ("fsmount", e))?;
        move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(|e| ("move mount", e))
    }

    pub(crate) fn mount_old(&self, target: &Path, links: &Path) -> Result<(), Failed> {
        let _ = fs::remove_dir_all(links);
        fs::create_dir_all(links).map_err(|e| ("make links", e))?;
        let link = |name: &str, to: &Path| symlink(to, links.join(name)).map_err(|e| ("make links", e));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rfs::open(links, flags, Mode::empty()).map_err(|e| ("open links", e.into()))?;
        let base = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let mut lower = Vec::new();
        for (i, path) in self.lower.iter().enumerate() {
            link(&i.to_string(), path)?;
            lower.push(format!("{base}/{i}"));
        }
        let mut options = format!("index=off,lowerdir={}", lower.join(":"));
        let mut mount_flags = MountFlags::RDONLY;
        if let Some((upper, work)) = &self.upper {
            link("u", upper)?;
            link("w", work)?;
            options.push_str(&format!(",upperdir={base}/u,workdir={base}/w,volatile"));
            mount_flags = MountFlags::empty();
        }
        if options.len() >= 4096 {
            let message = format!("{} layers are more than this kernel takes: use Linux 6.8 or later", lower.len());
            return Err(("mount", io::Error::new(io::ErrorKind::Unsupported, message)));
        }
        let options = CString::new(options).map_err(|e| ("mount", e.into()))?;
        let mounted = mount_classic("overlay", target, "overlay", mount_flags, options.as_c_str());
        let _ = fs::remove_dir_all(links);
        mounted.map_err(|e| ("mount", e.into()))
    }
}

/// Whether overlayfs is mounted on a directory.
pub(crate) fn is_mounted(target: &Path) -> bool {
    let overlay = |path: &Path| rfs::statfs(path).is_ok_and(|stat| stat.f_type == OVERLAYFS_MAGIC);
    let device = |path: &Path| rfs::stat(path).map(|stat| stat.st_dev);
    // The store itself may be on overlayfs: a mount point's device differs from its parent's.
    overlay(target) && target.parent().is_none_or(|parent| device(parent) != device(target))
}

/// Unmounts, also when something still has a file open; fine when nothing is mounted there.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    match umount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways of mounting: the same view, with more layers than options of full paths would have room for.
    #[test]
    fn the_old_way_gives_the_same_view() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let lower: Vec<PathBuf> = (0..150).map(|i| make(&format!("{i}-{}", "x".repeat(100)))).collect();
        for (i, path) in lower.iter().enumerate() {
            fs::write(path.join(format!("file{i}")), "").unwrap();
            fs::write(path.join("top"), i.to_string()).unwrap();
        }
        let writable = Mount { lower: lower.clone(), upper: Some((make("upper"), make("work"))) };
        let target = make("target");
        let links = root.path().join("links");
        for old in [true, false, true] {
            let mounted = if old { writable.mount_old(&target, &links) } else { writable.mount(&target, &links) };
            mounted.unwrap();
            assert!(is_mounted(&target) && !links.exists());
            assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
            fs::write(target.join("written"), "").unwrap();
            assert_eq!(fs::read_dir(&target).unwrap().count(), 152);
            unmount(&target).unwrap();
            unmount(&target).unwrap();
            assert!(!is_mounted(&target));
            // The mark of an unflushed mount forbids the next one; `mount` takes it away, as here.
            let _ = fs::remove_dir_all(root.path().join("work/work/incompat"));
        }
        let view = Mount { lower, upper: None };
        view.mount_old(&target, &links).unwrap();
        assert!(fs::write(target.join("more"), "").is_err());
        unmount(&target).unwrap();
        let many = Mount { lower: vec![make("same"); 300], upper: None };
        let (_, error) = many.mount_old(&target, &links).unwrap_err();
        assert!(error.to_string().contains("use Linux 6.8 or later"), "{error}");
    }
}
