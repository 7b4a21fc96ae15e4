//! The embedded table: its parsed form and the parser.

use super::{ListType, Shape, StructRef, TypeRef};
use std::collections::HashMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("../../data/schema.txt");

/// The types of a set of kinds.
pub struct Schema {
    pub(super) structs: Vec<Struct>,
    pub(super) types: Vec<Type>,
    kinds: HashMap<Kind<'static>, u16>,
    by_name: HashMap<&'static str, u16>,
}

/// Group, version and kind.
type Kind<'a> = (&'a str, &'a str, &'a str);

pub(super) struct Struct {
    pub(super) name: &'static str,
    /// The id of the type that is this struct, not behind a pointer.
    ty: u16,
    pub(super) atomic: bool,
    /// All fields JSON shows at this level, sorted by name.
    pub(super) fields: Vec<Field>,
    /// Indices into `fields` of those that are written even when empty.
    pub(super) always: Vec<u16>,
    pub(super) members: Vec<Member>,
    /// Indices into `members` of those that protobuf knows, by number.
    pub(super) wire: Vec<u16>,
}

pub(super) enum Member {
    Field(u16),
    Inline { id: u16, number: u32 },
}

#[derive(Clone)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) ty: u16,
    pub(super) number: u32,
    pub(super) required: bool,
    pub(super) omit_empty: bool,
    pub(super) omit_zero: bool,
    pub(super) atomic: Option<bool>,
    pub(super) list: Option<ListType>,
    pub(super) default: Option<&'static str>,
    pub(super) values: &'static str,
    pub(super) element_values: &'static str,
    pub(super) keys: &'static str,
    pub(super) strategy: &'static str,
    pub(super) merge_key: &'static str,
}

/// A node of the type graph.
pub(super) struct Type {
    pub(super) alias: &'static str,
    pub(super) pointer: bool,
    pub(super) wrapped: bool,
    base: Base,
}

#[derive(Clone, Copy)]
enum Base {
    Scalar(Shape<'static>),
    Struct(u16),
    List(u16),
    Map(u16),
}

impl Schema {
    /// The built-in kinds of Kubernetes v1.37.
    pub fn builtin() -> &'static Schema {
        static BUILTIN: OnceLock<Schema> = OnceLock::new();
        BUILTIN.get_or_init(|| Parser::parse(TEXT))
    }

    /// The type of a kind. Kinds of `meta/v1`, such as `DeleteOptions`, are found in every group and version.
    pub fn kind<'s>(&'s self, group: &str, version: &str, kind: &str) -> Option<TypeRef<'s>> {
        let id = self.kinds.get(&(group, version, kind)).or_else(|| self.kinds.get(&("*", "*", kind)))?;
        Some(self.struct_type(*id))
    }

    /// The struct of a name in the table: `core.v1.PodSpec`.
    pub fn named<'s>(&'s self, name: &str) -> Option<TypeRef<'s>> {
        self.by_name.get(name).map(|id| self.struct_type(*id))
    }

    /// Every kind: group, version, kind and its type; those in all groups stand under `*`.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, TypeRef<'_>)> {
        self.kinds.iter().map(|((group, version, kind), id)| (*group, *version, *kind, self.struct_type(*id)))
    }

    /// Every struct, sorted by name.
    pub fn structs(&self) -> impl Iterator<Item = StructRef<'_>> {
        (0..self.structs.len()).map(|id| StructRef { schema: self, id: id as u16 })
    }

    /// How many structs there are.
    pub fn struct_count(&self) -> usize {
        self.structs.len()
    }

    pub(super) fn struct_type(&self, id: u16) -> TypeRef<'_> {
        TypeRef { schema: self, id: self.structs[id as usize].ty }
    }

    pub(super) fn shape(&self, id: u16) -> Shape<'_> {
        match self.types[id as usize].base {
            Base::Scalar(shape) => shape,
            Base::Struct(id) => Shape::Struct(StructRef { schema: self, id }),
            Base::List(id) => Shape::List(TypeRef { schema: self, id }),
            Base::Map(id) => Shape::Map(TypeRef { schema: self, id }),
        }
    }
}

/// The OpenAPI name of a struct of the table.
pub(super) fn model_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix('~') {
        return format!("io.k8s.apimachinery.pkg.{rest}");
    }
    let prefix = match name.split('.').next() {
        Some("meta") => "io.k8s.apimachinery.pkg.apis.",
        Some("apiextensions") => "io.k8s.apiextensions-apiserver.pkg.apis.",
        Some("apiregistration") => "io.k8s.kube-aggregator.pkg.apis.",
        _ => "io.k8s.api.",
    };
    format!("{prefix}{name}")
}

