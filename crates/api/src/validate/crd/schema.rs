//! The schema of a version: what of OpenAPI may be used, and how.

use super::super::at::{At, Errors};
use super::structure;
use crate::look::Look;
use machinery::structural::Structural;
use serde_json::{Map, Value};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What the root may have when the status is a part of its own.
const AT_ROOT: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
const AT_ROOT_TOLD: &str = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled";
const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "id is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("$ref", "$ref is not supported"),
    ("$schema", "$schema is not supported"),
];

/// `schema` of a version, or of all; `status`: the status is written by its subresource.
pub(super) fn version(schema: &Value, status: bool, at: &At<'_>, errors: &mut Errors) {
    let (schema, at) = (schema.at("openAPIV3Schema"), at.field("openAPIV3Schema"));
    let Value::Object(map) = schema else { return };
    if status {
        root(map, &at, errors);
    }
    if schema.flag("nullable") {
        errors.forbidden(&at.field("nullable"), "nullable cannot be true at the root");
    }
    let before = errors.0.len();
    structure::check(schema, &at, errors);
    if errors.0.len() == before {
        defaults(schema, &at, errors);
    }
    check(schema, &at, Context { root: true, ..Context::default() }, errors);
}

fn root(map: &Map<String, Value>, at: &At<'_>, errors: &mut Errors) {
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if !kind.is_empty() && kind != "object" {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(&at.field("type"), kind, detail);
    }
    if map.iter().any(|(field, value)| !AT_ROOT.contains(&field.as_str()) && is_set(value)) {
        errors.invalid(at, Value::Object(map.clone()), AT_ROOT_TOLD);
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// What holds on the way down.
#[derive(Clone, Copy, Default)]
struct Context<'a> {
    root: bool,
    inside_meta: bool,
    no_defaults: Option<&'a str>,
}

fn check(schema: &Value, at: &At<'_>, context: Context<'_>, errors: &mut Errors) {
    let Value::Object(map) = schema else { return };
    fields(schema, at, context, errors);
    let below = Context { root: false, ..context };
    if let Some(values) = map.get("additionalProperties").filter(|values| !values.is_null()) {
        if schema.at("properties").as_object().is_some_and(|properties| !properties.is_empty()) && *values != true {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(&at.field("additionalProperties"), detail);
        }
        let no_defaults = match context.inside_meta {
            true => Some("inside additionalProperties applying to object metadata"),
            false => context.no_defaults,
        };
        check(values, &at.field("additionalProperties"), Context { no_defaults, ..below }, errors);
    }
    let owner = at.field("properties");
    for (name, property) in schema.entries("properties") {
        let is_meta = matches!(&**name, "metadata" | "kind" | "apiVersion")
            && (context.root || schema.at("x-kubernetes-embedded-resource") == true);
        let reason = format!("in top-level {name}");
        let mut below = below;
        if is_meta {
            below.inside_meta = true;
            if context.root {
                below.no_defaults = Some(&reason);
            }
        }
        check(property, &owner.key(name), below, errors);
    }
    check(schema.at("not"), &at.field("not"), below, errors);
    for junctor in ["allOf", "oneOf", "anyOf"] {
        let at = at.field(junctor);
        for (index, branch) in schema.items(junctor).iter().enumerate() {
            check(branch, &at.index(index), below, errors);
        }
    }
    check(schema.at("items"), &at.field("items"), below, errors);
    list_and_map_types(schema, at, errors);
    rules(schema, at, errors);
}

/// The keywords of one schema.
fn fields(schema: &Value, at: &At<'_>, context: Context<'_>, errors: &mut Errors) {
    let kind = schema.text("type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.unsupported(&at.field("type"), kind, &TYPES);
    }
    if let Some(reason) = context.no_defaults.filter(|_| schema.has("default")) {
        errors.forbidden(&at.field("default"), format!("must not be set {reason}"));
    }
    for (field, detail) in UNSUPPORTED {
        if schema.get(field).is_some_and(is_set) {
            errors.forbidden(&at.field(field), detail);
        }
    }
    if kind == "null" {
        errors.forbidden(&at.field("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if schema.at("items").is_array() {
        errors.forbidden(&at.field("items"), "items must be a schema object and not an array");
    }
    if context.inside_meta && schema.at("x-kubernetes-embedded-resource") == true {
        errors.forbidden(&at.field("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
    if schema.flag("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&at.field("uniqueItems"), detail);
    }
    if schema.at("x-kubernetes-preserve-unknown-fields") == false {
        errors.invalid(&at.field("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
}

/// `type` must be what an extension is about.
fn wants_type(schema: &Value, wanted: &str, extension: &str, at: &At<'_>, errors: &mut Errors) -> bool {
    let detail = format!("must be {wanted} if {extension} is specified");
    match schema.text("type") {
        "" => errors.required(&at.field("type"), &detail),
        kind if kind != wanted => errors.invalid(&at.field("type"), kind, detail),
        _ => return true,
    }
    false
}

fn list_and_map_types(schema: &Value, at: &At<'_>, errors: &mut Errors) {
    const MAP: &str = "x-kubernetes-map-type";
    const LIST: &str = "x-kubernetes-list-type";
    const KEYS: &str = "x-kubernetes-list-map-keys";
    if let Some(map_type) = schema.at(MAP).as_str() {
        wants_type(schema, "object", MAP, at, errors);
        errors.one_of(&at.field(MAP), map_type, &["atomic", "granular"]);
    }
    let (list_type, items) = (schema.at(LIST).as_str(), schema.at("items"));
    if let Some(list_type) = list_type {
        if wants_type(schema, "array", LIST, at, errors) && list_type == "set" {
            set_items(items, &at.field("items"), errors);
        }
        errors.one_of(&at.field(LIST), list_type, &["atomic", "set", "map"]);
    }
    let keys = schema.items(KEYS);
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errors.required(&at.field(LIST), detail),
            Some(other) => errors.invalid(&at.field(LIST), other, detail),
        }
    }
    if list_type == Some("map") {
        if keys.is_empty() {
            errors.required(&at.field(KEYS), "must not be empty if x-kubernetes-list-type is map");
        }
        map_items(schema, keys, at, errors);
    }
    if let Some(list_type) = list_type.filter(|list_type| matches!(*list_type, "set" | "map"))
        && items.flag("nullable")
    {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(&at.field("items.nullable"), detail);
    }
}

/// The items of a set are one value each.
fn set_items(items: &Value, at: &At<'_>, errors: &mut Errors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list_type, map_type) = (items.at("x-kubernetes-list-type"), items.at("x-kubernetes-map-type"));
    match items.text("type") {
        "array" if !list_type.is_null() && *list_type != "atomic" => {
            errors.invalid(&at.field("x-kubernetes-list-type"), list_type.clone(), detail);
        }
        "object" if *map_type != "atomic" => {
            errors.invalid(&at.field("x-kubernetes-map-type"), list_type.clone(), detail);
        }
        _ => {}
    }
}

fn map_items(schema: &Value, keys: &[Value], at: &At<'_>, errors: &mut Errors) {
    let (items, own) = (schema.at("items"), at.field("items"));
    if items.is_null() {
        return errors.required(&own, "must have a schema if x-kubernetes-list-type is map");
    }
    if items.text("type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&own.field("type"), items.text("type"), detail);
    }
    let (list, properties) = (at.field("x-kubernetes-list-map-keys"), own.field("properties"));
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let whole = || schema.at("x-kubernetes-list-map-keys").clone();
        let Some(property) = items.at("properties").get(name) else {
            errors.invalid(&list, whole(), "entries must all be names of item properties");
            continue;
        };
        let at = properties.key(name);
        if matches!(property.text("type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&at.field("type"), items.text("type"), detail);
        }
        if keys[..index].contains(key) {
            errors.invalid(&list, whole(), "must not contain duplicate entries");
        }
        if !items.items("required").contains(key) && !property.has("default") {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&at.field("default"), detail);
        }
        if property.flag("nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.field("nullable"), detail);
        }
    }
}

/// The form of `x-kubernetes-validations`; what they say is compiled elsewhere.
fn rules(schema: &Value, at: &At<'_>, errors: &mut Errors) {
    let list = at.field("x-kubernetes-validations");
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in schema.items("x-kubernetes-validations").iter().enumerate() {
        let at = list.index(index);
        let (text, message) = (rule.text("rule").trim(), rule.text("message"));
        if text.is_empty() {
            errors.required(&at.field("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at.field("message"), message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid(&at.field("message"), message, "must not contain line breaks");
        } else if breaks(text) && message.is_empty() {
            errors.required(&at.field("message"), "message must be specified if rule contains line breaks");
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(&at.field("messageExpression"), "messageExpression must be non-empty if specified");
        }
        let reason = rule.text("reason");
        if !reason.is_empty() {
            let known = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
            errors.one_of(&at.field("reason"), reason, &known);
        }
        let path = rule.text("fieldPath");
        if !path.is_empty() && path.trim().is_empty() {
            errors.invalid(&at.field("fieldPath"), path, "must be non-empty if specified");
        } else if breaks(path) {
            errors.invalid(&at.field("fieldPath"), path, "must not contain line breaks");
        } else if !path.is_empty() && at_path(schema, path).is_err() {
            errors.invalid(&at.field("fieldPath"), path, "must be a valid path");
        }
    }
}

/// The schema that a path of names leads to; what is wrong when it leads nowhere.
pub(super) fn at_path<'s>(schema: &'s Value, path: &str) -> Result<&'s Value, String> {
    let mut at = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("['") {
            quoted.split_once("']").ok_or_else(|| "unterminated brackets".to_owned())?
        } else if let Some(named) = rest.strip_prefix('.') {
            let end = named.find(['.', '[']).unwrap_or(named.len());
            named.split_at(end)
        } else {
            return Err(format!("expected [ or . but got: {}", rest.chars().next().unwrap_or_default()));
        };
        let values = at.at("additionalProperties");
        at = match at.at("properties").get(name) {
            Some(property) => property,
            None if values.is_object() => values,
            None => return Err(format!("does not refer to a valid field: {path}")),
        };
        rest = after;
    }
    Ok(at)
}

/// Every default is itself a value of its schema.
fn defaults(schema: &Value, at: &At<'_>, errors: &mut Errors) {
    let Value::Object(map) = schema else { return };
    if let Some(default) = map.get("default").filter(|default| !default.is_null()) {
        let compiled = Structural::compile(schema);
        let at = at.field("default");
        let mut pruned = default.clone();
        compiled.prune_value(&mut pruned);
        if pruned != *default {
            errors.invalid(&at, default.clone(), "must not have unknown fields");
        }
        let own = at.path();
        for mut error in compiled.validate(default) {
            error.path = match error.path.as_str() {
                "" => own.clone(),
                below => own.child(below),
            };
            errors.0.push(error);
        }
    }
    defaults(schema.at("items"), &at.field("items"), errors);
    defaults(schema.at("additionalProperties"), &at.field("additionalProperties"), errors);
    let owner = at.field("properties");
    for (name, property) in schema.entries("properties") {
        if name != "metadata" {
            defaults(property, &owner.key(name), errors);
        }
    }
}
