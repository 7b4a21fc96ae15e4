//! What the fields of the built-in kinds are: the generated table and the generic functions on top of it.
//!
//! The table (`data/schema.txt`, written by `tools/schemagen`) names every struct that a served kind reaches. It is parsed
//! once, on first use, in about a millisecond; names stay slices of the embedded text.

mod check;
mod defaults;
mod table;

pub use check::{UnknownField, check};
pub use defaults::apply_defaults;
pub use table::Schema;

use std::fmt;

/// A type of the table: a struct, a list, a map or a scalar. Cheap to copy.
#[derive(Clone, Copy)]
pub struct TypeRef<'s> {
    schema: &'s Schema,
    id: u16,
}

/// What a type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape<'s> {
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// Text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A time to the second.
    Time,
    /// A time to the microsecond.
    MicroTime,
    /// A duration in Go's notation.
    Duration,
    /// A resource quantity.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// A whole object of any kind.
    RawExtension,
    /// The field set of an applier.
    FieldsV1,
    /// Any JSON.
    Any,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
    /// Fields by name.
    Struct(StructRef<'s>),
    /// Elements of one type.
    List(TypeRef<'s>),
    /// Values of one type by any key.
    Map(TypeRef<'s>),
}

impl<'s> TypeRef<'s> {
    /// What the type is made of.
    pub fn shape(self) -> Shape<'s> {
        self.schema.shape(self.id)
    }

    /// The field of a struct type, by its JSON name.
    pub fn field(self, name: &str) -> Option<FieldRef<'s>> {
        self.as_struct()?.field(name)
    }

    /// The fields of a struct type, inlined ones among them, sorted by name; none of another type.
    pub fn fields(self) -> impl Iterator<Item = FieldRef<'s>> {
        self.as_struct().into_iter().flat_map(StructRef::fields)
    }

    /// The schema it is part of.
    pub fn schema(self) -> &'s Schema {
        self.schema
    }

    /// The struct, if it is one.
    pub fn as_struct(self) -> Option<StructRef<'s>> {
        match self.shape() {
            Shape::Struct(s) => Some(s),
            _ => None,
        }
    }

    /// The element type of a list or the value type of a map.
    pub fn element(self) -> Option<TypeRef<'s>> {
        match self.shape() {
            Shape::List(t) | Shape::Map(t) => Some(t),
            _ => None,
        }
    }

    /// Whether Go holds it by pointer: `null` and absent then differ from zero.
    pub fn is_pointer(self) -> bool {
        self.schema.types[self.id as usize].pointer
    }

    /// Whether protobuf wraps this list in a message of its own (field 1, repeated).
    pub fn is_wrapped(self) -> bool {
        self.schema.types[self.id as usize].wrapped
    }

    /// The name that upstream's decoder gives the type in its messages: `[]v1.Container`.
    pub fn go_name(self) -> String {
        let node = &self.schema.types[self.id as usize];
        if !node.alias.is_empty() {
            return node.alias.to_owned();
        }
        let text = match self.shape() {
            Shape::Bool => "bool",
            Shape::Int32 => "int32",
            Shape::Int64 => "int64",
            Shape::Double => "float64",
            Shape::String => "string",
            Shape::Bytes => "[]uint8",
            Shape::Time => "v1.Time",
            Shape::MicroTime => "v1.MicroTime",
            Shape::Duration => "v1.Duration",
            Shape::Quantity => "resource.Quantity",
            Shape::IntOrString => "intstr.IntOrString",
            Shape::RawExtension => "runtime.RawExtension",
            Shape::FieldsV1 => "v1.FieldsV1",
            Shape::Any => "interface {}",
            Shape::SchemaOrArray => "v1.JSONSchemaPropsOrArray",
            Shape::SchemaOrBool => "v1.JSONSchemaPropsOrBool",
            Shape::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray",
            Shape::Struct(s) => return s.go_name().to_owned(),
            Shape::List(t) => return format!("[]{}", t.pointed_name()),
            Shape::Map(t) => return format!("map[string]{}", t.pointed_name()),
        };
        text.to_owned()
    }

    fn pointed_name(self) -> String {
        format!("{}{}", if self.is_pointer() { "*" } else { "" }, self.go_name())
    }
}

impl PartialEq for TypeRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.schema, other.schema) && self.id == other.id
    }
}

impl Eq for TypeRef<'_> {}

impl fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TypeRef({})", self.pointed_name())
    }
}

/// A struct of the table.
#[derive(Clone, Copy)]
pub struct StructRef<'s> {
    schema: &'s Schema,
    id: u16,
}