/// Builds the schema. The table is ours and tested whole, so a malformed line is a bug: it panics.
struct Parser {
    schema: Schema,
    types: HashMap<&'static str, u16>,
}

impl Parser {
    fn parse(text: &'static str) -> Schema {
        let schema = Schema { structs: Vec::new(), types: Vec::new(), kinds: HashMap::new(), by_name: HashMap::new() };
        let mut parser = Parser { schema, types: HashMap::new() };
        for name in text.lines().filter_map(|l| l.strip_prefix("T\t")) {
            parser.declare(name);
        }
        let mut current = 0;
        for line in text.lines() {
            match line.split_once('\t') {
                Some(("K", rest)) => parser.kind(rest),
                Some(("T", rest)) => current = parser.schema.by_name[rest.split('\t').next().unwrap_or_default()],
                Some(("+", rest)) => parser.inline(current, rest),
                Some((name, rest)) => parser.field(current, name, rest),
                None => unreachable!("a line without a tab in the schema table"),
            }
        }
        parser.finish()
    }

    fn declare(&mut self, line: &'static str) {
        let (name, atomic) = line.strip_suffix("\ta").map_or((line, false), |name| (name, true));
        let id = self.schema.structs.len() as u16;
        self.schema.by_name.insert(name, id);
        let ty = self.push(name, "", false, false, Base::Struct(id));
        self.schema.structs.push(Struct {
            name,
            ty,
            atomic,
            fields: Vec::new(),
            always: Vec::new(),
            members: Vec::new(),
            wire: Vec::new(),
        });
    }

    fn kind(&mut self, line: &'static str) {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let (group, version, kind, name) = (next(), next(), next(), next());
        self.schema.kinds.insert((group, version, kind), self.schema.by_name[name]);
    }

    fn inline(&mut self, current: u16, line: &'static str) {
        let (name, number) = line.split_once('\t').unwrap_or((line, "0"));
        let member = Member::Inline { id: self.schema.by_name[name], number: number.parse().unwrap_or(0) };
        self.schema.structs[current as usize].members.push(member);
    }

    fn field(&mut self, current: u16, name: &'static str, line: &'static str) {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let (spelling, number, flags) = (next(), next(), next());
        let ty = self.spelled(spelling);
        let mut field = Field {
            name,
            ty,
            number: number.parse().unwrap_or(0),
            required: flags.contains('r'),
            omit_empty: flags.contains('o'),
            omit_zero: flags.contains('z'),
            atomic: None,
            list: None,
            default: None,
            values: "",
            element_values: "",
            keys: "",
            strategy: "",
            merge_key: "",
        };
        for (key, value) in columns.filter_map(|c| c.split_once(':')) {
            match key {
                "d" => field.default = Some(value),
                "e" => field.values = value,
                "i" => field.element_values = value,
                "k" => field.keys = value,
                "l" => field.list = Some(list_type(value)),
                "m" => field.atomic = Some(value == "atomic"),
                "p" => field.strategy = value,
                "q" => field.merge_key = value,
                _ => unreachable!("an unknown fact in the schema table"),
            }
        }
        let data = &mut self.schema.structs[current as usize];
        // The index is that of the field as declared; `finish` turns it into the one of the sorted list.
        data.members.push(Member::Field(data.fields.len() as u16));
        data.fields.push(field);
    }

    /// The type of a spelling, made on first sight.
    fn spelled(&mut self, spelling: &'static str) -> u16 {
        if let Some(id) = self.types.get(spelling) {
            return *id;
        }
        let (pointer, rest) = spelling.strip_prefix('*').map_or((false, spelling), |rest| (true, rest));
        // An alias stands before `=`, outside of list and map brackets.
        let (alias, rest) = match rest.split_once('=') {
            Some((alias, rest)) if !alias.starts_with(['[', '{']) => (alias, rest),
            _ => ("", rest),
        };
        let (wrapped, rest) = rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest));
        let base = self.base(rest);
        self.push(spelling, alias, pointer, wrapped, base)
    }

    fn base(&mut self, spelling: &'static str) -> Base {
        if let Some(element) = spelling.strip_prefix('[') {
            return Base::List(self.spelled(element));
        }
        if let Some(value) = spelling.strip_prefix('{') {
            return Base::Map(self.spelled(value));
        }
        scalar(spelling).map_or_else(|| Base::Struct(self.schema.by_name[spelling]), Base::Scalar)
    }

    fn push(&mut self, spelling: &'static str, alias: &'static str, pointer: bool, wrapped: bool, base: Base) -> u16 {
        let id = self.schema.types.len() as u16;
        self.schema.types.push(Type { alias, pointer, wrapped, base });
        self.types.insert(spelling, id);
        id
    }

    /// Shows inlined fields in place and sorts.
    fn finish(self) -> Schema {
        let mut schema = self.schema;
        let flat: Vec<Vec<Field>> = (0..schema.structs.len()).map(|id| flatten(&schema, id)).collect();
        for (data, fields) in schema.structs.iter_mut().zip(flat) {
            for member in &mut data.members {
                if let Member::Field(at) = member {
                    let name = data.fields[*at as usize].name;
                    *at = fields.iter().position(|f| f.name == name).unwrap_or_default() as u16;
                }
            }
            let written = |f: &Field| !f.omit_empty && !f.omit_zero;
            data.always = fields.iter().enumerate().filter(|(_, f)| written(f)).map(|(at, _)| at as u16).collect();
            data.fields = fields;
        }
        for data in &mut schema.structs {
            data.wire = data.wire_order();
            // Go never takes a struct for empty, so one that is not behind a pointer is always written.
            for (at, field) in data.fields.iter().enumerate() {
                let ty = &schema.types[field.ty as usize];
                if field.omit_empty && !field.omit_zero && !ty.pointer && is_go_struct(ty.base) {
                    data.always.push(at as u16);
                }
            }
            data.always.sort_unstable();
        }
        schema
    }
}

