//! Structural schemas: what the fields of a custom resource are, compiled from the OpenAPI schema of its definition.
//!
//! A definition's schema is a tree of JSON; compiled it is a table of small nodes in which equal subtrees are one (most leaves of a
//! schema are), names are offsets into one text, and descriptions are gone. On it run, in the order of the API server:
//! [`Structural::prune`] (unknown fields, nulls that may not be), [`Structural::default`], [`Structural::validate`] and
//! [`Structural::validate_update`] with ratcheting (KEP-4008). [`Node`] shows the schema to others: list types for server-side
//! apply, bounds for cost estimates, rules to be evaluated.
//!
//! The compiler takes any schema that validation of the definition has let pass, and is total on others: what it does not
//! understand, it leaves out.

mod compile;
mod defaults;
mod format;
mod lists;
mod pattern;
mod prune;
mod validate;

pub use pattern::translate as translate_pattern;
pub use validate::{Hook, Place};

use crate::schema::ListType;
use format::Format;
use pattern::Pattern;
use serde_json::Value;
use std::fmt;

/// The type a schema names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// None: anything goes.
    #[default]
    Any,
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
}

impl Kind {
    fn parse(name: &str) -> Kind {
        match name {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            _ => Kind::Any,
        }
    }

    /// As schemas write it; empty for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Any => "",
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
        }
    }
}

const NULLABLE: u16 = 1;
const PRESERVE: u16 = 2;
const EMBEDDED: u16 = 4;
const INT_OR_STRING: u16 = 8;
/// `additionalProperties` is there (true, or a schema).
const ADDITIONAL: u16 = 16;
/// `additionalProperties: false`.
const CLOSED: u16 = 32;
const ATOMIC_MAP: u16 = 64;
const LIST_SET: u16 = 128;
const LIST_MAP: u16 = 256;
const LIST_ATOMIC: u16 = 512;
/// There are defaults below.
const DEFAULTS_BELOW: u16 = 1024;
/// There are lists of type set or map here or below.
const LISTS_BELOW: u16 = 2048;
/// There are embedded objects here or below.
const EMBEDDED_BELOW: u16 = 4096;

/// No node, no rules, no default.
const NONE: u32 = u32::MAX;

/// A stretch of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of<T>(self, table: &[T]) -> &[T] {
        &table[self.start as usize..][..self.len as usize]
    }
}

/// One schema of the tree. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeData {
    kind: Kind,
    flags: u16,
    items: u32,
    additional: u32,
    default: u32,
    properties: Span,
    rules: Span,
    keys: Span,
}

/// What a value must satisfy beyond its type, in the order it is checked.
#[derive(Clone, Debug)]
enum Rule {
    AnyOf(Box<[u32]>),
    OneOf(Box<[u32]>),
    AllOf(Box<[u32]>),
    Not(u32),
    MaxLength(u64),
    MinLength(u64),
    Pattern(Box<Pattern>),
    Format(Format, Box<str>),
    MultipleOf(f64),
    Maximum(f64, bool),
    Minimum(f64, bool),
    MinItems(u64),
    MaxItems(u64),
    UniqueItems,
    Enum(Box<[Value]>),
    MinProperties(u64),
    MaxProperties(u64),
    Required(Box<[u32]>),
    /// `x-kubernetes-validations`, as they stand.
    Validations(Box<[Value]>),
}

/// Whether a format is known for a type, as schemas write both; one that is not is never checked.
pub fn is_known_format(kind: &str, format: &str) -> bool {
    Format::is_known(kind, format)
}

/// A compiled schema.
pub struct Structural {
    nodes: Box<[NodeData]>,
    root: u32,
    /// Name and node, sorted by name within each object.
    properties: Box<[(u32, u32)]>,
    rules: Box<[Rule]>,
    defaults: Box<[Value]>,
    keys: Box<[u32]>,
    /// Where each name ends in `text`.
    names: Box<[u32]>,
    text: Box<str>,
}

impl Structural {
    /// Compiles the `openAPIV3Schema` of a version. Without one, nothing is known and every field is pruned.
    pub fn compile(schema: &Value) -> Structural {
        compile::compile(schema)
    }

    fn name(&self, id: u32) -> &str {
        let at = id as usize;
        let start = if at == 0 { 0 } else { self.names[at - 1] as usize };
        &self.text[start..self.names[at] as usize]
    }

    /// The schema of the object itself.
    pub fn root(&self) -> Node<'_> {
        Node { schema: self, id: self.root }
    }

    /// Whether anything in it has a default.
    pub fn has_defaults(&self) -> bool {
        self.root().has(DEFAULTS_BELOW)
    }

    /// Whether objects are embedded in it, beside the object itself.
    pub fn has_embedded(&self) -> bool {
        self.root().has(EMBEDDED_BELOW)
    }

    /// Memory it takes, in bytes, without what patterns need once they are used.
    pub fn size_bytes(&self) -> usize {
        size_of_val(&*self.nodes)
            + size_of_val(&*self.properties)
            + size_of_val(&*self.rules)
            + size_of_val(&*self.defaults)
            + size_of_val(&*self.keys)
            + size_of_val(&*self.names)
            + self.text.len()
    }
}

