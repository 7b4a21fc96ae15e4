//! What apply has to know of a schema, and how the built-in kinds' table answers.

use super::element::Element;
use crate::schema::{FieldRef, ListType, Shape, TypeRef};
use serde_json::{Map, Value};

/// A place in a schema: the type of a value, and how the value falls into fields. Cheap to copy. Custom resources implement it
/// on their own schemas.
pub trait Place<'s>: Copy {
    /// What a value here is. Where any value may stand, `value` decides.
    fn form(self, value: &Value) -> Form<Self>;

    /// A member of an object here; none when the schema does not have it.
    fn member(self, name: &str) -> Option<Member<Self>>;

    /// The key fields of the items of a keyed list here.
    fn keys(self) -> impl Iterator<Item = &'s str>;

    /// The default of a key field of an item here.
    fn default(self, key: &str) -> Option<Value>;
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<P> {
    /// One value.
    Scalar(Scalar),
    /// Members by name.
    Map {
        /// All of it is one value.
        atomic: bool,
    },
    /// Items.
    List {
        /// How they are told apart.
        kind: ListType,
        /// What they are.
        item: P,
    },
}

/// Which scalars are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Integers and fractions.
    Numeric,
    /// Text.
    String,
    /// `true` and `false`.
    Boolean,
    /// Any of them.
    Any,
}

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Member<P> {
    /// What it is.
    pub place: P,
    /// Whether the schema names it, instead of taking any name.
    pub named: bool,
}

/// A place in the table of the built-in kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin<'s> {
    ty: Option<TypeRef<'s>>,
    field: Option<FieldRef<'s>>,
    atomic: bool,
}

impl<'s> Builtin<'s> {
    /// The objects of a kind.
    pub fn new(ty: TypeRef<'s>) -> Builtin<'s> {
        Builtin { ty: Some(ty), field: None, atomic: false }
    }

    /// Any JSON, the members of objects told apart.
    pub fn untyped() -> Builtin<'s> {
        Builtin::any(false)
    }

    /// Any JSON. As one value, or with the members of objects told apart.
    fn any(atomic: bool) -> Builtin<'s> {
        Builtin { ty: None, field: None, atomic }
    }

    fn form_of_any(self, value: &Value) -> Form<Self> {
        match value {
            Value::Array(_) => Form::List { kind: ListType::Atomic, item: Builtin::any(true) },
            Value::Object(_) | Value::Null => Form::Map { atomic: self.atomic },
            _ => Form::Scalar(Scalar::Any),
        }
    }
}

impl<'s> Place<'s> for Builtin<'s> {
    fn form(self, value: &Value) -> Form<Self> {
        let Some(ty) = self.ty else { return self.form_of_any(value) };
        let override_of = self.field.and_then(FieldRef::map_type);
        Form::Scalar(match ty.shape() {
            Shape::Bool => Scalar::Boolean,
            Shape::Int32 | Shape::Int64 | Shape::Double => Scalar::Numeric,
            Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Duration => Scalar::String,
            Shape::Quantity | Shape::IntOrString => Scalar::Any,
            Shape::RawExtension => return Builtin::any(true).form(value),
            Shape::FieldsV1 | Shape::Any | Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
                return Builtin::any(false).form(value);
            }
            Shape::Struct(s) => return Form::Map { atomic: override_of.unwrap_or(s.is_atomic()) },
            Shape::Map(_) => return Form::Map { atomic: override_of.unwrap_or(false) },
            Shape::List(item) => {
                let kind = self.field.and_then(FieldRef::list_type).unwrap_or(ListType::Atomic);
                return Form::List { kind, item: Builtin::new(item) };
            }
        })
    }

    fn member(self, name: &str) -> Option<Member<Self>> {
        let any = |atomic| Some(Member { place: Builtin::any(atomic), named: false });
        let Some(ty) = self.ty else { return any(self.atomic) };
        match ty.shape() {
            Shape::Struct(s) => {
                let field = s.field(name)?;
                Some(Member { place: Builtin { ty: Some(field.ty()), field: Some(field), atomic: false }, named: true })
            }
            Shape::Map(value) => Some(Member { place: Builtin::new(value), named: false }),
            Shape::RawExtension => any(true),
            _ => any(false),
        }
    }

    fn keys(self) -> impl Iterator<Item = &'s str> {
        self.field.into_iter().flat_map(FieldRef::map_keys)
    }

    fn default(self, key: &str) -> Option<Value> {
        let field = self.ty?.field(key)?;
        match field.default() {
            Some(text) => serde_json::from_str(text).ok(),
            // The schema shows what Go always writes with its zero value as a default.
            None if field.omits_empty() || field.ty().is_pointer() => None,
            None => match field.ty().shape() {
                Shape::String => Some("".into()),
                Shape::Int32 | Shape::Int64 => Some(0.into()),
                Shape::Bool => Some(false.into()),
                _ => None,
            },
        }
    }
}

/// How the items of a list are told apart, once.
pub(super) struct Items<'s, P> {
    /// Key fields, for a keyed list.
    keys: Option<Vec<&'s str>>,
    item: P,
}

impl<'s, P: Place<'s>> Items<'s, P> {
    /// Of a list at a place, that is a set or keyed.
    pub(super) fn new(list: P, kind: ListType, item: P) -> Items<'s, P> {
        Items { keys: (kind == ListType::Map).then(|| list.keys().collect()), item }
    }

    /// The path element of an item.
    pub(super) fn element(&self, item: &Value) -> Result<Element, String> {
        let Some(keys) = &self.keys else { return set_element(item) };
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let mut fields: Vec<(Box<str>, Value)> = Vec::with_capacity(keys.len());
        fields.extend(keys.iter().filter_map(|key| self.key(map, key)));
        if fields.is_empty() {
            let names = keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" ");
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{names}] (and doesn't have default values for any key fields)"
            ));
        }
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Element::Key(fields.into()))
    }

    /// Items with their path elements, sorted by these. Items that cannot be told apart are left out: validation tells of them.
    pub(super) fn told<'v>(&self, values: &'v [Value]) -> Vec<(Element, &'v Value)> {
        let mut told = Vec::with_capacity(values.len());
        told.extend(values.iter().filter_map(|value| Some((self.element(value).ok()?, value))));
        told.sort_by(|(a, _), (b, _)| a.cmp(b));
        told
    }

    fn key(&self, map: &Map<String, Value>, key: &str) -> Option<(Box<str>, Value)> {
        let value = map.get(key).cloned().or_else(|| self.item.default(key))?;
        Some((key.into(), value))
    }
}

fn set_element(item: &Value) -> Result<Element, String> {
    match item {
        Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
        Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
        Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
        scalar => Ok(Element::Value(scalar.clone())),
    }
}
