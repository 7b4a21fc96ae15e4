//! Expressions and elements as netlink attributes.

use super::expr::{Compare, Data, Expr, Kind, Rule, Verdict, combined};
use crate::netlink::{APPEND, Attrs, Batch, CREATE};

pub(super) const NETFILTER_IPV4: u8 = 2;
pub(super) const SUBSYSTEM: u16 = 10;
/// Elements of one message: its length must fit 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 500;

// Message types (NFT_MSG_*).
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
pub(super) const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

// Flags of sets (NFT_SET_*).
pub(super) const SET_ANONYMOUS: u32 = 1;
pub(super) const SET_CONSTANT: u32 = 2;
pub(super) const SET_MAP: u32 = 8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
pub(super) const SET_EVALUATED: u32 = 0x20;

const VERDICT_TYPE: u32 = 0xffff_ff00;
const VERDICT_REGISTER: u32 = 0;
const REGISTER_BASE: u32 = 8;

/// What a set holds besides keys.
#[derive(Clone, Copy)]
pub(super) enum Holds<'a> {
    Nothing,
    Values(&'a [Kind]),
    Verdicts,
}

/// A transaction being written.
pub(super) struct Transaction<'a> {
    pub(super) table: &'a str,
    batch: Batch,
    next_set: u32,
    operations: usize,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(table: &'a str) -> Self {
        let mut batch = Batch::default();
        batch.message(16, 0, &[0, 0, 0, SUBSYSTEM as u8], |_| {});
        Transaction { table, batch, next_set: 1, operations: 0 }
    }

    /// How many operations it has.
    pub(super) fn operations(&self) -> usize {
        self.operations
    }

    /// Closes it. The last operation is acknowledged, after the commit.
    pub(super) fn finish(mut self) -> Batch {
        self.batch.acknowledge_last();
        self.batch.message(17, 0, &[0, 0, 0, SUBSYSTEM as u8], |_| {});
        self.batch
    }

    pub(super) fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attrs<'_>)) {
        self.operations += 1;
        self.batch.message(SUBSYSTEM << 8 | kind, flags, &[NETFILTER_IPV4, 0, 0, 0], fill);
    }

    pub(super) fn new_set(
        &mut self,
        name: &str,
        flags: u32,
        keys: &[Kind],
        holds: Holds<'_>,
        timeout_ms: Option<u64>,
    ) -> u32 {
        let (table, id) = (self.table, self.next_set);
        self.next_set += 1;
        let (key_type, key_length) = combined(keys);
        self.message(NEW_SET, CREATE, |set| {
            let map = if matches!(holds, Holds::Nothing) { 0 } else { SET_MAP };
            set.text(1, table).text(2, name).be32(3, flags | map);
            set.be32(4, key_type).be32(5, key_length);
            match holds {
                Holds::Nothing => {}
                Holds::Verdicts => {
                    set.be32(6, VERDICT_TYPE).be32(7, 0);
                }
                Holds::Values(kinds) => {
                    let (data_type, data_length) = combined(kinds);
                    set.be32(6, data_type).be32(7, data_length);
                }
            }
            set.be32(10, id);
            if keys == [Kind::Number] {
                // For `nft list`: the key is in the machine's byte order.
                set.bytes(13, &[0, 4, 1, 0, 0, 0]);
            }
            if let Some(timeout) = timeout_ms {
                set.be64(11, timeout);
            }
        });
        id
    }

    pub(super) fn new_elements<'b>(
        &mut self,
        set: &str,
        id: Option<u32>,
        elements: impl Iterator<Item = (&'b [u8], Option<&'b Data>)>,
    ) {
        self.elements(NEW_ELEMENT, CREATE, set, id, elements);
    }

    pub(super) fn delete_elements<'b>(
        &mut self,
        set: &str,
        elements: impl Iterator<Item = (&'b [u8], Option<&'b Data>)>,
    ) {
        self.elements(DELETE_ELEMENT, 0, set, None, elements);
    }

    fn elements<'b>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        id: Option<u32>,
        elements: impl Iterator<Item = (&'b [u8], Option<&'b Data>)>,
    ) {
        let table = self.table;
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.message(kind, flags, |list| {
                list.text(1, table).text(2, set);
                if let Some(id) = id {
                    list.be32(4, id);
                }
                list.nest(3, |list| {
                    for (key, data) in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                        list.nest(1, |element| put_element(element, key, data));
                    }
                });
            });
        }
    }

    pub(super) fn new_rule(&mut self, chain: &str, rule: &Rule) {
        let sets: Vec<u32> = rule.0.iter().filter_map(|expr| self.own_set(expr)).collect();
        let table = self.table;
        self.message(NEW_RULE, CREATE | APPEND, |attrs| {
            attrs.text(1, table).text(2, chain).nest(4, |list| {
                let mut sets = sets.iter();
                for expr in &rule.0 {
                    list.nest(1, |attrs| put_expr(attrs, expr, &mut sets));
                }
            });
        });
    }

    pub(super) fn flush_chain(&mut self, chain: &str) {
        let table = self.table;
        self.message(DELETE_RULE, 0, |attrs| {
            attrs.text(1, table).text(2, chain);
        });
    }

    /// Makes the set that belongs to an expression, if it has one, and says its number in the transaction.
    fn own_set(&mut self, expr: &Expr) -> Option<u32> {
        let flags = SET_ANONYMOUS | SET_CONSTANT;
        match expr {
            Expr::FindIn { kinds, elements, .. } => {
                let id = self.new_set("__map%d", flags, &kinds.0, Holds::Values(&kinds.1), None);
                let data: Vec<(&[u8], Data)> =
                    elements.iter().map(|(key, value)| (&key[..], Data::Value(value.clone()))).collect();
                let elements = data.iter().map(|(key, value)| (*key, Some(value)));
                self.new_elements("__map%d", Some(id), elements);
                Some(id)
            }
            Expr::DecideIn { verdicts, .. } => {
                let id = self.new_set("__map%d", flags, &[Kind::Number], Holds::Verdicts, None);
                let elements: Vec<([u8; 4], Data)> = (0u32..)
                    .zip(verdicts)
                    .map(|(number, verdict)| (number.to_ne_bytes(), Data::Verdict(verdict.clone())))
                    .collect();
                let elements = elements.iter().map(|(key, data)| (&key[..], Some(data)));
                self.new_elements("__map%d", Some(id), elements);
                Some(id)
            }
            _ => None,
        }
    }
}

