//! What the shim keeps of a container: its process, its streams, its log, and who is attached.

use super::log::{Log, Stream};
use crate::spec::{ContainerRecord, ContainerSpec, PidMode};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The most read from a container at once.
const READ_SIZE_MAX: usize = 16 * 1024;

/// A container of this pod.
pub(super) struct Container {
    pub(super) record: ContainerRecord,
    pub(super) pidfd: OwnedFd,
    pub(super) pid_mode: PidMode,
    pub(super) log: Log,
    /// Ends of its output pipes; a terminal's master is the first.
    pub(super) outputs: [Option<OwnedFd>; 2],
    /// The end of its input pipe; with a terminal its master serves.
    pub(super) stdin: Option<OwnedFd>,
    /// Input that did not fit yet.
    pub(super) stdin_waiting: Vec<u8>,
    /// Close the input when what waits is written.
    pub(super) stdin_ends: bool,
    pub(super) stdin_once: bool,
    pub(super) tty: bool,
    pub(super) oom_file: Option<PathBuf>,
    pub(super) clients: Vec<Client>,
}

/// A client attached to a container.
pub(super) struct Client {
    /// Its connection.
    pub(super) connection: u64,
    /// Where its input comes from.
    pub(super) stdin: Option<OwnedFd>,
    /// Where output goes.
    pub(super) outputs: [Option<OwnedFd>; 2],
    /// Output it did not take yet.
    pub(super) waiting: [Vec<u8>; 2],
}

impl Client {
    /// Takes bytes for the client, or as much as there was waiting when empty.
    pub(super) fn offer(&mut self, which: usize, bytes: &[u8]) {
        let Some(pipe) = &self.outputs[which] else { return };
        let waiting = &mut self.waiting[which];
        waiting.extend_from_slice(bytes);
        while !waiting.is_empty() {
            match rustix::io::write(pipe, waiting) {
                Ok(written) => {
                    waiting.drain(..written);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.outputs[which] = None;
                    self.waiting[which] = Vec::new();
                    return;
                }
            }
        }
        *waiting = Vec::new();
    }
}

impl Container {
    pub(super) fn new(spec: &ContainerSpec, pid: i32, pidfd: OwnedFd, log: Log, ends: Ends) -> Container {
        Container {
            record: ContainerRecord { id: spec.id.clone(), pid, ..ContainerRecord::default() },
            pidfd,
            pid_mode: spec.pid,
            log,
            outputs: ends.outputs,
            stdin: ends.stdin,
            stdin_waiting: Vec::new(),
            stdin_ends: false,
            stdin_once: spec.stdin_once,
            tty: spec.process.tty,
            oom_file: spec.cgroups.oom_file.clone(),
            clients: Vec::new(),
        }
    }

    /// Whether its process was started and did not end.
    pub(super) fn running(&self) -> bool {
        self.record.started_at_ns != 0 && self.record.finished_at_ns == 0
    }

    /// Whether output may be read: every client took what it was given.
    pub(super) fn readable(&self, which: usize) -> bool {
        self.outputs[which].is_some() && self.clients.iter().all(|client| client.waiting[which].is_empty())
    }

    /// Reads output once; false when there is no more now.
    pub(super) fn read(&mut self, which: usize) -> bool {
        let Some(fd) = &self.outputs[which] else { return false };
        let mut buffer = [0; READ_SIZE_MAX];
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => self.outputs[which] = None,
            Ok(count) => {
                let stream = if which == 0 { Stream::Stdout } else { Stream::Stderr };
                self.log.write(stream, &buffer[..count]);
                self.clients.iter_mut().for_each(|client| client.offer(which, &buffer[..count]));
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {}
            // A terminal whose far end is closed.
            Err(_) => self.outputs[which] = None,
        }
        false
    }

    /// Reads all that is there.
    pub(super) fn drain(&mut self) {
        for which in 0..2 {
            while self.read(which) {}
        }
    }

    /// Whether a client's input may be read.
    pub(super) fn takes_input(&self) -> bool {
        self.stdin_waiting.is_empty()
            && !self.stdin_ends
            && (self.stdin.is_some() || self.tty && self.outputs[0].is_some())
    }

    /// Reads a client's input once and passes it on. Its end closes the container's, when it is to be closed once.
    pub(super) fn take_input(&mut self, connection: u64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.connection == connection) else { return };
        let Some(fd) = &client.stdin else { return };
        let mut buffer = [0; READ_SIZE_MAX];
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => {
                client.stdin = None;
                self.stdin_ends |= self.stdin_once;
            }
            Ok(count) => self.stdin_waiting.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => client.stdin = None,
        }
        self.feed();
    }

    /// Writes waiting input to the process.
    pub(super) fn feed(&mut self) {
        let target = if self.tty { self.outputs[0].as_ref() } else { self.stdin.as_ref() };
        if let Some(fd) = target {
            while !self.stdin_waiting.is_empty() {
                match rustix::io::write(fd, &self.stdin_waiting) {
                    Ok(written) => {
                        self.stdin_waiting.drain(..written);
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    Err(_) => {
                        self.stdin = None;
                        break;
                    }
                }
            }
        }
        self.stdin_waiting = Vec::new();
        if self.stdin_ends && !self.tty {
            self.stdin = None;
        }
    }

    /// Where waiting input goes, when there is some.
    pub(super) fn input_target(&self) -> Option<&OwnedFd> {
        let target = if self.tty { self.outputs[0].as_ref() } else { self.stdin.as_ref() };
        target.filter(|_| !self.stdin_waiting.is_empty())
    }

    /// A client's connection is gone.
    pub(super) fn detach(&mut self, connection: u64) {
        let before = self.clients.len();
        let had_input = self.clients.iter().any(|client| client.connection == connection && client.stdin.is_some());
        self.clients.retain(|client| client.connection != connection);
        if before != self.clients.len() && had_input && self.stdin_once {
            self.stdin_ends = true;
            self.feed();
        }
    }

    /// Its process ended: reads what is left, closes the log, and notes how it ended.
    pub(super) fn end(&mut self, exit_code: i32) {
        self.drain();
        self.log.finish();
        self.outputs = [None, None];
        self.stdin = None;
        self.stdin_waiting = Vec::new();
        self.clients.iter_mut().for_each(|client| client.stdin = None);
        self.record.pid = 0;
        if self.record.finished_at_ns == 0 {
            self.record.finished_at_ns = super::log::now_ns();
            self.record.exit_code = exit_code;
        }
        self.record.oom_killed = exit_code != 0 && self.oom_file.as_deref().is_some_and(|file| oom_kills(file) > 0);
    }
}

/// The shim's ends of a new container's streams.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) outputs: [Option<OwnedFd>; 2],
    pub(super) stdin: Option<OwnedFd>,
}

/// How often the kernel killed something in a cgroup for want of memory.
fn oom_kills(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Writes a container's record beside the shim's socket, whole or not at all.
pub(super) fn write_record(dir: &Path, record: &ContainerRecord) -> io::Result<()> {
    let path = crate::client::record_path(dir, &record.id);
    let draft = path.with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(record)?)?;
    std::fs::rename(&draft, &path)
}
