//! The Common Expression Language as Kubernetes v1.37 uses it.
//!
//! [`Program::compile`] parses an expression (hand-written, bounded in depth and size), expands its macros, checks its types
//! against an [`Env`] and resolves every name and function; [`Program::evaluate`] walks the result over [`Value`]s that borrow
//! from the JSON under test, and accounts for what it costs. The declared types of JSON ([`Decl`]) come from whoever has a
//! schema; variables come from an [`Activation`], which may compute them when they are asked for.
//!
//! Functions: the standard ones, optionals, two-variable comprehensions, and Kubernetes' libraries (lists, sets, strings, regex,
//! url, ip, cidr, quantity, semver, format, authorizer, jsonpatch). `functions.txt` lists them with their types.
//!
//! Invariants: no input or output; total on any text and any JSON (it returns an error, never panics); bounded in depth by the
//! parser, in time and memory by the cost limit and by fuel for what the cost model takes for free. Costs follow cel-go's and
//! Kubernetes' rules, so that an expression fits here when it fits there. Error messages are cel-go's where clients see them.

mod ast;
mod check;
mod decl;
mod declare;
mod env;
mod estimate;
mod eval;
mod fault;
mod issue;
mod library;
mod macros;
mod parse;
mod plan;
mod program;
mod token;
mod types;
mod value;

pub use decl::{Decl, DeclTypes, ObjectDecl, Shape, escape};
pub use env::Env;
pub use estimate::{NoSizes, Range, Sizes};
pub use eval::Activation;
pub use fault::Fault;
pub use issue::{Issue, Issues};
pub use library::opaque::Opaque;
pub use library::{Authorizer, Check, Decision};
pub use program::{Evaluated, Program};
pub use types::{NoTypes, Type, Types};
pub use value::{List, Map, Struct, Text, Value};
