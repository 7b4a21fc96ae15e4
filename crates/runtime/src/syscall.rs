//! The fence around system calls that no library of ours wraps: `clone3`, `mount_setattr`, `seccomp`, `bpf`, `execve`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a [`clone3`] this is.
pub(crate) enum Side {
    /// The new process.
    Child,
    /// The caller: the new process's number and a descriptor of it.
    Parent(i32, OwnedFd),
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with new namespaces (`CLONE_NEW*` in `flags`), into the cgroup (version 2) when one is given.
/// Only for a single-threaded program, where the child may go on running ordinary code.
pub(crate) fn clone3(flags: u64, cgroup: Option<&OwnedFd>) -> io::Result<Side> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` lives through the call and has the size told; no CLONE_VM, so the child has its own copy of all
    // memory, and with one thread no lock can be held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        // SAFETY: the kernel made this descriptor for us (CLONE_PIDFD) and nobody else owns it.
        _ => Ok(Side::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Attributes to change on a mount (`mount_setattr(2)`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0.
    pub(crate) propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_RDONLY`
pub(crate) const MOUNT_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub(crate) const MOUNT_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub(crate) const MOUNT_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub(crate) const MOUNT_NOEXEC: u64 = 0x8;

impl MountAttr {
    /// Sets the flags given and this propagation.
    pub(crate) fn new(set: u64, propagation: libc::c_ulong) -> MountAttr {
        MountAttr { set, propagation, ..MountAttr::default() }
    }
}

/// Changes the mount that `fd` stands for, and those below it when `recursive`.
pub(crate) fn mount_setattr(fd: impl AsFd, recursive: bool, attr: MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string and a structure that lives through the call, with its size.
    let done = unsafe {
        let fd = fd.as_fd().as_raw_fd();
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs a seccomp filter; each `u64` is one `sock_filter`.
pub(crate) fn install_seccomp(program: &[u64], flags: u32) -> io::Result<()> {
    const SET_MODE_FILTER: u32 = 1;
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr() as *mut libc::sock_filter };
    // SAFETY: a `sock_filter` has the size of a `u64` and a smaller alignment; the kernel checks the program's content.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const filter) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Loads a BPF program of the device kind and attaches it to a cgroup of version 2.
pub(crate) fn attach_device_program(program: &[u64], cgroup: impl AsFd) -> io::Result<()> {
    const PROG_LOAD: u32 = 5;
    const PROG_ATTACH: u32 = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        program: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure and the program it points to live through the call; the kernel verifies the program.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = Attach {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: fd.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the structure lives through the call; both descriptors are open.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces this process's program. Returns only on failure.
pub(crate) fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: null-terminated arrays of C strings that live until the call fails.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, running no destructors: for forked children, whose memory is a copy of the parent's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` is always allowed.
    unsafe { libc::_exit(code) }
}

/// Sends a signal through a process descriptor, so that a number used again is never hit.
pub(crate) fn signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is handed over.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, null, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Blocks `signals` and gives a descriptor that tells when one is pending.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before use; the descriptor is fresh.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Unblocks all signals and gives each its default action, as a new program expects.
pub(crate) fn reset_signals() {
    // SAFETY: only this process's own signal state, with a set that `sigemptyset` initialised.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ignores a signal.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: only this process's own signal state.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Closes all descriptors from `first` on but `keep`.
pub(crate) fn close_from(first: u32, keep: Option<RawFd>) {
    let close = |from: u32, to: u32| {
        if from <= to {
            // SAFETY: callers own all descriptors of this process that they do not keep, and use none of them after.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    };
    match keep {
        Some(keep) if keep as u32 >= first => {
            if keep as u32 > first {
                close(first, keep as u32 - 1);
            }
            close(keep as u32 + 1, u32::MAX);
        }
        _ => close(first, u32::MAX),
    }
}

/// Leaves shared namespaces for new ones (`CLONE_NEW*`).
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: only namespaces are ever asked for: descriptors and memory stay as they are.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives back to the system what the allocator holds but does not use.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes `fd` this session's controlling terminal.
pub(crate) fn controlling_terminal(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: an ioctl with an integer argument.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
