//! Starting processes: fork, and follow the child until its program runs or it says why not.

use super::container::{self, Container, Ends};
use super::log::{Log, now_ns};
use super::{Exec, Shim, init};
use crate::spec::{Cgroups, ContainerSpec, PidMode, Process};
use crate::syscall::{self, Side};
use crate::wire::{self, Failure, Reply};
use init::Stdio;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A child whose program does not run yet.
pub(super) struct Starting {
    pub(super) pid: i32,
    /// The far end of the child's `sync`.
    pub(super) sync: OwnedFd,
    connection: u64,
    /// An exec's terminal, to go with the answer.
    terminal: Option<OwnedFd>,
}

/// Makes reads and writes fail instead of wait.
pub(super) fn without_blocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

fn step(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(format!("{what}: {}", crate::reason(&error)))
}

/// A pair of sockets between shim and child that keeps messages apart.
fn sync_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    without_blocking(&pair.0)?;
    Ok(pair)
}

/// A pipe from the container (`inward` false) or to it, the shim's end first and not blocking.
fn pipe(inward: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (mine, theirs) = if inward { (write, read) } else { (read, write) };
    without_blocking(&mine)?;
    Ok((mine, theirs))
}

fn open_cgroup(cgroups: &Cgroups) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(cgroups.v2.as_ref().map(|folder| rustix::fs::open(folder, flags, Mode::empty())).transpose()?)
}

fn streams(spec: &ContainerSpec) -> io::Result<(Ends, Stdio)> {
    let (mut ends, mut stdio) = (Ends::default(), Stdio { stdin: None, stdout: None, stderr: None });
    if spec.process.tty {
        return Ok((ends, stdio));
    }
    let (mine, theirs) = pipe(false)?;
    (ends.outputs[0], stdio.stdout) = (Some(mine), Some(theirs));
    let (mine, theirs) = pipe(false)?;
    (ends.outputs[1], stdio.stderr) = (Some(mine), Some(theirs));
    if spec.stdin {
        let (mine, theirs) = pipe(true)?;
        (ends.stdin, stdio.stdin) = (Some(mine), Some(theirs));
    }
    Ok((ends, stdio))
}

impl Shim {
    /// Forks a container's first process.
    pub(super) fn start(&mut self, connection: u64, spec: &ContainerSpec) -> Result<(), Failure> {
        if self.ending.is_some() {
            return Err(Failure::new("the pod is being stopped"));
        }
        if self.containers.iter().any(|container| container.record.id == spec.id) {
            return Err(Failure::new(format!("container {} was started already", spec.id)));
        }
        let log = Log::open(&spec.log_path).map_err(step(&format!("open log {}", spec.log_path.display())))?;
        let (ends, stdio) = streams(spec).map_err(step("make streams"))?;
        let (sync, child_sync) = sync_pair().map_err(step("make a socket pair"))?;
        let cgroup = open_cgroup(&spec.cgroups).map_err(step("open cgroup"))?;
        if spec.pid == PidMode::Pod {
            let pause = self.pause.as_ref().ok_or_else(|| Failure::new("the pod shares no process namespace"))?;
            init::children_in(pause).map_err(step("enter the pod's process namespace"))?;
        }
        let forked = syscall::clone3(init::namespaces(spec), cgroup.as_ref());
        if let Ok(Side::Child) = forked {
            init::child(child_sync, |sync| init::first(spec, stdio, sync));
        }
        if spec.pid == PidMode::Pod {
            init::children_in(&self.own_pidns).map_err(step("return to the own process namespace"))?;
        }
        let Side::Parent(pid, pidfd) = forked.map_err(step("clone"))? else { unreachable!("the child never returns") };
        self.containers.push(Container::new(spec, pid, pidfd, log, ends));
        self.starting.push(Starting { pid, sync, connection, terminal: None });
        Ok(())
    }

