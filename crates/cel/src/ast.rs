//! Expressions as parsed, macros expanded.

use crate::value::Value;

/// A node. Ids number the nodes of one expression from 0 without gaps, so that facts about them are tables.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) id: u32,
    /// Byte offset in the source.
    pub(crate) at: u32,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Value<'static>),
    Ident(String),
    Select { operand: Box<Expr>, field: String, test: bool },
    Call { function: String, target: Option<Box<Expr>>, args: Vec<Expr> },
    List { elements: Vec<Expr>, optional: Vec<bool> },
    Map(Vec<Entry>),
    Struct { name: String, fields: Vec<Field> },
    Comprehension(Box<Comprehension>),
}

/// `key: value` of a map.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// `name: value` of a struct.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) at: u32,
    pub(crate) name: String,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// What macros become: a fold over a list or map.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub(crate) var: String,
    pub(crate) var2: Option<String>,
    pub(crate) range: Expr,
    pub(crate) accu: String,
    pub(crate) init: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

impl Comprehension {
    /// Whether it only binds a name to a value (what `optMap` becomes).
    pub(crate) fn is_bind(&self) -> bool {
        let empty = matches!(&self.range.kind, Kind::List { elements, .. } if elements.is_empty());
        empty && self.accu != ACCU && matches!(self.condition.kind, Kind::Literal(Value::Bool(false)))
    }
}

/// The accumulator of macros; no identifier can be written like this.
pub(crate) const ACCU: &str = "@result";

pub(crate) mod op {
    //! The functions behind operators, named as in the specification.
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const IN: &str = "@in";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPTIONAL_INDEX: &str = "_[?_]";
    pub(crate) const OPTIONAL_SELECT: &str = "_?._";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";
    pub(crate) const SORT_BY_KEYS: &str = "@sortByAssociatedKeys";
}
