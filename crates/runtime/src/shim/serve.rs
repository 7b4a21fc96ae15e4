//! What the shim does on request.

use super::connection::Role;
use super::container::Client;
use super::{Shim, start};
use crate::syscall;
use crate::wire::{Failure, Reply, Request, VERSION};
use std::os::fd::OwnedFd;

impl Shim {
    /// Does what a connection asks for.
    pub(super) fn answer(&mut self, number: u64, request: Request) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) else {
            return;
        };
        let fds = std::mem::take(&mut connection.fds);
        match request {
            Request::Pod(_) => self.fail(number, Failure::new("this shim has a pod already")),
            Request::Subscribe => {
                connection.role = Role::Events;
                let hello = self.hello();
                self.reply(number, &hello);
            }
            Request::Start(spec) => {
                if let Err(failure) = self.start(number, &spec) {
                    self.fail(number, failure);
                }
            }
            Request::Exec { id, process, cgroups } => {
                if let Err(failure) = self.exec(number, &id, &process, &cgroups, fds) {
                    self.fail(number, failure);
                }
            }
            Request::Attach { id, stdin, stdout, stderr } => self.attach(number, &id, [stdin, stdout, stderr], fds),
            Request::Resize { width, height } => self.resize(number, width, height),
            Request::Signal { id, signal } => {
                let done =
                    match self.containers.iter().find(|container| container.record.id == id && container.running()) {
                        Some(container) => syscall::signal(&container.pidfd, signal)
                            .map_err(|error| Failure::new(format!("signal {signal}: {}", crate::reason(&error)))),
                        None => Err(Failure::gone(&id)),
                    };
                self.conclude(number, done);
            }
            Request::ReopenLog { id, path } => {
                let done = match self.containers.iter_mut().find(|container| container.record.id == id) {
                    Some(container) => container
                        .log
                        .reopen(&path)
                        .map_err(|error| Failure::new(format!("open {}: {}", path.display(), crate::reason(&error)))),
                    None => Err(Failure::gone(&id)),
                };
                self.conclude(number, done);
            }
            Request::Forget { id } => {
                if let Some(container) = self.containers.iter_mut().find(|c| c.record.id == id && c.record.pid == 0) {
                    container.record.id.clear();
                    let _never_written = std::fs::remove_file(crate::client::record_path(&self.dir, &id));
                }
                self.conclude(number, Ok(()));
            }
            Request::Shutdown => {
                self.ending = Some(number);
                for container in self.containers.iter().filter(|container| container.record.pid != 0) {
                    let _ended = syscall::signal(&container.pidfd, libc::SIGKILL);
                }
                if let Some(pause) = &self.pause {
                    let _ended = syscall::signal(pause, libc::SIGKILL);
                }
            }
        }
    }

    /// The greeting.
    pub(super) fn hello(&self) -> Reply {
        let known = self.containers.iter().filter(|container| !container.record.id.is_empty());
        let containers = known.map(|container| container.record.clone()).collect();
        Reply::Hello { version: VERSION, pid: rustix::process::getpid().as_raw_nonzero().get(), containers }
    }

    fn fail(&mut self, number: u64, failure: Failure) {
        self.reply(number, &Reply::Failed(failure));
    }

    fn conclude(&mut self, number: u64, done: Result<(), Failure>) {
        self.reply(number, &done.map_or_else(Reply::Failed, |()| Reply::Done));
    }

    fn attach(&mut self, number: u64, id: &str, wanted: [bool; 3], fds: Vec<OwnedFd>) {
        let running = |container: &&mut super::Container| container.record.id == id && container.running();
        let Some(container) = self.containers.iter_mut().find(running) else {
            self.fail(number, Failure::gone(id));
            return;
        };
        let mut fds = fds.into_iter();
        let mut take = |wanted: bool| if wanted { fds.next() } else { None };
        let [stdin, stdout, stderr] = wanted.map(&mut take);
        for fd in [&stdin, &stdout, &stderr].into_iter().flatten() {
            let _blocks = start::without_blocking(fd);
        }
        let waiting = [Vec::new(), Vec::new()];
        container.clients.push(Client { connection: number, stdin, outputs: [stdout, stderr], waiting });
        self.reply(number, &Reply::Done);
    }

    fn resize(&mut self, number: u64, width: u16, height: u16) {
        let attached = |container: &&super::Container| container.clients.iter().any(|c| c.connection == number);
        if let Some(container) = self.containers.iter().find(attached)
            && let (true, Some(master)) = (container.tty, &container.outputs[0])
        {
            let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
            let _closed = rustix::termios::tcsetwinsize(master, size);
        }
    }
}
