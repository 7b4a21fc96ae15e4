//! Netlink: messages with nested attributes, requests with their acknowledgements, dumps.
//!
//! The framing is that of `netlink_bindings::utils`. Its generated types are not used: they lack
//! what pods and services need most (the peer of a veth pair, the `dynset` expression).

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};

use netlink_bindings::builtin::Nlmsghdr;
use netlink_bindings::utils;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER: usize = 16;
const RECEIVE_BYTES: usize = 64 * 1024;

/// The netlink families used here.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Route = 0,
    Netfilter = 12,
}

/// Attributes appended to a message.
pub(crate) struct Attrs<'a>(&'a mut Vec<u8>);

impl Attrs<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        utils::push_header(self.0, kind, value.len() as u16);
        self.0.extend_from_slice(value);
        self
    }

    /// A string with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        utils::push_header(self.0, kind, value.len() as u16 + 1);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attrs<'_>)) -> &mut Self {
        let offset = utils::push_nested_header(self.0, kind);
        fill(&mut Attrs(self.0));
        utils::finalize_nested_header(self.0, offset);
        self
    }

    /// Bytes without an attribute header, such as the interface header inside a veth peer.
    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }
}

/// Messages that are sent with one system call.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    last: usize,
    count: u32,
    acks: u32,
}

impl Batch {
    /// Appends a message: its type, flags (`REQUEST` is implied), family header and attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Attrs<'_>),
    ) -> &mut Self {
        let start = self.bytes.len();
        self.last = start;
        self.bytes.resize(start + HEADER, 0);
        self.bytes.extend_from_slice(header);
        fill(&mut Attrs(&mut self.bytes));
        utils::align(&mut self.bytes);
        let head = Nlmsghdr {
            len: (self.bytes.len() - start) as u32,
            r#type: kind,
            flags: flags | REQUEST,
            seq: self.count,
            pid: 0,
        };
        self.bytes[start..start + HEADER].copy_from_slice(head.as_slice());
        self.count += 1;
        self.acks += u32::from(flags & ACK != 0);
        self
    }

    /// Asks for an acknowledgement of the message appended last.
    pub(crate) fn acknowledge_last(&mut self) {
        let at = self.last + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        if flags & ACK == 0 {
            self.bytes[at..at + 2].copy_from_slice(&(flags | ACK).to_ne_bytes());
            self.acks += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", io::Error::from(*errno), if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own words, often empty.
    pub detail: String,
    /// Which message of the batch it was, from 0.
    pub index: u32,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal { errno, detail: String::new(), index: 0 }
    }
}

/// A netlink socket. It stays in the network namespace it was opened in.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    send_bytes: usize,
}

impl Socket {
    pub(crate) fn open(protocol: Protocol) -> io::Result<Socket> {
        let protocol = NonZeroU32::new(protocol as u32).map(net::Protocol::from_raw);
        let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        sys::netlink::set_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1)?;
        sys::netlink::set_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1)?;
        Ok(Socket { fd, sequence: 0, send_bytes: 200 * 1024 })
    }

    /// Sends the batch and waits for its acknowledgements: the first refusal is the result.
    /// The kernel answers within `send`, so nothing here waits.
    pub(crate) fn execute(&mut self, batch: Batch) -> Result<(), Refusal> {
        let (first, acks) = (self.send(&batch)?, batch.acks);
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut seen = 0;
        let mut refusal: Option<Refusal> = None;
        loop {
            let length = match net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for (kind, flags, sequence, payload) in Messages(&buffer[..length]) {
                let index = sequence.wrapping_sub(first);
                if kind != MESSAGE_ERROR || index >= batch.count {
                    continue;
                }
                match parse_error(payload, flags) {
                    None => seen += 1,
                    Some((errno, detail)) => {
                        if refusal.as_ref().is_none_or(|earlier| earlier.index > index) {
                            refusal = Some(Refusal { errno, detail, index });
                        }
                    }
                }
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if seen < acks => Err(Errno::IO.into()),
            None => Ok(()),
        }
    }

    /// Sends a dump request and hands every reply's payload to `each`, with its message type.
    pub(crate) fn query(&mut self, batch: &Batch, each: impl FnMut(u16, &[u8])) -> Result<(), Refusal> {
        self.receive(batch, false, each)
    }

    /// Like [`Socket::query`] for a request that is answered by one message.
    pub(crate) fn query_one(&mut self, batch: &Batch, each: impl FnMut(u16, &[u8])) -> Result<(), Refusal> {
        self.receive(batch, true, each)
    }

    fn receive(&mut self, batch: &Batch, single: bool, mut each: impl FnMut(u16, &[u8])) -> Result<(), Refusal> {
        let first = self.send(batch)?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let length = match net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for (kind, flags, sequence, payload) in Messages(&buffer[..length]) {
                if sequence != first {
                    continue;
                }
                match kind {
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => {
                        return match parse_error(payload, flags) {
                            None => Ok(()),
                            Some((errno, detail)) => Err(Refusal { errno, detail, index: 0 }),
                        };
                    }
                    _ => each(kind, payload),
                }
                if single {
                    return Ok(());
                }
            }
        }
    }

    fn send(&mut self, batch: &Batch) -> Result<u32, Refusal> {
        if batch.len() + 1024 > self.send_bytes {
            net::sockopt::set_socket_send_buffer_size_force(&self.fd, batch.len() + 1024)?;
            self.send_bytes = batch.len() + 1024;
        }
        let first = self.sequence;
        let mut bytes = batch.bytes.clone();
        let mut at = 0;
        while at + HEADER <= bytes.len() {
            let length = u32::from_ne_bytes(array(&bytes[at..])) as usize;
            let index = u32::from_ne_bytes(array(&bytes[at + 8..]));
            bytes[at + 8..at + 12].copy_from_slice(&first.wrapping_add(index).to_ne_bytes());
            at += length;
        }
        self.sequence = first.wrapping_add(batch.count);
        net::send(&self.fd, &bytes, SendFlags::empty())?;
        Ok(first)
    }
}

fn array(bytes: &[u8]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// The error number of an `NLMSG_ERROR` and the kernel's text; `None` is an acknowledgement.
fn parse_error(payload: &[u8], flags: u16) -> Option<(Errno, String)> {
    const ACK_TLVS: u16 = 0x200;
    const TEXT: u16 = 1;
    let code = payload.get(..4).map_or(0, |code| i32::from_ne_bytes(array(code)));
    if code == 0 {
        return None;
    }
    // The refused message's own header follows the code (its body too, unless capped).
    let detail = payload
        .get(4 + HEADER..)
        .filter(|_| flags & ACK_TLVS != 0)
        .and_then(|rest| utils::find_attr(rest, TEXT))
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    Some((Errno::from_raw_os_error(-code), detail))
}

/// The messages in a received buffer: type, flags, sequence and payload.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes(array(head)) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        let sequence = u32::from_ne_bytes(array(&head[8..]));
        let payload = self.0.get(HEADER..length)?;
        self.0 = self.0.get(utils::nla_align_up(length)..).unwrap_or_default();
        Some((kind, flags, sequence, payload))
    }
}

/// The value of an attribute in a message's attributes.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    utils::find_attr(bytes, kind)
}
