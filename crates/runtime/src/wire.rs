//! What program and shim say to each other: one request a connection, length-prefixed JSON, descriptors beside it.
//!
//! A connection carries one request. Its life is that of what was asked for: closing an `Exec` connection kills the
//! process, closing an `Attach` connection detaches. A shim older or newer than the program answers a request it does
//! not know with an error; unknown fields are ignored. [`VERSION`] is told in the greeting.

use crate::spec::{ContainerRecord, ContainerSpec, PodSpec, Process};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The version of this protocol.
pub const VERSION: u32 = 1;
/// The longest message.
pub(crate) const MESSAGE_SIZE_MAX: usize = 1 << 20;
/// The most descriptors with one message.
const FDS_MAX: usize = 4;

/// What is asked of a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Become the shim of a pod (only on the connection a shim is started with), then as `Subscribe`.
    Pod(Box<PodSpec>),
    /// Tell what is there, and from then on what ends.
    Subscribe,
    /// Make and start a container.
    Start(Box<ContainerSpec>),
    /// Send a signal to a container's first process.
    Signal {
        /// Container.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Run a process in a container; with it come descriptors for stdin, stdout and stderr (but for a terminal, which
    /// comes back with the answer).
    Exec {
        /// Container.
        id: String,
        /// What to run.
        process: Box<Process>,
        /// Cgroup folders of version 1 to join.
        cgroups: crate::spec::Cgroups,
    },
    /// Connect to a container's first process; with it come descriptors for those asked, in this order.
    Attach {
        /// Container.
        id: String,
        /// Standard input.
        stdin: bool,
        /// Standard output.
        stdout: bool,
        /// Standard error.
        stderr: bool,
    },
    /// On an `Attach` connection: the terminal's new size.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Open the log file anew.
    ReopenLog {
        /// Container.
        id: String,
        /// Where it is.
        path: PathBuf,
    },
    /// Forget an ended container.
    Forget {
        /// Container.
        id: String,
    },
    /// Kill all containers and end.
    Shutdown,
}

/// What a shim says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Reply {
    /// The greeting: who answers, and how its containers are.
    Hello {
        /// [`VERSION`] of the shim.
        version: u32,
        /// The shim's process.
        pid: i32,
        /// Its containers.
        containers: Vec<ContainerRecord>,
    },
    /// A process runs.
    Started {
        /// Its number on the machine.
        pid: i32,
        /// When, for a container.
        started_at_ns: i64,
    },
    /// A container ended (to subscribers).
    Ended(ContainerRecord),
    /// The exec'ed process ended.
    Exit {
        /// 128 + n after signal n.
        code: i32,
    },
    /// Done.
    Done,
    /// It could not be done.
    Failed(Failure),
    /// Something a newer shim says.
    #[serde(other)]
    Unknown,
}

/// Why a request failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For people.
    pub message: String,
    /// 127 or 126 when a program could not be run, otherwise 128.
    pub exit_code: i32,
    /// The container is not there, or does not run.
    #[serde(default)]
    pub gone: bool,
}

impl Failure {
    /// A failure that is the machine's or the runtime's.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit_code: 128, gone: false }
    }

    /// The container is not there or does not run.
    pub(crate) fn gone(id: &str) -> Failure {
        Failure { message: format!("container {id} is not running"), exit_code: 128, gone: true }
    }
}

/// One message as bytes: its length, then JSON.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).expect("plain data becomes JSON");
    let length = u32::try_from(bytes.len() - 4).expect("messages are small").to_le_bytes();
    bytes[..4].copy_from_slice(&length);
    bytes
}

/// Takes the first whole message off the front of `buffer`.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MESSAGE_SIZE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[4..4 + length]).map_err(io::Error::from)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// Sends bytes, with descriptors beside the first of them; says how many bytes went.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Receives bytes at the end of `buffer` and descriptors at the end of `fds`; 0 at the end of the connection.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8192];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    buffer.extend_from_slice(&bytes[..message.bytes]);
    Ok(message.bytes)
}
