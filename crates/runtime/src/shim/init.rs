//! The life of a forked child up to the container's program: join, build or enter, drop rights, execute.

use super::{identity, rootfs};
use crate::spec::{ContainerSpec, PidMode, Process};
use crate::syscall;
use crate::wire::{self, Failure};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, ThreadNameSpaceType};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Descriptors a child starts with.
pub(super) struct Stdio {
    /// Standard input; `/dev/null` when none.
    pub(super) stdin: Option<OwnedFd>,
    /// Standard output.
    pub(super) stdout: Option<OwnedFd>,
    /// Standard error.
    pub(super) stderr: Option<OwnedFd>,
}

/// Runs in a forked child and never returns: `body` ends in executing a program, or says why it could not. The parent
/// reads the reason from the other end of `sync`, and its end when the program was executed.
pub(super) fn child(sync: OwnedFd, body: impl FnOnce(&OwnedFd) -> Failure) -> ! {
    let run = std::panic::AssertUnwindSafe(|| body(&sync));
    let failure = std::panic::catch_unwind(run).unwrap_or_else(|_| Failure::new("the container's set-up panicked"));
    let _parent_gone = wire::send(&sync, &wire::encode(&failure), &[]);
    syscall::exit_now(failure.exit_code)
}

/// The first process of a container.
pub(super) fn first(spec: &ContainerSpec, stdio: Stdio, sync: &OwnedFd) -> Failure {
    let run = || -> Result<(), Failure> {
        prepare(&spec.cgroups.v1, stdio, sync)?;
        adjust_oom_score(spec.oom_score_adj);
        if spec.cgroups.v1.is_empty() && spec.cgroups.v2.is_some() {
            // Own view of the version 2 hierarchy, as containerd gives it.
            syscall::unshare(libc::CLONE_NEWCGROUP).map_err(step("unshare"))?;
        }
        let built = rootfs::build(spec)?;
        let terminal = if spec.process.tty { Some(built.terminal()?) } else { None };
        built.enter()?;
        if let Some((master, slave)) = terminal {
            use_terminal(&master, &slave, sync)?;
        }
        Err(become_program(&spec.process))
    };
    run().err().unwrap_or_else(|| Failure::new("unreachable"))
}

/// A further process of a container; `target` is the container's first process.
pub(super) fn further(process: &Process, v1: &[PathBuf], target: &OwnedFd, stdio: Stdio, sync: &OwnedFd) -> Failure {
    let run = || -> Result<(), Failure> {
        // The machine's cgroup folders are out of sight once inside.
        join_cgroups(v1)?;
        let into = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
        rustix::thread::move_into_thread_name_spaces(target.as_fd(), into).map_err(|e| step("setns")(e.into()))?;
        prepare(&[], stdio, sync)?;
        if process.tty {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || -> io::Result<_> { open_terminal(&rustix::fs::open("/dev/pts", flags, Mode::empty())?) };
            let (master, slave) = open().map_err(step("open a terminal in /dev/pts"))?;
            use_terminal(&master, &slave, sync)?;
        }
        Err(become_program(process))
    };
    run().err().unwrap_or_else(|| Failure::new("unreachable"))
}

fn step(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(format!("{what}: {}", crate::reason(&error)))
}

/// Processes of a container must not look into this one, nor into its children on their way in.
pub(super) fn hide_memory() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| step("prctl")(e.into()))
}

/// What both kinds of child do first: signals, session, cgroups, standard streams, and nothing else open.
fn prepare(v1: &[PathBuf], stdio: Stdio, sync: &OwnedFd) -> Result<(), Failure> {
    syscall::reset_signals();
    rustix::process::setsid().map_err(|e| step("setsid")(e.into()))?;
    rustix::process::umask(Mode::empty());
    join_cgroups(v1)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(|e| step("open /dev/null")(e.into()))?;
    let from = |fd: &Option<OwnedFd>| fd.as_ref().map_or(null.as_fd(), AsFd::as_fd).try_clone_to_owned();
    let fds = (from(&stdio.stdin), from(&stdio.stdout), from(&stdio.stderr));
    let connect = || -> io::Result<()> {
        rustix::stdio::dup2_stdin(fds.0?)?;
        rustix::stdio::dup2_stdout(fds.1?)?;
        rustix::stdio::dup2_stderr(fds.2?)?;
        Ok(())
    };
    connect().map_err(step("dup2"))?;
    // Forget, not close: their numbers are closed below, all at once.
    std::mem::forget((null, stdio));
    syscall::close_from(3, Some(sync.as_raw_fd()));
    Ok(())
}

