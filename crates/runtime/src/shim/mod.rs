//! The shim: one process a pod, which holds its namespaces, containers, logs and exit codes.

mod connection;
mod container;
mod identity;
mod init;
mod log;
mod pod;
mod rootfs;
mod serve;
mod start;
mod tree;

use crate::syscall;
use crate::wire::{Reply, Request};
use connection::{Connection, Role};
use container::Container;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use start::Starting;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The name under which the program is executed to be a shim.
pub const NAME: &str = "kijabi-shim";

/// Whether this program was started to be a shim: then nothing but [`main`] shall run.
pub fn requested() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Is a shim until its pod is shut down; gives the exit code. To be called at the very top of the program's `main`.
/// Standard input is the first connection, and the first message on it the pod.
pub fn main() -> i32 {
    syscall::close_from(3, None);
    match pod::open() {
        Ok(mut shim) => {
            shim.run();
            0
        }
        Err(()) => 1,
    }
}

/// A pod's shim.
struct Shim {
    dir: PathBuf,
    signals: OwnedFd,
    listener: OwnedFd,
    connections: Vec<Connection>,
    next_connection: u64,
    containers: Vec<Container>,
    starting: Vec<Starting>,
    execs: Vec<Exec>,
    /// This process's own process namespace.
    own_pidns: OwnedFd,
    /// The first process of the pod's shared process namespace.
    pause: Option<OwnedFd>,
    /// The connection that asked to end.
    ending: Option<u64>,
}

/// A process run in a container.
struct Exec {
    pid: i32,
    pidfd: OwnedFd,
    connection: u64,
}

/// Where something can be read or written.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Starting(i32),
    Output(usize, usize),
    Input(usize),
    ClientInput(usize, u64),
    ClientOutput(usize, u64, usize),
}

impl Shim {
    fn run(&mut self) {
        syscall::trim_heap();
        loop {
            let ready = self.wait();
            for (source, flags) in ready {
                self.handle(source, flags);
            }
            self.connections.retain(|connection| !connection.closed());
            self.containers.retain(|container| !container.record.id.is_empty());
            if let Some(connection) = self.ending
                && self.containers.iter().all(|container| container.record.pid == 0)
                && self.starting.is_empty()
            {
                self.reply(connection, &Reply::Done);
                return;
            }
        }
    }

    /// Waits until something can be done; no timers, so an idle pod costs nothing.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let (input, output) = (PollFlags::IN, PollFlags::OUT);
        let mut sources = vec![(Source::Signals, &self.signals, input), (Source::Listener, &self.listener, input)];
        for connection in &self.connections {
            let flags = if connection.wants_to_write() { input | output } else { input };
            sources.push((Source::Connection(connection.number), &connection.socket, flags));
        }
        for starting in &self.starting {
            sources.push((Source::Starting(starting.pid), &starting.sync, input));
        }
        for (index, container) in self.containers.iter().enumerate() {
            for which in 0..2 {
                if let (true, Some(fd)) = (container.readable(which), &container.outputs[which]) {
                    sources.push((Source::Output(index, which), fd, input));
                }
            }
            if let Some(fd) = container.input_target() {
                sources.push((Source::Input(index), fd, output));
            }
            for client in &container.clients {
                if let (true, Some(fd)) = (container.takes_input(), &client.stdin) {
                    sources.push((Source::ClientInput(index, client.connection), fd, input));
                }
                for which in 0..2 {
                    if let (false, Some(fd)) = (client.waiting[which].is_empty(), &client.outputs[which]) {
                        sources.push((Source::ClientOutput(index, client.connection, which), fd, output));
                    }
                }
            }
        }
        let mut polled: Vec<_> = sources.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        let ready = sources.iter().zip(&polled).map(|((source, _, _), polled)| (*source, polled.revents()));
        ready.filter(|(_, flags)| !flags.is_empty()).collect()
    }

    /// Containers are neither added before nor removed from the list while what was ready is handled (`Forget` marks).
    fn handle(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Signals => self.reap(),
            Source::Listener => self.accept(),
            Source::Connection(number) => self.serve(number, flags),
            Source::Starting(pid) => self.progress(pid),
            Source::Output(index, which) => {
                self.containers[index].read(which);
            }
            Source::Input(index) => self.containers[index].feed(),
            Source::ClientInput(index, number) => self.containers[index].take_input(number),
            Source::ClientOutput(index, number, which) => {
                let clients = &mut self.containers[index].clients;
                if let Some(client) = clients.iter_mut().find(|client| client.connection == number) {
                    client.offer(which, &[]);
                }
            }
        }
        self.release_clients();
    }

    /// Clients of an ended container that took everything are let go, which tells them the end.
    fn release_clients(&mut self) {
        for container in &mut self.containers {
            if container.record.finished_at_ns == 0 || container.record.pid != 0 {
                continue;
            }
            let done = |client: &container::Client| client.waiting.iter().all(Vec::is_empty);
            for client in container.clients.iter().filter(|client| done(client)) {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.number == client.connection) {
                    connection.finish();
                }
            }
            container.clients.retain(|client| !done(client));
        }
    }

    fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            self.next_connection += 1;
            self.connections.push(Connection::new(self.next_connection, socket, Role::New));
        }
    }

    /// Reads a connection and does what it asks.
    fn serve(&mut self, number: u64, flags: PollFlags) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) else {
            return;
        };
        if flags.contains(PollFlags::OUT) {
            connection.flush();
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            connection.fill();
        }
        loop {
            let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) else {
                return;
            };
            match connection.next::<Request>() {
                Ok(Some(request)) => self.answer(number, request),
                Ok(None) => break,
                Err(error) => {
                    let failure = crate::wire::Failure::new(format!("the shim does not understand: {error}"));
                    self.reply(number, &Reply::Failed(failure));
                    break;
                }
            }
        }
        if self.connections.iter().any(|connection| connection.number == number && connection.ended()) {
            self.hang_up(number);
        }
    }

    /// The far end closed a connection: what it stood for ends.
    fn hang_up(&mut self, number: u64) {
        for exec in self.execs.iter().filter(|exec| exec.connection == number) {
            let _ended = syscall::signal(&exec.pidfd, libc::SIGKILL);
        }
        self.containers.iter_mut().for_each(|container| container.detach(number));
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) {
            connection.close();
        }
    }

    fn reply(&mut self, number: u64, reply: &Reply) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) {
            connection.send(reply, &[]);
        }
    }

    /// Tells all subscribers.
    fn announce(&mut self, reply: &Reply) {
        for connection in self.connections.iter_mut().filter(|connection| connection.role == Role::Events) {
            connection.send(reply, &[]);
        }
    }

    /// Takes the exit codes of children that ended.
    fn reap(&mut self) {
        let mut space = [0; 1024];
        while matches!(rustix::io::read(&self.signals, &mut space), Ok(count) if count > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            let code = status.exit_status().or(signal).unwrap_or(255);
            self.ended(pid.as_raw_nonzero().get(), code);
        }
    }

    fn ended(&mut self, pid: i32, code: i32) {
        // What it said before it ended comes first.
        self.progress(pid);
        if let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) {
            let exec = self.execs.swap_remove(index);
            self.reply(exec.connection, &Reply::Exit { code });
        }
        let Some(container) = self.containers.iter_mut().find(|container| container.record.pid == pid) else { return };
        let started = container.record.started_at_ns != 0;
        container.end(code);
        let record = container.record.clone();
        let _disk_full = container::write_record(&self.dir, &record);
        if started {
            self.announce(&Reply::Ended(record));
        }
        syscall::trim_heap();
    }
}