    /// Forks a further process of a container.
    pub(super) fn exec(
        &mut self,
        connection: u64,
        id: &str,
        process: &Process,
        cgroups: &Cgroups,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let running = |container: &&Container| container.record.id == id && container.running();
        let container = self.containers.iter().find(running).ok_or_else(|| Failure::gone(id))?;
        let mut fds = fds.into_iter();
        let mut next = || fds.next().filter(|_| !process.tty);
        let stdio = Stdio { stdin: next(), stdout: next(), stderr: next() };
        let (sync, child_sync) = sync_pair().map_err(step("make a socket pair"))?;
        let cgroup = open_cgroup(cgroups).map_err(step("open cgroup"))?;
        let namespace = match container.pid_mode {
            PidMode::Node => None,
            PidMode::Container => Some(&container.pidfd),
            PidMode::Pod => self.pause.as_ref(),
        };
        if let Some(namespace) = namespace {
            init::children_in(namespace).map_err(step("enter the process namespace"))?;
        }
        let forked = syscall::clone3(0, cgroup.as_ref());
        if let Ok(Side::Child) = forked {
            let target = &container.pidfd;
            init::child(child_sync, |sync| init::further(process, &cgroups.v1, target, stdio, sync));
        }
        if namespace.is_some() {
            init::children_in(&self.own_pidns).map_err(step("return to the own process namespace"))?;
        }
        let Side::Parent(pid, pidfd) = forked.map_err(step("clone"))? else { unreachable!("the child never returns") };
        self.execs.push(Exec { pid, pidfd, connection });
        self.starting.push(Starting { pid, sync, connection, terminal: None });
        Ok(())
    }

    /// Takes what a starting child says; the end of its socket means that its program runs.
    pub(super) fn progress(&mut self, pid: i32) {
        while let Some(index) = self.starting.iter().position(|starting| starting.pid == pid) {
            let (mut bytes, mut fds) = (Vec::new(), Vec::new());
            match wire::receive(&self.starting[index].sync, &mut bytes, &mut fds) {
                Ok(0) => return self.runs(index),
                Ok(_) if !fds.is_empty() => self.take_terminal(index, fds.swap_remove(0)),
                Ok(_) => {
                    let failure = wire::decode(&mut bytes).ok().flatten();
                    return self.cannot_run(index, failure.unwrap_or_else(|| Failure::new("the child said nonsense")));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.runs(index),
            }
        }
    }

    fn take_terminal(&mut self, index: usize, master: OwnedFd) {
        let starting = &mut self.starting[index];
        match self.containers.iter_mut().find(|container| container.record.pid == starting.pid) {
            Some(container) => {
                let _blocks = without_blocking(&master);
                container.outputs[0] = Some(master);
            }
            None => starting.terminal = Some(master),
        }
    }

    fn runs(&mut self, index: usize) {
        let starting = self.starting.swap_remove(index);
        let mut reply = Reply::Started { pid: starting.pid, started_at_ns: 0 };
        if let Some(container) = self.containers.iter_mut().find(|c| c.record.pid == starting.pid) {
            container.record.started_at_ns = now_ns();
            reply = Reply::Started { pid: starting.pid, started_at_ns: container.record.started_at_ns };
            let _disk_full = container::write_record(&self.dir, &container.record);
        }
        let fds: Vec<_> = starting.terminal.iter().map(AsFd::as_fd).collect();
        if let Some(connection) = self.connections.iter_mut().find(|c| c.number == starting.connection) {
            connection.send(&reply, &fds);
        }
    }

    fn cannot_run(&mut self, index: usize, failure: Failure) {
        let starting = self.starting.swap_remove(index);
        self.execs.retain(|exec| exec.pid != starting.pid);
        if let Some(container) = self.containers.iter_mut().find(|c| c.record.pid == starting.pid) {
            container.record.start_error = Some(failure.message.clone());
            container.record.exit_code = failure.exit_code;
            container.record.finished_at_ns = now_ns();
            let _disk_full = container::write_record(&self.dir, &container.record);
        }
        self.reply(starting.connection, &Reply::Failed(failure));
    }
}
