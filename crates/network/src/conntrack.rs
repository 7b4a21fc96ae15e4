//! Connection tracking: forgetting connections whose destination is gone.

use std::io;
use std::net::Ipv4Addr;

use crate::netlink::{ACK, Batch, DUMP, Protocol, Refusal, Socket, attribute};
use crate::nft::Transport;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const HEADER: usize = 4;
const NETFILTER_IPV4: u8 = 2;

// Attributes of a connection (CTA_*) and of its tuples.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE: u16 = 2;
const PROTO_DESTINATION: u16 = 3;

/// An address and a port.
pub type Endpoint = (Ipv4Addr, u16);

/// A tracked connection, as far as services care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// What its first packet was addressed to.
    pub destination: Endpoint,
    /// Who answers: differs from `destination` when that was rewritten.
    pub answerer: Endpoint,
}

/// Why connections could not be listed or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// No socket.
    #[error("cannot open a netfilter socket")]
    Open(#[source] io::Error),
    /// The kernel refused the list.
    #[error("cannot list tracked connections")]
    List(#[source] Refusal),
    /// The kernel refused to forget a connection.
    #[error("cannot forget a tracked connection")]
    Forget(#[source] Refusal),
}

/// The kernel's table of connections, of the network namespace it was opened in.
pub struct Tracker {
    socket: Socket,
}

impl Tracker {
    /// Opens it, in the calling thread's network namespace.
    pub fn open() -> Result<Tracker, ConntrackError> {
        Ok(Tracker { socket: Socket::open(Protocol::Netfilter).map_err(ConntrackError::Open)? })
    }

    /// Forgets the connections of a protocol that `stale` picks, and says how many. The cost is that of listing every
    /// connection of the machine (about a microsecond each).
    pub fn forget(
        &mut self,
        protocol: Transport,
        stale: impl Fn(&Connection) -> bool,
    ) -> Result<usize, ConntrackError> {
        let mut count = 0;
        for (tuple, id) in self.find(protocol, stale)? {
            let mut batch = Batch::default();
            batch.message(SUBSYSTEM | DELETE, ACK, &[NETFILTER_IPV4, 0, 0, 0], |attrs| {
                attrs.nest(ORIGINAL, |nest| {
                    nest.raw(&tuple);
                });
                if let Some(id) = &id {
                    attrs.bytes(ID, id);
                }
            });
            match self.socket.execute(batch) {
                Ok(()) => count += 1,
                // It ended by itself.
                Err(refusal) if refusal.errno == rustix::io::Errno::NOENT => {}
                Err(refusal) => return Err(ConntrackError::Forget(refusal)),
            }
        }
        Ok(count)
    }

    /// The names of the connections that are picked.
    fn find(&mut self, protocol: Transport, stale: impl Fn(&Connection) -> bool) -> Result<Vec<Name>, ConntrackError> {
        let mut list = Batch::default();
        list.message(SUBSYSTEM | GET, DUMP, &[NETFILTER_IPV4, 0, 0, 0], |_| {});
        let mut found = Vec::new();
        let each = |_: u16, payload: &[u8]| {
            let parse = || {
                let attributes = payload.get(HEADER..)?;
                let original = attribute(attributes, ORIGINAL)?;
                let reply = attribute(attributes, REPLY)?;
                let (number, destination) = end(original, IP_DESTINATION, PROTO_DESTINATION)?;
                let (_, answerer) = end(reply, IP_SOURCE, PROTO_SOURCE)?;
                let chosen = number == protocol as u8 && stale(&Connection { destination, answerer });
                let id = attribute(attributes, ID).map(<[u8]>::to_vec);
                chosen.then(|| (original.to_vec(), id))
            };
            found.extend(parse());
        };
        self.socket.query(&list, each).map_err(ConntrackError::List)?;
        Ok(found)
    }
}

/// The tuple of the original direction names a connection; the id makes sure it is not a newer one.
type Name = (Vec<u8>, Option<Vec<u8>>);

/// The protocol of a tuple and one of its ends.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<(u8, Endpoint)> {
    let addresses = attribute(tuple, TUPLE_IP)?;
    let protocol = attribute(tuple, TUPLE_PROTO)?;
    let address = <[u8; 4]>::try_from(attribute(addresses, address)?).ok()?;
    let port = <[u8; 2]>::try_from(attribute(protocol, port)?).ok()?;
    let number = *attribute(protocol, PROTO_NUMBER)?.first()?;
    Some((number, (address.into(), u16::from_be_bytes(port))))
}
