//! What apply has to know of the schema of a custom resource.

use super::place::{Builtin, Form, Member, Place, Scalar};
use crate::schema::{ListType, Schema};
use crate::structural::{Kind, Node};
use serde_json::Value;

/// A place in the schema of a custom resource, or in the table of the built-in kinds: the metadata of a custom resource is there.
#[derive(Clone, Copy)]
pub enum AnyPlace<'s> {
    /// In the table of the built-in kinds.
    Builtin(Builtin<'s>),
    /// In a structural schema.
    Custom {
        /// The schema.
        node: Node<'s>,
        /// It is an object with kind, version and metadata of its own.
        whole: bool,
    },
}

impl<'s> AnyPlace<'s> {
    /// The objects of a custom kind.
    pub fn custom(root: Node<'s>) -> AnyPlace<'s> {
        AnyPlace::Custom { node: root, whole: true }
    }

    fn of(node: Node<'s>) -> AnyPlace<'s> {
        AnyPlace::Custom { node, whole: node.is_embedded() }
    }
}

/// What every object has beside its own fields.
fn meta_field(name: &str) -> Option<AnyPlace<'static>> {
    let schema = Schema::builtin();
    let ty = match name {
        "metadata" => schema.named("meta.v1.ObjectMeta")?,
        "apiVersion" | "kind" => schema.named("meta.v1.TypeMeta")?.field(name)?.ty(),
        _ => return None,
    };
    Some(AnyPlace::Builtin(Builtin::new(ty)))
}

impl<'s> Place<'s> for AnyPlace<'s> {
    fn form(self, value: &Value) -> Form<Self> {
        let node = match self {
            AnyPlace::Builtin(place) => {
                return match place.form(value) {
                    Form::Scalar(scalar) => Form::Scalar(scalar),
                    Form::Map { atomic } => Form::Map { atomic },
                    Form::List { kind, item } => Form::List { kind, item: AnyPlace::Builtin(item) },
                };
            }
            AnyPlace::Custom { node, .. } => node,
        };
        match node.kind() {
            _ if node.is_int_or_string() => Form::Scalar(Scalar::Any),
            Kind::Object => Form::Map { atomic: node.is_atomic_map() },
            Kind::Array => {
                let item = node.items().map_or(AnyPlace::Builtin(Builtin::untyped()), AnyPlace::of);
                Form::List { kind: node.list_type().unwrap_or(ListType::Atomic), item }
            }
            Kind::String => Form::Scalar(Scalar::String),
            Kind::Integer | Kind::Number => Form::Scalar(Scalar::Numeric),
            Kind::Boolean => Form::Scalar(Scalar::Boolean),
            Kind::Any => AnyPlace::Builtin(Builtin::untyped()).form(value),
        }
    }

    fn member(self, name: &str) -> Option<Member<Self>> {
        let (node, whole) = match self {
            AnyPlace::Builtin(place) => {
                let Member { place, named } = place.member(name)?;
                return Some(Member { place: AnyPlace::Builtin(place), named });
            }
            AnyPlace::Custom { node, whole } => (node, whole),
        };
        if let Some(place) = meta_field(name).filter(|_| whole) {
            return Some(Member { place, named: true });
        }
        if let Some(property) = node.property(name) {
            return Some(Member { place: AnyPlace::of(property), named: true });
        }
        let untyped = || AnyPlace::Builtin(Builtin::untyped());
        let free = node.preserves_unknown() || node.is_map();
        free.then(|| Member { place: node.additional().map_or_else(untyped, AnyPlace::of), named: false })
    }

    fn keys(self) -> impl Iterator<Item = &'s str> {
        let (builtin, custom) = match self {
            AnyPlace::Builtin(place) => (Some(place), None),
            AnyPlace::Custom { node, .. } => (None, Some(node)),
        };
        builtin.into_iter().flat_map(Place::keys).chain(custom.into_iter().flat_map(Node::map_keys))
    }

    fn default(self, key: &str) -> Option<Value> {
        match self {
            AnyPlace::Builtin(place) => place.default(key),
            AnyPlace::Custom { node, .. } => node.property(key)?.default().cloned(),
        }
    }
}
