//! A container's view of files: root, kernel file systems, devices, mounts; built and entered by its first process.

use super::tree::{self, Root};
use crate::spec::{Bind, ContainerSpec, Propagation, Rootfs};
use crate::syscall::{MountAttr, mount_setattr};
use crate::wire::Failure;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;

/// Hidden from containers that are not privileged (as containerd and Docker hide them).
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read only in containers that are not privileged.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Nodes of `/dev`: name, major, minor.
const NODES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Links of `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
/// What of the machine's `/dev` a privileged container does not get as it is.
const NOT_COPIED: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"];

/// A step that failed, worded for the pod's event.
fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let text = format!("{what} {:?}", path.display().to_string());
    move |error| Failure::new(format!("{text}: {}", crate::reason(&error)))
}

/// What [`build`] leaves for the next steps.
pub(super) struct Built {
    /// The root, not yet entered.
    root: Root,
    /// The container's own `/dev/pts`.
    pts: OwnedFd,
}

/// Builds the view in this process's mount namespace (its own, a copy of the machine's).
pub(super) fn build(spec: &ContainerSpec) -> Result<Built, Failure> {
    // Shared ones are copied while they still are peers of the machine's mounts.
    let shared = copies(spec, |bind| bind.propagation == Propagation::Shared)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave)
        .map_err(|e| failed("make mounts private below", Path::new("/"))(e.into()))?;
    let others = copies(spec, |bind| bind.propagation != Propagation::Shared)?;
    mount_root(spec)?;
    let root = Root::open(&spec.mountpoint).map_err(failed("open root", &spec.mountpoint))?;
    let pts = kernel_mounts(&root, spec)?;
    let mut sources: Vec<_> = shared.into_iter().chain(others).collect();
    sources.sort_by_key(|(bind, _)| bind.target.components().count());
    for (bind, source) in sources {
        let error = || format!("error mounting {:?} to rootfs at", bind.source.display().to_string());
        place(&root, &source, &bind.target).map_err(failed(&error(), &bind.target))?;
    }
    devices(&root, spec)?;
    if !spec.privileged && !spec.unmasked_proc {
        hide(&root)?;
    }
    let cwd = Path::new(&spec.process.cwd);
    if !spec.process.cwd.is_empty() {
        root.folder(cwd).map_err(failed("mkdir", cwd))?;
    }
    if spec.readonly_rootfs {
        tree::read_only(root.fd(), false).map_err(failed("make read only", Path::new("/")))?;
    }
    Ok(Built { root, pts })
}

impl Built {
    /// Opens a terminal in the container's own `/dev/pts`: its master and its far end.
    pub(super) fn terminal(&self) -> Result<(OwnedFd, OwnedFd), Failure> {
        let open = || -> io::Result<_> {
            let (master, slave) = super::init::open_terminal(&self.pts)?;
            let console = self.root.file(Path::new("/dev/console"))?;
            tree::attach(tree::copy_fd(&slave)?, console)?;
            Ok((master, slave))
        };
        open().map_err(failed("open a terminal in", Path::new("/dev/pts")))
    }

    /// Makes the root this process's root and lets go of the machine's.
    pub(super) fn enter(self) -> Result<(), Failure> {
        let enter = || -> io::Result<()> {
            rustix::process::fchdir(self.root.fd())?;
            rustix::process::pivot_root(".", ".")?;
            // The old root, stacked on the new one, is a slave of the machine's already: letting go of it stays here.
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
            rustix::process::chdir("/")?;
            Ok(())
        };
        enter().map_err(failed("pivot_root to", Path::new("/")))
    }
}

/// Detached copies of the sources of those binds, with the attributes asked for.
fn copies(spec: &ContainerSpec, wanted: impl Fn(&Bind) -> bool) -> Result<Vec<(&Bind, OwnedFd)>, Failure> {
    let copy = |bind: &Bind| -> io::Result<OwnedFd> {
        let mount = match tree::copy(&bind.source, true) {
            // As Docker and containerd do: a host path that is not there becomes a folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&bind.source)?;
                tree::copy(&bind.source, true)?
            }
            mount => mount?,
        };
        if bind.propagation == Propagation::Private {
            mount_setattr(&mount, true, MountAttr::new(0, libc::MS_PRIVATE))?;
        }
        if bind.readonly {
            tree::read_only(&mount, true)?;
        }
        Ok(mount)
    };
    let wanted = spec.binds.iter().filter(|bind| wanted(bind));
    wanted.map(|bind| Ok((bind, copy(bind).map_err(failed("error mounting", &bind.source))?))).collect()
}

/// Mounts the root itself at the mount point.
fn mount_root(spec: &ContainerSpec) -> Result<(), Failure> {
    let at = &spec.mountpoint;
    match &spec.rootfs {
        Rootfs::Overlay { lower, upper, work } => {
            overlay(lower, upper, work, at).map_err(failed("mount overlay at", at))
        }
        Rootfs::Folder(folder) => {
            let bind = || -> io::Result<()> {
                let copy = tree::copy(folder, true)?;
                mount_setattr(&copy, true, MountAttr::new(0, libc::MS_PRIVATE))?;
                let target = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                tree::attach(copy, target)
            };
            bind().map_err(failed("mount root from", folder))
        }
    }
}

/// Mounts an overlay. `volatile`: what a container writes to its own layer does not outlive it, so nothing is synced.
fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> io::Result<()> {
    /// What fits on the page that `mount(2)` copies.
    const OPTIONS_SIZE_MAX: usize = 4000;
    let layers: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
    let (upper, work) = (upper.display().to_string(), work.display().to_string());
    let options = format!("lowerdir={},upperdir={upper},workdir={work},volatile", layers.join(":"));
    if options.len() < OPTIONS_SIZE_MAX {
        let options = std::ffi::CString::new(options)?;
        return Ok(rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), options.as_c_str())?);
    }
    // Images of many layers: one option a layer (Linux 6.5).
    let mut options: Vec<_> = layers.iter().map(|layer| ("lowerdir+", layer.as_str())).collect();
    options.extend([("upperdir", upper.as_str()), ("workdir", work.as_str()), ("volatile", "")]);
    let mount = tree::filesystem("overlay", &options, MountAttrFlags::empty())?;
    tree::attach(mount, rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether the pod itself mounts something at that path, so that the usual mount is left out.
fn replaced(spec: &ContainerSpec, path: &str) -> bool {
    spec.binds.iter().any(|bind| bind.target == Path::new(path))
}

/// `/proc`, `/dev`, `/sys` and what is below them; gives the new `/dev/pts`.
fn kernel_mounts(root: &Root, spec: &ContainerSpec) -> Result<OwnedFd, Failure> {
    let usual = NO_SUID | NO_EXEC | NO_DEV;
    let writable = if spec.privileged { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    if !replaced(spec, "/proc") {
        put(root, tree::filesystem("proc", &[], usual), "/proc")?;
    }
    let pts = dev(root, spec)?;
    if !replaced(spec, "/sys") {
        put(root, tree::filesystem("sysfs", &[], usual | writable), "/sys")?;
        cgroups(root, spec)?;
    }
    Ok(pts)
}

/// Puts a new mount at a place that an image must not redirect through a symbolic link.
fn put(root: &Root, mount: io::Result<OwnedFd>, path: &str) -> Result<OwnedFd, Failure> {
    let path = Path::new(path);
    let put = || -> io::Result<OwnedFd> {
        let mount = mount?;
        root.folder(path)?;
        tree::attach(&mount, root.find_plain(path)?)?;
        Ok(mount)
    };
    put().map_err(failed("error mounting to rootfs at", path))
}

fn dev(root: &Root, spec: &ContainerSpec) -> Result<OwnedFd, Failure> {
    let usual = NO_SUID | NO_EXEC | NO_DEV;
    let options = [("mode", "755"), ("size", "65536k")];
    let pts_options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts =
        tree::filesystem("devpts", &pts_options, NO_SUID | NO_EXEC).map_err(failed("mount", Path::new("/dev/pts")))?;
    if replaced(spec, "/dev") {
        return Ok(pts);
    }
    let strict = MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = put(root, tree::filesystem("tmpfs", &options, NO_SUID | strict), "/dev")?;
    let fill = || -> io::Result<()> {
        for (name, major, minor) in NODES {
            rustix::fs::mknodat(&dev, *name, FileType::CharacterDevice, Mode::from(0o666), makedev(*major, *minor))?;
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(*target, &dev, *name)?;
        }
        let folder = |name: &str| -> io::Result<OwnedFd> {
            rustix::fs::mkdirat(&dev, name, Mode::from(0o755))?;
            Ok(rustix::fs::openat(&dev, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        };
        tree::attach(&pts, folder("pts")?)?;
        if !replaced(spec, "/dev/mqueue") {
            tree::attach(tree::filesystem("mqueue", &[], usual)?, folder("mqueue")?)?;
        }
        match &spec.shm {
            Some(shm) if !replaced(spec, "/dev/shm") => tree::attach(tree::copy(shm, true)?, folder("shm")?)?,
            _ => {}
        }
        if spec.privileged {
            copy_nodes(Path::new("/dev"), &dev, 0)?;
        }
        Ok(())
    };
    fill().map_err(failed("fill", Path::new("/dev")))?;
    Ok(pts)
}

/// Makes each device node of a machine's folder in another folder.
fn copy_nodes(from: &Path, to: &OwnedFd, depth: u32) -> io::Result<()> {
    for entry in std::fs::read_dir(from)?.flatten() {
        let name = entry.file_name();
        let Ok(stat) = rustix::fs::lstat(entry.path()) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if (depth == 0 && NOT_COPIED.iter().any(|n| name == *n)) || depth > 8 {
            continue;
        }
        if kind.is_dir() {
            let _exists = rustix::fs::mkdirat(to, &name, Mode::from(0o755));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            copy_nodes(&entry.path(), &rustix::fs::openat(to, &name, flags, Mode::empty())?, depth + 1)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            // Nodes that exist already are the usual ones.
            let _exists = rustix::fs::mknodat(to, &name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev);
        }
    }
    Ok(())
}

/// The container's own cgroups at `/sys/fs/cgroup`.
fn cgroups(root: &Root, spec: &ContainerSpec) -> Result<(), Failure> {
    let place = Path::new("/sys/fs/cgroup");
    if replaced(spec, "/sys/fs/cgroup") || root.find_plain(place).is_err() {
        return Ok(());
    }
    let copy = |folder: &Path| -> io::Result<OwnedFd> {
        let mount = tree::copy(folder, false)?;
        let read_only = if spec.privileged { 0 } else { crate::syscall::MOUNT_RDONLY };
        let flags = crate::syscall::MOUNT_NOSUID | crate::syscall::MOUNT_NODEV | crate::syscall::MOUNT_NOEXEC;
        mount_setattr(&mount, false, MountAttr::new(read_only | flags, libc::MS_PRIVATE))?;
        Ok(mount)
    };
    let fill = || -> io::Result<()> {
        if spec.cgroups.v1.is_empty() {
            return match &spec.cgroups.v2 {
                Some(folder) => tree::attach(copy(folder)?, root.find_plain(place)?),
                None => Ok(()),
            };
        }
        let top = tree::filesystem("tmpfs", &[("mode", "755")], NO_SUID | NO_EXEC | NO_DEV)?;
        tree::attach(&top, root.find_plain(place)?)?;
        for folder in spec.cgroups.v1.iter().chain(&spec.cgroups.v2) {
            // /sys/fs/cgroup/<hierarchy>/…
            let Some(hierarchy) = folder.components().nth(4) else { continue };
            rustix::fs::mkdirat(&top, hierarchy.as_os_str(), Mode::from(0o755))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            tree::attach(copy(folder)?, rustix::fs::openat(&top, hierarchy.as_os_str(), flags, Mode::empty())?)?;
        }
        if spec.privileged { Ok(()) } else { tree::read_only(&top, false) }
    };
    fill().map_err(failed("error mounting to rootfs at", place))
}

/// Puts a copied mount at a path, which may lead through links of the image, but never out of it.
fn place(root: &Root, mount: &OwnedFd, path: &Path) -> io::Result<()> {
    let target = if tree::is_folder(mount)? { root.folder(path)? } else { root.file(path)? };
    tree::attach(mount, target)
}

/// Further devices of the container.
fn devices(root: &Root, spec: &ContainerSpec) -> Result<(), Failure> {
    for device in &spec.devices {
        let make = || -> io::Result<()> {
            let stat = rustix::fs::stat(&device.source)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if !kind.is_char_device() && !kind.is_block_device() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device node"));
            }
            let (parent, name) = root.parent(&device.target)?;
            match rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev) {
                Err(rustix::io::Errno::EXIST) => Ok(()),
                made => Ok(made?),
            }
        };
        make().map_err(failed("error making device", &device.source))?;
    }
    Ok(())
}

/// Masks and write-protects what the kernel shows of the machine.
fn hide(root: &Root) -> Result<(), Failure> {
    for path in READ_ONLY.iter().map(Path::new) {
        let Ok(place) = root.find_plain(path) else { continue };
        let protect = || -> io::Result<()> {
            let copy = tree::copy_fd(&place)?;
            tree::read_only(&copy, false)?;
            tree::attach(copy, &place)
        };
        protect().map_err(failed("make read only", path))?;
    }
    let throttle = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let throttle = throttle.map(|entry| entry.path().join("thermal_throttle")).filter(|path| path.exists());
    for path in MASKED.iter().map(PathBuf::from).chain(throttle) {
        let Ok(place) = root.find_plain(&path) else { continue };
        mask(&place).map_err(failed("mask", &path))?;
    }
    Ok(())
}

fn mask(place: &OwnedFd) -> io::Result<()> {
    if tree::is_folder(place)? {
        let nothing = [("size", "0"), ("mode", "755"), ("nr_inodes", "2")];
        return tree::attach(tree::filesystem("tmpfs", &nothing, MountAttrFlags::MOUNT_ATTR_RDONLY)?, place);
    }
    // The machine's own /dev/null, not one that the container could have swapped.
    tree::attach(tree::copy_fd(rustix::fs::openat(CWD, "/dev/null", OFlags::PATH, Mode::empty())?.as_fd())?, place)
}
