//! The expressions of a policy, compiled once for each of its revisions.

use super::env::{Options, Scene, Slot};
use cel::{Program, Type};
use std::sync::Arc;

/// A compiled expression, or why it is none.
pub(crate) struct Expression {
    /// As written.
    pub(crate) source: String,
    /// What its variables stand for.
    pub(crate) slots: Arc<[Slot]>,
    pub(crate) program: Result<Program, String>,
}

/// What the result of an expression has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A boolean.
    Bool,
    /// Text.
    String,
    /// Text or null.
    StringOrNull,
    /// Anything.
    Any,
    /// `Object{…}`
    Object,
    /// A list of `JSONPatch{…}`.
    JsonPatches,
}

impl Wanted {
    /// What is wrong with a type; none when nothing is.
    fn complaint(self, ty: &Type) -> Option<String> {
        let wanted = match self {
            Wanted::Any => return None,
            Wanted::Bool => vec![Type::Bool],
            Wanted::String => vec![Type::String],
            Wanted::StringOrNull => vec![Type::String, Type::Null],
            Wanted::Object => vec![Type::object("Object")],
            Wanted::JsonPatches => vec![Type::list(Type::object("JSONPatch"))],
        };
        if wanted.contains(ty) {
            return None;
        }
        let got = ty.runtime_name();
        let names: Vec<String> = wanted.iter().map(Type::runtime_name).collect();
        Some(match names.as_slice() {
            [one] => format!("must evaluate to {one} but got {got}"),
            several => format!("must evaluate to one of [{}] but got {got}", several.join(" ")),
        })
    }
}

impl Expression {
    /// Compiles an expression.
    pub(crate) fn compile(source: &str, scene: &Scene, wanted: Wanted) -> Expression {
        let compiled = Program::compile(source, &scene.env).map_err(|issues| {
            let stage = if issues.is_instantiation() { "program instantiation" } else { "compilation" };
            format!("{stage} failed: {issues}")
        });
        let program = compiled.and_then(|program| match wanted.complaint(program.result()) {
            None => Ok(program),
            Some(complaint) => Err(complaint),
        });
        Expression { source: source.to_owned(), slots: Arc::clone(&scene.slots), program }
    }
}

/// A composed variable of a policy.
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) expression: Expression,
}

/// Compiles variables in order, each with those before it in sight; they are then in the options.
pub(crate) fn variables<'v>(list: impl Iterator<Item = (&'v str, &'v str)>, options: &mut Options) -> Vec<Variable> {
    let mut all = Vec::new();
    for (name, source) in list {
        let expression = Expression::compile(source, &options.scene(), Wanted::Any);
        let ty = expression.program.as_ref().map_or(Type::Dyn, |program| program.result().clone());
        options.variables.push((name.to_owned(), ty));
        all.push(Variable { name: name.to_owned(), expression });
    }
    all
}
