//! nftables: a table described as data, and an engine that keeps the kernel's copy equal to it.
//!
//! A [`Table`] has a fixed [`Skeleton`] (base chains, named sets and maps) and any number of [`Fragment`]s, one for
//! each thing that comes and goes (a pod, a service port): chains with rules, sets, and elements of the skeleton's maps.
//! [`Table::apply`] replaces some fragments in one kernel transaction that holds only what changed; a packet sees the
//! rules before or after it, never between. When the kernel's copy is not what the table thinks (someone removed it),
//! the transaction fails as a whole and the table is written anew, again in one transaction.
//!
//! All tables are of family `ip`.

mod build;
mod encode;
mod expr;
mod table;

pub use build::{Fields, Load, Transport};
pub use expr::{Compare, Data, Expr, Kind, Pair, Register, Rule, Verdict};
pub use table::{
    Chain, Element, Fragment, FragmentId, Hook, HookPoint, NftError, SetHolds, SetSpec, Skeleton, Table, TableStats,
    forward_blockers,
};