/// Whether an expression brings a set of its own.
pub(super) fn owns_set(expr: &Expr) -> bool {
    matches!(expr, Expr::FindIn { .. } | Expr::DecideIn { .. })
}

fn put_element(element: &mut Attrs<'_>, key: &[u8], data: Option<&Data>) {
    element.nest(1, |value| {
        value.bytes(1, key);
    });
    match data {
        None => {}
        Some(Data::Value(bytes)) => {
            element.nest(2, |value| {
                value.bytes(1, bytes);
            });
        }
        Some(Data::Verdict(verdict)) => {
            element.nest(2, |value| put_verdict(value, verdict));
        }
    }
}

fn put_verdict(data: &mut Attrs<'_>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    data.nest(2, |attrs| {
        attrs.be32(1, code as u32);
        if let Some(chain) = chain {
            attrs.text(2, chain);
        }
    });
}

fn register(number: u8) -> u32 {
    REGISTER_BASE + u32::from(number)
}

/// The name of an expression and its attributes.
fn put_expr<'s>(list: &mut Attrs<'_>, expr: &Expr, sets: &mut impl Iterator<Item = &'s u32>) {
    let name = match expr {
        Expr::Meta { .. } => "meta",
        Expr::Payload { .. } => "payload",
        Expr::Conntrack { .. } => "ct",
        Expr::AddressType { .. } => "fib",
        Expr::Random { .. } => "numgen",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Mask { .. } => "bitwise",
        Expr::Compare { .. } => "cmp",
        Expr::Contains { .. }
        | Expr::Find { .. }
        | Expr::Decide { .. }
        | Expr::FindIn { .. }
        | Expr::DecideIn { .. } => "lookup",
        Expr::Remember { .. } => "dynset",
        Expr::Dnat { .. } | Expr::Snat { .. } => "nat",
        Expr::Masquerade => "masq",
        Expr::Unreachable | Expr::Reset => "reject",
    };
    list.text(1, name).nest(2, |attrs| match name {
        "lookup" => put_lookup(attrs, expr, sets),
        "meta" | "payload" | "ct" | "fib" | "numgen" => put_load(attrs, expr),
        _ => put_action(attrs, expr),
    });
}