impl<'s> StructRef<'s> {
    fn data(self) -> &'s table::Struct {
        &self.schema.structs[self.id as usize]
    }

    /// The place of the struct in its schema, below [`Schema::struct_count`]: for tables beside it.
    pub fn index(self) -> usize {
        self.id as usize
    }

    /// The struct as a type.
    pub fn as_type(self) -> TypeRef<'s> {
        self.schema.struct_type(self.id)
    }

    /// The short name in the table: `core.v1.Container`.
    pub fn name(self) -> &'s str {
        self.data().name
    }

    /// The OpenAPI model name: `io.k8s.api.core.v1.Container`.
    pub fn model_name(self) -> String {
        table::model_name(self.name())
    }

    /// The Go name: `v1.Container`.
    pub fn go_name(self) -> &'s str {
        let name = self.name();
        let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
        dots.nth(1).map_or(name, |at| &name[at + 1..])
    }

    /// The name without version: `Container`.
    pub fn kind(self) -> &'s str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// The version in the name: `v1`.
    pub fn version(self) -> &'s str {
        self.go_name().split('.').next().unwrap_or_default()
    }

    /// Whether apply treats it as one value.
    pub fn is_atomic(self) -> bool {
        self.data().atomic
    }

    /// A field by its JSON name.
    pub fn field(self, name: &str) -> Option<FieldRef<'s>> {
        let fields = &self.data().fields;
        let at = fields.binary_search_by(|f| f.name.cmp(name)).ok()?;
        Some(FieldRef { schema: self.schema, data: &fields[at] })
    }

    /// The fields, inlined ones among them, sorted by name.
    pub fn fields(self) -> impl Iterator<Item = FieldRef<'s>> {
        self.data().fields.iter().map(move |data| FieldRef { schema: self.schema, data })
    }

    /// The struct as Go declares it, for protobuf: an inlined struct is a member with a number of its own.
    pub fn members(self) -> impl Iterator<Item = Member<'s>> {
        self.data().members.iter().map(move |m| self.member(m))
    }

    /// The members that protobuf knows, by ascending number.
    pub fn wire_members(self) -> impl DoubleEndedIterator<Item = Member<'s>> {
        self.data().wire.iter().map(move |at| self.member(&self.data().members[*at as usize]))
    }

    /// The member of a protobuf number.
    pub fn wire_member(self, number: u32) -> Option<Member<'s>> {
        let (data, wire) = (self.data(), &self.data().wire);
        let at = wire.binary_search_by_key(&number, |at| data.number(*at)).ok()?;
        Some(self.member(&data.members[wire[at] as usize]))
    }

    fn member(self, member: &'s table::Member) -> Member<'s> {
        match member {
            table::Member::Field(at) => {
                Member::Field(FieldRef { schema: self.schema, data: &self.data().fields[*at as usize] })
            }
            table::Member::Inline { id, number } => Member::Inline(StructRef { schema: self.schema, id: *id }, *number),
        }
    }
}

impl PartialEq for StructRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.schema, other.schema) && self.id == other.id
    }
}

impl Eq for StructRef<'_> {}

impl fmt::Debug for StructRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StructRef({})", self.name())
    }
}

/// A member of a struct as Go declares it.
#[derive(Clone, Copy, Debug)]
pub enum Member<'s> {
    /// A field.
    Field(FieldRef<'s>),
    /// A struct whose fields JSON shows in place, with its protobuf number (0: none).
    Inline(StructRef<'s>, u32),
}

/// A field of a struct.
#[derive(Clone, Copy)]
pub struct FieldRef<'s> {
    schema: &'s Schema,
    data: &'s table::Field,
}

/// How the elements of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    Atomic,
    /// Scalars, each once.
    Set,
    /// Objects told apart by key fields.
    Map,
}

impl<'s> FieldRef<'s> {
    /// The JSON name.
    pub fn name(self) -> &'s str {
        self.data.name
    }

    /// The type.
    pub fn ty(self) -> TypeRef<'s> {
        TypeRef { schema: self.schema, id: self.data.ty }
    }

    /// The protobuf number within the struct that declares it (0: not in protobuf).
    pub fn number(self) -> u32 {
        self.data.number
    }

    /// Whether the schema requires it.
    pub fn is_required(self) -> bool {
        self.data.required
    }

    /// Whether an empty value is left out when written.
    pub fn omits_empty(self) -> bool {
        self.data.omit_empty
    }

    /// Whether a zero struct is left out when written.
    pub fn omits_zero(self) -> bool {
        self.data.omit_zero
    }

    /// The declared default, as JSON text; never a zero value.
    pub fn default(self) -> Option<&'s str> {
        self.data.default
    }

    /// The values it may have; empty when it may have any.
    pub fn enumeration(self) -> impl Iterator<Item = &'s str> {
        words(self.data.values)
    }

    /// The values the elements of the list may have; empty when they may have any.
    pub fn element_enumeration(self) -> impl Iterator<Item = &'s str> {
        words(self.data.element_values)
    }

    /// How elements are told apart, where declared.
    pub fn list_type(self) -> Option<ListType> {
        self.data.list
    }

    /// The key fields of a list of type map.
    pub fn map_keys(self) -> impl Iterator<Item = &'s str> {
        words(self.data.keys)
    }

    /// Whether apply treats the map or struct as one value, where the field says so or otherwise.
    pub fn map_type(self) -> Option<bool> {
        self.data.atomic
    }

    /// The strategic-merge strategy: `merge`, `replace`, `retainKeys`, `merge,retainKeys` or empty.
    pub fn patch_strategy(self) -> &'s str {
        self.data.strategy
    }

    /// The key field of a merged list, or empty.
    pub fn merge_key(self) -> &'s str {
        self.data.merge_key
    }
}

impl PartialEq for FieldRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.data, other.data)
    }
}

impl Eq for FieldRef<'_> {}

impl fmt::Debug for FieldRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldRef({} {})", self.data.name, self.ty().pointed_name())
    }
}

/// The words of a list, an empty one among them where the list has others.
fn words(list: &str) -> impl Iterator<Item = &str> {
    let all = (!list.is_empty()).then(|| list.split(','));
    all.into_iter().flatten()
}
