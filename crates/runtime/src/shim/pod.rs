//! Becoming the shim of a pod: leave the starter, enter the pod's namespaces, open the socket.

use super::connection::{Connection, Role};
use super::{Shim, init};
use crate::spec::PodSpec;
use crate::syscall::{self, Side};
use crate::wire::{Failure, Reply, Request};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Kernel parameters every pod with a network of its own gets, as containerd sets them: ports below 1,024 and ICMP echo
/// need no rights.
const DEFAULT_SYSCTLS: &[(&str, &str)] =
    &[("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Reads the pod from standard input, sets all up, and greets. On failure the reason was sent.
pub(super) fn open() -> Result<Shim, ()> {
    syscall::ignore_signal(libc::SIGPIPE);
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // A terminal's or a service manager's "all of them" is not for pods.
        syscall::ignore_signal(signal);
    }
    let mut connection = Connection::new(0, take_stdin().map_err(drop)?, Role::Events);
    match receive_pod(&mut connection).and_then(|pod| assemble(&pod)) {
        Ok(mut shim) => {
            let hello = shim.hello();
            connection.send(&hello, &[]);
            shim.connections.push(connection);
            Ok(shim)
        }
        Err(failure) => {
            connection.send(&Reply::Failed(failure), &[]);
            Err(())
        }
    }
}

/// Moves the first connection off standard input and leaves nothing in the three usual places.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    super::start::without_blocking(&socket)?;
    Ok(socket)
}

fn receive_pod(connection: &mut Connection) -> Result<PodSpec, Failure> {
    loop {
        let mut polled = [rustix::event::PollFd::new(&connection.socket, rustix::event::PollFlags::IN)];
        let _interrupted = rustix::event::poll(&mut polled, None);
        connection.fill();
        match connection.next() {
            Ok(Some(Request::Pod(pod))) => return Ok(*pod),
            Ok(None) if !connection.ended() => {}
            _ => return Err(Failure::new("a shim is first told its pod")),
        }
    }
}

fn step(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(format!("{what}: {}", crate::reason(&error)))
}

fn assemble(pod: &PodSpec) -> Result<Shim, Failure> {
    let _old_kernel = rustix::thread::set_name(c"kijabi-shim");
    // Children on their way into a container inherit it: nothing inside can look into them.
    init::hide_memory()?;
    rustix::process::setsid().map_err(|e| step("setsid")(e.into()))?;
    rustix::process::chdir("/").map_err(|e| step("chdir")(e.into()))?;
    for folder in &pod.cgroups {
        let join = std::fs::write(folder.join("cgroup.procs"), "0");
        join.map_err(step(&format!("join cgroup {}", folder.display())))?;
    }
    // Refused without CAP_SYS_RESOURCE; then the score stays as the starter's.
    let _kept = std::fs::write("/proc/self/oom_score_adj", "-999");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| step("prctl")(e.into()))?;
    namespaces(pod)?;
    let signals = syscall::signal_fd(&[libc::SIGCHLD]).map_err(step("signalfd"))?;
    let own_pidns = open_path(Path::new("/proc/self/ns/pid"))?;
    let pause = if pod.shared_pid { Some(pause().map_err(step("start pause"))?) } else { None };
    Ok(Shim {
        dir: pod.dir.clone(),
        signals,
        listener: listen(&pod.dir).map_err(step("listen"))?,
        connections: Vec::new(),
        next_connection: 0,
        containers: Vec::new(),
        starting: Vec::new(),
        execs: Vec::new(),
        own_pidns,
        pause,
        ending: None,
    })
}

fn open_path(path: &Path) -> Result<OwnedFd, Failure> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| step(&format!("open {}", path.display()))(e.into()))
}

/// Enters or makes the pod's namespaces: containers inherit them.
fn namespaces(pod: &PodSpec) -> Result<(), Failure> {
    if let Some(path) = &pod.netns {
        let enter =
            rustix::thread::move_into_link_name_space(open_path(path)?.as_fd(), Some(LinkNameSpaceType::Network));
        enter.map_err(|e| step("enter the network namespace")(e.into()))?;
    }
    let own = if pod.own_ipc { libc::CLONE_NEWIPC } else { 0 } | if pod.own_uts { libc::CLONE_NEWUTS } else { 0 };
    syscall::unshare(own).map_err(step("unshare"))?;
    if pod.own_uts {
        rustix::system::sethostname(pod.hostname.as_bytes()).map_err(|e| step("sethostname")(e.into()))?;
    }
    let write = |name: &str, value: &str| {
        // `a.b/c` names the folder a and the file `b.c`, as sysctl(8) has it.
        let path: String = name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect();
        std::fs::write(Path::new("/proc/sys").join(path.trim_start_matches('/')), value)
    };
    for (name, value) in
        DEFAULT_SYSCTLS.iter().filter(|(name, _)| pod.netns.is_some() && !pod.sysctls.contains_key(*name))
    {
        // Old kernels lack some.
        let _missing = write(name, value);
    }
    for (name, value) in &pod.sysctls {
        write(name, value).map_err(step(&format!("set sysctl {name}={value}")))?;
    }
    Ok(())
}

fn listen(dir: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let (_dir, path) = crate::client::socket_path(dir)?;
    let _none = std::fs::remove_file(&path);
    // The folder is the program's alone (0700) before anything listens in it.
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
    rustix::fs::chmod(&path, Mode::from(0o600))?;
    rustix::net::listen(&listener, 64)?;
    Ok(listener)
}

/// The first process of the pod's process namespace: sleeps, and takes the exit codes of orphans.
fn pause() -> io::Result<OwnedFd> {
    match syscall::clone3(libc::CLONE_NEWPID as u64, None)? {
        Side::Parent(_, pidfd) => {
            // Proves that the namespace is there.
            init::children_in(&pidfd)?;
            init::children_in(rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
            Ok(pidfd)
        }
        Side::Child => {
            syscall::close_from(3, None);
            let _old_kernel = rustix::thread::set_name(c"pause");
            let _dies_with_it = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let Ok(signals) = syscall::signal_fd(&[libc::SIGCHLD]) else { syscall::exit_now(1) };
            loop {
                let mut polled = [rustix::event::PollFd::new(&signals, rustix::event::PollFlags::IN)];
                let _interrupted = rustix::event::poll(&mut polled, None);
                let mut space = [0; 1024];
                let _more = rustix::io::read(&signals, &mut space);
                while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
            }
        }
    }
}
