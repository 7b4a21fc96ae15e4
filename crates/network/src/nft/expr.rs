//! Rules as data: expressions over the 4-byte registers of the kernel's virtual machine.

use std::sync::Arc;

/// A register: 0 to 15, four bytes each. A value longer than four bytes takes those that follow.
pub type Register = u8;

/// How `Expr::Compare` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Go on after the table's hook.
    Accept,
    /// Discard silently.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Call a chain.
    Jump(Arc<str>),
    /// Continue in a chain for good.
    Goto(Arc<str>),
}

/// What an element of a map holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// Bytes for registers: each field padded to four bytes.
    Value(Box<[u8]>),
    /// A verdict.
    Verdict(Verdict),
}

/// The types of keys and data: facts for `nft list`, and the sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    Address,
    /// A transport protocol's number.
    Protocol,
    /// A port.
    Port,
    /// A number in the machine's byte order.
    Number,
}

impl Kind {
    /// The number `nft` knows the type by.
    pub(crate) fn code(self) -> u32 {
        match self {
            // That of packet marks: a plain integer has no size there, which `nft list` needs.
            Kind::Number => 19,
            Kind::Address => 7,
            Kind::Protocol => 12,
            Kind::Port => 13,
        }
    }

    /// Its length when it stands alone, in bytes.
    pub(crate) fn length(self) -> u32 {
        match self {
            Kind::Address | Kind::Number => 4,
            Kind::Protocol => 1,
            Kind::Port => 2,
        }
    }
}

/// The combined type code and length of several fields.
pub(crate) fn combined(kinds: &[Kind]) -> (u32, u32) {
    match kinds {
        [kind] => (kind.code(), kind.length()),
        kinds => (kinds.iter().fold(0, |code, kind| code << 6 | kind.code()), 4 * kinds.len() as u32),
    }
}

/// A key and its data, as bytes for registers.
pub type Pair = (Box<[u8]>, Box<[u8]>);

/// One step of a rule. A step that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a packet's metadata (`NFT_META_*`).
    Meta {
        /// What to load.
        key: u32,
        /// Where to.
        to: Register,
    },
    /// Loads bytes of the network (1) or transport (2) header.
    Payload {
        /// Which header.
        base: u32,
        /// Where it starts.
        offset: u32,
        /// How many bytes.
        length: u32,
        /// Where to.
        to: Register,
    },
    /// Loads a fact of the connection (`NFT_CT_*`), of its original direction where there are two.
    Conntrack {
        /// What to load.
        key: u32,
        /// Whether the fact has a direction.
        original: bool,
        /// Where to.
        to: Register,
    },
    /// Loads the type (`RTN_*`) of the packet's source or destination address.
    AddressType {
        /// Source or destination.
        source: bool,
        /// Where to.
        to: Register,
    },
    /// Loads a random number below `below`.
    Random {
        /// The bound.
        below: u32,
        /// Where to.
        to: Register,
    },
    /// Loads a value.
    Immediate {
        /// Where to.
        to: Register,
        /// The value.
        value: Box<[u8]>,
    },
    /// `register = register & mask`, in place.
    Mask {
        /// Which.
        register: Register,
        /// The mask; its length is the value's.
        mask: Box<[u8]>,
    },
    /// Goes on when the register compares so.
    Compare {
        /// Which.
        register: Register,
        /// How.
        how: Compare,
        /// With what.
        value: Box<[u8]>,
    },
    /// Goes on when the set holds the key (or does not).
    Contains {
        /// The set.
        set: Arc<str>,
        /// Where the key is.
        key: Register,
        /// Whether it must be absent.
        absent: bool,
    },
    /// Loads what a map holds for the key; goes on when it holds something.
    Find {
        /// The map.
        map: Arc<str>,
        /// Where the key is.
        key: Register,
        /// Where the data goes.
        to: Register,
    },
    /// Carries out the verdict a map holds for the key, if any.
    Decide {
        /// The map.
        map: Arc<str>,
        /// Where the key is.
        key: Register,
    },
    /// Like `Find` in a map that belongs to the rule.
    FindIn {
        /// The types of key and data.
        kinds: (Vec<Kind>, Vec<Kind>),
        /// Its elements.
        elements: Vec<Pair>,
        /// Where the key is.
        key: Register,
        /// Where the data goes.
        to: Register,
    },
    /// Carries out the verdict that a map of the rule's own holds for the number in a register.
    DecideIn {
        /// Its verdicts, for the numbers from 0.
        verdicts: Vec<Verdict>,
        /// Where the number is.
        key: Register,
    },
    /// Puts an element into a set, or renews its timeout.
    Remember {
        /// The set.
        set: Arc<str>,
        /// Where the key is.
        key: Register,
        /// How long it stays, in milliseconds.
        timeout_ms: u64,
    },
    /// Rewrites the destination to the address and port in registers.
    Dnat {
        /// Where the address is.
        address: Register,
        /// Where the port is.
        port: Register,
    },
    /// Rewrites the source to the address in a register.
    Snat {
        /// Where the address is.
        address: Register,
    },
    /// Rewrites the source to that of the outgoing link.
    Masquerade,
    /// Answers with ICMP «port unreachable».
    Unreachable,
    /// Answers with a TCP reset.
    Reset,
    /// A verdict.
    Verdict(Verdict),
}

/// A rule: steps in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule(pub Vec<Expr>);
