//! Declared types of JSON: how a schema says what the strings and numbers of an object mean.

use crate::types::{Type, Types};
use crate::value::{List, Map, Text, Value};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The declared type of a JSON value, with the bound on its size that cost estimates use.
#[derive(Clone, Debug, Default)]
pub struct Decl {
    /// What it is.
    pub shape: Shape,
    /// `maxLength`, `maxItems` or `maxProperties`; characters, elements or entries.
    pub size_max: Option<u64>,
}

/// What a declared type is made of.
#[derive(Clone, Debug, Default)]
pub enum Shape {
    /// Anything.
    #[default]
    Dyn,
    /// `boolean`
    Bool,
    /// `integer`
    Int,
    /// `number`
    Double,
    /// `string`
    String,
    /// `string` of format `byte`: base64.
    Bytes,
    /// `string` of format `date-time`.
    Timestamp,
    /// `string` of format `date`.
    Date,
    /// `string` of format `duration`.
    Duration,
    /// Integer or string.
    IntOrString,
    /// Elements of one type.
    List(Box<Decl>),
    /// Values of one type by any name.
    Map(Box<Decl>),
    /// Fields.
    Object(Arc<ObjectDecl>),
}

/// A struct of declared fields.
#[derive(Clone, Debug, Default)]
pub struct ObjectDecl {
    /// The name of the type.
    pub name: String,
    /// Its fields, sorted by the name in expressions.
    fields: Vec<FieldDecl>,
}

#[derive(Clone, Debug)]
struct FieldDecl {
    /// As expressions write it.
    shown: String,
    /// As JSON writes it.
    name: String,
    decl: Decl,
}

impl ObjectDecl {
    /// A struct of fields by their JSON names. Names that expressions cannot write are escaped; those that cannot be escaped
    /// are left out.
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Decl)>) -> ObjectDecl {
        let field = |(name, decl): (String, Decl)| {
            let shown = escape(&name)?.into_owned();
            Some(FieldDecl { shown, name, decl })
        };
        let mut fields: Vec<FieldDecl> = fields.into_iter().filter_map(field).collect();
        fields.sort_by(|a, b| a.shown.cmp(&b.shown));
        ObjectDecl { name: name.into(), fields }
    }

    /// A struct whose fields expressions name as JSON does.
    pub fn plain(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Decl)>) -> ObjectDecl {
        let field = |(name, decl): (String, Decl)| FieldDecl { shown: name.clone(), name, decl };
        let mut fields: Vec<FieldDecl> = fields.into_iter().map(field).collect();
        fields.sort_by(|a, b| a.shown.cmp(&b.shown));
        ObjectDecl { name: name.into(), fields }
    }

    /// The type of a field, by its name in expressions.
    pub fn member(&self, shown: &str) -> Option<&Decl> {
        self.field(shown).map(|field| &field.decl)
    }

    fn field(&self, shown: &str) -> Option<&FieldDecl> {
        let at = self.fields.binary_search_by(|field| (*field.shown).cmp(shown)).ok()?;
        Some(&self.fields[at])
    }
}

impl Decl {
    /// A type without a bound.
    pub fn new(shape: Shape) -> Decl {
        Decl { shape, size_max: None }
    }

    /// The type that the checker knows it by.
    pub fn ty(&self) -> Type {
        match &self.shape {
            Shape::Dyn | Shape::IntOrString => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Timestamp | Shape::Date => Type::Timestamp,
            Shape::Duration => Type::Duration,
            Shape::List(element) => Type::list(element.ty()),
            Shape::Map(value) => Type::map(Type::String, value.ty()),
            Shape::Object(object) => Type::object(&object.name),
        }
    }

    pub(crate) fn object_name(&self) -> Option<&str> {
        match &self.shape {
            Shape::Object(object) => Some(&object.name),
            _ => None,
        }
    }