fn join_cgroups(v1: &[PathBuf]) -> Result<(), Failure> {
    for folder in v1 {
        let join = std::fs::write(folder.join("cgroup.procs"), "0");
        join.map_err(|e| step(&format!("join cgroup {}", folder.display()))(e))?;
    }
    Ok(())
}

/// Raises or lowers the OOM score; lowering needs a right the machine may not give, and then the score stays.
fn adjust_oom_score(score: i32) {
    let _kept = std::fs::write("/proc/self/oom_score_adj", score.to_string());
}

/// Opens a new terminal of a `/dev/pts` mount.
pub(super) fn open_terminal(pts: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    const DEVPTS: u64 = 0x1cd1;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty())?;
    if rustix::fs::fstatfs(&master)?.f_type as u64 != DEVPTS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "/dev/pts is not what it should be"));
    }
    rustix::pty::unlockpt(&master)?;
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// Hands a terminal's master to the shim and makes its far end this process's streams and controlling terminal.
fn use_terminal(master: &OwnedFd, slave: &OwnedFd, sync: &OwnedFd) -> Result<(), Failure> {
    let switch = || -> io::Result<()> {
        wire::send(sync, &[0, 0, 0, 0], &[master.as_fd()])?;
        syscall::controlling_terminal(slave)?;
        rustix::stdio::dup2_stdin(slave)?;
        rustix::stdio::dup2_stdout(slave)?;
        rustix::stdio::dup2_stderr(slave)?;
        Ok(())
    };
    switch().map_err(step("set up the terminal"))
}

/// Becomes the user, drops rights, and executes the program. Returns only with the reason it could not.
fn become_program(process: &Process) -> Failure {
    let run = || -> Result<Failure, Failure> {
        let who = identity::resolve(&process.user).map_err(Failure::new)?;
        let mut env = process.env.clone();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", who.home));
        }
        own_streams(&who);
        limits();
        change_folder(&process.cwd, &who)?;
        drop_rights(process, &who).map_err(step("drop rights"))?;
        rustix::process::umask(Mode::from(0o022));
        // The shim does without huge pages and its children inherit that; containers may have them.
        let _old_kernel = rustix::thread::disable_transparent_huge_pages(false);
        // Without its shim nobody takes its output or exit code. Last, for changes of rights clear it.
        let killed = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(killed).map_err(|e| step("prctl")(e.into()))?;
        Ok(execute(process, &env))
    };
    run().unwrap_or_else(|failure| failure)
}

/// The streams belong to the user, so that `/dev/stdout` can be opened again.
fn own_streams(who: &identity::Identity) {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        // `/dev/null` is a device of all; a terminal and a pipe are this process's alone.
        if kind.is_fifo() || rustix::termios::isatty(fd) {
            let _refused = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(who.uid)), None);
        }
    }
}

/// Open files: enough for servers, and no more than this program's own limit.
fn limits() {
    const SOFT: u64 = 65_536;
    const HARD: u64 = 1_048_576;
    let own = rustix::process::getrlimit(Resource::Nofile);
    let maximum = own.maximum.map_or(HARD, |limit| limit.min(HARD));
    let limit = Rlimit { current: Some(SOFT.min(maximum)), maximum: Some(maximum) };
    let _kept = rustix::process::setrlimit(Resource::Nofile, limit);
}