fn put_load(attrs: &mut Attrs<'_>, expr: &Expr) {
    match expr {
        Expr::Meta { key, to } => attrs.be32(1, register(*to)).be32(2, *key),
        Expr::Payload { base, offset, length, to } => {
            attrs.be32(1, register(*to)).be32(2, *base).be32(3, *offset).be32(4, *length)
        }
        Expr::Conntrack { key, original, to } => {
            attrs.be32(1, register(*to)).be32(2, *key);
            if *original { attrs.u8(3, 0) } else { attrs }
        }
        Expr::AddressType { source, to } => {
            const ADDRESS_TYPE: u32 = 3;
            let flags = if *source { 1 } else { 2 };
            attrs.be32(1, register(*to)).be32(2, ADDRESS_TYPE).be32(3, flags)
        }
        Expr::Random { below, to } => {
            const RANDOM: u32 = 1;
            attrs.be32(1, register(*to)).be32(2, *below).be32(3, RANDOM).be32(4, 0)
        }
        _ => attrs,
    };
}

fn put_lookup<'s>(attrs: &mut Attrs<'_>, expr: &Expr, sets: &mut impl Iterator<Item = &'s u32>) {
    match expr {
        Expr::Contains { set, key, absent } => attrs.text(1, set).be32(2, register(*key)).be32(5, u32::from(*absent)),
        Expr::Find { map, key, to } => attrs.text(1, map).be32(2, register(*key)).be32(3, register(*to)),
        Expr::Decide { map, key } => attrs.text(1, map).be32(2, register(*key)).be32(3, VERDICT_REGISTER),
        Expr::FindIn { key, to, .. } => {
            attrs.text(1, "__map%d").be32(2, register(*key)).be32(3, register(*to));
            attrs.be32(4, sets.next().copied().unwrap_or_default())
        }
        Expr::DecideIn { key, .. } => {
            attrs.text(1, "__map%d").be32(2, register(*key)).be32(3, VERDICT_REGISTER);
            attrs.be32(4, sets.next().copied().unwrap_or_default())
        }
        _ => attrs,
    };
}

fn put_action(attrs: &mut Attrs<'_>, expr: &Expr) {
    match expr {
        Expr::Immediate { to, value } => attrs.be32(1, register(*to)).nest(2, |data| {
            data.bytes(1, value);
        }),
        Expr::Verdict(verdict) => attrs.be32(1, VERDICT_REGISTER).nest(2, |data| put_verdict(data, verdict)),
        Expr::Mask { register: at, mask } => {
            attrs.be32(1, register(*at)).be32(2, register(*at)).be32(3, mask.len() as u32);
            attrs.nest(4, |data| {
                data.bytes(1, mask);
            });
            attrs.nest(5, |data| {
                data.bytes(1, &vec![0; mask.len()]);
            })
        }
        Expr::Compare { register: at, how, value } => {
            let how = u32::from(*how == Compare::NotEqual);
            attrs.be32(1, register(*at)).be32(2, how).nest(3, |data| {
                data.bytes(1, value);
            })
        }
        Expr::Remember { set, key, timeout_ms } => {
            const UPDATE: u32 = 1;
            attrs.text(1, set).be32(3, UPDATE).be32(4, register(*key)).be64(6, *timeout_ms)
        }
        Expr::Dnat { address, port } => {
            const DESTINATION: u32 = 1;
            attrs.be32(1, DESTINATION).be32(2, u32::from(NETFILTER_IPV4));
            attrs.be32(3, register(*address)).be32(5, register(*port))
        }
        Expr::Snat { address } => {
            const SOURCE: u32 = 0;
            attrs.be32(1, SOURCE).be32(2, u32::from(NETFILTER_IPV4)).be32(3, register(*address))
        }
        Expr::Unreachable => {
            const ICMP_PORT_UNREACHABLE: u8 = 3;
            attrs.be32(1, 0).u8(2, ICMP_PORT_UNREACHABLE)
        }
        Expr::Reset => attrs.be32(1, 1),
        _ => attrs,
    };
}
