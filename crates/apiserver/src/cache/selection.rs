//! What a list or watch asks for.

use super::entry::Entry;
use machinery::selector::{FieldSelector, LabelSelector};

/// The objects a reader wants to see.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    /// Only objects whose labels match.
    pub labels: Option<LabelSelector>,
    /// Only objects whose fields match.
    pub fields: Option<FieldSelector>,
}

impl Selection {
    /// Whether an object is wanted.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.in_scope(entry) && self.matches_selectors(entry)
    }

    /// Whether an object is in the namespace and has the name asked for.
    pub(crate) fn in_scope(&self, entry: &Entry) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| entry.namespace() == namespace)
            && self.name.as_deref().is_none_or(|name| entry.name() == name)
    }

    fn matches_selectors(&self, entry: &Entry) -> bool {
        self.labels.as_ref().is_none_or(|labels| labels.matches(|key| entry.label(key)))
            && self.fields.as_ref().is_none_or(|fields| fields.matches(|field| entry.field(field)))
    }

    /// Whether anything but the namespace is asked for.
    pub(crate) fn is_selective(&self) -> bool {
        self.name.is_some() || self.labels.is_some() || self.fields.is_some()
    }
}