fn change_folder(cwd: &str, who: &identity::Identity) -> Result<(), Failure> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let change = || -> io::Result<()> {
        let changed = rustix::process::chdir(cwd);
        if matches!(changed, Err(rustix::io::Errno::NOENT)) {
            std::fs::create_dir_all(cwd)?;
            std::os::unix::fs::chown(cwd, Some(who.uid), Some(who.gid))?;
            rustix::process::chdir(cwd)?;
        } else {
            changed?;
        }
        // A folder outside the root has no path that starts at it (CVE-2024-21626).
        let path = rustix::process::getcwd(Vec::new())?;
        if path.as_bytes().first() == Some(&b'/') {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the folder is outside the container"))
    };
    change().map_err(step(&format!("chdir to cwd ({cwd:?}) set in config.json failed")))
}

/// Groups, user, capabilities, seccomp, no_new_privs. Without `no_new_privs` a filter can be installed only while
/// CAP_SYS_ADMIN is there, so it comes before the capabilities go; with it, last of all.
fn drop_rights(process: &Process, who: &identity::Identity) -> io::Result<()> {
    use rustix::fs::{Gid, Uid};
    let groups: Vec<_> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let gid = Gid::from_raw(who.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    if let (Some(filter), false) = (&process.seccomp, process.no_new_privs) {
        syscall::install_seccomp(filter, 0)?;
    }
    let held = rustix::thread::capabilities(None)?.permitted;
    let wanted = CapabilitySet::from_bits_retain(process.capabilities) & held;
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) if !wanted.contains(capability) => {
                rustix::thread::remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    rustix::thread::set_keep_capabilities(true)?;
    let uid = Uid::from_raw(who.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: wanted, permitted: wanted, inheritable: none })?;
    rustix::thread::set_keep_capabilities(false)?;
    let _old_kernel = rustix::thread::clear_ambient_capability_set();
    if process.no_new_privs {
        rustix::thread::set_no_new_privs(true)?;
        if let Some(filter) = &process.seccomp {
            syscall::install_seccomp(filter, 0)?;
        }
    }
    Ok(())
}

/// Finds the program as the shell would and becomes it.
fn execute(process: &Process, env: &[String]) -> Failure {
    let Some(name) = process.args.first().filter(|name| !name.is_empty()) else {
        return Failure { exit_code: 127, ..Failure::new("no command specified") };
    };
    let cannot = |exit_code: i32, why: &str| Failure { exit_code, ..Failure::new(format!("exec: {name:?}: {why}")) };
    let path = match find_program(name, env) {
        Ok(path) => path,
        Err((code, why)) => return cannot(code, &why),
    };
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_bytes())).collect::<Result<Vec<_>, _>>();
    let path = CString::new(path.into_os_string().into_encoded_bytes());
    match (path, strings(&process.args), strings(env)) {
        (Ok(path), Ok(args), Ok(env)) => {
            let error = syscall::execve(&path, &args, &env);
            cannot(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }, &crate::reason(&error))
        }
        _ => cannot(126, "an argument or variable holds a zero byte"),
    }
}

fn find_program(name: &str, env: &[String]) -> Result<PathBuf, (i32, String)> {
    let usable = |path: &Path| -> Result<(), io::Error> {
        let stat = rustix::fs::stat(path)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        Ok(rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS)?)
    };
    if name.contains('/') {
        return match usable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err((127, format!("stat {name}: no such file or directory")))
            }
            Err(error) => Err((126, crate::reason(&error))),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut refused = None;
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let candidate = Path::new(folder).join(name);
        match usable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = Some(crate::reason(&error)),
            Err(_) => {}
        }
    }
    match refused {
        Some(why) => Err((126, why)),
        None => Err((127, "executable file not found in $PATH".to_owned())),
    }
}

/// The namespaces a container's first process starts with.
pub(super) fn namespaces(spec: &ContainerSpec) -> u64 {
    let own_pid = if spec.pid == PidMode::Container { libc::CLONE_NEWPID } else { 0 };
    (libc::CLONE_NEWNS | own_pid) as u64
}

/// Makes children of this process start in another process namespace, or in its own again.
pub(super) fn children_in(namespace: impl AsFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?)
}
