//! What an expression may refer to.

use crate::types::{NoTypes, Type, Types};
use std::sync::Arc;

/// The variables and struct types of an expression. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    variables: Arc<[(Arc<str>, Type)]>,
    types: Arc<dyn Types>,
}

impl Default for Env {
    fn default() -> Env {
        Env { variables: Arc::new([]), types: Arc::new(NoTypes) }
    }
}

impl Env {
    /// The same with one more variable. Its index, by which an [`crate::Activation`] is asked for it, is the number of those
    /// before it. A name may have dots: `variables.foo`.
    pub fn variable(&self, name: &str, ty: Type) -> Env {
        let mut variables = self.variables.to_vec();
        variables.push((name.into(), ty));
        Env { variables: variables.into(), types: Arc::clone(&self.types) }
    }

    /// The same with other struct types.
    pub fn types(&self, types: Arc<dyn Types>) -> Env {
        Env { variables: Arc::clone(&self.variables), types }
    }

    /// The index of a variable; the last one declared of two with one name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.variables.iter().rposition(|(known, _)| **known == *name)
    }

    pub(crate) fn declared(&self, name: &str) -> Option<(usize, &Type)> {
        let at = self.index_of(name)?;
        Some((at, &self.variables[at].1))
    }

    pub(crate) fn structs(&self) -> &dyn Types {
        &*self.types
    }
}