impl fmt::Debug for Structural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Structural({} nodes)", self.nodes.len())
    }
}

/// A schema within a compiled one. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Node<'s> {
    schema: &'s Structural,
    id: u32,
}

impl<'s> Node<'s> {
    fn data(self) -> &'s NodeData {
        &self.schema.nodes[self.id as usize]
    }

    fn has(self, flag: u16) -> bool {
        self.data().flags & flag != 0
    }

    fn at(self, id: u32) -> Option<Node<'s>> {
        (id != NONE).then_some(Node { schema: self.schema, id })
    }

    fn rules(self) -> &'s [Rule] {
        self.data().rules.of(&self.schema.rules)
    }

    /// Its place among the schema's nodes: for tables beside it. Equal schemas have one place.
    pub fn index(self) -> usize {
        self.id as usize
    }

    /// The type it names.
    pub fn kind(self) -> Kind {
        self.data().kind
    }

    /// The schema of a field.
    pub fn property(self, name: &str) -> Option<Node<'s>> {
        let properties = self.data().properties.of(&self.schema.properties);
        let at = properties.binary_search_by(|(id, _)| self.schema.name(*id).cmp(name)).ok()?;
        self.at(properties[at].1)
    }

    /// Its fields, sorted by name.
    pub fn properties(self) -> impl Iterator<Item = (&'s str, Node<'s>)> {
        let properties = self.data().properties.of(&self.schema.properties);
        properties.iter().map(move |(name, id)| (self.schema.name(*name), Node { schema: self.schema, id: *id }))
    }

    /// The schema of the values of a map, when one is given.
    pub fn additional(self) -> Option<Node<'s>> {
        self.at(self.data().additional)
    }

    /// Whether it allows any field beside its properties (`additionalProperties`, true or a schema).
    pub fn is_map(self) -> bool {
        self.has(ADDITIONAL)
    }

    /// The schema of the elements of a list.
    pub fn items(self) -> Option<Node<'s>> {
        self.at(self.data().items)
    }

    /// The default.
    pub fn default(self) -> Option<&'s Value> {
        self.schema.defaults.get(self.data().default as usize)
    }

    /// Whether null is a value.
    pub fn is_nullable(self) -> bool {
        self.has(NULLABLE)
    }

    /// `x-kubernetes-preserve-unknown-fields`.
    pub fn preserves_unknown(self) -> bool {
        self.has(PRESERVE)
    }

    /// `x-kubernetes-embedded-resource`.
    pub fn is_embedded(self) -> bool {
        self.has(EMBEDDED)
    }

    /// `x-kubernetes-int-or-string`.
    pub fn is_int_or_string(self) -> bool {
        self.has(INT_OR_STRING)
    }

    /// Whether apply treats the object as one value (`x-kubernetes-map-type: atomic`).
    pub fn is_atomic_map(self) -> bool {
        self.has(ATOMIC_MAP)
    }

    /// `x-kubernetes-list-type`, where it is given.
    pub fn list_type(self) -> Option<ListType> {
        match self.data().flags & (LIST_SET | LIST_MAP | LIST_ATOMIC) {
            LIST_SET => Some(ListType::Set),
            LIST_MAP => Some(ListType::Map),
            LIST_ATOMIC => Some(ListType::Atomic),
            _ => None,
        }
    }

    /// `x-kubernetes-list-map-keys`.
    pub fn map_keys(self) -> impl Iterator<Item = &'s str> {
        self.data().keys.of(&self.schema.keys).iter().map(move |id| self.schema.name(*id))
    }

    /// `required`.
    pub fn required(self) -> impl Iterator<Item = &'s str> {
        let lists = self.rules().iter().filter_map(|rule| match rule {
            Rule::Required(names) => Some(names),
            _ => None,
        });
        lists.flatten().map(move |id| self.schema.name(*id))
    }

    /// `x-kubernetes-validations`, as the definition has them.
    pub fn validations(self) -> &'s [Value] {
        let found = self.rules().iter().find_map(|rule| match rule {
            Rule::Validations(list) => Some(&**list),
            _ => None,
        });
        found.unwrap_or_default()
    }

    /// The format, where it is one that is checked.
    pub fn format(self) -> Option<&'s str> {
        self.rules().iter().find_map(|rule| match rule {
            Rule::Format(_, name) => Some(&**name),
            _ => None,
        })
    }

    /// The values allowed; empty when any is.
    pub fn enumeration(self) -> &'s [Value] {
        let found = self.rules().iter().find_map(|rule| match rule {
            Rule::Enum(values) => Some(&**values),
            _ => None,
        });
        found.unwrap_or_default()
    }

    /// The bound that applies to its type: characters of a string, elements of a list, fields of an object.
    pub fn max_size(self) -> Option<u64> {
        self.rules().iter().find_map(|rule| match (rule, self.kind()) {
            (Rule::MaxLength(max), Kind::String | Kind::Any) | (Rule::MaxItems(max), Kind::Array) => Some(*max),
            (Rule::MaxProperties(max), Kind::Object) => Some(*max),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