impl Struct {
    /// The protobuf number of a member.
    pub(super) fn number(&self, member: u16) -> u32 {
        match &self.members[member as usize] {
            Member::Field(field) => self.fields[*field as usize].number,
            Member::Inline { number, .. } => *number,
        }
    }

    fn wire_order(&self) -> Vec<u16> {
        let mut order: Vec<u16> = (0..self.members.len() as u16).filter(|at| self.number(*at) > 0).collect();
        order.sort_by_key(|at| self.number(*at));
        order
    }
}

/// Whether Go holds it in a struct, whatever its JSON is.
fn is_go_struct(base: Base) -> bool {
    use Shape::{Duration, IntOrString, MicroTime, Quantity, RawExtension, Time};
    match base {
        Base::Struct(_) => true,
        Base::Scalar(shape) => matches!(shape, Time | MicroTime | Duration | Quantity | IntOrString | RawExtension),
        Base::List(_) | Base::Map(_) => false,
    }
}

fn flatten(schema: &Schema, id: usize) -> Vec<Field> {
    let data = &schema.structs[id];
    let mut fields = data.fields.clone();
    for member in &data.members {
        if let Member::Inline { id, .. } = member {
            let inner = flatten(schema, *id as usize);
            // The outer declaration wins, as in Go.
            fields.extend(inner.into_iter().filter(|f| data.fields.iter().all(|own| own.name != f.name)));
        }
    }
    fields.sort_by_key(|f| f.name);
    fields
}

fn list_type(word: &str) -> ListType {
    match word {
        "map" => ListType::Map,
        "set" => ListType::Set,
        _ => ListType::Atomic,
    }
}

fn scalar(letter: &str) -> Option<Shape<'static>> {
    Some(match letter {
        "b" => Shape::Bool,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "f" => Shape::Double,
        "s" => Shape::String,
        "y" => Shape::Bytes,
        "T" => Shape::Time,
        "M" => Shape::MicroTime,
        "D" => Shape::Duration,
        "Q" => Shape::Quantity,
        "I" => Shape::IntOrString,
        "R" => Shape::RawExtension,
        "F" => Shape::FieldsV1,
        "J" | "A" => Shape::Any,
        "1" => Shape::SchemaOrArray,
        "2" => Shape::SchemaOrBool,
        "3" => Shape::SchemaOrStrings,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let schema = Schema::builtin();
        assert!(schema.structs.len() > 600, "{}", schema.structs.len());
        let pod = schema.kind("", "v1", "Pod").unwrap();
        let containers = pod.field("spec").and_then(|f| f.ty().field("containers")).unwrap();
        assert_eq!((containers.number(), containers.patch_strategy(), containers.merge_key()), (2, "merge", "name"));
        assert_eq!(containers.map_keys().collect::<Vec<_>>(), ["name"]);
        assert_eq!(containers.ty().go_name(), "[]v1.Container");
        assert_eq!(pod.as_struct().unwrap().model_name(), "io.k8s.api.core.v1.Pod");
        assert!(schema.kind("apps", "v1", "DeleteOptions").is_some());
        assert!(schema.kind("apps", "v1beta1", "Deployment").is_none());
    }

    #[test]
    fn inlined_fields_stand_in_place() {
        let volume = Schema::builtin().named("core.v1.Volume").unwrap();
        assert!(volume.field("emptyDir").is_some());
        assert_eq!(volume.as_struct().unwrap().members().count(), 2);
    }
}
