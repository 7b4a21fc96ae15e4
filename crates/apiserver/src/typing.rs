//! What the fields of a served version are, whoever says so: the built-in schema table, or a custom definition.

use crate::context::Warnings;
use crate::custom::Version;
use api::catalogue::Resource;
use machinery::Status;
use machinery::field::FieldError;
use machinery::schema::{self, TypeRef};
use serde_json::Value;
use std::sync::Arc;

/// The fields of a served version: what is checked, filled in and refused, and how objects are shown and selected.
#[derive(Clone)]
pub(crate) enum Typing {
    /// A kind of the built-in table.
    Builtin(TypeRef<'static>),
    /// A version of a custom kind.
    Custom(Arc<Version>),
}

impl Typing {
    /// The type in the built-in table, if it is there.
    pub(crate) fn builtin(&self) -> Option<TypeRef<'static>> {
        match self {
            Typing::Builtin(ty) => Some(*ty),
            Typing::Custom(_) => None,
        }
    }

    /// Brings a decoded object into its written form: unknown fields are removed and told, the rest is of the right type.
    pub(crate) fn check(&self, object: &mut Value) -> Result<Vec<String>, Status> {
        match self {
            Typing::Builtin(ty) => Ok(schema::check(object, *ty)?.iter().map(ToString::to_string).collect()),
            Typing::Custom(version) => version.check(object),
        }
    }

    /// Sets what clients leave out.
    pub(crate) fn default(&self, resource: &Resource, object: &mut Value) {
        match self {
            Typing::Builtin(_) => api::default(&resource.group, &resource.version, &resource.kind, object),
            Typing::Custom(version) => version.default(object),
        }
    }

    /// What is wrong with a new object; `kind` is group, version and kind of the form validated.
    pub(crate) fn validate_create(
        &self,
        (group, version, kind): (&str, &str, &str),
        object: &Value,
    ) -> Vec<FieldError> {
        match self {
            Typing::Builtin(_) => api::validate::create(group, version, kind, object),
            Typing::Custom(custom) => custom.validate_create(object),
        }
    }

    /// What is wrong with a changed object. What was wrong before is only warned of, where it is told at all.
    pub(crate) fn validate_update(
        &self,
        (group, version, kind): (&str, &str, &str),
        object: &Value,
        old: &Value,
        warnings: &Warnings,
    ) -> Vec<FieldError> {
        match self {
            Typing::Builtin(_) => api::validate::update(group, version, kind, object, old),
            Typing::Custom(custom) => custom.validate_update(object, old, warnings),
        }
    }

    /// What is wrong with a changed status of a built-in kind; custom ones are checked by their strategy.
    pub(crate) fn validate_status(
        &self,
        (group, version, kind): (&str, &str, &str),
        object: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        match self {
            Typing::Builtin(_) => api::validate::status(group, version, kind, object, old),
            Typing::Custom(_) => Vec::new(),
        }
    }

    /// The columns of a table, as `TableColumnDefinition`s.
    pub(crate) fn columns(&self, resource: &Resource) -> Vec<Value> {
        match self {
            Typing::Builtin(_) => {
                let columns = api::columns::columns(&resource.group, &resource.kind);
                columns.iter().map(api::columns::ColumnDefinition::to_value).collect()
            }
            Typing::Custom(version) => version.columns(),
        }
    }

    /// The cells of an object, one for each column.
    pub(crate) fn cells(&self, resource: &Resource, object: &Value) -> Vec<Value> {
        match self {
            Typing::Builtin(_) => api::columns::row(&resource.group, &resource.kind, object, jiff::Timestamp::now()),
            Typing::Custom(version) => version.cells(object),
        }
    }

    /// The fields that objects can be selected by, beyond name and namespace.
    pub(crate) fn selectable(&self, resource: &Resource) -> Vec<&str> {
        match self {
            Typing::Builtin(_) => api::fields::names(&resource.group, &resource.kind).to_vec(),
            Typing::Custom(version) => version.selectable().collect(),
        }
    }
}
