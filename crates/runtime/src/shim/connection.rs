//! A connection of the shim: what came in, what still has to go out.

use crate::wire;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What a connection stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing yet.
    New,
    /// It is told what ends.
    Events,
}

/// A connection.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) socket: OwnedFd,
    pub(super) role: Role,
    incoming: Vec<u8>,
    /// Descriptors that came beside the bytes.
    pub(super) fds: Vec<OwnedFd>,
    outgoing: Vec<u8>,
    ended: bool,
    closed: bool,
    finishing: bool,
}

/// A client that lets this much pile up has given up reading.
const OUTGOING_SIZE_MAX: usize = 1 << 20;

impl Connection {
    pub(super) fn new(number: u64, socket: OwnedFd, role: Role) -> Connection {
        Connection {
            number,
            socket,
            role,
            incoming: Vec::new(),
            fds: Vec::new(),
            outgoing: Vec::new(),
            ended: false,
            closed: false,
            finishing: false,
        }
    }

    /// Reads what is there.
    pub(super) fn fill(&mut self) {
        loop {
            match wire::receive(&self.socket, &mut self.incoming, &mut self.fds) {
                Ok(0) => self.ended = true,
                Ok(_) if self.incoming.len() <= wire::MESSAGE_SIZE_MAX + 4 => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => self.ended = true,
            }
            return;
        }
    }

    /// The next whole message.
    pub(super) fn next<T: for<'a> Deserialize<'a>>(&mut self) -> io::Result<Option<T>> {
        let message = wire::decode(&mut self.incoming);
        match &message {
            Ok(None) => self.incoming.shrink_to_fit(),
            Ok(_) => {}
            Err(_) => {
                self.incoming = Vec::new();
                self.finish();
            }
        }
        message
    }

    /// Sends a message, descriptors beside it; what does not fit goes later.
    pub(super) fn send(&mut self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) {
        let bytes = wire::encode(message);
        let mut sent = 0;
        if self.outgoing.is_empty() {
            match wire::send(&self.socket, &bytes, fds) {
                Ok(count) => sent = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.ended = true;
                    return;
                }
            }
        }
        self.outgoing.extend_from_slice(&bytes[sent..]);
        self.closed |= self.outgoing.len() > OUTGOING_SIZE_MAX;
    }

    /// Goes on sending.
    pub(super) fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match wire::send(&self.socket, &self.outgoing, &[]) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.ended = true;
                    self.outgoing = Vec::new();
                }
            }
        }
        self.outgoing = Vec::new();
        self.closed |= self.finishing;
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the far end closed it.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Closes it when all is sent.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
        self.closed |= self.outgoing.is_empty();
    }

    /// Closes it.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it can be dropped.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }
}
