//! Writing rules by what they match, without thinking of registers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::expr::{Compare, Expr, Kind, Register, Rule, Verdict};
use crate::cidr::Cidr;

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const META_INPUT_NAME: u32 = 6;
const META_PROTOCOL: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_PORT: u32 = 12;
const CT_ADDRESS: u32 = 20;
const STATE_NEW: u32 = 8;
const STATUS_DNAT: u32 = 0x20;
const LOCAL: u32 = 2;

/// A field of a packet or its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Where the packet comes from, as it is now.
    Source,
    /// Where it goes, as it is now.
    Destination,
    /// Its transport protocol.
    Protocol,
    /// Its destination port, as it is now.
    Port,
    /// Where the connection was first addressed to, before any rewriting.
    OriginalDestination,
    /// The port it was first addressed to.
    OriginalPort,
}

impl Load {
    fn into_register(self, to: Register) -> Expr {
        match self {
            Load::Source => Expr::Payload { base: NETWORK, offset: 12, length: 4, to },
            Load::Destination => Expr::Payload { base: NETWORK, offset: 16, length: 4, to },
            Load::Protocol => Expr::Meta { key: META_PROTOCOL, to },
            Load::Port => Expr::Payload { base: TRANSPORT, offset: 2, length: 2, to },
            Load::OriginalDestination => Expr::Conntrack { key: CT_ADDRESS, original: true, to },
            Load::OriginalPort => Expr::Conntrack { key: CT_PORT, original: true, to },
        }
    }
}

/// The protocols services speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

/// Keys and data of sets and maps, each field padded as the kernel's registers are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// No field yet.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Appends an address.
    #[must_use]
    pub fn address(mut self, address: Ipv4Addr) -> Fields {
        self.0.extend(address.octets());
        self
    }

    /// Appends a protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: Transport) -> Fields {
        self.0.extend([protocol as u8, 0, 0, 0]);
        self
    }

    /// Appends a port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Fields {
        let [high, low] = port.to_be_bytes();
        self.0.extend([high, low, 0, 0]);
        self
    }

    /// Appends a number in the machine's byte order.
    #[must_use]
    pub fn number(mut self, number: u32) -> Fields {
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// The bytes.
    pub fn bytes(self) -> Box<[u8]> {
        self.0.into()
    }
}

impl Rule {
    /// A rule that matches every packet so far.
    pub fn new() -> Rule {
        Rule::default()
    }

    fn then(mut self, expr: Expr) -> Rule {
        self.0.push(expr);
        self
    }

    fn load(mut self, fields: &[Load], first: Register) -> Rule {
        let loads = fields.iter().zip(first..);
        self.0.extend(loads.map(|(field, register)| field.into_register(register)));
        self
    }

    fn compare(self, register: Register, how: Compare, value: &[u8]) -> Rule {
        self.then(Expr::Compare { register, how, value: value.into() })
    }

    fn range(self, field: Load, how: Compare, range: Cidr) -> Rule {
        self.load(&[field], 0).then(Expr::Mask { register: 0, mask: range.mask().octets().into() }).compare(
            0,
            how,
            &range.address().octets(),
        )
    }

    /// The address is in the range.
    #[must_use]
    pub fn within(self, field: Load, range: Cidr) -> Rule {
        self.range(field, Compare::Equal, range)
    }

    /// The address is not in the range.
    #[must_use]
    pub fn outside(self, field: Load, range: Cidr) -> Rule {
        self.range(field, Compare::NotEqual, range)
    }

    /// The protocol is this one.
    #[must_use]
    pub fn transport(self, protocol: Transport) -> Rule {
        self.load(&[Load::Protocol], 0).compare(0, Compare::Equal, &[protocol as u8])
    }

    /// The packet came in by a link whose name starts so.
    #[must_use]
    pub fn from_links(self, prefix: &str) -> Rule {
        self.then(Expr::Meta { key: META_INPUT_NAME, to: 0 }).compare(0, Compare::Equal, prefix.as_bytes())
    }

    fn address_type(self, source: bool, how: Compare) -> Rule {
        self.then(Expr::AddressType { source, to: 0 }).compare(0, how, &LOCAL.to_ne_bytes())
    }

    /// The packet comes from an address of this node.
    #[must_use]
    pub fn from_this_node(self) -> Rule {
        self.address_type(true, Compare::Equal)
    }

    /// The packet goes to an address of this node.
    #[must_use]
    pub fn to_this_node(self) -> Rule {
        self.address_type(false, Compare::Equal)
    }

