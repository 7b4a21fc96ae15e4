//! Types of expressions, as the checker knows them.

use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Anything; checked when evaluated.
    Dyn,
    /// The type of what is already known to be wrong: fits everywhere, so that one mistake is told once.
    Error,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A 64-bit integer.
    Int,
    /// An unsigned 64-bit integer.
    Uint,
    /// A floating-point number.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A time.
    Timestamp,
    /// A span of time.
    Duration,
    /// Elements of one type.
    List(Arc<Type>),
    /// Values of one type by keys of one type.
    Map(Arc<(Type, Type)>),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// A type as a value.
    Type(Arc<Type>),
    /// A struct whose fields a [`Types`] knows.
    Object(Arc<str>),
    /// A type of a library: `kubernetes.Quantity`, `net.IP`.
    Opaque(&'static str),
    /// A type parameter.
    Param(u32),
}

impl Type {
    /// `list(element)`.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// `optional_type(value)`.
    pub fn optional(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    /// A struct by its name.
    pub fn object(name: &str) -> Type {
        Type::Object(name.into())
    }

    /// Whether nothing is known of it.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Whether its values all have the size 1 for the purposes of cost.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// The name as cel-go's `Type.String` has it, which differs from the one in the checker's messages.
    pub fn runtime_name(&self) -> String {
        match self {
            Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Type::Duration => "google.protobuf.Duration".to_owned(),
            Type::Null => "null_type".to_owned(),
            Type::List(element) => format!("list({})", element.runtime_name()),
            Type::Map(of) => format!("map({}, {})", of.0.runtime_name(), of.1.runtime_name()),
            Type::Optional(value) => format!("optional_type({})", value.runtime_name()),
            Type::Type(of) => format!("type({})", of.runtime_name()),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(element) => write!(f, "list({element})"),
            Type::Map(of) => write!(f, "map({}, {})", of.0, of.1),
            Type::Optional(value) => write!(f, "optional_type({value})"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::Object(name) => f.write_str(name),
            Type::Opaque(name) => f.write_str(name),
            Type::Param(n) => match u8::try_from(*n) {
                Ok(n) if n < 26 => write!(f, "{}", char::from(b'A' + n)),
                _ => write!(f, "_var{n}"),
            },
        }
    }
}

/// Who knows the fields of struct types: built-in kinds, custom resources, the request under admission.
pub trait Types: Send + Sync {
    /// The type of a field; none when there is no such field or no such struct. The name is as expressions write it.
    fn field(&self, object: &str, name: &str) -> Option<Type>;

    /// Whether there is a struct of this name.
    fn is_object(&self, object: &str) -> bool;
}

/// No struct at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTypes;

impl Types for NoTypes {
    fn field(&self, _: &str, _: &str) -> Option<Type> {
        None
    }

    fn is_object(&self, _: &str) -> bool {
        false
    }
}
