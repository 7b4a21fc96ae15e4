//! What makes a schema structural: every field is declared outside of `allOf`, `anyOf`, `oneOf` and `not`, with its type.

use super::super::at::{At, Errors};
use crate::look::Look;
use machinery::structural::translate_pattern;
use serde_json::{Value, json};
use std::collections::HashSet;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Checks a whole schema; what is wrong is sorted, as upstream.
pub(super) fn check(schema: &Value, at: &At<'_>, errors: &mut Errors) {
    let mut found = Errors::default();
    invariants(schema, Level::Root, at, &mut found);
    complete(schema, Some(schema), (at, at), &mut found);
    patterns(schema, at, &mut HashSet::new(), &mut found);
    found.0.sort_by_key(ToString::to_string);
    errors.0.append(&mut found.0);
}

fn invariants(schema: &Value, level: Level, at: &At<'_>, errors: &mut Errors) {
    if !schema.is_object() {
        return;
    }
    let kind = schema.text("type");
    if kind == "array" && !schema.at("items").is_object() {
        errors.required(&at.field("items"), "must be specified");
    }
    invariants(schema.at("items"), Level::Item, &at.field("items"), errors);
    let properties = at.field("properties");
    for (name, property) in schema.entries("properties") {
        invariants(property, Level::Field, &properties.key(name), errors);
    }
    let values = schema.at("additionalProperties");
    if !values.is_null() && level == Level::Root {
        errors.forbidden(&at.field("additionalProperties"), "must not be used at the root");
    }
    invariants(values, Level::Field, &at.field("additionalProperties"), errors);
    extensions(schema, at, errors);
    let pair = json!([{"type": "integer"}, {"type": "string"}]);
    let skip_any_of = *schema.at("anyOf") == pair;
    let skip_first = schema.items("allOf").first().is_some_and(|first| *first.at("anyOf") == pair);
    junctors(schema, skip_any_of, skip_first, at, errors);
    types(schema, level, at, errors);
    metadata(schema, level, at, errors);
}

fn flag(schema: &Value, extension: &str) -> bool {
    schema.get(extension).is_some_and(|value| *value == true)
}

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

fn extensions(schema: &Value, at: &At<'_>, errors: &mut Errors) {
    for extension in [PRESERVE, EMBEDDED] {
        if flag(schema, INT_OR_STRING) && flag(schema, extension) {
            errors.invalid(&at.field(extension), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
}

fn types(schema: &Value, level: Level, at: &At<'_>, errors: &mut Errors) {
    let (kind, own) = (schema.text("type"), at.field("type"));
    if flag(schema, EMBEDDED) && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(&own, detail),
            kind => errors.invalid(&own, kind, detail),
        }
    } else if kind.is_empty() && !flag(schema, INT_OR_STRING) && !flag(schema, PRESERVE) {
        errors.required(
            &own,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if flag(schema, EMBEDDED) && schema.has("additionalProperties") {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&at.field("additionalProperties"), detail);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&own, kind, "must be object at the root");
    }
    if flag(schema, EMBEDDED) && !flag(schema, PRESERVE) && schema.entries("properties").next().is_none() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&at.field("properties"), detail);
    }
}

fn metadata(schema: &Value, level: Level, at: &At<'_>, errors: &mut Errors) {
    if level != Level::Root && !flag(schema, EMBEDDED) {
        return;
    }
    let (properties, owner) = (schema.at("properties"), at.field("properties"));
    for name in ["kind", "apiVersion"] {
        if let Some(property) = properties.get(name).filter(|property| property.text("type") != "string") {
            errors.invalid(&owner.key(name).field("type"), property.text("type"), "must be string");
        }
    }
    let Some(metadata) = properties.get("metadata") else { return };
    let own = owner.key("metadata");
    if metadata.text("type") != "object" {
        errors.invalid(&own.field("type"), metadata.text("type"), "must be object");
    }
    if level == Level::Root {
        let only = metadata.entries("properties").all(|(name, _)| matches!(&**name, "name" | "generateName"));
        let bare = metadata.entries("").all(|(field, value)| {
            matches!(&**field, "type" | "properties" | "default" | "description")
                && (field != "description" || value == "")
        });
        if !only || !bare {
            let detail =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(&own, detail);
        }
    }
}