    /// The JSON name and type of a member by its name in expressions; none when the struct has no such field.
    pub(crate) fn member<'s: 'n, 'n>(&'s self, shown: &'n str) -> Option<(&'n str, Option<&'s Decl>)> {
        match &self.shape {
            Shape::Object(object) => object.field(shown).map(|field| (&*field.name, Some(&field.decl))),
            Shape::Map(value) => Some((shown, Some(value))),
            _ => Some((shown, None)),
        }
    }

    /// The name in expressions and type of a member by its JSON name.
    pub(crate) fn shown<'s>(&'s self, name: &'s str) -> Option<(&'s str, Option<&'s Decl>)> {
        match &self.shape {
            Shape::Object(object) => {
                let field = object.fields.iter().find(|field| field.name == name)?;
                Some((&field.shown, Some(&field.decl)))
            }
            Shape::Map(value) => Some((name, Some(value))),
            _ => Some((name, None)),
        }
    }

    /// The JSON as a value of this type; what does not fit is taken for what it is.
    pub(crate) fn value<'a>(&'a self, json: &'a Json) -> Value<'a> {
        match (&self.shape, json) {
            (Shape::Double, Json::Number(n)) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Shape::Int, Json::Number(n)) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Value::Int(n),
                (None, Some(f)) if f == f.trunc() && f.abs() < 9.2e18 => Value::Int(f as i64),
                _ => Value::json(json),
            },
            (Shape::List(element), Json::Array(items)) => Value::List(List::Json(items, Some(element))),
            (Shape::Map(_) | Shape::Object(_), Json::Object(map)) => Value::Map(Map::Json(map, Some(self))),
            (shape, Json::String(text)) => shape.text(text).unwrap_or(Value::String(Text::Borrowed(text))),
            _ => Value::json(json),
        }
    }
}

impl Shape {
    fn text<'a>(&self, text: &str) -> Option<Value<'a>> {
        match self {
            Shape::Timestamp => crate::library::time::parse_timestamp(text).map(Value::Timestamp),
            Shape::Date => crate::library::time::parse_timestamp(&format!("{text}T00:00:00Z")).map(Value::Timestamp),
            Shape::Duration => crate::library::time::parse_duration(text).map(Value::Duration),
            Shape::Bytes => {
                use base64::Engine;
                let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
                Some(Value::Bytes(bytes.into()))
            }
            _ => None,
        }
    }
}

/// Words that cannot be field names; those of the language itself among them.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A JSON name as expressions write it (KEP-2876): `__dot__`, `__dash__`, `__namespace__`, …; none when it cannot be written.
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__").into());
    }
    let first = name.chars().next()?;
    if !(first.is_ascii_alphabetic() || "_-./".contains(first)) {
        return None;
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c)) {
        return None;
    }
    if !name.contains(['-', '.', '/']) && !name.contains("__") {
        return Some(name.into());
    }
    let text = name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__");
    Some(text.replace('/', "__slash__").into())
}

/// The structs of declared types, by name.
#[derive(Clone, Debug, Default)]
pub struct DeclTypes {
    objects: HashMap<String, Arc<ObjectDecl>>,
}

impl DeclTypes {
    /// The structs that some declared types reach.
    pub fn of<'d>(decls: impl IntoIterator<Item = &'d Decl>) -> DeclTypes {
        let mut types = DeclTypes::default();
        decls.into_iter().for_each(|decl| types.gather(decl));
        types
    }

    fn gather(&mut self, decl: &Decl) {
        match &decl.shape {
            Shape::List(inner) | Shape::Map(inner) => self.gather(inner),
            Shape::Object(object) if !self.objects.contains_key(&object.name) => {
                self.objects.insert(object.name.clone(), Arc::clone(object));
                object.fields.iter().for_each(|field| self.gather(&field.decl));
            }
            _ => {}
        }
    }
}

impl Types for DeclTypes {
    fn field(&self, object: &str, name: &str) -> Option<Type> {
        self.objects.get(object)?.field(name).map(|field| field.decl.ty())
    }

    fn is_object(&self, object: &str) -> bool {
        self.objects.contains_key(object)
    }
}
