//! Stands in for parts of `api` until they are there.

use machinery::field::FieldError;
use serde_json::Value;

pub(crate) fn default(_: &str, _: &str, _: &str, _: &mut Value) {}
pub(crate) mod validate {
    use super::*;
    pub(crate) fn create(_: &str, _: &str, _: &str, _: &Value) -> Vec<FieldError> {
        Vec::new()
    }
    pub(crate) fn update(_: &str, _: &str, _: &str, _: &Value, _: &Value) -> Vec<FieldError> {
        Vec::new()
    }
}
pub(crate) mod fields {
    use super::*;
    pub(crate) fn selectable(group: &str, kind: &str, object: &Value) -> Vec<(&'static str, String)> {
        let text = |path: &[&str]| crate::meta::text_at(object, path).to_owned();
        match (group, kind) {
            ("", "Pod") => {
                vec![("spec.nodeName", text(&["spec", "nodeName"])), ("status.phase", text(&["status", "phase"]))]
            }
            _ => Vec::new(),
        }
    }
}
pub(crate) mod columns {
    use super::*;
    pub(crate) struct ColumnDefinition {
        pub name: &'static str,
        pub kind: &'static str,
        pub format: &'static str,
        pub description: &'static str,
        pub priority: i32,
    }
    pub(crate) fn columns(_: &str, _: &str) -> Vec<ColumnDefinition> {
        vec![ColumnDefinition { name: "Name", kind: "string", format: "name", description: "", priority: 0 }]
    }
    pub(crate) fn row(_: &str, _: &str, object: &Value, _: jiff::Timestamp) -> Vec<Value> {
        vec![crate::meta::name(object).into()]
    }
}