/// What stands below the junctors of a schema.
fn junctors(schema: &Value, skip_any_of: bool, skip_first: bool, at: &At<'_>, errors: &mut Errors) {
    for junctor in ["anyOf", "allOf", "oneOf"] {
        if junctor == "anyOf" && skip_any_of {
            continue;
        }
        let own = at.field(junctor);
        for (index, branch) in schema.items(junctor).iter().enumerate() {
            let skip = junctor == "allOf" && skip_first && index == 0;
            nested(branch, skip, &own.index(index), errors);
        }
    }
    nested(schema.at("not"), false, &at.field("not"), errors);
}

/// The patterns of a schema and all below; `good` are those that were compiled already.
fn patterns<'s>(schema: &'s Value, at: &At<'_>, good: &mut HashSet<&'s str>, errors: &mut Errors) {
    let pattern = schema.text("pattern");
    if !pattern.is_empty() && !good.contains(pattern) {
        match translate_pattern(pattern) {
            Ok(_) => {
                good.insert(pattern);
            }
            Err(why) => {
                let why = why.to_string().lines().last().unwrap_or_default().to_owned();
                let detail = format!("must be a valid regular expression, but isn't: {why}");
                errors.invalid(&at.field("pattern"), pattern, detail);
            }
        }
    }
    for field in ["items", "additionalProperties", "not"] {
        if schema.at(field).is_object() {
            patterns(schema.at(field), &at.field(field), good, errors);
        }
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let own = at.field(junctor);
        for (index, branch) in schema.items(junctor).iter().enumerate() {
            patterns(branch, &own.index(index), good, errors);
        }
    }
    let owner = at.field("properties");
    for (name, property) in schema.entries("properties") {
        patterns(property, &owner.key(name), good, errors);
    }
}

/// A schema below a junctor: it restricts values and declares nothing.
fn nested(schema: &Value, skip_any_of: bool, at: &At<'_>, errors: &mut Errors) {
    if !schema.is_object() {
        return;
    }
    junctors(schema, skip_any_of, false, at, errors);
    nested(schema.at("items"), false, &at.field("items"), errors);
    let owner = at.field("properties");
    for (name, property) in schema.entries("properties") {
        nested(property, false, &owner.key(name), errors);
    }
    for (field, detail) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if schema.get(field).is_some_and(|value| !value.is_null() && *value != "" && *value != json!([])) {
            errors.forbidden(&at.field(field), detail);
        }
    }
    for field in ["nullable", PRESERVE, EMBEDDED, INT_OR_STRING] {
        if flag(schema, field) {
            errors.forbidden(&at.field(field), "must be false to be structural");
        }
    }
    if schema.at("properties").get("metadata").is_some() {
        errors.forbidden(&owner.key("metadata"), "must not be specified in a nested context");
    }
}

/// Every field below the junctors of `nested` is declared in `schema`.
fn complete(nested: &Value, schema: Option<&Value>, (at, nested_at): (&At<'_>, &At<'_>), errors: &mut Errors) {
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let own = nested_at.field(junctor);
        for (index, branch) in nested.items(junctor).iter().enumerate() {
            complete_nested(branch, schema, (at, &own.index(index)), errors);
        }
    }
    complete_nested(nested.at("not"), schema, (at, &nested_at.field("not")), errors);
}

fn complete_nested(nested: &Value, schema: Option<&Value>, (at, nested_at): (&At<'_>, &At<'_>), errors: &mut Errors) {
    if !nested.is_object() {
        return;
    }
    let Some(schema) = schema else {
        return errors.required(at, &format!("because it is defined in {}", nested_at.path()));
    };
    complete(nested, Some(schema), (at, nested_at), errors);
    let items = Some(schema.at("items")).filter(|items| items.is_object());
    complete_nested(nested.at("items"), items, (&at.field("items"), &nested_at.field("items")), errors);
    let (owner, nested_owner) = (at.field("properties"), nested_at.field("properties"));
    for (name, property) in nested.entries("properties") {
        let declared = schema.at("properties").get(name);
        complete_nested(property, declared, (&owner.key(name), &nested_owner.key(name)), errors);
    }
}