    fn bits(self, key: u32, bits: u32, how: Compare) -> Rule {
        self.then(Expr::Conntrack { key, original: false, to: 0 })
            .then(Expr::Mask { register: 0, mask: bits.to_ne_bytes().into() })
            .compare(0, how, &[0; 4])
    }

    /// The connection is new.
    #[must_use]
    pub fn new_connection(self) -> Rule {
        self.bits(CT_STATE, STATE_NEW, Compare::NotEqual)
    }

    /// The connection's destination was not rewritten.
    #[must_use]
    pub fn not_redirected(self) -> Rule {
        self.bits(CT_STATUS, STATUS_DNAT, Compare::Equal)
    }

    /// A set holds these fields.
    #[must_use]
    pub fn in_set(self, set: &str, fields: &[Load]) -> Rule {
        self.load(fields, 0).then(Expr::Contains { set: set.into(), key: 0, absent: false })
    }

    /// The map's verdict for these fields, if it has one.
    #[must_use]
    pub fn decide(self, map: &str, fields: &[Load]) -> Rule {
        self.load(fields, 0).then(Expr::Decide { map: map.into(), key: 0 })
    }

    /// Sends the connection to the address and port a map holds for these fields, if it has them.
    #[must_use]
    pub fn redirect_by(self, map: &str, fields: &[Load]) -> Rule {
        const FOUND: Register = 8;
        self.load(fields, 0)
            .then(Expr::Find { map: map.into(), key: 0, to: FOUND })
            .then(Expr::Dnat { address: FOUND, port: FOUND + 1 })
    }

    /// Sends the connection to the address and port that a map holds for these fields and a random number below `below`,
    /// if it has them.
    #[must_use]
    pub fn redirect_by_chance(self, map: &str, fields: &[Load], below: u32) -> Rule {
        const FOUND: Register = 8;
        self.load(fields, 0)
            .then(Expr::Random { below, to: fields.len() as Register })
            .then(Expr::Find { map: map.into(), key: 0, to: FOUND })
            .then(Expr::Dnat { address: FOUND, port: FOUND + 1 })
    }

    /// Sends the connection to one of the endpoints, chosen at random. There must be at least one.
    #[must_use]
    pub fn redirect_to(self, endpoints: &[(Ipv4Addr, u16)]) -> Rule {
        const FOUND: Register = 8;
        let rule = if let [(address, port)] = endpoints {
            self.then(Expr::Immediate { to: FOUND, value: address.octets().into() })
                .then(Expr::Immediate { to: FOUND + 1, value: port.to_be_bytes().into() })
        } else {
            let pair = |&(address, port): &(Ipv4Addr, u16)| Fields::new().address(address).port(port);
            let elements = (0..).zip(endpoints);
            let elements = elements.map(|(number, end)| (Fields::new().number(number).bytes(), pair(end).bytes()));
            self.then(Expr::Random { below: endpoints.len() as u32, to: 0 }).then(Expr::FindIn {
                kinds: (vec![Kind::Number], vec![Kind::Address, Kind::Port]),
                elements: elements.collect(),
                key: 0,
                to: FOUND,
            })
        };
        rule.then(Expr::Dnat { address: FOUND, port: FOUND + 1 })
    }

    /// Puts the packet's source into a set for some time, or renews that.
    #[must_use]
    pub fn remember_source(self, set: &Arc<str>, timeout_ms: u64) -> Rule {
        self.load(&[Load::Source], 0).then(Expr::Remember { set: set.clone(), key: 0, timeout_ms })
    }

    /// Ends with one of the verdicts, chosen at random. There must be at least one.
    #[must_use]
    pub fn choose(self, verdicts: Vec<Verdict>) -> Rule {
        let below = verdicts.len() as u32;
        self.then(Expr::Random { below, to: 0 }).then(Expr::DecideIn { verdicts, key: 0 })
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Rule {
        self.then(Expr::Verdict(verdict))
    }

    /// Ends with rewriting the source to an address of this node.
    #[must_use]
    pub fn source(self, address: Ipv4Addr) -> Rule {
        const VALUE: Register = 8;
        self.then(Expr::Immediate { to: VALUE, value: address.octets().into() }).then(Expr::Snat { address: VALUE })
    }

    /// Ends with rewriting the source to the outgoing link's address.
    #[must_use]
    pub fn masquerade(self) -> Rule {
        self.then(Expr::Masquerade)
    }

    /// Ends with telling the sender that nobody listens: a TCP reset.
    #[must_use]
    pub fn reset(self) -> Rule {
        self.then(Expr::Reset)
    }

    /// Ends with telling the sender that nobody listens: ICMP «port unreachable».
    #[must_use]
    pub fn unreachable(self) -> Rule {
        self.then(Expr::Unreachable)
    }
}
