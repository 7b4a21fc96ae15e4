//! What the expressions of policies and match conditions may refer to.

use cel::{Decl, DeclTypes, Env, ObjectDecl, Shape, Type, Types};
use std::sync::{Arc, OnceLock};

/// A variable of an expression, by what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The object as it is to be stored.
    Object,
    /// The object as it is stored.
    OldObject,
    /// The object's namespace.
    Namespace,
    /// The request.
    Request,
    /// The parameters of the policy.
    Params,
    /// Who may do what.
    Authorizer,
    /// A check about the request's own resource.
    ResourceAuthorizer,
    /// A composed variable of the policy.
    Variable(usize),
    /// All composed variables: a type for the checker, never asked for.
    Variables,
}

/// An environment, and what its variables stand for.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) env: Env,
    pub(crate) slots: Arc<[Slot]>,
}

/// What an expression may use beside the request and its objects.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// `params`
    pub(crate) params: bool,
    /// `authorizer`
    pub(crate) authorizer: bool,
    /// `Object{…}` and `JSONPatch{…}`
    pub(crate) patches: bool,
    /// The type of `object` and `oldObject`; none for anything.
    pub(crate) object: Option<Type>,
    /// The type of `params`.
    pub(crate) params_type: Option<Type>,
    /// The structs that these reach.
    pub(crate) types: Option<Arc<dyn Types>>,
    /// Composed variables, with the types of their expressions.
    pub(crate) variables: Vec<(String, Type)>,
}

/// The name of the type of `variables`.
const VARIABLES: &str = "kubernetes.variables";

impl Options {
    /// The environment.
    pub(crate) fn scene(&self) -> Scene {
        let mut slots = vec![Slot::Object, Slot::OldObject, Slot::Namespace, Slot::Request];
        let object = self.object.clone().unwrap_or(Type::Dyn);
        let mut env = Env::default()
            .types(Arc::new(PolicyTypes {
                patches: self.patches,
                variables: self.variables.clone(),
                more: self.types.clone(),
            }))
            .variable("object", object.clone())
            .variable("oldObject", object)
            .variable("namespaceObject", namespace().ty())
            .variable("request", request().ty());
        if self.params {
            slots.push(Slot::Params);
            env = env.variable("params", self.params_type.clone().unwrap_or(Type::Dyn));
        }
        if self.authorizer {
            slots.extend([Slot::Authorizer, Slot::ResourceAuthorizer]);
            env = env
                .variable("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"))
                .variable("authorizer.requestResource", Type::Opaque("kubernetes.authorization.ResourceCheck"));
        }
        if !self.variables.is_empty() {
            slots.push(Slot::Variables);
            env = env.variable("variables", Type::object(VARIABLES));
        }
        for (at, (name, ty)) in self.variables.iter().enumerate() {
            slots.push(Slot::Variable(at));
            env = env.variable(&format!("variables.{name}"), ty.clone());
        }
        Scene { env, slots: slots.into() }
    }
}

/// The structs of policies: of the request, the namespace, patches, and of what is checked.
struct PolicyTypes {
    patches: bool,
    variables: Vec<(String, Type)>,
    more: Option<Arc<dyn Types>>,
}

fn own() -> &'static DeclTypes {
    static OWN: OnceLock<DeclTypes> = OnceLock::new();
    OWN.get_or_init(|| DeclTypes::of([request(), namespace()]))
}

impl PolicyTypes {
    fn is_patch(&self, object: &str) -> bool {
        self.patches && (object == "Object" || object.starts_with("Object."))
    }
}

impl Types for PolicyTypes {
    fn field(&self, object: &str, name: &str) -> Option<Type> {
        if self.is_patch(object) {
            return Some(Type::Dyn);
        }
        if self.patches && object == "JSONPatch" {
            return match name {
                "op" | "path" | "from" => Some(Type::String),
                "value" => Some(Type::Dyn),
                _ => None,
            };
        }
        if object == VARIABLES {
            let found = self.variables.iter().rev().find(|(known, _)| known == name);
            return found.map(|(_, ty)| ty.clone());
        }
        own().field(object, name).or_else(|| self.more.as_ref()?.field(object, name))
    }

    fn is_object(&self, object: &str) -> bool {
        self.is_patch(object)
            || (self.patches && object == "JSONPatch")
            || own().is_object(object)
            || self.more.as_ref().is_some_and(|more| more.is_object(object))
    }
}

fn object(name: &str, fields: &[(&str, Shape)]) -> Shape {
    let fields = fields.iter().map(|(name, shape)| ((*name).to_owned(), Decl::new(shape.clone())));
    Shape::Object(Arc::new(ObjectDecl::plain(name, fields)))
}

fn list(element: Shape) -> Shape {
    Shape::List(Box::new(Decl::new(element)))
}

fn map(value: Shape) -> Shape {
    Shape::Map(Box::new(Decl::new(value)))
}

/// The type of `request`: an admission request without the objects.
pub(crate) fn request() -> &'static Decl {
    static REQUEST: OnceLock<Decl> = OnceLock::new();
    REQUEST.get_or_init(|| {
        let kind = object(
            "kubernetes.GroupVersionKind",
            &[("group", Shape::String), ("version", Shape::String), ("kind", Shape::String)],
        );
        let resource = object(
            "kubernetes.GroupVersionResource",
            &[("group", Shape::String), ("version", Shape::String), ("resource", Shape::String)],
        );
        let user = object(
            "kubernetes.UserInfo",
            &[
                ("username", Shape::String),
                ("uid", Shape::String),
                ("groups", list(Shape::String)),
                ("extra", map(list(Shape::String))),
            ],
        );
        Decl::new(object(
            "kubernetes.AdmissionRequest",
            &[
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", Shape::String),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", Shape::String),
                ("name", Shape::String),
                ("namespace", Shape::String),
                ("operation", Shape::String),
                ("userInfo", user),
                ("dryRun", Shape::Bool),
                ("options", Shape::Dyn),
            ],
        ))
    })
}

/// The type of `namespaceObject`: what a namespace shows of itself.
pub(crate) fn namespace() -> &'static Decl {
    static NAMESPACE: OnceLock<Decl> = OnceLock::new();
    NAMESPACE.get_or_init(|| {
        let condition = object(
            "kubernetes.NamespaceCondition",
            &[
                ("status", Shape::String),
                ("type", Shape::String),
                ("lastTransitionTime", Shape::Timestamp),
                ("message", Shape::String),
                ("reason", Shape::String),
            ],
        );
        let metadata = object(
            "kubernetes.NamespaceMetadata",
            &[
                ("name", Shape::String),
                ("generateName", Shape::String),
                ("namespace", Shape::String),
                ("labels", map(Shape::String)),
                ("annotations", map(Shape::String)),
                ("UID", Shape::String),
                ("creationTimestamp", Shape::Timestamp),
                ("deletionGracePeriodSeconds", Shape::Int),
                ("deletionTimestamp", Shape::Timestamp),
                ("generation", Shape::Int),
                ("resourceVersion", Shape::String),
                ("finalizers", list(Shape::String)),
            ],
        );
        Decl::new(object(
            "kubernetes.Namespace",
            &[
                ("metadata", metadata),
                ("spec", object("kubernetes.NamespaceSpec", &[("finalizers", list(Shape::String))])),
                (
                    "status",
                    object("kubernetes.NamespaceStatus", &[("conditions", list(condition)), ("phase", Shape::String)]),
                ),
            ],
        ))
    })
}
