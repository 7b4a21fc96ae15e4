//! Defaulting: the fields upstream sets where a client leaves them out.
//!
//! Rules belong to types, not kinds: the one for a container holds in every kind with a pod template. A plan made once from
//! the rules and the schema says which fields lead to types with rules, so what has none (a ConfigMap) is not walked.

mod kinds;
mod pods;
mod rules;

use machinery::schema::{FieldRef, Member, Schema, Shape, StructRef, TypeRef};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// A JSON object.
type Object = Map<String, Value>;

/// Sets what upstream's defaulting sets, in an object that `machinery::schema::check` has brought into its written form.
/// Applying it twice changes nothing; a kind that is not built in stays as it is.
pub fn default(group: &str, version: &str, kind: &str, value: &mut Value) {
    let Some(ty) = Schema::builtin().kind(group, version, kind) else { return };
    walk(value, ty, plan());
}

/// What to do for each struct, by its index in the schema.
struct Plan {
    steps: Vec<Step>,
}

#[derive(Default)]
struct Step {
    constants: Vec<Constant>,
    functions: Vec<fn(&mut Object)>,
    /// The fields to walk into.
    fields: Vec<FieldRef<'static>>,
}

/// A field that gets a fixed value.
struct Constant {
    name: &'static str,
    value: Value,
    /// Held by pointer, so that zero is a value of its own.
    pointer: bool,
}

impl Step {
    fn is_empty(&self) -> bool {
        self.constants.is_empty() && self.functions.is_empty() && self.fields.is_empty()
    }
}

fn walk(value: &mut Value, ty: TypeRef<'static>, plan: &Plan) {
    match (ty.shape(), value) {
        (Shape::Struct(s), Value::Object(object)) => {
            let step = &plan.steps[s.index()];
            for constant in &step.constants {
                if is_unset(object.get(constant.name), constant.pointer) {
                    object.insert(constant.name.to_owned(), constant.value.clone());
                }
            }
            for function in &step.functions {
                function(object);
            }
            for field in &step.fields {
                if let Some(inner) = object.get_mut(field.name()) {
                    walk(inner, field.ty(), plan);
                }
            }
        }
        (Shape::List(element), Value::Array(items)) => items.iter_mut().for_each(|item| walk(item, element, plan)),
        (Shape::Map(element), Value::Object(items)) => items.values_mut().for_each(|item| walk(item, element, plan)),
        _ => {}
    }
}

/// Whether Go would hold the zero value in this field.
fn is_unset(value: Option<&Value>, pointer: bool) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(_) if pointer => false,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| make(Schema::builtin()))
}

fn make(schema: &'static Schema) -> Plan {
    let mut plan = Plan { steps: (0..schema.struct_count()).map(|_| Step::default()).collect() };
    let constants: HashMap<&str, &[(&'static str, &'static str)]> = rules::CONSTANTS.iter().copied().collect();
    for s in schema.structs() {
        let step = &mut plan.steps[s.index()];
        for part in parts(s) {
            for (name, text) in constants.get(part.name()).copied().unwrap_or_default() {
                push_constant(step, part, name, text);
            }
            step.functions.extend(
                rules::FUNCTIONS.iter().filter(|(name, _)| *name == part.name()).map(|(_, function)| *function),
            );
        }
        for field in s.fields() {
            if let Some(text) = field.default() {
                push_constant(step, s, field.name(), text);
            }
        }
    }
    reach(schema, &mut plan);
    plan
}

/// A struct and what is inlined in it.
fn parts(s: StructRef<'static>) -> Vec<StructRef<'static>> {
    let mut list = vec![s];
    for member in s.members() {
        if let Member::Inline(inner, _) = member {
            list.extend(parts(inner));
        }
    }
    list
}

fn push_constant(step: &mut Step, s: StructRef<'static>, name: &'static str, text: &str) {
    let field = s.field(name).unwrap_or_else(|| unreachable!("no field {name} in {}", s.name()));
    let value =
        serde_json::from_str(text).unwrap_or_else(|_| unreachable!("the default of {name} in {} is no JSON", s.name()));
    if step.constants.iter().all(|c| c.name != name) {
        step.constants.push(Constant { name, value, pointer: field.ty().is_pointer() });
    }
}

/// Fills in the fields that lead to structs with rules, until nothing changes.
fn reach(schema: &'static Schema, plan: &mut Plan) {
    loop {
        let mut changed = false;
        for s in schema.structs() {
            for field in s.fields() {
                let leads = target(field.ty()).is_some_and(|t| !plan.steps[t.index()].is_empty());
                let step = &mut plan.steps[s.index()];
                if leads && step.fields.iter().all(|f| f.name() != field.name()) {
                    step.fields.push(field);
                    changed = true;
                }
            }
        }
        if !changed {
            return;
        }
    }
}

/// The struct that a type holds, in lists and maps too.
fn target(ty: TypeRef<'static>) -> Option<StructRef<'static>> {
    match ty.shape() {
        Shape::Struct(s) => Some(s),
        Shape::List(inner) | Shape::Map(inner) => target(inner),
        _ => None,
    }
}

/// The object in a field, made if it is not there.
fn object_in<'a>(object: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    let slot = object.entry(name.to_owned()).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Object::new());
    }
    slot.as_object_mut()
}

/// Sets a field that is absent or null.
fn set_absent(object: &mut Object, name: &str, value: impl Into<Value>) {
    if is_unset(object.get(name), true) {
        object.insert(name.to_owned(), value.into());
    }
}

fn text<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn items_mut<'a>(object: &'a mut Object, name: &str) -> impl Iterator<Item = &'a mut Object> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::schema::check;

    /// Each golden object, checked and defaulted, must be what upstream's own defaulting makes of it.
    #[test]
    fn defaults_as_upstream() {
        let mut count = 0;
        for line in include_str!("../../testdata/objects.jsonl").lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let (api_version, kind) =
                (case["in"]["apiVersion"].as_str().unwrap(), case["in"]["kind"].as_str().unwrap());
            let (group, version) = crate::catalogue::split_api_version(api_version);
            let ty = Schema::builtin().kind(group, version, kind).unwrap();
            let mut value = case["in"].clone();
            assert_eq!(check(&mut value, ty).unwrap(), [], "{kind}");
            assert_eq!(value, case["written"], "the written form of {kind} {}", case["in"]["metadata"]["name"]);
            default(group, version, kind, &mut value);
            // Upstream folds the write-only field of secrets in later, when it converts to its internal type.
            let expected = if kind == "Secret" { &case["prepared"] } else { &case["defaulted"] };
            assert_eq!(&value, expected, "the defaults of {kind} {}", case["in"]["metadata"]["name"]);
            let once = value.clone();
            default(group, version, kind, &mut value);
            assert_eq!(value, once, "the defaults of {kind} twice");
            count += 1;
        }
        assert!(count > 100);
    }
}
